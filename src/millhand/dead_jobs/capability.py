"""What dead letters add to a client: a copier where it leads, and a cleaner that waits for the copies."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from millhand.core.config import Config
from millhand.dead_jobs.store import dead_job_get_shape
from millhand.engine.capability import Capability, LateService, LeaderContext
from millhand.engine.maintenance.keeper import Keeper, TableKeeper
from millhand.engine.service import Service
from millhand.engine.store.job import Kept

# Without a row no pass has copied anything yet, and the cleaner does not wait for one.
COPIED = Kept(
    """
job.finalized_at < coalesce(
    (SELECT progress.settled_to FROM /* schema */millhand_dead_job_cursor AS progress), 'infinity'
)
""",
    only_discarded=True,
)


class DeadJobs(Capability):
    """Dead letters. A retention of zero keeps none, and nothing waits for a copy."""

    def keeper(self, config: Config) -> Keeper | None:
        """Return what keeps each discarded job that may have no copy yet."""
        if config.dead_job_retention == timedelta(0):
            return None
        return TableKeeper(COPIED, dead_job_get_shape)

    def periodic_services(self, leader: LeaderContext) -> Sequence[Service]:
        copier = LateService("DeadJobCopier", lambda: _copier(leader))
        known: datetime | None = None

        def on_discarded(at: datetime | None) -> None:
            """Wake the copier at the instant of a discard that was not known before."""
            nonlocal known
            if at is not None and at != known:
                copier.wake_event.set()
            known = at

        leader.on_discarded.append(on_discarded)
        return [copier]


def _copier(leader: LeaderContext) -> Service:
    from millhand.dead_jobs.copier import DeadJobCopier  # noqa: PLC0415 - a client that never leads does not need it

    return DeadJobCopier(
        leader.pool,
        clock=leader.clock,
        registration=leader.registration,
        retention=leader.config.dead_job_retention,
    )
