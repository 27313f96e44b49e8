"""A storm: many clients at once, whose connections die, and a watcher that asks for the invariants."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import asyncpg
import pytest

from limited_queue import LimitedQueue
from millhand.core.errors import DriverError, NotFound
from millhand.core.job import JobRow, JobState
from millhand.core.limit import Limit
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.engine.store.job import job_cancel, job_retry
from millhand.limits.job_store import limited_job_release_ended
from millhand.limits.store import limit_partition_set, limit_set

pytestmark = pytest.mark.slow

SEED = 20_261_128
NUM_CLIENTS = 8
NUM_PARTITIONS = 12
SLOTS = 3
STORM_SECONDS = 20.0
WATCH_SECONDS = 0.1
# As the leader's rescuer, but of jobs that nobody has ended for a second.
RESCUE = """
UPDATE river_job SET state = 'available', scheduled_at = now()
WHERE state = 'running' AND attempted_at < now() - interval '1 second' AND id <> ALL($1::bigint[])
"""
# In one snapshot: partitions that are over their limit, or whose number is not that of their admitted jobs; jobs that run
# without a slot; and a total that is exceeded or wrong.
FAULTS = """
WITH actual AS (
    SELECT queue, partition_key, count(*) AS running
    FROM millhand_limited_job WHERE admitted_at IS NOT NULL GROUP BY queue, partition_key
)
SELECT 'count' AS fault, partition_key AS of, partition.running || ' ' || coalesce(actual.running, 0) AS figures
FROM millhand_limit_partition AS partition LEFT JOIN actual USING (queue, partition_key)
WHERE partition.running <> coalesce(actual.running, 0)
UNION ALL
SELECT 'over', partition_key, running::text FROM actual WHERE running > $1
UNION ALL
SELECT 'without slot', id::text, state::text FROM river_job AS job
WHERE state = 'running'
AND NOT EXISTS (SELECT FROM millhand_limited_job WHERE job_id = job.id AND admitted_at IS NOT NULL)
UNION ALL
SELECT 'total', total::text, num_running || ' ' || (SELECT coalesce(sum(running), 0) FROM actual)
FROM millhand_limit
WHERE total IS NOT NULL
AND (num_running <> (SELECT coalesce(sum(running), 0) FROM actual) OR num_running > total)
"""


class Storm:
    """The clients, what they did, and what the watcher found."""

    def __init__(self, driver: AsyncpgDriver, *, total: int | None) -> None:
        self.driver = driver
        self.done: Counter[str] = Counter()
        self.end = time.monotonic() + STORM_SECONDS
        self.held: set[int] = set()  # ids of jobs that live clients run
        self.pool: Executor = driver.pool
        self.queue = LimitedQueue(driver.pool, "limited", now=None)
        self.total = total
        self.unexpected: list[str] = []

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self.end or bool(self.unexpected)

    async def client(self, number: int) -> None:
        """One process: it inserts, collects, admits, ends jobs, and keeps transactions open; sometimes it dies."""
        chance = random.Random(SEED + number)  # noqa: S311 - a test's choice
        jobs: list[JobRow] = []
        while not self.is_over:
            do = chance.choices(
                [self.insert, self.insert_open, self.work, self.end_jobs, self.change, self.set],
                weights=[10, 4, 30, 30, 4, 1],
            )[0]
            statement = asyncio.ensure_future(do(chance, jobs))
            if chance.random() < 0.03:  # a client that is killed, in the middle of its statement
                await asyncio.wait([statement], timeout=chance.random() * 0.01)
                await self.kill_one()
                self.held -= {job.id for job in jobs}
                jobs.clear()
            try:
                await statement
                self.done[do.__name__] += 1
            except DriverError as error:
                self.done["lost statements"] += 1
                if error.sqlstate == "40P01":
                    self.unexpected.append(f"deadlock: {error}")
            except NotFound:
                pass
        self.held -= {job.id for job in jobs}

    async def kill_one(self) -> None:
        """Terminate the session of a statement that runs, if there is one."""
        sql = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid() AND query LIKE '-- name: limited_job%' AND state <> 'idle' "
            "ORDER BY random() LIMIT 1"
        )
        with contextlib.suppress(DriverError):
            self.done["kills"] += len(await self.pool.fetch(sql))

    def names(self, chance: random.Random) -> list[str]:
        return [str(chance.randrange(NUM_PARTITIONS)) for _ in range(chance.randrange(1, 8))]

    async def insert(self, chance: random.Random, _jobs: list[JobRow]) -> None:
        insert = self.queue.insert if chance.random() < 0.7 else self.queue.insert_unaware
        await insert(*self.names(chance))

    async def insert_open(self, chance: random.Random, _jobs: list[JobRow]) -> None:
        """In a transaction that stays open for some statements of others, and may be rolled back."""
        with contextlib.suppress(ZeroDivisionError):
            async with self.pool.begin() as tx:
                await LimitedQueue(tx, "limited", now=None).insert(*self.names(chance))
                for _ in range(chance.randrange(10)):
                    await tx.fetch("SELECT 1")
                if chance.random() < 0.3:
                    raise ZeroDivisionError

    async def work(self, chance: random.Random, jobs: list[JobRow]) -> None:
        if chance.random() < 0.7:
            await self.queue.collect()
        found = (await self.queue.admit(chance.randrange(1, 12))).jobs
        jobs += found
        self.held |= {job.id for job in found}

    async def end_jobs(self, chance: random.Random, jobs: list[JobRow]) -> None:
        chance.shuffle(jobs)
        ended = [jobs.pop() for _ in range(min(len(jobs), chance.randrange(1, 6)))]
        if not ended:
            return
        try:
            if chance.random() < 0.8:
                await self.queue.complete(*sorted(ended, key=lambda job: job.id))
            elif chance.random() < 0.5:
                await self.queue.end(*ended, state=JobState.AVAILABLE, scheduled_at=ended[0].created_at)
            else:
                await self.queue.end(*ended, state=JobState.DISCARDED, finalized_at=ended[0].created_at)
        finally:
            self.held -= {job.id for job in ended}

    async def change(self, chance: random.Random, _jobs: list[JobRow]) -> None:
        """A user's transaction cancels or retries waiting jobs, and stays open a little."""
        rows = await self.pool.fetch(
            "SELECT job_id FROM millhand_limited_job WHERE admitted_at IS NULL ORDER BY random() LIMIT 5"
        )
        # In one order, as the statements themselves have it: two users who lock jobs the other way round would deadlock.
        ids = sorted(row["job_id"] for row in rows[: chance.randrange(3)])
        async with self.pool.begin() as tx:
            for id in ids:
                await tx.run(job_cancel(id, now=datetime.now(UTC)))
                if chance.random() < 0.5:
                    await tx.run(job_retry(id))
            for _ in range(chance.randrange(10)):
                await tx.fetch("SELECT 1")

    async def set(self, chance: random.Random, _jobs: list[JobRow]) -> None:
        if chance.random() < 0.5:
            at_once = chance.randrange(1, SLOTS + 1)
            limit = Limit(at_once=at_once, total=self.total, by_args=["tenant"])
            await self.pool.run(limit_set("limited", limit))
        else:
            name = str(chance.randrange(NUM_PARTITIONS))
            at_once = chance.choice([None, 1, SLOTS])
            await self.pool.run(
                limit_partition_set("limited", [name], at_once=at_once, weight=chance.randrange(1, 4))
            )

    async def leader(self) -> None:
        """Rescues jobs of killed clients, and maintains."""
        while not self.is_over:
            await self.lead()
            with contextlib.suppress(DriverError):
                await self.pool.fetch("SELECT pg_sleep(0.2)")

    async def lead(self) -> None:
        with contextlib.suppress(DriverError):
            await self.pool.fetch(RESCUE, [sorted(self.held)])
            await self.pool.run(limited_job_release_ended())

    async def watcher(self, connection: asyncpg.Connection) -> None:
        while not self.is_over:
            rows = await connection.fetch(FAULTS, SLOTS)
            self.unexpected += [str(dict(row)) for row in rows]
            self.done["looks"] += 1
            await connection.fetch("SELECT pg_sleep($1)", WATCH_SECONDS)

    async def drain(self) -> int:
        """Work everything that is left; return how many jobs that were."""
        await self.pool.run(limit_set("limited", Limit(at_once=SLOTS, total=self.total, by_args=["tenant"])))
        num_worked = num_idle = 0
        while num_idle < 3:
            await self.pool.fetch("UPDATE river_job SET state = 'available' WHERE state = 'running'")
            await self.pool.run(limited_job_release_ended())
            jobs = await self.queue.fetch(1_000)
            num_worked += len(await self.queue.complete(*jobs)) if jobs else 0
            num_idle = 0 if jobs else num_idle + 1
        return num_worked


