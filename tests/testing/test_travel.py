"""Time travel: the test moves the clock, and maintenance runs as if time had passed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from sample_jobs import DAY, HOUR, START, Act, Nightly, new_client, open_transaction, rows_left

from millhand.client import Client
from millhand.core.errors import ConfigError
from millhand.core.hooks import Hook
from millhand.core.insert_opts import InsertOpts
from millhand.core.job import JobState
from millhand.core.periodic import every, never
from millhand.core.unique import UniqueOpts
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.testing import (
    Counts,
    ManualClock,
    drain,
    require_inserted,
    require_many_inserted,
    require_not_inserted,
    time_travel,
    work,
)


@pytest.mark.slow
async def test_scheduled_and_retryable_jobs_become_due(client: Client, any_tx: Any) -> None:
    """On every kind of transaction, no job is due early, and every instant in the rows is the test clock's."""
    with time_travel(client, tx=any_tx, now=START) as travel:
        await client.insert(Act("fail once"))
        await client.insert(Act("later"), InsertOpts(scheduled_at=START + DAY))
        assert (await drain(client)).counts == Counts(failed=1)

        await travel.advance(minutes=59, seconds=59)
        assert (await drain(client)).counts == Counts()
        await travel.advance(seconds=1)
        retried = await drain(client)
        assert retried.counts == Counts(completed=1)
        await travel.advance_to(START + DAY)
        assert (await drain(client, "default")).counts == Counts(completed=2)  # and the nightly one

    job = retried.worked[0].job
    assert (job.created_at, job.attempted_at, job.finalized_at) == (START, START + HOUR, START + HOUR)
    assert job.errors[0].at == START


@pytest.mark.slow
async def test_time_travel_leaves_nothing_after_a_rollback(
    client: Client, driver: AsyncpgDriver, any_tx: Any
) -> None:
    """All writes are part of the transaction, and the client is restored afterwards."""
    before = vars(client).copy()
    with time_travel(client, tx=any_tx) as travel:
        await client.insert(Act())
        await travel.work_for(days=2)

    assert vars(client) == before
    assert await rows_left(driver) == 0


async def test_periodic_jobs_are_inserted_at_their_instants(url: str, tx: asyncpg.Connection) -> None:
    """Each run is inserted once, at its instant, by cron and by interval, in the order of time, after the start hook."""
    starts: list[datetime] = []

    class RecordStart(Hook):
        async def periodic_jobs_start(self) -> None:
            starts.append(client.config.clock.now())

    client = new_client(url, hooks=[RecordStart()])
    with time_travel(client, tx=tx, now=START) as travel:
        await travel.advance(days=2, hours=18)
        await travel.advance(days=1)

        nights = await require_many_inserted(client, *[Nightly()] * 4)

    assert starts == [START]
    assert [job.scheduled_at for job in nights] == [
        datetime(2026, 3, day, 3, tzinfo=UTC) for day in (3, 4, 5, 6)
    ]
    assert {job.metadata["periodic"] for job in nights} == {True}
    assert [job.created_at for job in nights] == [job.scheduled_at for job in nights]


async def test_periodic_jobs_that_run_on_start_are_inserted_by_the_first_move(
    url: str, tx: asyncpg.Connection
) -> None:
    """The client begins as leader, and intervals are counted from there."""
    client = new_client(
        url, periodic_jobs=[never(Nightly(), id="once"), every(HOUR, Act, id="hourly", run_on_start=True)]
    )
    with time_travel(client, tx=tx, now=START) as travel:
        await require_not_inserted(client, Nightly)
        await travel.advance()
        await require_inserted(client, Nightly, scheduled_at=START)
        await travel.advance(HOUR * 2)
        hourly = await require_many_inserted(client, Act, Act, Act)

    assert [job.scheduled_at for job in hourly] == [START, START + HOUR, START + 2 * HOUR]


async def test_unique_periods_follow_the_clock(client: Client, tx: asyncpg.Connection) -> None:
    """A job that is unique by the hour is a duplicate until the hour has passed."""
    opts = InsertOpts(unique=UniqueOpts(by_period=HOUR))
    with time_travel(client, tx=tx, now=START) as travel:
        first = await client.insert(Act(), opts)
        await travel.advance(minutes=59, seconds=59)
        again = await client.insert(Act(), opts)
        await travel.advance(seconds=1)
        anew = await client.insert(Act(), opts)

    assert (again.unique_skipped_as_duplicate, again.job.id) == (True, first.job.id)
    assert (anew.unique_skipped_as_duplicate, anew.job.created_at) == (False, START + HOUR)


async def test_old_jobs_are_deleted_after_their_retention(url: str, tx: asyncpg.Connection) -> None:
    """A completed job and its unique key exist for exactly the configured time."""
    client = new_client(url, completed_job_retention=DAY, periodic_jobs=[])
    opts = InsertOpts(unique=UniqueOpts(by_args=True))
    with time_travel(client, tx=tx, now=START) as travel:
        await work(client, Act(), opts)
        await travel.advance(DAY)
        assert (await client.insert(Act(), opts)).unique_skipped_as_duplicate
        await travel.advance(timedelta(microseconds=1))
        await require_not_inserted(client, Act)
        assert not (await client.insert(Act(), opts)).unique_skipped_as_duplicate


