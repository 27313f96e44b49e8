"""
Databases for the tests of one run: one server for all of its processes, a template, and copies of it.

The first process migrates the template. A copy takes as long as writing 8 MB. On a server of the user, the names begin
with `millhand_test_`. Each process drops its own copies, and the last process drops the template.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from millhand.core.errors import ConfigError
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.url import checked_url
from millhand.db.schema.migrator import Migrator, lines
from millhand.db.sql import checked_schema
from millhand.embedded import embedded_postgres

PREFIX = "millhand_test_"
# The data does not outlive the run, so it need not reach the disk.
SETTINGS = {
    "autovacuum_naptime": "10min",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "max_wal_size": "4GB",
    "synchronous_commit": "off",
}
LOCK = int.from_bytes(b"millhand")  # held while a template is made, copied or dropped


@contextlib.contextmanager
def running_server(directory: Path) -> Iterator[str]:
    """Yield the URL of the server in `directory`, which all processes of the run share. Raises: EmbeddedError."""
    with embedded_postgres(directory, SETTINGS) as server:
        yield server.url


def remove_server(directory: Path) -> None:
    """Delete the server of a finished run. Stops it first if the processes that used it were killed."""
    if (directory / "data" / "postmaster.pid").exists():
        with embedded_postgres(directory):
            pass
    shutil.rmtree(directory, ignore_errors=True)


@contextlib.asynccontextmanager
async def transaction(url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(checked_url(url))
    try:
        begun = connection.transaction()
        await begun.start()
        yield connection
        if not connection.is_closed():
            await begun.rollback()
    finally:
        await connection.close()


class Databases:
    """
    The databases of one process of a run. `prepare` is called once a run with the URL of the template.

    Raises: ConfigError if the role may not create databases. Concurrency: may be used inside an event loop, because it
    runs its own in a second thread.
    """

    def __init__(
        self,
        url: str,
        *,
        run: str,
        process: str,
        prepare: Callable[[str], object] | None = None,
        schema: str = "",
    ) -> None:
        self._numbers = itertools.count(1)
        self._prepare = prepare
        self._process = process
        self._run = run
        self._schema = checked_schema(schema)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="millhand-databases")
        self._url = url

    @property
    def template(self) -> str:
        return f"{PREFIX}{self._run}_template"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.submit(asyncio.run, self._drop_template()).result()
        self._thread.shutdown()

    @contextlib.contextmanager
    def new(self) -> Iterator[str]:
        name = f"{PREFIX}{self._run}_{self._process}_{next(self._numbers)}"
        self._thread.submit(asyncio.run, self._make(name)).result()
        try:
            yield self._url_of(name)
        finally:
            self._thread.submit(asyncio.run, self._drop(name)).result()

    async def _make(self, name: str) -> None:
        async with self._connected() as connection:
            await connection.execute("SELECT pg_advisory_lock($1)", LOCK)
            if not await connection.fetchval(
                "SELECT count(*) FROM pg_database WHERE datname = $1", self.template
            ):
                await self._make_template(connection)
            # Under the lock, because PostgreSQL copies a template only while it has no connections.
            await connection.execute(f"CREATE DATABASE {name} TEMPLATE {self.template}")

    async def _make_template(self, connection: asyncpg.Connection[Any]) -> None:
        unfinished = f"{self.template}_unfinished"
        await connection.execute(f"DROP DATABASE IF EXISTS {unfinished} WITH (FORCE)")
        try:
            await connection.execute(f"CREATE DATABASE {unfinished}")
        except asyncpg.InsufficientPrivilegeError as error:
            raise ConfigError(
                f"the role of the tests' database must be allowed to make databases, got {str(error)!r}; write ALTER "
                "ROLE … CREATEDB, or unset DATABASE_URL for an embedded one"
            ) from error
        url = self._url_of(unfinished)
        try:
            await self._migrate(url)
            prepared: Any = await asyncio.to_thread(self._prepare, url) if self._prepare else None
            if inspect.isawaitable(prepared):
                await prepared
        except BaseException:
            await connection.execute(f"DROP DATABASE {unfinished} WITH (FORCE)")
            raise
        await connection.execute(f"ALTER DATABASE {unfinished} RENAME TO {self.template}")

    async def _migrate(self, url: str) -> None:
        driver = AsyncpgDriver(checked_url(url), self._schema)
        await driver.open()
        try:
            if self._schema:
                await driver.pool.execute_script(f'CREATE SCHEMA IF NOT EXISTS "{self._schema}"')
            for line in lines():  # main sorts before millhand, which needs it
                await Migrator(driver, line).up()
        finally:
            await driver.close()

    async def _drop(self, name: str) -> None:
        async with self._connected() as connection:
            await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    async def _drop_template(self) -> None:
        """Drop the template unless another process of the run has a copy. A later process makes it again."""
        async with self._connected() as connection:
            await connection.execute("SELECT pg_advisory_lock($1)", LOCK)
            others = await connection.fetchval(
                "SELECT count(*) FROM pg_database WHERE starts_with(datname, $1) AND datname <> $2",
                f"{PREFIX}{self._run}_",
                self.template,
            )
            if not others:
                await connection.execute(f"DROP DATABASE IF EXISTS {self.template} WITH (FORCE)")

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[asyncpg.Connection[Any]]:
        connection = await asyncpg.connect(checked_url(self._url))
        try:
            yield connection
        finally:
            await connection.close()

    def _url_of(self, name: str) -> str:
        return urlunsplit(urlsplit(self._url)._replace(path=f"/{name}"))
