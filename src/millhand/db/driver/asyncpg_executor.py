"""
Statements by asyncpg, on a pool or on one connection.

Millhand sends and reads only texts, numbers, instants, bytes and arrays of them. So an application's own codecs, such as
one for jsonb, do not matter.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from millhand.core.errors import MillhandError, NotStarted
from millhand.db.driver.asyncpg_copy import copy_out, copy_rows
from millhand.db.driver.asyncpg_error import WIRE_ERRORS, AnyConnection, translated, within
from millhand.db.driver.asyncpg_lease import Leases
from millhand.db.driver.executor import (
    Args,
    DelegatingExecutor,
    NamedRows,
    QueryRunner,
    Rows,
    StatementExecutor,
)
from millhand.db.driver.protocol import Executor
from millhand.db.driver.translation import label_of
from millhand.db.query import TIMEOUT_SECONDS, Copy, CopyOut


def executor_inside(tx: object, schema: str) -> Executor | None:
    """Return an executor on an asyncpg connection; None for anything else."""
    if isinstance(tx, asyncpg.Connection | PoolConnectionProxy):
        return ConnectionExecutor(tx, schema)
    return tx if isinstance(tx, ConnectionExecutor) else None


class PoolExecutor(QueryRunner, DelegatingExecutor):
    """
    Run each statement on a connection of its own.

    The driver sets `leases` while it is open. If these have our planner settings, it also sets `plain_leases`, with the
    server's own, for SQL from outside `db/sql/`.
    """

    __slots__ = ("leases", "plain_leases")

    def __init__(self, schema: str) -> None:
        self._schema = schema
        self.leases: Leases | None = None
        self.plain_leases: Leases | None = None

    def require_leases(self) -> Leases:
        if self.leases is None:
            raise NotStarted
        return self.leases

    def _require_plain_leases(self) -> Leases:
        return self.require_leases() if self.plain_leases is None else self.plain_leases

    async def fetch(
        self, sql: str, params: Sequence[Any] = (), *, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> list[dict[str, Any]]:
        with translated(label_of(sql), timeout_seconds):
            async with asyncio.timeout(timeout_seconds), self._require_plain_leases().lease() as connection:
                return [dict(row) for row in await connection.fetch(sql, *params)]

    async def _fetch(self, operation: str, sql: str, args: Args, timeout_seconds: float) -> Rows:
        leases = self.leases
        if leases is None:
            raise NotStarted
        # Not in a block of `translated`, which costs three calls: every statement comes this way.
        try:
            async with asyncio.timeout(timeout_seconds), leases.lease() as connection:
                return await connection.fetch(sql, *args)
        except WIRE_ERRORS as error:
            translated(operation, timeout_seconds).reraise(error)

    @contextlib.asynccontextmanager
    async def _enter(self, operation: str, timeout_seconds: float | None) -> AsyncIterator[Executor]:
        with translated(operation, timeout_seconds):
            async with asyncio.timeout(timeout_seconds), self.require_leases().lease() as connection:
                yield ConnectionExecutor(connection, self._schema)

    async def copy_out(self, copy: CopyOut) -> int:
        async with contextlib.AsyncExitStack() as stack:
            lease = self._require_plain_leases().lease()  # a whole table is read faster without its index
            connection = await within(copy.name, stack.enter_async_context(lease))
            return await copy_out(connection, copy)

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[Executor]:
        async with contextlib.AsyncExitStack() as stack:
            connection = await within("begin", stack.enter_async_context(self.require_leases().lease()))
            yield await stack.enter_async_context(ConnectionExecutor(connection, self._schema).begin())


class ConnectionExecutor(StatementExecutor[AnyConnection]):
    """Run all statements on one asyncpg connection."""

    __slots__ = ()

    async def copy(self, copy: Copy) -> int:
        return await copy_rows(self._connection, self._schema, copy)

    async def copy_out(self, copy: CopyOut) -> int:
        return await copy_out(self._connection, copy)

    async def _fetch(self, operation: str, sql: str, args: Args, timeout_seconds: float) -> Rows:
        with translated(operation, timeout_seconds):
            async with asyncio.timeout(timeout_seconds):
                return await self._connection.fetch(sql, *args)

    async def _fetch_by_name(self, operation: str, sql: str, args: Args, timeout_seconds: float) -> NamedRows:
        return [dict(row) for row in await self._fetch(operation, sql, args, timeout_seconds)]

    async def _execute(self, operation: str, sql: str, timeout_seconds: float | None) -> None:
        await within(operation, self._connection.execute(sql), timeout_seconds)

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[Executor]:
        block = _savepoint if self._connection.is_in_transaction() else _transaction
        async with block(self._connection):
            yield self


@contextlib.asynccontextmanager
async def _transaction(connection: AnyConnection) -> AsyncIterator[None]:
    # Not by asyncpg's own transaction: cancelled in its begin, the connection would still hold it for an open one.
    await within("begin", _executed(connection, "BEGIN"))
    try:
        yield
    except BaseException:
        with contextlib.suppress(MillhandError):  # the error of the block says more
            await within("rollback", _executed(connection, "ROLLBACK"))
        raise
    await within("commit", _executed(connection, "COMMIT"))


async def _executed(connection: AnyConnection, sql: str) -> None:
    """Execute SQL. If the connection was lost, asyncpg raises before there is anything to await."""
    await connection.execute(sql)


@contextlib.asynccontextmanager
async def _savepoint(connection: AnyConnection) -> AsyncIterator[None]:
    # One name for all depths: PostgreSQL resolves a name to its newest savepoint.
    await within("savepoint", _executed(connection, "SAVEPOINT millhand"))
    try:
        yield
    except BaseException:
        undo = "ROLLBACK TO SAVEPOINT millhand; RELEASE SAVEPOINT millhand"
        with contextlib.suppress(MillhandError):
            await within("rollback", _executed(connection, undo))
        raise
    await within("release", _executed(connection, "RELEASE SAVEPOINT millhand"))
