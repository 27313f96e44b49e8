"""
Statements by asynchronous psycopg 3, on a pool or on one connection.

Any connection will do: with or without autocommit, with any row factory and any adapters. See `psycopg_cursor`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol

import psycopg
from psycopg.generators import copy_end
from psycopg.pq import TransactionStatus
from psycopg.sql import Composed

from millhand.db.driver.executor import (
    Args,
    CopySource,
    CopyTarget,
    DelegatingExecutor,
    NamedRows,
    QueryRunner,
    Rows,
    StatementExecutor,
)
from millhand.db.driver.protocol import Executor
from millhand.db.driver.psycopg_cursor import AsyncCursor, by_name, copy_statement, is_in_transaction
from millhand.db.driver.psycopg_deadline import RELEASE_SECONDS, CutAfter, ServerDeadline
from millhand.db.driver.psycopg_error import WIRE_ERRORS, is_lost, translated, within
from millhand.db.driver.psycopg_transaction import BEGIN, is_before_begin, transaction
from millhand.db.driver.translation import label_of
from millhand.db.query import TIMEOUT_SECONDS, Copy, CopyOut

AnyConnection = psycopg.AsyncConnection[Any]


class Pool(Protocol):
    """What lends connections: psycopg's pool, or an adapter with its interface."""

    async def getconn(self) -> AnyConnection: ...

    async def putconn(self, conn: AnyConnection) -> None: ...


def executor_inside(tx: object, schema: str) -> Executor | None:
    """Return an executor on an asynchronous psycopg connection; None for anything else."""
    if isinstance(tx, psycopg.AsyncConnection):
        return ConnectionExecutor(tx, schema)
    return tx if isinstance(tx, ConnectionExecutor) else None


class PoolExecutor(QueryRunner, DelegatingExecutor):
    """Run each statement on a connection of its own, and commit it."""

    __slots__ = ("_is_tuned", "_pool")

    def __init__(self, pool: Callable[[], Pool], schema: str, *, is_tuned: bool) -> None:
        self._is_tuned = is_tuned
        self._pool = pool
        self._schema = schema

    async def fetch(
        self, sql: str, params: Sequence[Any] = (), *, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> list[dict[str, Any]]:
        async with (
            self._leased(label_of(sql), timeout_seconds) as connection,
            _default_planning(connection) if self._is_tuned else contextlib.nullcontext(),
        ):
            executor = ConnectionExecutor(connection, self._schema)
            return await executor.fetch(sql, params, timeout_seconds=timeout_seconds)

    async def _fetch(self, operation: str, sql: str, args: Args, timeout_seconds: float) -> Rows:
        with translated(operation, timeout_seconds):
            async with asyncio.timeout(timeout_seconds), _Lease(self._pool()) as connection:
                return await _fetched(connection, sql, args, timeout_seconds)

    @contextlib.asynccontextmanager
    async def _enter(self, operation: str, timeout_seconds: float | None) -> AsyncIterator[Executor]:
        async with self._leased(operation, timeout_seconds) as connection:
            yield ConnectionExecutor(connection, self._schema)

    @contextlib.asynccontextmanager
    async def _leased(self, operation: str, timeout_seconds: float | None) -> AsyncIterator[AnyConnection]:
        with translated(operation, timeout_seconds):
            async with asyncio.timeout(timeout_seconds), _Lease(self._pool()) as connection:
                yield connection

    async def copy_out(self, copy: CopyOut) -> int:
        async with contextlib.AsyncExitStack() as stack:
            connection = await within(copy.name, stack.enter_async_context(_Lease(self._pool())))
            if self._is_tuned:  # a whole table is read faster without its index
                await stack.enter_async_context(_default_planning(connection))
            return await ConnectionExecutor(connection, self._schema).copy_out(copy)

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[Executor]:
        async with contextlib.AsyncExitStack() as stack:
            connection = await within("begin", stack.enter_async_context(_Lease(self._pool())))
            yield await stack.enter_async_context(ConnectionExecutor(connection, self._schema).transaction())


class _Lease:
    """A connection of the pool for one block, which is committed, or rolled back on an exception."""

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
                    with contextlib.suppress(*WIRE_ERRORS):  # the error of the block says more
                        await connection.rollback()
            if is_lost(error):
                await connection.close()
        finally:
            await self._pool.putconn(connection)  # the pool discards a broken one


class ConnectionExecutor(StatementExecutor[AnyConnection]):
    """Run all statements on one asynchronous psycopg connection."""

    __slots__ = ()

    async def copy(self, copy: Copy) -> int:
        source = CopySource(copy)
        cursor = AsyncCursor(self._connection)
        with source.raising_own_error(), translated(copy.name, copy.timeout_seconds):
            async with (
                ServerDeadline(self._connection, copy.timeout_seconds) as deadline,
                _copying(cursor, copy_statement(copy, self._schema)) as target,
            ):
                chunks = source.chunks()
                while True:
                    deadline.pause()
                    try:
                        chunk = await anext(chunks, None)
                    finally:
                        deadline.resume()
                    if chunk is None:
                        break
                    await target.write(chunk)
        return cursor.rowcount

    async def copy_out(self, copy: CopyOut) -> int:
        target = CopyTarget(copy)
        cursor = AsyncCursor(self._connection)
        with target.raising_own_error(), translated(copy.name, copy.timeout_seconds):
            async with (
                ServerDeadline(self._connection, copy.timeout_seconds),
                cursor.copy(copy.statement.encode()) as pieces,
            ):
                async for piece in pieces:
                    await target.write(bytes(piece))
        return cursor.rowcount

    async def _fetch(self, operation: str, sql: str, args: Args, timeout_seconds: float) -> Rows:
        fetched = _fetched(self._connection, sql, args, timeout_seconds)
        return await within(operation, fetched, timeout_seconds)

    async def _fetch_by_name(self, operation: str, sql: str, args: Args, timeout_seconds: float) -> NamedRows:
        cursor = AsyncCursor(self._connection)
        with CutAfter(self._connection, timeout_seconds):
            rows = _rows(cursor, cursor.execute(sql.encode(), args or None, prepare=False))
            return by_name(cursor, await within(operation, rows, timeout_seconds))

    async def _execute(self, operation: str, sql: str, timeout_seconds: float | None) -> None:
        await within(operation, _script(self._connection, sql, timeout_seconds), timeout_seconds)

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[Executor]:
        if is_before_begin(self._connection):
            await self._execute("begin", BEGIN, TIMEOUT_SECONDS)
        async with self.transaction():
            yield self

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Executor]:
        """Begin a transaction, which is committed at the end, or a savepoint inside one."""
        block = self._connection.transaction()
        async with transaction(self._connection, block.__aenter__, block.__aexit__, self._run_step):
            yield self

    async def _run_step(self, operation: str, step: Callable[[], Any]) -> None:
        with CutAfter(self._connection, TIMEOUT_SECONDS):
            await within(operation, step())


