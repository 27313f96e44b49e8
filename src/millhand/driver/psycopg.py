"""
psycopg 3, asynchronous: a whole client on a pool of the caller's, or on one that is made of a URL.

Any connection will do, with or without autocommit, with any row factory and any adapters; see `psycopg_wire`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

import psycopg
import psycopg_pool
from psycopg.pq import TransactionStatus

from millhand.driver.borrowed_pool import BorrowedPool
from millhand.driver.detect import executor_of
from millhand.driver.protocol import Executor
from millhand.driver.psycopg_conninfo import conninfo
from millhand.driver.psycopg_deadline import RELEASE_SECONDS, CutAfter, ServerDeadline
from millhand.driver.psycopg_error import CONNECT_SECONDS, WIRE_ERRORS, is_lost, translated, within
from millhand.driver.psycopg_listener import PsycopgListener
from millhand.driver.psycopg_wire import (
    AsyncCursor,
    as_sent,
    by_name,
    copy_statement,
    is_broken,
    is_in_transaction,
)
from millhand.driver.url import POOL_SIZE, beginning, checked_pool_size, checked_url, unreadable_url
from millhand.errors import ConnectionLost, MillhandError, PoolClosed
from millhand.sql import checked_schema, compile_script
from millhand.store.query import TIMEOUT_SECONDS, Copy, Query

T = TypeVar("T")
AnyConnection = psycopg.AsyncConnection[Any]


class Pool(Protocol):
    """What lends connections: psycopg's pool, or another's that is made to look like it."""

    async def getconn(self) -> AnyConnection: ...

    async def putconn(self, conn: AnyConnection) -> None: ...


class PsycopgDriver:
    """
    One database by psycopg: a pool of the caller's, or a URL of which it makes its own.

    The caller's pool stays his: he opens and closes it.

    Concurrency: belongs to the event loop in which it was opened; may be opened again after it was closed.
    Raises: ConfigError for a URL that is none or a schema that cannot be; TypeError for what is no pool.
    """

    def __init__(
        self,
        pool_or_url: psycopg_pool.AsyncConnectionPool[Any] | BorrowedPool | str,
        schema: str = "",
        *,
        pool_size: int = POOL_SIZE,
    ) -> None:
        self.schema = checked_schema(schema)
        self._url = checked_url(pool_or_url) if isinstance(pool_or_url, str) else None
        self._given = None if isinstance(pool_or_url, str) else _checked_pool(pool_or_url)
        self._pool_size = checked_pool_size(pool_size)
        self._open_pool: Pool | None = None
        self._own_pool: psycopg_pool.AsyncConnectionPool[Any] | None = None
        self._executor = PoolExecutor(self._require_pool, self.schema, is_tuned=self._url is not None)

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

    def listener(self) -> PsycopgListener:
        """Return a listener on a connection of its own; with the caller's pool, that is one of the pool's."""
        return PsycopgListener(self._connect, self._give_back, self.schema)

    async def open(self) -> None:
        """Make the pool if it is ours to make; idempotent. Raises: as `Executor.run`."""
        if self._open_pool is None:
            self._open_pool = self._given or await within("connect", self._make_pool(), CONNECT_SECONDS)

    async def close(self) -> None:
        """Close the pool if it is ours; idempotent, never raises. What is still running gets ten seconds."""
        self._open_pool = None
        pool, self._own_pool = self._own_pool, None
        if pool is not None:
            with contextlib.suppress(*WIRE_ERRORS):
                await pool.close(timeout=TIMEOUT_SECONDS)

    def _require_pool(self) -> Pool:
        if self._open_pool is None:
            raise PoolClosed("connect", "a driver that is not open; start its client, or open() it, first")
        return self._open_pool

    async def _make_pool(self) -> Pool:
        address, prepare_threshold = await self._probed(self._url or "")
        pool = psycopg_pool.AsyncConnectionPool(
            address,
            kwargs={"autocommit": True, "prepare_threshold": prepare_threshold},
            min_size=min(2, self._pool_size),  # a fetch and a completion overlap
            max_size=self._pool_size,
            name="millhand",
            open=False,
        )
        try:
            await pool.open(wait=True, timeout=CONNECT_SECONDS)
        except BaseException:  # of a deadline of ours it hears nothing, and its tasks would try for ever
            await pool.close(timeout=RELEASE_SECONDS)
            raise
        self._own_pool = pool
        return pool

    async def _probed(self, url: str) -> tuple[str, int | None]:
        """Connect once, and return how to: a pool would go on trying and say nothing of what is wrong."""
        try:
            tuned = conninfo(url, is_tuned=True)
            await _try(tuned)
        except psycopg.ProgrammingError as error:
            raise unreadable_url(type(error).__name__) from None  # which may show a part of the password
        except psycopg.OperationalError as error:
            if "unsupported startup parameter" not in str(error):
                raise
            # A pooler is in between, which does not know the settings, and may hand each statement to another server:
            # nothing that stays on a connection will do, prepared statements included.
            plain = conninfo(url)
            await _try(plain)
            return plain, None
        return tuned, 0  # at once: they are few and fixed

    async def _connect(self) -> AnyConnection:
        if self._given is None:
            return await psycopg.AsyncConnection.connect(conninfo(self._url or ""), autocommit=True)
        connection = await self._require_pool().getconn()
        await connection.set_autocommit(True)
        return connection

    async def _give_back(self, connection: AnyConnection) -> None:
        if self._given is not None:
            await self._given.putconn(connection)


def executor_inside(tx: object, schema: str) -> Executor | None:
    """Return an executor on an asynchronous connection of psycopg's; None for anything else."""
    if isinstance(tx, ConnectionExecutor):
        return tx
    return ConnectionExecutor(tx, schema) if isinstance(tx, psycopg.AsyncConnection) else None


