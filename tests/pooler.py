"""A PgBouncer in front of the test's database."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from lent_schema import GENEROUS_SECONDS
from proxy import proxied
from required import missing


@contextlib.asynccontextmanager
async def pgbouncer(postgres_url: str, *, pool_mode: str = "transaction") -> AsyncIterator[str]:
    """Yield the URL of a database through a pooler with two server connections, in a mode of PgBouncer's."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        missing("pgbouncer", "there is no pgbouncer; apt-get install pgbouncer")
    directory = Path(tempfile.mkdtemp(prefix="millhand-bouncer-"))
    directory.chmod(0o777)
    # By TCP: the server's Unix socket accepts only its own user, and PgBouncer runs as another.
    async with proxied(postgres_url) as proxy:
        parts = urlsplit(proxy.url)
        (directory / "pgbouncer.ini").write_text(
            f"""
[databases]
* = host={parts.hostname} port={parts.port} user={parts.username}
[pgbouncer]
auth_type = any
listen_addr =
listen_port = 6432
unix_socket_dir = {directory}
pool_mode = {pool_mode}
default_pool_size = {4 if pool_mode == "session" else 2}
server_login_retry = 0
"""
        )
        process = await asyncio.create_subprocess_exec(
            program,
            "--quiet",
            str(directory / "pgbouncer.ini"),
            stderr=subprocess.DEVNULL,
            user="nobody" if os.getuid() == 0 else None,
        )
        try:
            url = f"postgresql://{parts.username}@{parts.path}?host={directory}&port=6432"
            await _wait_until_ready(url)
            yield url
        finally:
            process.terminate()
            await process.wait()
            shutil.rmtree(directory, ignore_errors=True)


async def _wait_until_ready(url: str) -> None:
    async with asyncio.timeout(GENEROUS_SECONDS):
        while True:
            with contextlib.suppress(psycopg.OperationalError):
                connection = await psycopg.AsyncConnection.connect(url)
                await connection.close()
                return
