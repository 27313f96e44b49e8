"""
Statements by blocking psycopg 3, on a pool or on one connection.

The methods are `async def`, as the protocol has them, but block and never wait for an event loop: `run_sync` runs them.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Protocol

import psycopg

from millhand.db.driver.executor import (
    Args,
    CopySource,
    CopyTarget,
    DelegatingExecutor,
    NamedRows,
    Rows,
    StatementExecutor,
)
from millhand.db.driver.protocol import Executor
from millhand.db.driver.psycopg_cursor import Cursor, by_name, copy_statement, is_in_transaction
from millhand.db.driver.psycopg_deadline import Deadline
from millhand.db.driver.psycopg_error import WIRE_ERRORS, translated
from millhand.db.driver.psycopg_transaction import BEGIN, is_before_begin, transaction
from millhand.db.query import TIMEOUT_SECONDS, Copy, CopyOut

AnyConnection = psycopg.Connection[Any]


class Pool(Protocol):
    """What lends connections: psycopg's pool, or an adapter with its interface."""

    def getconn(self, timeout: float | None = None) -> AnyConnection: ...

    def putconn(self, conn: AnyConnection) -> None: ...


def executor_inside(tx: object, schema: str) -> Executor | None:
    """Return an executor on a blocking psycopg connection; None for anything else."""
    if isinstance(tx, psycopg.Connection):
        return ConnectionExecutor(tx, schema)
    return tx if isinstance(tx, ConnectionExecutor) else None


class PoolExecutor(DelegatingExecutor):
    """Run each statement on a connection of its own, and commit it."""

    __slots__ = ("_pool", "_schema")

    def __init__(self, pool: Callable[[], Pool], schema: str) -> None:
        self._pool = pool
        self._schema = schema

    @contextlib.asynccontextmanager
    async def _enter(
        self, operation: str, timeout_seconds: float | None
    ) -> AsyncIterator[ConnectionExecutor]:
        pool = self._pool()
        with translated(operation, timeout_seconds):
            connection = pool.getconn(timeout_seconds)
        try:
            yield ConnectionExecutor(connection, self._schema)
            with translated(operation, timeout_seconds), Deadline(connection, timeout_seconds):
                connection.commit()
        except BaseException:
            if is_in_transaction(connection):
                with contextlib.suppress(*WIRE_ERRORS):  # the error of the block says more
                    connection.rollback()
            raise
        finally:
            pool.putconn(connection)  # the pool discards a broken one

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[Executor]:
        async with self._enter("begin", TIMEOUT_SECONDS) as executor, executor.transaction():
            yield executor


class ConnectionExecutor(StatementExecutor[AnyConnection]):
    """Run all statements on one blocking psycopg connection."""

    __slots__ = ()

    async def copy(self, copy: Copy) -> int:
        cursor = Cursor(self._connection)
        source = CopySource(copy)
        with source.raising_own_error(), translated(copy.name, copy.timeout_seconds):
            await self._copy(cursor, source, copy)
        return cursor.rowcount

    async def copy_out(self, copy: CopyOut) -> int:
        cursor = Cursor(self._connection)
        target = CopyTarget(copy)
        with (
            target.raising_own_error(),
            self._guarded(copy.name, copy.timeout_seconds),
            cursor.copy(copy.statement.encode()) as pieces,
        ):
            for piece in pieces:
                await target.write(bytes(piece))
        return cursor.rowcount

    async def _fetch(self, operation: str, sql: str, args: Args, timeout_seconds: float) -> Rows:
        with self._guarded(operation, timeout_seconds):
            return _rows(Cursor(self._connection).execute(sql.encode(), args, binary=True))

    async def _fetch_by_name(self, operation: str, sql: str, args: Args, timeout_seconds: float) -> NamedRows:
        with self._guarded(operation, timeout_seconds):
            cursor = Cursor(self._connection).execute(sql.encode(), args or None, prepare=False)
            return by_name(cursor, _rows(cursor))

    async def _execute(self, operation: str, sql: str, timeout_seconds: float | None) -> None:
        with self._guarded(operation, timeout_seconds):
            Cursor(self._connection).execute(sql.encode(), prepare=False)

    @contextlib.contextmanager
    def _guarded(self, operation: str, timeout_seconds: float | None) -> Iterator[None]:
        with translated(operation, timeout_seconds), Deadline(self._connection, timeout_seconds):
            yield

    async def _copy(self, cursor: Cursor, source: CopySource, copy: Copy) -> None:
        end = contextlib.ExitStack()
        with Deadline(self._connection, copy.timeout_seconds):
            target = end.enter_context(cursor.copy(copy_statement(copy, self._schema)))
        with contextlib.ExitStack() as last:
            last.push(end)
            async for chunk in source.chunks():
                with Deadline(self._connection, copy.timeout_seconds):
                    target.write(chunk)
            with Deadline(self._connection, copy.timeout_seconds):
                end.close()

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
        async with transaction(self._connection, block.__enter__, block.__exit__, self._run_step):
            yield self

    async def _run_step(self, operation: str, step: Callable[[], Any]) -> None:
        with self._guarded(operation, TIMEOUT_SECONDS):
            step()


def _rows(cursor: psycopg.Cursor[Any]) -> Rows:
    """Return a cursor's rows; in the caller's pipeline there are none until the pipeline is synced."""
    if cursor.connection.pgconn.pipeline_status:
        with cursor.connection.pipeline():  # the end of an inner pipeline waits for all that was sent
            pass
    return cursor.fetchall() if cursor.description else ()
