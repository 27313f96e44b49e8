"""
What every room's tests share: a real PostgreSQL, one server a run and one database a test process.

The server is Millhand's own embedded one, in a directory of this run, joined by all of pytest-xdist's workers and
stopped by the last. MILLHAND_TEST_DATABASE_URL names another server instead; the databases made there are dropped.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from millhand.embedded import embedded_postgres

POSTGRES_DIRECTORY = pytest.StashKey[Path]()
# Nothing here outlives the run, so nothing need reach the disk.
POSTGRES_SETTINGS = {
    "autovacuum_naptime": "10min",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "max_wal_size": "4GB",
    "shared_buffers": "128MB",
    "synchronous_commit": "off",
}


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        config.stash[POSTGRES_DIRECTORY] = Path(config.workerinput["postgres_directory"])
        return
    directory = Path(tempfile.mkdtemp(prefix="millhand-test-"))
    directory.chmod(0o755)  # pytest's own tmp_path is closed to the user that a root's server runs as
    config.stash[POSTGRES_DIRECTORY] = directory


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: object) -> None:
    """Tell a worker of pytest-xdist where the run's one server lives."""
    node.workerinput["postgres_directory"] = str(node.config.stash[POSTGRES_DIRECTORY])  # type: ignore[attr-defined]


def pytest_unconfigure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        return
    directory = config.stash[POSTGRES_DIRECTORY]
    if (directory / "data" / "postmaster.pid").exists():  # all of its users were killed
        with embedded_postgres(directory):
            pass
    shutil.rmtree(directory, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "postgres_server_url" in getattr(item, "fixturenames", ()):
            item.add_marker("database")


@pytest.fixture(scope="session")
def postgres_server_url(pytestconfig: pytest.Config) -> Iterator[str]:
    """The URL of the run's server, with a database that belongs to nobody; for tests, take `postgres_url`."""
    if given := os.environ.get("MILLHAND_TEST_DATABASE_URL"):
        yield given
        return
    with embedded_postgres(pytestconfig.stash[POSTGRES_DIRECTORY], POSTGRES_SETTINGS) as server:
        yield server.url


@pytest.fixture(scope="session")
async def postgres_url(postgres_server_url: str) -> AsyncIterator[str]:
    """The URL of an empty database that no other test process uses: its LISTEN, locks and schemas are ours alone."""
    name = f"millhand_test_{os.getpid()}"
    async with _connected(postgres_server_url) as connection:
        await connection.execute(f"CREATE DATABASE {name}")
    try:
        yield urlunsplit(urlsplit(postgres_server_url)._replace(path=f"/{name}"))
    finally:
        async with _connected(postgres_server_url) as connection:
            await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextlib.asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()
