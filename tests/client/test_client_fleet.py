"""Several clients on one database, and several databases in one process."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from datetime import timedelta

import asyncpg
import pytest

from client_harness import GENEROUS, Act, ClientHarness
from millhand.client import Client
from millhand.core.config import Config
from millhand.core.errors import JobCancel, JobSnooze
from millhand.core.event import EventKind
from millhand.core.insert_opts import InsertOpts
from millhand.core.job import FINALIZED_STATES, JobState
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.migrator import Migrator

NUM_JOBS = 3_000


class AtOnce:
    """Retries without delay."""

    def next_retry_at(self, job: object, *, now: object) -> object:
        return now


@pytest.mark.slow
async def test_fleet_executes_each_attempt_once(harness: ClientHarness) -> None:
    """Three clients work thousands of jobs that succeed, fail, snooze and cancel, and execute each attempt exactly once."""
    executed: Counter[tuple[str, int]] = Counter()
    workers = Workers()
    chance = random.Random(7)  # noqa: S311 - the same fates in each run
    kinds, weights = ["ok", "once", "snooze", "cancel", "never"], [80, 5, 5, 5, 5]
    fates = {str(n): chance.choices(kinds, weights)[0] for n in range(NUM_JOBS)}

    @workers.add(retry=AtOnce())  # type: ignore[arg-type]
    async def act(job: Job[Act]) -> None:
        num_snoozes = job.metadata.get("snoozes", 0)
        executed[job.args.what, job.attempt + num_snoozes] += 1
        fate = fates[job.args.what]
        if fate == "never" or (fate == "once" and job.attempt == 1):
            raise ValueError(fate)
        if fate == "snooze" and not num_snoozes:
            raise JobSnooze(timedelta(0))
        if fate == "cancel":
            raise JobCancel(fate)

    clients = [harness.client(workers, queues={"default": 20}, client_id=f"client_{n}") for n in range(3)]
    for client in clients:
        await client.start()
    jobs = [(Act(what), InsertOpts(max_attempts=2)) for what in fates]
    for start in range(0, NUM_JOBS, 500):
        await clients[start % 3].insert_many(jobs[start : start + 500])
    await _wait_finalized(harness)
    for client in clients:
        await client.stop()

    rows = await harness.rows()
    expected = {
        "ok": (JobState.COMPLETED, 1, 0),
        "once": (JobState.COMPLETED, 2, 1),
        "snooze": (JobState.COMPLETED, 1, 0),
        "cancel": (JobState.CANCELLED, 1, 1),
        "never": (JobState.DISCARDED, 2, 2),
    }
    assert {row.args["what"]: (row.state, row.attempt, len(row.errors)) for row in rows} == {
        what: expected[fate] for what, fate in fates.items()
    }
    assert set(executed.values()) == {1}
    assert len({row.attempted_by[-1] for row in rows}) > 1


async def _wait_finalized(harness: ClientHarness) -> None:
    async with asyncio.timeout(60):
        while True:
            counts = await harness.driver.pool.fetch("SELECT DISTINCT state::text AS state FROM river_job")
            if {JobState(row["state"]) for row in counts} <= FINALIZED_STATES:
                return


@pytest.mark.slow
async def test_two_schemas_of_one_database_are_separate(harness: ClientHarness) -> None:
    """Two clients in one process, each on its own schema, work their own jobs by their own channels."""
    connection = await asyncpg.connect(harness.url)
    await connection.execute("CREATE SCHEMA second")
    driver = AsyncpgDriver(harness.url, "second")
    await driver.open()
    try:
        await Migrator(driver).up()
        seen: list[tuple[str, str]] = []

        def workers_of(name: str) -> Workers:
            workers = Workers()

            @workers.add()
            async def act(job: Job[Act]) -> None:
                seen.append((name, job.args.what))

            return workers

        settings = {"fetch_poll_interval": timedelta(minutes=1)}
        first = harness.client(workers_of("first"), **settings)
        second = harness.client(workers_of("second"), schema="second", **settings)
        async with first, second:
            emitted = [
                (await harness.work(client, Act(name))).kind for client, name in [(first, "a"), (second, "b")]
            ]
    finally:
        await driver.close()
        await connection.execute("DROP SCHEMA second CASCADE")
        await connection.close()

    assert emitted == [EventKind.JOB_COMPLETED] * 2
    assert seen == [("first", "a"), ("second", "b")]


@pytest.mark.slow
async def test_client_works_on_a_pool_of_the_application(harness: ClientHarness) -> None:
    """The client uses a pool with the application's jsonb codec, leaves the codec as it is, and keeps the pool open."""

    async def with_codec(connection: asyncpg.Connection) -> None:
        await connection.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")

    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        job.record_output({"said": job.args.what})

    async with asyncpg.create_pool(harness.url, min_size=1, max_size=4, init=with_codec) as pool:
        async with Client(pool, Config(workers=workers, queues={"default": 5})) as client:
            event = await harness.work(client, Act("hello"))
        value = await asyncio.wait_for(pool.fetchval("SELECT metadata FROM river_job"), GENEROUS)

    assert event.kind is EventKind.JOB_COMPLETED
    assert value == {"output": {"said": "hello"}}
