"""
An attempt within a test's transaction, which must be usable when the attempt has ended, however it did.

What a worker did stays, even of an attempt that failed, as what it committed would. Only where the database refused
something and nobody went back to a savepoint, everything that the attempt did is undone: elsewhere its own transaction
would have been rolled back then.
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
async def around_attempt(executor: Executor, tx: object | None) -> AsyncIterator[None]:
    """Undo what happens inside if it leaves the transaction `tx` unusable; without one nothing is to be done."""
    if tx is None:
        yield
    elif _may_end_early(tx):
        await executor.execute_script(f"SAVEPOINT {SAVEPOINT}")
        yield
        if not await _is_usable(executor):
            await _roll_back(executor, tx)
    else:
        with contextlib.suppress(_UnusableError):
            async with executor.begin() as inside:
                yield
                if not await _is_usable(inside):
                    raise _UnusableError


def _may_end_early(tx: object) -> bool:
    """
    Say whether a worker may release savepoints that were made before its attempt, and ours with them.

    A session of SQLAlchemy's that a test and a worker share does so when the worker commits. To release ours would be
    an error then, so it is left to the end of the transaction.
    """
    return any(kind.__module__.partition(".")[0] == "sqlalchemy" for kind in type(tx).__mro__)


async def _roll_back(executor: Executor, tx: object) -> None:
    try:
        await executor.execute_script(f"ROLLBACK TO SAVEPOINT {SAVEPOINT}")
    except DriverError:
        if not hasattr(tx, "flush"):
            raise
        # The worker has committed the session that it shares with the test, and gone on in a savepoint of the session's.
        ended: Any = tx.rollback()  # type: ignore[attr-defined]
        if inspect.isawaitable(ended):
            await ended


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