def driver_on(database: object, schema: str) -> PsycopgDriver | None:
    """Return a driver for a pool of psycopg's; None for anything else."""
    if isinstance(database, psycopg_pool.AsyncConnectionPool):
        return PsycopgDriver(database, schema)
    return None


class PoolExecutor:
    """Each word on a connection of its own, and committed."""

    __slots__ = ("_is_tuned", "_pool", "_schema")

    def __init__(self, pool: Callable[[], Pool], schema: str, *, is_tuned: bool) -> None:
        self._is_tuned = is_tuned
        self._pool = pool
        self._schema = schema

    async def run(self, query: Query[T]) -> T:
        """Run `query`; the deadline includes the wait for a connection."""
        sql, args = as_sent(query, self._schema)
        with translated(query.name, query.timeout_seconds):
            async with asyncio.timeout(query.timeout_seconds), _Lease(self._pool()) as connection:
                rows = await _fetched(connection, sql, args, query.timeout_seconds)
        return query.parse(rows)

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
            async with (
                asyncio.timeout(timeout_seconds),
                _Lease(self._pool()) as connection,
                _planned_by_default(connection, self._is_tuned),
            ):
                return await _fetched_foreign(connection, sql, params, timeout_seconds)

    async def execute_script(self, sql: str, *, timeout_seconds: float | None = None) -> None:
        """Run several statements, in one transaction unless they say otherwise."""
        with translated(beginning(sql), timeout_seconds):
            async with asyncio.timeout(timeout_seconds), _Lease(self._pool()) as connection:
                await _scripted(connection, compile_script(sql, self._schema), timeout_seconds)

    @contextlib.asynccontextmanager
    async def _begin(self) -> AsyncIterator[Executor]:
        async with contextlib.AsyncExitStack() as stack:
            connection = await within("begin", stack.enter_async_context(_Lease(self._pool())))
            await stack.enter_async_context(_transaction(connection))
            yield ConnectionExecutor(connection, self._schema)


class _Lease:
    """A connection of the pool, lent out; what was done on it is committed, or rolled back by what is raised."""

    __slots__ = ("_connection", "_pool")

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def __aenter__(self) -> AnyConnection:
        self._connection = await self._pool.getconn()
        return self._connection

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        connection = self._connection
        is_open = is_in_transaction(connection)
        try:
            with CutAfter(connection, TIMEOUT_SECONDS if is_open else None):
                if error is None:
                    await connection.commit()
                elif is_open:
                    with contextlib.suppress(*WIRE_ERRORS):  # what was raised inside says more
                        await connection.rollback()
            if is_lost(error):
                await connection.close()
        finally:
            await self._pool.putconn(connection)  # which throws a broken one away


