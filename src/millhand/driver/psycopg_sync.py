"""
psycopg 3 for code without an event loop: the driver of `SyncClient`.

Its words are `async def`, as the protocol has them, and block: nothing in them ever waits for an event loop, so that
`blocking.now` runs them to their end. All that stands upon a driver is thereby there for synchronous code, written once.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

import psycopg
import psycopg_pool
from psycopg.pq import TransactionStatus

from millhand.driver.blocking import no_listener
from millhand.driver.detect import sync_executor_of
from millhand.driver.protocol import Executor, Listener
from millhand.driver.psycopg_conninfo import conninfo
from millhand.driver.psycopg_deadline import Deadline
from millhand.driver.psycopg_error import CONNECT_SECONDS, WIRE_ERRORS, translated
from millhand.driver.psycopg_wire import (
    Cursor,
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
AnyConnection = psycopg.Connection[Any]


class Pool(Protocol):
    """What lends connections: psycopg's pool, or another's that is made to look like it."""

    def getconn(self, timeout: float | None = None) -> AnyConnection: ...

    def putconn(self, conn: AnyConnection) -> None: ...


class PsycopgSyncDriver:
    """
    One database by psycopg, blocking: a pool of the caller's, which is used as it is, or a URL of which it makes its own.

    Concurrency: any number of threads.
    Raises: ConfigError for a URL that is none or a schema that cannot be.
    """

    def __init__(self, pool_or_url: Pool | str, schema: str = "", *, pool_size: int = POOL_SIZE) -> None:
        self.schema = checked_schema(schema)
        self._url = checked_url(pool_or_url) if isinstance(pool_or_url, str) else None
        self._pool = None if isinstance(pool_or_url, str) else pool_or_url
        self._pool_size = checked_pool_size(pool_size)
        self._opened_in: int | None = None
        self._own_pool: psycopg_pool.ConnectionPool[Any] | None = None
        self._executor = PoolExecutor(self._require_pool, self.schema)

    @property
    def pool(self) -> PoolExecutor:
        """The pool as an executor; usable once the driver was opened."""
        return self._executor

    def executor(self, tx: object) -> Executor:
        """
        Return an executor inside the caller's own connection, with whatever transaction is open on it.

        Raises: TypeError for what is not accepted.
        """
        return sync_executor_of(tx, self.schema)

    def listener(self) -> Listener:
        """Refuse: nobody here could be rung. Raises: ConfigError."""
        return no_listener()

    async def open(self) -> None:
        """Make the pool if it is ours to make; idempotent. Raises: as `Executor.run`."""
        if self._url is not None and (self._own_pool is None or self._is_forked):
            with translated("connect", CONNECT_SECONDS):
                self._own_pool = self._make_pool(self._url)
            self._opened_in = os.getpid()

    async def close(self) -> None:
        """Close the pool if it is ours; idempotent, never raises."""
        is_forked = self._is_forked
        pool, self._own_pool = self._own_pool, None
        if pool is not None and not is_forked:  # else its connections are the other process's, which goes on
            pool.close(timeout=TIMEOUT_SECONDS)

    def _require_pool(self) -> Pool:
        pool = self._own_pool if self._pool is None else self._pool
        if pool is None:
            raise PoolClosed("connect", "a driver that is not open; start its client, or open() it, first")
        if self._is_forked:
            raise PoolClosed(
                "connect", "a pool of the process that this one is a fork of; start the client anew here"
            )
        return pool

    @property
    def _is_forked(self) -> bool:
        """Whether the pool was made before a fork: two processes on one connection would read each other's answers."""
        return self._own_pool is not None and self._opened_in != os.getpid()

    def _make_pool(self, url: str) -> psycopg_pool.ConnectionPool[Any]:
        try:
            said = conninfo(url)
            psycopg.connect(said).close()  # a pool would go on trying and say nothing of what is wrong
        except psycopg.ProgrammingError as error:
            raise unreadable_url(type(error).__name__) from None  # which may show a part of the password
        # Never prepared: a pooler may be in between, and an insert now and then gains little.
        pool = psycopg_pool.ConnectionPool(
            said,
            kwargs={"autocommit": True, "prepare_threshold": None},
            min_size=1,
            max_size=self._pool_size,
            name="millhand",
            open=False,
        )
        pool.open(wait=True, timeout=CONNECT_SECONDS)
        return pool


def executor_inside(tx: object, schema: str) -> Executor | None:
    """Return an executor on a blocking connection of psycopg's; None for anything else."""
    if isinstance(tx, ConnectionExecutor):
        return tx
    return ConnectionExecutor(tx, schema) if isinstance(tx, psycopg.Connection) else None


def driver_on(database: object, schema: str) -> PsycopgSyncDriver | None:
    """Return a driver for a URL or a blocking pool of psycopg's; None for anything else."""
    if isinstance(database, str | psycopg_pool.ConnectionPool):
        return PsycopgSyncDriver(database, schema)
    return None


