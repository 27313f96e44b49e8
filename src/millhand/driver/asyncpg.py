"""
asyncpg: the driver that the engine runs on.

Nothing but text, numbers, instants, bytes and arrays of them crosses this wire, so an application's own codecs for
jsonb do no harm. Errors are translated here, once; see `translated`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from millhand.driver.asyncpg_copy import copied
from millhand.driver.asyncpg_error import (
    CONNECT_SECONDS,
    WIRE_ERRORS,
    translated,
    unreadable,
    within,
)
from millhand.driver.asyncpg_lease import RELEASE_SECONDS, Leases
from millhand.driver.borrowed_pool import BorrowedPool
from millhand.driver.detect import executor_of
from millhand.driver.planner import PLANNER_SETTINGS
from millhand.driver.protocol import Executor
from millhand.driver.tls import require_files
from millhand.driver.url import POOL_SIZE, beginning, checked_pool_size, checked_url
from millhand.errors import (
    ConnectionLost,
    MillhandError,
    PoolClosed,
)
from millhand.sql import checked_schema, compile_script, compile_statement
from millhand.store.query import TIMEOUT_SECONDS, Copy, Query

if TYPE_CHECKING:
    AnyConnection = asyncpg.Connection[Any] | PoolConnectionProxy[Any]
    AnyPool = asyncpg.Pool[Any]

T = TypeVar("T")


class AsyncpgDriver:
    """
    One database by asyncpg: a pool of the caller's, or a URL of which it makes its own.

    Concurrency: belongs to the event loop in which it was opened; may be opened again after it was closed.
    Raises: ConfigError for a URL that is none or a schema that cannot be.
    """

    def __init__(
        self, pool_or_url: AnyPool | BorrowedPool | str, schema: str = "", *, pool_size: int = POOL_SIZE
    ) -> None:
        self.schema = checked_schema(schema)
        self._url = checked_url(pool_or_url) if isinstance(pool_or_url, str) else None
        self._given = None if isinstance(pool_or_url, str) else _checked_pool(pool_or_url)
        self._pool_size = checked_pool_size(pool_size)
        self._lending: Leases | None = None
        # For SQL that is not ours, if the first one is tuned for what is.
        self._plain_lending: Leases | None = None
        self._executor = PoolExecutor(self._require_lending, self._require_plain_lending, self.schema)

    @property
    def pool(self) -> PoolExecutor:
        """The pool as an executor; usable once the driver was opened."""
        return self._executor

    def executor(self, tx: object) -> Executor:
        """
        Return an executor inside the caller's own connection, with whatever transaction is open on it.

        Raises: TypeError for what is not accepted.
        """
        return executor_of(tx, self.schema)

    def listener(self) -> AsyncpgListener:
        """Return a listener on a connection of its own; with the caller's pool, that is one of the pool's."""
        return AsyncpgListener(self._connect, self._give_back, self.schema)

    async def open(self) -> None:
        """Make the pool if it is ours to make; idempotent. Raises: as `Executor.run`."""
        if self._lending is not None:
            return
        with translated("connect", CONNECT_SECONDS):
            async with asyncio.timeout(CONNECT_SECONDS):
                pool = await (self._given or self._make_pool())
        self._lending = Leases(pool, keeps=self._url is not None)

    async def close(self) -> None:
        """Close the pool if it is ours; idempotent, never raises. What is still running gets ten seconds."""
        open = [one for one in (self._plain_lending, self._lending) if one is not None]
        self._plain_lending = self._lending = None
        for lending in open if self._url is not None else ():
            try:
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    await lending.close()
                    await lending.pool.close()
            except WIRE_ERRORS:
                lending.pool.terminate()

    def _require_lending(self) -> Leases:
        if self._lending is None:
            raise PoolClosed("connect", "a driver that is not open; start its client, or open() it, first")
        return self._lending

    def _require_plain_lending(self) -> Leases:
        return self._require_lending() if self._plain_lending is None else self._plain_lending

    async def _make_pool(self) -> AnyPool:
        url = self._url or ""
        min_size = min(2, self._pool_size)  # a fetch and a completion overlap
        try:
            pool = await self._connect_pool(url, PLANNER_SETTINGS, min_size)
        except asyncpg.PostgresError as error:
            if "unsupported startup parameter" not in str(error):
                raise
            # A pooler is in between, which does not know the settings. Said later they would stay on a connection that
            # it hands to others.
            return await self._connect_pool(url, {}, min_size)
        plain = await self._connect_pool(url, {"jit": PLANNER_SETTINGS["jit"]}, 0)
        self._plain_lending = Leases(plain, keeps=False)
        return pool

    async def _connect_pool(self, url: str, settings: Mapping[str, str], min_size: int) -> AnyPool:
        try:
            pool = await asyncpg.create_pool(
                url,
                min_size=0,  # else the pool itself tells of each connection that it cannot make, with a traceback
                max_size=self._pool_size,
                reset=_keep,
                timeout=CONNECT_SECONDS,
                server_settings={**_server_settings(url), **settings},
            )
            await _warm(pool, min_size)
        except ssl.SSLError:
            raise  # a ValueError too, of what the server showed
        except (ValueError, OverflowError) as error:
            raise unreadable(error) from None  # which may show a part of the password
        except (FileNotFoundError, PermissionError):
            require_files(url)  # which says which
            raise
        return pool

    async def _connect(self) -> AnyConnection:
        if self._url is None:
            return await self._require_lending().pool.acquire()
        return await asyncpg.connect(
            self._url, timeout=CONNECT_SECONDS, server_settings=_server_settings(self._url)
        )

    async def _give_back(self, connection: AnyConnection) -> None:
        """Say that a connection was closed to whom asyncpg does not tell it."""
        if isinstance(self._given, BorrowedPool):
            await self._given.release(connection)


def executor_inside(tx: object, schema: str) -> Executor | None:
    """Return an executor on a connection of asyncpg's; None for anything else."""
    if isinstance(tx, ConnectionExecutor):
        return tx
    return (
        ConnectionExecutor(tx, schema) if isinstance(tx, asyncpg.Connection | PoolConnectionProxy) else None
    )