@pytest.fixture
async def watching(postgres_url: str, schema: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection that is not killed, because it runs no statement of ours."""
    connection = await asyncpg.connect(postgres_url, server_settings={"search_path": schema})
    yield connection
    await connection.close()


@pytest.mark.parametrize("total", [None, 20])
async def test_a_storm_breaks_no_limit_and_loses_no_job(
    limited_driver: AsyncpgDriver, watching: asyncpg.Connection, total: int | None
) -> None:
    """Eight clients, twelve partitions of three slots, killed sessions: every snapshot is right, and all jobs end."""
    storm = Storm(limited_driver, total=total)
    await storm.pool.run(limit_set("limited", Limit(at_once=SLOTS, total=total, by_args=["tenant"])))

    async with asyncio.TaskGroup() as tasks:
        for number in range(NUM_CLIENTS):
            tasks.create_task(storm.client(number))
        tasks.create_task(storm.leader())
        tasks.create_task(storm.watcher(watching))
    assert storm.unexpected == []
    storm.done["drained"] = await storm.drain()

    left = await watching.fetch("SELECT state::text, count(*) FROM river_job GROUP BY state ORDER BY state")
    print(f"\n{dict(storm.done)}, jobs: {[tuple(row) for row in left]}")
    assert {row["state"] for row in left} <= {"cancelled", "completed", "discarded"}
    assert await watching.fetch("SELECT FROM millhand_limited_job WHERE admitted_at IS NOT NULL") == []
    assert {row["running"] for row in (await storm.queue.partitions()).values()} == {0}
    await storm.queue.check()
