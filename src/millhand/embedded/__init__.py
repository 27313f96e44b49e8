"""
A real PostgreSQL server from a wheel, for the first run, development and tests.

```python
with project_postgres(Path.cwd()) as server:
    asyncio.run(work(server.url))
```

The first process starts the server, others join it, and the last one stops it; see `cluster.py`.
"""

from millhand.embedded.cluster import EmbeddedServer, embedded_postgres
from millhand.embedded.errors import EmbeddedError
from millhand.embedded.project import default_directory, project_postgres

__all__ = ["EmbeddedError", "EmbeddedServer", "default_directory", "embedded_postgres", "project_postgres"]
