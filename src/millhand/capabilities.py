"""
The capabilities of a client, in the order in which its engine calls them.

Each is one package, which imports the engine and no other capability. This list is all that knows them.
"""

from __future__ import annotations

from millhand.archive.capability import JobArchive
from millhand.dead_jobs.capability import DeadJobs
from millhand.engine.capability import Capability
from millhand.engine.job_change import JobChanges
from millhand.engine.services import waiting_jobs_of
from millhand.flows.capability import Flows
from millhand.history.capability import History
from millhand.limits.capability import Limits
from millhand.orphans.capability import OrphanCleanup
from millhand.schedules.capability import Schedules

CAPABILITIES: tuple[Capability, ...] = (
    Limits(),
    Schedules(),
    Flows(),
    DeadJobs(),
    JobArchive(),
    History(),
    OrphanCleanup(),
)

# How the API, the commands and the page change jobs.
JOB_CHANGES = JobChanges(lambda: waiting_jobs_of(CAPABILITIES))
