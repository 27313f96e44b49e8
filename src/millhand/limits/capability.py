"""What limits add to a client: rules for the queues that have one, and the jobs that wait for slots."""

from __future__ import annotations

from millhand.engine.capability import Capability, ClientContext
from millhand.limits.rules import LimitRules
from millhand.limits.waiting_jobs import WAITING_JOBS, JobsThatWaitForSlots


class Limits(Capability):
    """Limits of queues, for all clients together."""

    def queue_rules(self, client: ClientContext) -> LimitRules:
        return LimitRules(client)

    def waiting_jobs(self) -> JobsThatWaitForSlots:
        return WAITING_JOBS