def driver_on(database: object, schema: str) -> AsyncpgDriver | None:
    """Return a driver for a URL or a pool of asyncpg's; None for anything else."""
    return AsyncpgDriver(database, schema) if isinstance(database, str | asyncpg.Pool) else None


class PoolExecutor:
    """Each word on a connection of its own."""

    __slots__ = ("_lending", "_plain_lending", "_schema")

    def __init__(
        self, lending: Callable[[], Leases], plain_lending: Callable[[], Leases], schema: str
    ) -> None:
        self._lending = lending
        self._plain_lending = plain_lending
        self._schema = schema

    async def run(self, query: Query[T]) -> T:
        """Run `query`; the deadline includes the wait for a connection."""
        sql, names = compile_statement(query.name, self._schema, fragments=query.fragments)
        params = query.params
        args = [params[name] for name in names]
        return query.parse(await self._fetch(query.name, sql, args, query.timeout_seconds))

    def begin(self) -> AbstractAsyncContextManager[Executor]:
        """Begin a transaction on a connection of its own."""
        return self._begin()

    async def copy(self, copy: Copy) -> int:
        """Copy rows into a table, in a transaction of its own."""
        async with self.begin() as executor:
            return await executor.copy(copy)

    async def fetch(
        self, sql: str, params: Sequence[Any] = (), *, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> list[dict[str, Any]]:
        """Run SQL that is not ours, planned as the server plans by default."""
        with translated(beginning(sql), timeout_seconds):
            async with asyncio.timeout(timeout_seconds), self._plain_lending().lent() as connection:
                return [dict(row) for row in await connection.fetch(sql, *params)]

    async def execute_script(self, sql: str, *, timeout_seconds: float | None = None) -> None:
        """Run several statements, in one transaction unless they say otherwise."""
        compiled = compile_script(sql, self._schema)
        with translated(beginning(sql), timeout_seconds):
            async with asyncio.timeout(timeout_seconds), self._lending().lent() as connection:
                await connection.execute(compiled)

    async def _fetch(
        self, operation: str, sql: str, args: Sequence[Any], timeout_seconds: float
    ) -> Sequence[Any]:
        with translated(operation, timeout_seconds):
            async with asyncio.timeout(timeout_seconds), self._lending().lent() as connection:
                return await connection.fetch(sql, *args)

    @contextlib.asynccontextmanager
    async def _begin(self) -> AsyncIterator[Executor]:
        async with contextlib.AsyncExitStack() as stack:
            connection = await within("begin", stack.enter_async_context(self._lending().lent()))
            await stack.enter_async_context(_transaction(connection))
            yield ConnectionExecutor(connection, self._schema)


class ConnectionExecutor:
    """All words on one connection, one at a time, in whatever transaction is open on it."""

    __slots__ = ("_connection", "_schema")

    def __init__(self, connection: AnyConnection, schema: str) -> None:
        self._connection = connection
        self._schema = schema

    async def run(self, query: Query[T]) -> T:
        """Run `query`; one at a time."""
        sql, names = compile_statement(query.name, self._schema, fragments=query.fragments)
        params = query.params
        args = [params[name] for name in names]
        return query.parse(await self._fetch(query.name, sql, args, query.timeout_seconds))

    def begin(self) -> AbstractAsyncContextManager[Executor]:
        """Begin a savepoint, or a transaction if none is open."""
        return self._begin()

    async def copy(self, copy: Copy) -> int:
        """Copy rows into a table."""
        return await copied(self._connection, self._schema, copy)

    async def fetch(
        self, sql: str, params: Sequence[Any] = (), *, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> list[dict[str, Any]]:
        """Run SQL that is not ours."""
        return [dict(row) for row in await self._fetch(beginning(sql), sql, params, timeout_seconds)]

    async def execute_script(self, sql: str, *, timeout_seconds: float | None = None) -> None:
        """Run several statements."""
        compiled = compile_script(sql, self._schema)
        await within(beginning(sql), self._connection.execute(compiled), timeout_seconds)

    async def _fetch(
        self, operation: str, sql: str, args: Sequence[Any], timeout_seconds: float
    ) -> Sequence[Any]:
        with translated(operation, timeout_seconds):
            async with asyncio.timeout(timeout_seconds):
                return await self._connection.fetch(sql, *args)

    @contextlib.asynccontextmanager
    async def _begin(self) -> AsyncIterator[Executor]:
        block = _savepoint if self._connection.is_in_transaction() else _transaction
        async with block(self._connection):
            yield self


class AsyncpgListener:
    """One connection that does nothing but LISTEN."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[AnyConnection]],
        give_back: Callable[[AnyConnection], Awaitable[None]],
        schema: str,
    ) -> None:
        self._connect = connect
        self._give_back = give_back
        self._schema = schema
        self._prefix = ""
        self._connection: AnyConnection | None = None
        self._call_on_lost: Callable[[], None] | None = None
        self._is_lost = False

    def on_lost(self, ring: Callable[[], None]) -> None:
        """Have `ring` called once, on the event loop, when the connection was lost; call before `connect`."""
        self._call_on_lost = ring

    @property
    def is_lost(self) -> bool:
        """Whether the connection was lost after it was made."""
        return self._is_lost

    async def connect(self) -> None:
        """Connect, and learn the schema whose topics are meant if none was configured."""
        self._is_lost = False
        connection = await within("listener_connect", self._connect(), CONNECT_SECONDS)
        connection.add_termination_listener(self._record_lost)
        self._connection = connection
        schema = self._schema or await within(
            "listener_schema", connection.fetchval("SELECT current_schema()"), CONNECT_SECONDS
        )
        self._prefix = f"{schema}." if schema else ""

    async def listen(self, topic: str, receive: Callable[[str], None]) -> None:
        """Have `receive` called with each payload of `<schema>.<topic>`, on the event loop."""

        def receive_notification(*notification: object) -> None:
            receive(str(notification[-1]))

        with translated(
            "listen", CONNECT_SECONDS
        ):  # a pool's connection that has just been lost raises at once
            listening = self._require().add_listener(self._prefix + topic, receive_notification)
        await within("listen", listening, CONNECT_SECONDS)

    async def ping(self) -> None:
        """Raise if the connection does not answer within ten seconds."""
        with translated("ping", TIMEOUT_SECONDS):
            answer = self._require().fetchval("SELECT 1")
        await within("ping", answer, TIMEOUT_SECONDS)

    async def close(self) -> None:
        """Close the connection, whether it was ours or a pool's; idempotent, never raises."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        # Not given back to its pool: what it listens to would go on arriving there. The pool makes another instead.
        with contextlib.suppress(*WIRE_ERRORS):
            connection.remove_termination_listener(self._record_lost)
            await connection.close(timeout=RELEASE_SECONDS)
        await self._give_back(connection)

    def _require(self) -> AnyConnection:
        if self._connection is None or self._is_lost:
            raise ConnectionLost("listen", "a connection that is closed")
        return self._connection

    def _record_lost(self, _connection: object) -> None:
        self._is_lost = True
        if self._call_on_lost is not None:
            self._call_on_lost()


@contextlib.asynccontextmanager
async def _transaction(connection: AnyConnection) -> AsyncIterator[None]:
    transaction = connection.transaction()
    await within("begin", transaction.start())
    try:
        yield
    except BaseException:
        with contextlib.suppress(MillhandError):  # what was raised inside says more
            await within("rollback", _called(transaction.rollback))
        raise
    await within("commit", _called(transaction.commit))


async def _called(word: Callable[[], Awaitable[object]]) -> None:
    """Call inside, where it is translated, what raises at once if the connection was lost."""
    await word()


@contextlib.asynccontextmanager
async def _savepoint(connection: AnyConnection) -> AsyncIterator[None]:
    # One name for all depths: PostgreSQL means the newest of a name.
    await within("savepoint", connection.execute("SAVEPOINT millhand"))
    try:
        yield
    except BaseException:
        undo = "ROLLBACK TO SAVEPOINT millhand; RELEASE SAVEPOINT millhand"
        with contextlib.suppress(MillhandError):
            await within("rollback", connection.execute(undo))
        raise
    await within("release", connection.execute("RELEASE SAVEPOINT millhand"))


async def _warm(pool: AnyPool, num: int) -> None:
    """Make the first connections of a pool, or leave none. Raises: as asyncpg."""
    try:
        made = [await pool.acquire() for _ in range(num)]
    except BaseException:
        pool.terminate()
        raise
    for connection in made:
        await pool.release(connection)


async def _keep(connection: asyncpg.Connection[Any]) -> None:
    """Leave a connection as it is: nothing here changes a session, and asyncpg's own reset is a round trip."""


def _server_settings(url: str) -> dict[str, str]:
    return {} if "application_name" in parse_qs(urlsplit(url).query) else {"application_name": "millhand"}


def _checked_pool(pool: object) -> AnyPool:
    if isinstance(pool, BorrowedPool):
        return pool  # type: ignore[return-value]  # it has the words of one
    if not isinstance(pool, asyncpg.Pool):
        raise TypeError(
            "database must be an asyncpg.Pool or a URL that begins with 'postgresql://', "
            f"got {type(pool).__module__}.{type(pool).__qualname__}"
        )
    return pool