@contextlib.asynccontextmanager
async def _copying(cursor: AsyncCursor, statement: Composed) -> AsyncIterator[psycopg.AsyncCopy]:
    """Copy, and end the COPY on the server if its begin was cancelled: psycopg leaves it open then."""
    try:
        async with cursor.copy(statement) as target:
            yield target
    except BaseException:
        pgconn = cursor.connection.pgconn
        if pgconn.transaction_status == TransactionStatus.ACTIVE:
            with CutAfter(cursor.connection, RELEASE_SECONDS), contextlib.suppress(*WIRE_ERRORS):
                await cursor.connection.wait(copy_end(pgconn, b"cancelled"))
        raise


async def _fetched(connection: AnyConnection, sql: str, args: Args, timeout_seconds: float) -> Rows:
    cursor = AsyncCursor(connection)
    with CutAfter(connection, timeout_seconds):
        return await _rows(cursor, cursor.execute(sql.encode(), args, binary=True))


async def _rows(cursor: AsyncCursor, execution: Any) -> Rows:
    """Await an execution and return its rows; in the caller's pipeline there are none until the pipeline is synced."""
    await execution
    if cursor.connection.pgconn.pipeline_status:
        async with cursor.connection.pipeline():  # the end of an inner pipeline waits for all that was sent
            pass
    return await cursor.fetchall() if cursor.description else ()


async def _script(connection: AnyConnection, sql: str, timeout_seconds: float | None) -> None:
    with CutAfter(connection, timeout_seconds):
        await AsyncCursor(connection).execute(sql.encode(), prepare=False)


@contextlib.asynccontextmanager
async def _default_planning(connection: AnyConnection) -> AsyncIterator[None]:
    """Suspend the planner settings of Millhand's statements."""
    await _script(connection, "SET enable_seqscan = on; SET plan_cache_mode = auto", TIMEOUT_SECONDS)
    try:
        yield
    finally:
        with contextlib.suppress(*WIRE_ERRORS):  # a broken connection needs no reset
            await _script(connection, "RESET enable_seqscan; RESET plan_cache_mode", TIMEOUT_SECONDS)
