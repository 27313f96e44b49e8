"""What the orphan cleanup adds to a client: the figures of its last run are part of the fleet's metrics."""

from __future__ import annotations

from collections.abc import Sequence

from millhand.core.metrics.points import Points
from millhand.engine.capability import Capability, LeaderContext
from millhand.engine.fleet import Runner
from millhand.engine.service import Service


class OrphanCleanup(Capability):
    """The orphan cleanup. Its jobs are added by `add_orphan_cleanup`."""

    def periodic_services(self, leader: LeaderContext) -> Sequence[Service]:
        leader.read_points.append(_read_points)
        return ()


async def _read_points(runner: Runner) -> Sequence[Points]:
    from millhand.orphans.report.orphan_points import read_orphan_points  # noqa: PLC0415 - only where a client leads

    return await read_orphan_points(runner)