class ConnectionExecutor:
    """All words on one connection, one at a time, in whatever transaction is open on it."""

    __slots__ = ("_connection", "_schema")

    def __init__(self, connection: AnyConnection, schema: str) -> None:
        self._connection = connection
        self._schema = schema

    async def run(self, query: Query[T]) -> T:
        """Run `query`; one at a time."""
        sql, args = as_sent(query, self._schema)
        with translated(query.name, query.timeout_seconds):
            async with asyncio.timeout(query.timeout_seconds):
                rows = await _fetched(self._connection, sql, args, query.timeout_seconds)
        return query.parse(rows)

    def begin(self) -> AbstractAsyncContextManager[Executor]:
        """Begin a savepoint, or a transaction if none is open."""
        return self._begin()

    async def copy(self, copy: Copy) -> int:
        """Copy rows into a table."""
        return await _copied(self._connection, self._schema, copy)

    async def fetch(
        self, sql: str, params: Sequence[Any] = (), *, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> list[dict[str, Any]]:
        """Run SQL that is not ours."""
        answer = _fetched_foreign(self._connection, sql, params, timeout_seconds)
        return await within(beginning(sql), answer, timeout_seconds)

    async def execute_script(self, sql: str, *, timeout_seconds: float | None = None) -> None:
        """Run several statements."""
        script = _scripted(self._connection, compile_script(sql, self._schema), timeout_seconds)
        await within(beginning(sql), script, timeout_seconds)

    @contextlib.asynccontextmanager
    async def _begin(self) -> AsyncIterator[Executor]:
        async with _transaction(self._connection):
            yield self


async def _fetched(
    connection: AnyConnection, sql: bytes, args: Sequence[Any], timeout_seconds: float
) -> Sequence[Any]:
    cursor = AsyncCursor(connection)
    with CutAfter(connection, timeout_seconds):
        await cursor.execute(sql, args, binary=True)
        return await _rows_of(cursor)


async def _fetched_foreign(
    connection: AnyConnection, sql: str, params: Sequence[Any], timeout_seconds: float
) -> list[dict[str, Any]]:
    cursor = AsyncCursor(connection)
    with CutAfter(connection, timeout_seconds):
        await cursor.execute(sql.encode(), params or None, prepare=False)
        rows = await _rows_of(cursor)
        return by_name(cursor, rows)


async def _rows_of(cursor: AsyncCursor) -> Sequence[Any]:
    """Return the rows that a cursor has; in a pipeline of the user's it has none before the pipeline is asked."""
    if cursor.connection.pgconn.pipeline_status:
        async with cursor.connection.pipeline():  # the end of an inner one waits for all that was sent
            pass
    return await cursor.fetchall() if cursor.description else ()


async def _scripted(
    connection: AnyConnection, sql: str, timeout_seconds: float | None = TIMEOUT_SECONDS
) -> None:
    with CutAfter(connection, timeout_seconds):
        await AsyncCursor(connection).execute(sql.encode(), prepare=False)


async def _copied(connection: AnyConnection, schema: str, copy: Copy) -> int:
    """Copy rows, with a deadline for the server alone: their source may take its time."""
    source_error: Exception | None = None
    cursor = AsyncCursor(connection)
    with translated(copy.name, copy.timeout_seconds):
        try:
            async with (
                ServerDeadline(connection, copy.timeout_seconds) as deadline,
                cursor.copy(copy_statement(copy, schema)) as target,
            ):
                chunks = aiter(copy.chunks)
                while True:
                    deadline.pause()
                    try:
                        chunk = await anext(chunks, None)
                    except Exception as error:
                        source_error = error
                        raise
                    finally:
                        deadline.resume()
                    if chunk is None:
                        break
                    await target.write(chunk)
        except Exception:
            if source_error is None:
                raise
    if source_error is not None:  # not translated: a file that the source reads is no wire of ours
        raise source_error
    return cursor.rowcount


@contextlib.asynccontextmanager
async def _transaction(connection: AnyConnection) -> AsyncIterator[None]:
    """A transaction, or a savepoint in one that is open."""
    is_inner = connection.info.transaction_status != TransactionStatus.IDLE
    begin, commit = ("savepoint", "release") if is_inner else ("begin", "commit")
    transaction = connection.transaction()
    await _said(connection, begin, transaction.__aenter__())
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(MillhandError):  # what was raised inside says more
            await _said(connection, "rollback", transaction.__aexit__(type(error), error, None))
        raise
    if is_broken(connection):  # psycopg's own end of a transaction would say nothing
        raise ConnectionLost(commit, "a connection that is closed")
    await _said(connection, commit, transaction.__aexit__(None, None, None))


async def _said(connection: AnyConnection, operation: str, awaitable: Awaitable[T]) -> T:
    """Await what psycopg says to the server, with a deadline that holds where nobody answers."""
    with CutAfter(connection, TIMEOUT_SECONDS):
        return await within(operation, awaitable)


@contextlib.asynccontextmanager
async def _planned_by_default(connection: AnyConnection, is_tuned: bool) -> AsyncIterator[None]:
    """Take the planner's settings away for a while: they are for our statements."""
    if not is_tuned:
        yield
        return
    await _scripted(connection, "SET enable_seqscan = on; SET plan_cache_mode = auto")
    try:
        yield
    finally:
        with contextlib.suppress(*WIRE_ERRORS):  # of a connection that broke, nothing is left to be reset
            await _scripted(connection, "RESET enable_seqscan; RESET plan_cache_mode")


async def _try(address: str) -> None:
    connection = await psycopg.AsyncConnection.connect(address, autocommit=True)
    await connection.close()


def _checked_pool(pool: object) -> Any:
    if not isinstance(pool, psycopg_pool.AsyncConnectionPool | BorrowedPool):
        raise TypeError(
            "database must be a psycopg_pool.AsyncConnectionPool or a URL that begins with 'postgresql://', "
            f"got {type(pool).__module__}.{type(pool).__qualname__}"
        )
    return pool
