"""
What must be written in the transaction that ends jobs.

Rule 1: no end waits for it. If the database refuses it, the statement that ends the jobs runs alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

from millhand.core.errors import DriverError
from millhand.core.job import JobId, JobRow, JobState
from millhand.core.sqlstate import LOCK_NOT_AVAILABLE
from millhand.db.driver.protocol import Executor
from millhand.db.query import Query
from millhand.engine.pending_change import Pending

T = TypeVar("T")


Ends: TypeAlias = Mapping[JobId, JobState]
EndsOf = Callable[[T], Ends]
SecondsLeft = Callable[[], float]


class EndWriter(Protocol):
    """Writes for one capability when jobs end."""

    def ids_of(self, batch: Sequence[Pending]) -> Collection[JobId]:
        """
        Return the jobs of a batch whose end it must write, which have metadata.

        Called for each batch with such jobs, so it must be fast.
        """
        ...

    async def write(self, tx: Executor, ends: Ends, seconds_left: SecondsLeft) -> None:
        """
        Write that jobs have ended. It may set `lock_timeout` for the rest of the transaction.

        Raises: DriverError, OperationTimeout.
        """
        ...

    def on_refused(self, num_jobs: int, error: DriverError) -> None:
        """Take note that the jobs ended without this. Never raises."""
        ...


class Wanted(NamedTuple):
    """The jobs of a batch whose end a writer must write."""

    writer: EndWriter
    ids: Collection[JobId]


def wanted_of(writers: Sequence[EndWriter], batch: Sequence[Pending]) -> list[Wanted]:
    """Return what each writer must write of a batch; nothing for those without such jobs."""
    return [Wanted(writer, ids) for writer in writers if (ids := writer.ids_of(batch))]


async def run_and_write(
    pool: Executor, query: Query[T], wanted: Sequence[Wanted], ends_of: EndsOf[T], seconds_left: SecondsLeft
) -> T:
    """
    Run a statement that ends jobs, and what is to be written of those that ended by it, in one transaction.

    Raises: as `Executor.run`, and then nothing was written.
    """
    try:
        async with pool.begin() as tx:
            result = await tx.run(query)
            ends = ends_of(result)
            for writer, ids in wanted:
                if own := {id: ends[id] for id in ids if id in ends}:
                    await writer.write(tx, own, seconds_left)
    except DriverError as error:
        if error.retryable and error.sqlstate != LOCK_NOT_AVAILABLE:
            raise
        # The statement itself may be refused: then it is refused again.
        result = await pool.run(query)
        for writer, ids in wanted:
            writer.on_refused(len(ids), error)
    return result


def ends_of_completed(ids: Collection[JobId]) -> Ends:
    """Return the ends of completed jobs."""
    return dict.fromkeys(ids, JobState.COMPLETED)


def ends_of_rows(rows: Collection[JobRow]) -> Ends:
    """Return the ends of those jobs that are finalized."""
    return {row.id: row.state for row in rows if row.state.is_finalized}
