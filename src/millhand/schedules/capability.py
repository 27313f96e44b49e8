"""What schedules add to a client: it writes what its code declares, and runs what is due where it leads."""

from __future__ import annotations

from collections.abc import Sequence

from millhand.engine.capability import Capability, ClientContext, LeaderContext
from millhand.engine.service import Service


class Schedules(Capability):
    """Schedules. A change of one wakes their runner."""

    def client_services(self, client: ClientContext) -> Sequence[Service]:
        if not client.config.schedules:
            return ()
        from millhand.schedules.declarer import ScheduleDeclarer  # noqa: PLC0415 - most clients declare none

        declarer = ScheduleDeclarer(client.pool, client.config.schedules, locks=client.locks)
        client.on_migrated.append(declarer.declare_again)
        return [declarer]

    def periodic_services(self, leader: LeaderContext) -> Sequence[Service]:
        from millhand.schedules.runner import ScheduleRunner  # noqa: PLC0415 - only a client that may lead needs it

        runner = ScheduleRunner(
            leader.pool,
            leader.inserter,
            default_max_attempts=leader.config.max_attempts,
            monotonic=leader.clock.monotonic,
        )
        leader.woken_by["schedule_changed"] = runner
        return [runner]
