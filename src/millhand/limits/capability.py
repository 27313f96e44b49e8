"""What limits add to a client: rules for the queues that have one, and the jobs that wait for slots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from millhand.engine.capability import Capability, ClientContext

if TYPE_CHECKING:
    from millhand.limits.rules import LimitRules
    from millhand.limits.waiting_jobs import JobsThatWaitForSlots


class Limits(Capability):
    """Limits of queues, for all clients together."""

    def queue_rules(self, client: ClientContext) -> LimitRules:
        from millhand.limits.rules import LimitRules  # noqa: PLC0415 - a client needs it at its start

        return LimitRules(client)

    def waiting_jobs(self) -> JobsThatWaitForSlots:
        from millhand.limits.waiting_jobs import WAITING_JOBS  # noqa: PLC0415 - only changes and leaders need it

        return WAITING_JOBS
