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
    elif _is_reached_through(tx):
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


def _is_reached_through(tx: object) -> bool:
    """
    Say whether a library keeps account of its own savepoints, and must not find one of ours among them.

    With SQLAlchemy a worker may commit a session that it shares with the test, which ends savepoints that were made
    later; to release ours would be an error then, so it is left to the end of the transaction. With Django a block of
    ours around the worker's would forbid it to be durable.
    """
    packages = {kind.__module__.partition(".")[0] for kind in type(tx).__mro__}
    return bool(packages & {"django", "sqlalchemy"})


async def _roll_back(executor: Executor, tx: object) -> None:
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
