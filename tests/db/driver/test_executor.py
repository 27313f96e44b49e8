from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest
from conformance_values import batches, num_jobs, params

from millhand.core.errors import DriverError
from millhand.db.driver.executor import DelegatingExecutor
from millhand.db.driver.protocol import Executor
from millhand.db.driver.translation import label_of
from millhand.engine.store.job_copy import job_copy
from millhand.engine.store.job_insert import job_insert_many


class Delegating(DelegatingExecutor):
    """Runs each operation in a savepoint of a transaction, and records its name and deadline."""

    def __init__(self, tx: Executor) -> None:
        self.entered: list[tuple[str, float | None]] = []
        self.tx = tx

    @contextlib.asynccontextmanager
    async def _enter(self, operation: str, timeout_seconds: float | None) -> AsyncIterator[Executor]:
        self.entered.append((operation, timeout_seconds))
        async with self.tx.begin() as executor:
            yield executor


async def test_each_operation_has_an_executor_of_its_own(tx: Executor) -> None:
    """`_enter` gets the name and the deadline of each operation, and every method passes its arguments on."""
    executor = Delegating(tx)

    [result] = await executor.run(job_insert_many([params()]).within(3.0))
    rows = await executor.fetch("SELECT $1::int   AS number", [7], timeout_seconds=2.0)
    await executor.execute_script("SELECT 1; SELECT 2")
    copied = await executor.copy(job_copy(batches([params(), params()])))

    assert (result.job.kind, rows, copied, await num_jobs(tx)) == ("act", [{"number": 7}], 2, 3)
    assert executor.entered == [
        ("job_insert", 3.0),
        ("SELECT $1::int AS number", 2.0),
        ("SELECT 1; SELECT 2", None),
        ("begin", 10.0),
    ]


async def test_failed_copy_is_rolled_back(tx: Executor) -> None:
    """A copy runs in a transaction or savepoint, so that its failure leaves nothing and aborts nothing."""
    executor = Delegating(tx)

    with pytest.raises(DriverError):
        await executor.copy(job_copy(batches([params(), params(priority=7)])))

    assert await num_jobs(tx) == 0


async def test_block_of_a_delegating_executor_is_rolled_back_by_an_exception(tx: Executor) -> None:
    """`begin` yields an executor inside the borrowed one, and an exception undoes its statements alone."""
    executor = Delegating(tx)
    await executor.run(job_insert_many([params()]))

    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block raises
        async with executor.begin() as block:
            await block.run(job_insert_many([params()]))
            raise ZeroDivisionError

    assert await num_jobs(tx) == 1


def test_label_is_the_beginning_of_the_sql() -> None:
    """Errors name SQL without a name by its first sixty characters, on one line."""
    assert label_of("SELECT\n    1") == "SELECT 1"
    assert label_of("x" * 100) == "x" * 60
