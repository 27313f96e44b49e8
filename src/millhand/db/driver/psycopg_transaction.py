"""Transactions and savepoints by psycopg, for blocking and asynchronous connections."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, Protocol

from psycopg.pq import TransactionStatus

from millhand.core.errors import ConnectionLost, MillhandError
from millhand.db.driver.psycopg_cursor import AnyConnection

BEGIN = "SELECT 1"  # any statement makes psycopg begin a transaction


class RunStep(Protocol):
    """Runs one step of a transaction with a deadline, its errors translated."""

    def __call__(self, operation: str, step: Callable[[], Any]) -> Awaitable[None]: ...


def is_before_begin(connection: AnyConnection) -> bool:
    """
    Return whether psycopg begins a transaction of the caller's with the next statement.

    A block of `connection.transaction()` that is entered before would commit it.
    """
    return not connection.autocommit and connection.info.transaction_status == TransactionStatus.IDLE


@contextlib.asynccontextmanager
async def transaction(
    connection: AnyConnection, enter: Callable[[], Any], leave: Callable[..., Any], run_step: RunStep
) -> AsyncIterator[None]:
    """Begin a transaction, or a savepoint if one is open; `enter` and `leave` are those of `connection.transaction()`."""
    is_inner = connection.info.transaction_status != TransactionStatus.IDLE
    begin, commit = ("savepoint", "release") if is_inner else ("begin", "commit")
    await run_step(begin, enter)
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(MillhandError):  # the error of the block says more
            await run_step("rollback", partial(leave, type(error), error, None))
        raise
    # psycopg itself ends a transaction on a broken connection without an error.
    if connection.info.transaction_status == TransactionStatus.UNKNOWN:
        raise ConnectionLost(commit, "a connection that is closed")
    await run_step(commit, partial(leave, None, None, None))
