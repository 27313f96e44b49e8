"""
A savepoint around an attempt, which keeps a test's transaction usable however the attempt ends.

What a worker wrote stays, even if its attempt failed, as if it had been committed. But if a database error leaves the
transaction unusable, everything that the attempt did is undone. In production, its transaction would have been rolled
back.

For SQLAlchemy and Django the savepoint is raw SQL, of which they do not know. A Django block around the worker's would
forbid the worker a durable block. With SQLAlchemy, a worker may commit a session that it shares with the test. The
commit ends earlier savepoints, so releasing this one would raise.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncIterator
from typing import Any

from millhand.core.errors import DriverError
from millhand.db.driver.protocol import Executor

SAVEPOINT = "millhand_attempt"


class _UnusableError(Exception):
    """The transaction accepts only a rollback."""


@contextlib.asynccontextmanager
async def attempt_savepoint(executor: Executor, tx: object | None) -> AsyncIterator[None]:
    """Undo the block if it leaves the transaction `tx` unusable. Without a transaction, do nothing."""
    if tx is None:
        yield
    elif _packages_of(tx) & {"django", "sqlalchemy"}:
        async with _raw_savepoint(executor, tx):
            yield
    else:
        with contextlib.suppress(_UnusableError):
            async with executor.begin() as inside:
                yield
                if not await _is_usable(inside):
                    raise _UnusableError


@contextlib.asynccontextmanager
async def _raw_savepoint(executor: Executor, tx: Any) -> AsyncIterator[None]:  # noqa: ANN401 - a library's object
    await executor.execute_script(f"SAVEPOINT {SAVEPOINT}")
    before = await _innermost(tx)
    yield
    if not getattr(tx, "is_active", True):  # a session after a failed flush requires an explicit rollback
        await _awaited(tx.rollback())
    if not await _is_usable(executor):
        await _roll_back(executor, tx)
    if await _innermost(tx) is before:
        await executor.execute_script(f"RELEASE SAVEPOINT {SAVEPOINT}")


async def _innermost(tx: Any) -> object:  # noqa: ANN401 - as above
    """
    Return SQLAlchemy's innermost savepoint on a connection or on a session's connection; None for Django.

    If it is the same as before the attempt, the raw savepoint still exists. Django leaves its blocks in order, so its
    connections need no such check.
    """
    if "django" in _packages_of(tx):
        return None
    connection = await _awaited(tx.connection()) if hasattr(tx, "flush") else tx
    return getattr(connection, "sync_connection", connection).get_nested_transaction()


async def _roll_back(executor: Executor, tx: Any) -> None:  # noqa: ANN401 - as above
    if hasattr(tx, "set_rollback"):
        # Django would require a rollback of its own block first, which holds the test's writes.
        tx.set_rollback(False)
    try:
        await executor.execute_script(f"ROLLBACK TO SAVEPOINT {SAVEPOINT}")
    except DriverError:
        if not hasattr(tx, "flush"):
            raise
        # The worker committed the session that it shares with the test, and then used a savepoint of the session.
        await _awaited(tx.rollback())


async def _is_usable(executor: Executor) -> bool:
    try:
        await executor.fetch("SELECT 1")
    except DriverError as error:
        if error.retryable:
            raise
        return False
    except Exception as error:  # Django runs no statement in a block that is marked for rollback
        if type(error).__name__ != "TransactionManagementError":
            raise
        return False
    return True


async def _awaited(result: Any) -> Any:  # noqa: ANN401 - of an asynchronous session or a synchronous one
    return await result if inspect.isawaitable(result) else result


def _packages_of(tx: object) -> set[str]:
    return {kind.__module__.partition(".")[0] for kind in type(tx).__mro__}
