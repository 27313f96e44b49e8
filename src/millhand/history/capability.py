"""What the history adds to a client: a writer where it leads, and a counter of the jobs that it deletes at once."""

from __future__ import annotations

from collections.abc import Sequence

from millhand.db.driver.protocol import Executor
from millhand.engine.capability import Capability, DeletionCounter, LateService, LeaderContext
from millhand.engine.service import Service


class History(Capability):
    """The history. Its writer reads the instant of the last discard in each pass, and reports it."""

    def deletion_counter(self, pool: Executor) -> DeletionCounter:
        from millhand.history.deleted_job_counter import DeletedJobCounter  # noqa: PLC0415 - a client needs it at its start

        return DeletedJobCounter(pool)

    def periodic_services(self, leader: LeaderContext) -> Sequence[Service]:
        return [LateService("HistoryWriter", lambda: _writer(leader))]


def _writer(leader: LeaderContext) -> Service:
    from millhand.history.writer import HistoryWriter  # noqa: PLC0415 - a tenth of all imports

    return HistoryWriter(
        leader.pool,
        clock=leader.clock,
        holder=leader.client_id,
        on_discarded=leader.report_discarded,
        registration=leader.registration,
    )
