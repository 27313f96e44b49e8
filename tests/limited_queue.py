"""A limited queue of a test: its statements at instants of the test's own, and what its tables hold."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from millhand.core.event import EventKind
from millhand.core.insert_opts import InsertParams
from millhand.core.job import ClientId, JobId, JobRow, JobState
from millhand.core.transition import StateChange, last_attempted_by
from millhand.db.driver.protocol import Executor
from millhand.engine.store.job_insert import job_insert_many
from millhand.limits.job_store import (
    Admission,
    CompletedAndAdmitted,
    limited_job_admit,
    limited_job_collect,
    limited_job_complete_and_admit,
    limited_job_complete_many,
    limited_job_insert_many,
    limited_job_set_state_if_running_many,
)

NOW = datetime(2026, 11, 25, 12, 30, 15, 123456, tzinfo=UTC)
CLIENT = ClientId("client_a")


class LimitedQueue:
    """
    One queue and its limit; `columns` are of its row.

    `now` is the instant of each statement, or None for the database's clock.
    """

    def __init__(self, executor: Executor, queue: str, *, now: datetime | None = NOW) -> None:
        self.executor = executor
        self.now = now
        self.queue = queue

    async def set_limit(self, **columns: Any) -> None:
        given = {"by_args": [], "by_kind": False, "in_order": False, "is_shared": False, **columns}
        names = ", ".join(["queue", *given])
        values = ", ".join(f"${n}" for n in range(1, len(given) + 2))
        updates = ", ".join(f"{name} = excluded.{name}" for name in given)
        await self.executor.fetch(
            f"INSERT INTO millhand_limit ({names}) VALUES ({values}) ON CONFLICT (queue) DO UPDATE SET {updates}",
            [self.queue, *given.values()],
        )

    def params(self, tenant: object = "a", **given: Any) -> InsertParams:
        plain = {
            "kind": "push",
            "encoded_args": json.dumps({"tenant": tenant}),
            "max_attempts": 25,
            "encoded_metadata": "{}",
            "priority": 1,
            "queue": self.queue,
            "state": JobState.AVAILABLE,
        }
        return InsertParams(**{**plain, **given})

    async def insert(self, *tenants: object, **given: Any) -> list[JobRow]:
        params = [self.params(tenant, **given) for tenant in tenants]
        results = await self.executor.run(limited_job_insert_many(params, now=self.now))
        return [result.job for result in results]

    async def insert_unaware(self, *tenants: object, **given: Any) -> list[JobRow]:
        """Insert as a client that does not know the limit."""
        params = [self.params(tenant, **given) for tenant in tenants]
        return [result.job for result in await self.executor.run(job_insert_many(params, now=self.now))]

    async def collect(self, kinds: Sequence[str] | None = None) -> None:
        await self.executor.run(limited_job_collect(self.queue, kinds=kinds, now=self.now))

    async def admit(self, limit: int = 100, **given: Any) -> Admission:
        return await self.executor.run(
            limited_job_admit(queue=self.queue, limit=limit, client_id=CLIENT, now=self.now, **given)
        )

    async def fetch(self, limit: int = 100, **given: Any) -> list[JobRow]:
        await self.collect(given.get("kinds"))
        return (await self.admit(limit, **given)).jobs

    async def complete(self, *jobs: JobRow) -> list[JobId]:
        at = self.now or datetime.now(UTC)
        return await self.executor.run(
            limited_job_complete_many(
                client_id=CLIENT,
                ids=[job.id for job in jobs],
                attempted_ats=[job.attempted_at or at for job in jobs],
                finalized_ats=[at] * len(jobs),
            )
        )

    async def complete_and_admit(self, *jobs: JobRow, limit: int = 100, **given: Any) -> CompletedAndAdmitted:
        at = self.now or datetime.now(UTC)
        return await self.executor.run(
            limited_job_complete_and_admit(
                queue=self.queue,
                limit=limit,
                client_id=CLIENT,
                ids=[job.id for job in jobs],
                attempted_ats=[job.attempted_at or at for job in jobs],
                finalized_ats=[at] * len(jobs),
                now=self.now,
                **given,
            )
        )

    async def end(
        self, *jobs: JobRow, state: JobState, shared_ids: Sequence[JobId] = (), **given: Any
    ) -> list[JobRow]:
        """Write the same outcome for jobs."""
        changes = [
            StateChange(
                id=job.id,
                state=state,
                event_kind=EventKind.JOB_FAILED,
                attempted_at=job.attempted_at,
                attempted_by=last_attempted_by(job),
                **given,
            )
            for job in jobs
        ]
        query = limited_job_set_state_if_running_many(changes, shared_ids=shared_ids, now=self.now)
        return await self.executor.run(query)

    async def state(self, job: JobRow) -> str:
        [row] = await self.executor.fetch("SELECT state::text FROM river_job WHERE id = $1", [job.id])
        return str(row["state"])

    async def partitions(self) -> dict[str, Any]:
        rows = await self.executor.fetch(
            "SELECT * FROM millhand_limit_partition WHERE queue = $1 ORDER BY partition_key", [self.queue]
        )
        return {row["partition_key"]: row for row in rows}

    async def limited_jobs(self) -> list[Any]:
        return await self.executor.fetch(
            "SELECT * FROM millhand_limited_job WHERE queue = $1 ORDER BY job_id", [self.queue]
        )

    async def check(self) -> None:
        """Assert that each partition counts the jobs that have its slots, and the total all of them."""
        jobs = await self.limited_jobs()
        admitted = Counter(job["partition_key"] for job in jobs if job["admitted_at"] is not None)
        partitions = await self.partitions()
        assert {key: row["running"] for key, row in partitions.items() if row["running"]} == admitted
        [limit] = await self.executor.fetch(
            "SELECT total, num_running FROM millhand_limit WHERE queue = $1", [self.queue]
        )
        if limit["total"] is not None:
            assert limit["num_running"] == admitted.total()


def tenants(jobs: Sequence[JobRow]) -> list[str]:
    return [job.args["tenant"] for job in jobs]


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)
