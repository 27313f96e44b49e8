"""
An attempt within a test's transaction, which must be usable when the attempt has ended, however it did.

What a worker did stays, even of an attempt that failed, as what it committed would. Only where the database refused
something and nobody went back to a savepoint, everything that the attempt did is undone: elsewhere its own transaction
would have been rolled back then.

Where SQLAlchemy or Django keep account of savepoints, ours is written without their knowledge. With Django a block of
ours around the worker's would forbid it to be durable. With SQLAlchemy a worker may commit a session that it shares with
the test, which ends savepoints made before its own, and so ours: to release it would be an error then.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncIterator
from typing import Any

from millhand.driver.protocol import Executor
from millhand.errors import DriverError

SAVEPOINT = "millhand_attempt"


class _UnusableError(Exception):
    """The transaction takes nothing but a rollback."""


@contextlib.asynccontextmanager
async def attempt_savepoint(executor: Executor, tx: object | None) -> AsyncIterator[None]:
    """Undo what happens inside if it leaves the transaction `tx` unusable; without one nothing is to be done."""
    if tx is None:
        yield
    elif _packages_of(tx) & {"django", "sqlalchemy"}:
        async with _unnoticed(executor, tx):
            yield
    else:
        with contextlib.suppress(_UnusableError):
            async with executor.begin() as inside:
                yield
                if not await _is_usable(inside):
                    raise _UnusableError


@contextlib.asynccontextmanager
async def _unnoticed(executor: Executor, tx: Any) -> AsyncIterator[None]:  # noqa: ANN401 - a library's, with few types
    await executor.execute_script(f"SAVEPOINT {SAVEPOINT}")
    before = await _innermost(tx)
    yield
    if not getattr(tx, "is_active", True):  # a session whose flush has failed, and which wants to be told
        await _awaited(tx.rollback())
    if not await _is_usable(executor):
        await _roll_back(executor, tx)
    if await _innermost(tx) is before:
        await executor.execute_script(f"RELEASE SAVEPOINT {SAVEPOINT}")


async def _innermost(tx: Any) -> object:  # noqa: ANN401 - as above
    """
    Return SQLAlchemy's innermost savepoint on a connection, or on that of a session.

    While it is the same one as before the attempt, ours lies within it, and nothing in ours. Of Django's connection it is
    None: blocks are left in the order in which they were entered.
    """
    if "django" in _packages_of(tx):
        return None
    connection = await _awaited(tx.connection()) if hasattr(tx, "flush") else tx
    return getattr(connection, "sync_connection", connection).get_nested_transaction()


async def _roll_back(executor: Executor, tx: Any) -> None:  # noqa: ANN401 - as above
    if hasattr(tx, "set_rollback"):
        tx.set_rollback(
            False
        )  # Django would have its own block rolled back first, with all that the test has done
    try:
        await executor.execute_script(f"ROLLBACK TO SAVEPOINT {SAVEPOINT}")
    except DriverError:
        if not hasattr(tx, "flush"):
            raise
        # The worker has committed the session that it shares with the test, and gone on in a savepoint of the session's.
        await _awaited(tx.rollback())


async def _is_usable(executor: Executor) -> bool:
    try:
        await executor.fetch("SELECT 1")
    except DriverError as error:
        if error.retryable:
            raise
        return False
    except Exception as error:  # Django refuses to ask where it has noted that a block is to be rolled back
        if type(error).__name__ != "TransactionManagementError":
            raise
        return False
    return True


async def _awaited(result: Any) -> Any:  # noqa: ANN401 - of an asynchronous session, or of another
    return await result if inspect.isawaitable(result) else result


def _packages_of(tx: object) -> set[str]:
    return {kind.__module__.partition(".")[0] for kind in type(tx).__mro__}