class PoolExecutor:
    """Each word on a connection of its own, and committed."""

    __slots__ = ("_pool", "_schema")

    def __init__(self, pool: Callable[[], Pool], schema: str) -> None:
        self._pool = pool
        self._schema = schema

    async def run(self, query: Query[T]) -> T:
        """Run `query`."""
        with self._lent(query.name, query.timeout_seconds) as executor:
            return await executor.run(query)

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
        """Run SQL that is not ours."""
        with self._lent(beginning(sql), timeout_seconds) as executor:
            return await executor.fetch(sql, params, timeout_seconds=timeout_seconds)

    async def execute_script(self, sql: str, *, timeout_seconds: float | None = None) -> None:
        """Run several statements, in one transaction unless they say otherwise."""
        with self._lent(beginning(sql), timeout_seconds) as executor:
            await executor.execute_script(sql, timeout_seconds=timeout_seconds)

    @contextlib.asynccontextmanager
    async def _begin(self) -> AsyncIterator[Executor]:
        with self._lent("begin", TIMEOUT_SECONDS) as executor:
            async with executor.begin() as tx:
                yield tx

    @contextlib.contextmanager
    def _lent(self, operation: str, timeout_seconds: float | None) -> Iterator[ConnectionExecutor]:
        pool = self._pool()
        with translated(operation, timeout_seconds):
            connection = pool.getconn(timeout_seconds)
        try:
            yield ConnectionExecutor(connection, self._schema)
            with translated(operation, timeout_seconds), Deadline(connection, timeout_seconds):
                connection.commit()
        except BaseException:
            if is_in_transaction(connection):
                with contextlib.suppress(*WIRE_ERRORS):  # what was raised inside says more
                    connection.rollback()
            raise
        finally:
            pool.putconn(connection)  # which throws a broken one away


class ConnectionExecutor:
    """All words on one connection, one at a time, in whatever transaction is open on it."""

    __slots__ = ("_connection", "_schema")

    def __init__(self, connection: AnyConnection, schema: str) -> None:
        self._connection = connection
        self._schema = schema

    async def run(self, query: Query[T]) -> T:
        """Run `query`; one at a time."""
        sql, args = as_sent(query, self._schema)
        with translated(query.name, query.timeout_seconds), Deadline(self._connection, query.timeout_seconds):
            cursor = Cursor(self._connection)
            cursor.execute(sql, args, binary=True)
            rows = _rows_of(cursor)
        return query.parse(rows)

    def begin(self) -> AbstractAsyncContextManager[Executor]:
        """Begin a savepoint, or a transaction if none is open."""
        return self._begin()

    async def copy(self, copy: Copy) -> int:
        """Copy rows into a table, with a deadline for the server alone: their source may take its time."""
        cursor = Cursor(self._connection)
        source = _Source(copy)
        try:
            with translated(copy.name, copy.timeout_seconds):
                await self._copy(cursor, source, copy)
        except Exception:
            if source.error is not None:  # not translated: a file that the source reads is no wire of ours
                raise source.error from None
            raise
        return cursor.rowcount

    async def fetch(
        self, sql: str, params: Sequence[Any] = (), *, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> list[dict[str, Any]]:
        """Run SQL that is not ours."""
        with translated(beginning(sql), timeout_seconds), Deadline(self._connection, timeout_seconds):
            cursor = Cursor(self._connection)
            cursor.execute(sql.encode(), params or None, prepare=False)
            rows = _rows_of(cursor)
            return by_name(cursor, rows)

    async def execute_script(self, sql: str, *, timeout_seconds: float | None = None) -> None:
        """Run several statements."""
        compiled = compile_script(sql, self._schema).encode()
        with translated(beginning(sql), timeout_seconds), Deadline(self._connection, timeout_seconds):
            Cursor(self._connection).execute(compiled, prepare=False)

    async def _copy(self, cursor: Cursor, source: _Source, copy: Copy) -> None:
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
    async def _begin(self) -> AsyncIterator[Executor]:
        connection = self._connection
        is_inner = connection.info.transaction_status != TransactionStatus.IDLE
        begin, commit = ("savepoint", "release") if is_inner else ("begin", "commit")
        transaction = connection.transaction()
        with translated(begin, TIMEOUT_SECONDS), Deadline(connection, TIMEOUT_SECONDS):
            transaction.__enter__()
        try:
            yield self
        except BaseException as error:
            with (
                contextlib.suppress(MillhandError),  # what was raised inside says more
                translated("rollback", TIMEOUT_SECONDS),
                Deadline(connection, TIMEOUT_SECONDS),
            ):
                transaction.__exit__(type(error), error, None)
            raise
        if is_broken(connection):  # psycopg's own end of a transaction would say nothing
            raise ConnectionLost(commit, "a connection that is closed")
        with translated(commit, TIMEOUT_SECONDS), Deadline(connection, TIMEOUT_SECONDS):
            transaction.__exit__(None, None, None)


def _rows_of(cursor: Cursor) -> Sequence[Any]:
    """Return the rows that a cursor has; in a pipeline of the user's it has none before the pipeline is asked."""
    if cursor.connection.pgconn.pipeline_status:
        with cursor.connection.pipeline():  # the end of an inner one waits for all that was sent
            pass
    return cursor.fetchall() if cursor.description else ()


class _Source:
    """The rows on their way; keeps what their source raises."""

    def __init__(self, copy: Copy) -> None:
        self._copy = copy
        self.error: Exception | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        """Give the source's chunks."""
        try:
            async for chunk in self._copy.chunks:
                yield chunk
        except Exception as error:
            self.error = error
            raise