@pytest.mark.slow
async def test_jobs_are_worked_each_at_its_instant(client: Client, tx: asyncpg.Connection) -> None:
    """In three days, jobs are retried, woken from snoozes, and inserted nightly, each when it is due."""
    with time_travel(client, tx=tx, now=START) as travel:
        await client.insert_many([(Act("fail"), InsertOpts(max_attempts=3)), Act("snooze")])

        lived = await travel.work_for(days=3)

        assert travel.now() == START + 3 * DAY
    assert lived.counts == Counts(completed=4, discarded=1, failed=2, snoozed=1)
    assert [(one.job.kind, one.job.attempted_at) for one in lived.worked] == [
        ("act", START),
        ("act", START),
        ("act", START + HOUR),
        ("act", START + 2 * HOUR),
        ("nightly", datetime(2026, 3, 3, 3, tzinfo=UTC)),
        ("act", START + DAY),
        ("nightly", datetime(2026, 3, 4, 3, tzinfo=UTC)),
        ("nightly", datetime(2026, 3, 5, 3, tzinfo=UTC)),
    ]


@pytest.mark.slow
async def test_time_travel_is_deterministic(url: str) -> None:
    """Two runs leave rows that differ only in their ids and clients, whatever the machine's time is."""
    outcomes = []
    for _ in range(2):
        client = new_client(url, completed_job_retention=None)
        async with open_transaction("asyncpg", url) as tx:
            with time_travel(client, tx=tx, now=START) as travel:
                await client.insert_many_fast([Act("snooze"), Act("fail once"), Act("copied")])
                await travel.work_for(days=2)
                page = await client.jobs.list()
        outcomes.append(
            [(job.kind, job.args, job.created_at, job.scheduled_at, job.finalized_at) for job in page.jobs]
        )

    assert outcomes[0] == outcomes[1]
    assert {created_at for _, _, created_at, _, _ in outcomes[0]} == {
        START,
        datetime(2026, 3, 3, 3, tzinfo=UTC),
        datetime(2026, 3, 4, 3, tzinfo=UTC),
    }


async def test_worker_sees_the_clock_of_the_test(url: str, tx: asyncpg.Connection) -> None:
    """What a worker inserts, cancels and reads with `job.client` has the test clock's time."""
    seen: list[datetime] = []
    asking = Workers()

    @asking.add(kind="act")
    async def act(job: Job[Act]) -> None:
        seen.append(job.client.config.clock.now())
        other = await job.client.insert(Nightly(), InsertOpts(scheduled_at=START + 9 * DAY))
        await job.client.jobs.cancel(other.job.id)

    client = new_client(url, workers=asking, skip_unknown_job_check=True, periodic_jobs=[])
    with time_travel(client, tx=tx, now=START) as travel:
        await travel.advance(DAY)
        await client.insert(Act())
        await travel.work_for(DAY)
        cancelled = await require_inserted(client, Nightly, state=JobState.CANCELLED)

    assert seen == [START + DAY]
    assert (cancelled.created_at, cancelled.finalized_at) == (START + DAY, START + DAY)


@pytest.mark.slow
async def test_time_travel_works_without_a_transaction(committed_url: str) -> None:
    """A client that was started uses the test's clock, too."""
    async with new_client(committed_url) as client:
        with time_travel(client, now=START) as travel:
            await client.insert(Act(), InsertOpts(scheduled_at=START + DAY))
            lived = await travel.work_for(days=2)

    assert lived.counts == Counts(completed=3)


async def test_periodic_job_that_the_database_rejects_fails_the_test(
    url: str, tx: asyncpg.Connection
) -> None:
    """The error says that a due job could not be inserted and refers to the log."""
    client = new_client(url)
    await tx.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'not now' USING ERRCODE = '40001'; END $$"
    )
    await tx.execute("CREATE TRIGGER refuse BEFORE INSERT ON river_job EXECUTE FUNCTION refuse()")
    with (
        time_travel(client, tx=tx, now=START) as travel,
        pytest.raises(
            AssertionError,
            match=r"^periodic jobs must be inserted when they are due, got one .*; see the log$",
        ),
    ):
        await travel.advance(days=1)


async def test_invalid_time_travel_raises(client: Client, tx: asyncpg.Connection) -> None:
    """Time moves forwards, instants have zones, and the client does not work jobs itself."""
    with time_travel(client, tx=tx, now=START) as travel:
        with pytest.raises(ValueError, match=r"^time must not go back, got an advance of -60 s$"):
            await travel.advance(minutes=-1)
        with pytest.raises(ValueError, match=r"^instant must not be before datetime\.datetime\(2026, 3, 2, "):
            await travel.advance_to(START - DAY)
        with pytest.raises(
            ValueError, match=r"^instant must be aware, got .*; write datetime\(…, tzinfo=UTC\)$"
        ):
            await travel.work_until(datetime(2026, 3, 9))  # noqa: DTZ001 - what is refused
        with pytest.raises(ConfigError, match=r"^client must not be started while it uses a test's "):
            await client.start()
    with pytest.raises(ValueError, match=r"^instant must be aware"):
        ManualClock(datetime(2026, 3, 9))  # noqa: DTZ001 - what is refused


async def test_time_travel_begins_at_the_clock_of_the_client(url: str, tx: asyncpg.Connection) -> None:
    """Without `now`, the clock begins at the client's time."""
    clock = ManualClock(START)
    with time_travel(new_client(url, clock=clock), tx=tx) as travel:
        await travel.advance(HOUR)

    assert (travel.now(), clock.now()) == (START + HOUR, START)
