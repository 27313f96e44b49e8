"""Three PostgreSQL servers with Millhand's tables: one that runs, one that is stopped and started, one behind a proxy."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from millhand.embedded import embedded_postgres
from new_schema import migrate
from proxy import Proxy, proxied

SETTINGS = {"fsync": "off", "max_connections": "40", "shared_buffers": "16MB"}


class Server:
    """A server of its own in a directory. Concurrency: one call at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running = contextlib.ExitStack()
        self.url = ""

    async def start(self) -> None:
        """Start the server and return when it answers."""
        server = embedded_postgres(self._directory, SETTINGS)
        self.url = (await asyncio.to_thread(self._running.enter_context, server)).url

    async def stop(self) -> None:
        """Stop the server, which ends all sessions."""
        await asyncio.to_thread(self._running.close)


class ThreeServers:
    """`eu` runs, `us` may be stopped, and `asia` is behind `way`, which may be cut. `urls` are by name."""

    def __init__(self, eu: Server, us: Server, way: Proxy) -> None:
        self.eu = eu
        self.us = us
        self.way = way

    @property
    def urls(self) -> dict[str, str]:
        return {"eu": self.eu.url, "us": self.us.url, "asia": self.way.url}

    @property
    def environment(self) -> dict[str, str]:
        """The variables of `SETTINGS_FILE`."""
        return {f"{name.upper()}_DATABASE_URL": url for name, url in self.urls.items()}


SETTINGS_FILE = """\
[databases]
eu = "EU_DATABASE_URL"
us = "US_DATABASE_URL"
asia = "ASIA_DATABASE_URL"
"""


@contextlib.asynccontextmanager
async def three_servers() -> AsyncIterator[ThreeServers]:
    """Start three servers, migrated, in directories that are removed afterwards."""
    # Short, because the path of a socket is.
    with tempfile.TemporaryDirectory(prefix="millhand") as directory:
        Path(directory).chmod(0o755)  # for the user of a server that root starts
        servers = [Server(Path(directory) / name) for name in ("eu", "us", "asia")]
        try:
            for server in servers:
                await server.start()
                await migrate(server.url)
            eu, us, asia = servers
            async with proxied(asia.url) as way:
                yield ThreeServers(eu, us, way)
        finally:
            for server in servers:
                await server.stop()
