"""The jobs that wait for slots of a limit, or for their time in a queue that Go workers share."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from millhand.core.job import JobId, JobRow
from millhand.db.query import Query
from millhand.engine.fleet import Runner
from millhand.engine.store.queue_load import DueKind
from millhand.engine.waiting_jobs import WaitingJobs
from millhand.limits.job_store import limited_job_retry_many, limited_job_snooze
from millhand.limits.report_store import limit_count_jobs, limit_get_due_kinds, limit_get_shape


class JobsThatWaitForSlots(WaitingJobs):
    """They are pending, and have rows in `millhand_limited_job`."""

    async def are_there(self, runner: Runner) -> bool:
        return await runner.run(limit_get_shape())

    def count(self, names: Collection[str]) -> Query[Mapping[str, int]]:
        query = limit_count_jobs(names)
        return Query(
            query.name,
            query.params,
            lambda rows: {queue: jobs.num_waiting for queue, jobs in query.parse(rows).items()},
        )

    def get_due_kinds(self, names: Collection[str], *, limit: int) -> Query[list[DueKind]]:
        return limit_get_due_kinds(names, limit=limit)

    def retry_many(self, ids: Sequence[JobId], *, now: datetime | None = None) -> Query[list[JobRow]]:
        return limited_job_retry_many(ids, now=now)

    def snooze(self, id: JobId, until: datetime) -> Query[JobRow]:
        return limited_job_snooze(id, until)


WAITING_JOBS = JobsThatWaitForSlots()
