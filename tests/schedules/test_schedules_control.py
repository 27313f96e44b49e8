"""Claims about `client.schedules`, and about schedules that code declares."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from client_harness import GENEROUS
from dead_jobs import BLOCKED
from kept_schedules import NOON, Leader, jobs, put, schedule
from millhand.core.config import Config
from millhand.core.errors import ConfigError, MillhandError, NotFound
from millhand.core.schedule import JobSchedule, ScheduleRow
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.schedules.control import ScheduleControl, declare_schedules
from millhand.schedules.store import Move, schedule_lock, schedule_move, schedule_remove
from millhand.sync_client import SyncClient

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
FAR = datetime(2999, 1, 1, tzinfo=UTC)

Call = Callable[[ScheduleControl, Any], Awaitable[object]]


@pytest.fixture
def control(driver: AsyncpgDriver) -> ScheduleControl:
    return ScheduleControl(driver)


async def is_next(tx: Executor, row: ScheduleRow) -> bool:
    """Return whether a row's instant is the next one after now: after the transaction's begin, and not after the next."""
    [times] = await tx.fetch("SELECT now() AS began, clock_timestamp() AS now")
    first, last = (row.schedule.next_after(times[name]) for name in ("began", "now"))
    return row.next_run_at in {first, last}


async def test_a_new_schedule_is_due_at_its_next_instant(
    control: ScheduleControl, tx: Executor, connection: asyncpg.Connection
) -> None:
    """No instant before the call counts, and the result is what get and list return."""
    made = await control.set(schedule(starts_at=NOON - 365 * DAY), tx=connection)

    assert await is_next(tx, made)
    assert await control.get("digest", tx=connection) == made
    assert await control.list(tx=connection) == [made]
    assert await control.list(after="digest", tx=connection) == []


async def test_a_change_of_the_job_keeps_the_instant(
    control: ScheduleControl, tx: Executor, connection: asyncpg.Connection
) -> None:
    """A deployment that changes args or options neither loses nor repeats a run."""
    await put(tx, schedule(), next_run_at=FAR)

    changed = await control.set(schedule(jitter=MINUTE, overlap="skip"), tx=connection)

    assert (changed.next_run_at, changed.schedule.overlap) == (FAR, "skip")


async def test_a_change_of_the_times_begins_after_now(
    control: ScheduleControl, tx: Executor, connection: asyncpg.Connection
) -> None:
    """The next instant is that of the new expression."""
    await put(tx, schedule(), next_run_at=FAR)

    changed = await control.set(schedule(cron="0 3 * * *"), tx=connection)

    assert (changed.schedule.cron, await is_next(tx, changed)) == ("0 3 * * *", True)


async def test_a_change_loses_no_instant_that_is_due(
    control: ScheduleControl, tx: Executor, connection: asyncpg.Connection
) -> None:
    """What fell due before the change still has its job."""
    await put(tx, schedule(), next_run_at=NOON)

    changed = await control.set(schedule(cron="0 3 * * *"), tx=connection)
    await Leader(tx).run_at(NOON)

    assert changed.next_run_at == NOON
    assert await jobs(tx) == [("digest", NOON)]


async def test_no_call_repeats_an_instant_after_the_clock_was_set_back(
    control: ScheduleControl, tx: Executor, connection: asyncpg.Connection
) -> None:
    """The last instant is later than now: the next one is after it."""
    await put(tx, schedule(), next_run_at=FAR)
    await tx.run(schedule_move([Move("digest", FAR, FAR + MINUTE, FAR, None, 0)]))

    changed = await control.set(schedule(cron="*/5 * * * *"), tx=connection)

    assert changed.next_run_at == FAR + 5 * MINUTE


async def test_a_paused_schedule_has_no_jobs_and_misses_nothing(
    control: ScheduleControl, tx: Executor, connection: asyncpg.Connection
) -> None:
    """After the pause, the next instant is one after now, whatever catch_up says."""
    await put(tx, schedule(catch_up="all"), next_run_at=NOON)

    paused = await control.pause("digest", tx=connection)
    again = await control.pause("digest", tx=connection)
    await Leader(tx).run_at(NOON + DAY)
    resumed = await control.resume("digest", tx=connection)

    assert (paused.paused_at is not None, again.paused_at) == (True, paused.paused_at)
    assert await jobs(tx) == []
    assert (resumed.paused_at, await is_next(tx, resumed)) == (None, True)
    assert await control.get("digest", tx=connection) == resumed


async def test_a_run_now_leaves_the_instants(
    control: ScheduleControl, tx: Executor, connection: asyncpg.Connection
) -> None:
    """It works for a paused schedule, is marked, waits for no jitter, and counts as the last run."""
    await put(tx, schedule(jitter=DAY, overlap="skip"), next_run_at=FAR)
    await control.pause("digest", tx=connection)

    result = await control.run_now("digest", tx=connection)

    row = await control.get("digest", tx=connection)
    assert (row.next_run_at, row.last_job_id, row.num_runs) == (FAR, result.job.id, 1)
    assert result.job.metadata == {
        "periodic": True, "river:periodic_job_id": "digest", "millhand:run_now": True,
    }  # fmt: skip
    assert await jobs(tx, "state::text", "kind") == [("available", "digest")]
    with pytest.raises(MillhandError) as refused:
        await control.run_now("digest", tx=connection)
    assert str(refused.value) == (
        f"the last run of schedule 'digest' must have ended, got job {result.job.id} available; "
        "wait for its end, or set overlap to allow"
    )


async def test_next_instants_are_a_preview(
    control: ScheduleControl, tx: Executor, connection: asyncpg.Connection
) -> None:
    """The list begins with what is stored and ends with the schedule."""
    await put(tx, schedule(ends_at=NOON + 3 * MINUTE))

    two = await control.next_instants("digest", 2, tx=connection)
    most = await control.next_instants("digest", 9, tx=connection)

    assert (two, most) == ([NOON, NOON + MINUTE], [NOON, NOON + MINUTE, NOON + 2 * MINUTE])


@pytest.mark.parametrize(
    "call",
    [
        lambda control, tx: control.get("gone", tx=tx),
        lambda control, tx: control.next_instants("gone", tx=tx),
        lambda control, tx: control.pause("gone", tx=tx),
        lambda control, tx: control.resume("gone", tx=tx),
        lambda control, tx: control.run_now("gone", tx=tx),
        lambda control, tx: control.remove("gone", tx=tx),
    ],
)
async def test_a_call_for_a_missing_schedule_raises(
    control: ScheduleControl, connection: asyncpg.Connection, call: Call
) -> None:
    """The error names the schedule."""
    with pytest.raises(NotFound, match="schedule must exist, found none with name 'gone'"):
        await call(control, connection)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda control, tx: control.list(limit=0, tx=tx), "limit must be between 1 and 1,000, got 0"),
        (
            lambda control, tx: control.next_instants("a1", 2_000, tx=tx),
            "num must be between 1 and 1,000, got 2000",
        ),
        (
            lambda control, tx: control.set("x", tx=tx),
            "schedule must be a JobSchedule, got 'x'; write JobSchedule(id=…)",
        ),
    ],
)
async def test_a_bad_value_is_refused(
    control: ScheduleControl, connection: asyncpg.Connection, call: Call, text: str
) -> None:
    """The error names the value and its rule."""
    with pytest.raises(ConfigError) as refused:
        await call(control, connection)

    assert str(refused.value) == text


async def test_code_replaces_a_schedule_only_when_the_code_changes(
    control: ScheduleControl, tx: Executor, connection: asyncpg.Connection
) -> None:
    """What was set at run time, and a pause, survive each restart of the same code."""
    first = [await declare_schedules(tx, [schedule()]) for _ in range(2)]
    await control.set(schedule(cron="@daily"), tx=connection)
    await control.pause("digest", tx=connection)
    same = await declare_schedules(tx, [schedule()])
    kept = await control.get("digest", tx=connection)

    changed = await declare_schedules(tx, [schedule(cron="@weekly")])
    row = await control.get("digest", tx=connection)

    assert (first, same, changed) == ([["digest"], []], [], ["digest"])
    assert (kept.schedule.cron, kept.declared and kept.declared.cron) == ("@daily", "* * * * *")
    assert (row.schedule.cron, row.paused_at is not None) == ("@weekly", True)


async def test_a_rolling_deployment_ends_with_the_newest_declaration(
    control: ScheduleControl, tx: Executor, connection: asyncpg.Connection
) -> None:
    """Old and new clients declare in turn, and one without the schedule removes nothing."""
    old, new = schedule(), schedule(cron="@daily")

    await declare_schedules(tx, [old])
    await declare_schedules(tx, [new])
    await declare_schedules(tx, [])
    await declare_schedules(tx, [schedule("other")])

    assert [(row.schedule.id, row.schedule.cron) for row in await control.list(tx=connection)] == [
        ("digest", "@daily"),
        ("other", "* * * * *"),
    ]


async def test_an_older_client_keeps_what_it_does_not_know(
    control: ScheduleControl, tx: Executor, connection: asyncpg.Connection
) -> None:
    """A field of a newer release survives a pause and a resume."""
    await put(tx, schedule())
    await tx.fetch(
        """UPDATE millhand_schedule SET definition = '{"kind":"x1","args":{},"cron":"@daily","new":1}'"""
    )

    await control.pause("digest", tx=connection)
    await control.resume("digest", tx=connection)

    [row] = await tx.fetch("SELECT definition ->> 'new' AS new FROM millhand_schedule")
    assert row["new"] == "1"


@pytest.mark.parametrize("call", ["declare", "set"])
async def test_a_schedule_that_another_client_removes_meanwhile_is_made_again(
    schema_driver: AsyncpgDriver, call: str
) -> None:
    """The insert finds it, and the lock waits for the transaction that removes it."""
    pool, control = schema_driver.pool, ScheduleControl(schema_driver)
    await put(pool, schedule())

    async with pool.begin() as tx:
        await tx.run(schedule_lock(["digest"]))
        changed = declare_schedules(pool, [schedule()]) if call == "declare" else control.set(schedule())
        task = asyncio.ensure_future(changed)
        async with asyncio.timeout(GENEROUS):
            while not (await pool.fetch(BLOCKED))[0]["num"]:
                assert not task.done(), "the call did not wait for a lock"
        await tx.run(schedule_remove("digest"))
    await task

    assert [row.schedule.id for row in await control.list()] == ["digest"]


def test_the_client_without_event_loop_has_the_same_calls(schema: str, postgres_url: str) -> None:
    """Each call works, and tx is part of the signature."""
    with SyncClient(postgres_url, Config(schema=schema)) as client:
        made = client.schedules.set(JobSchedule(id="kept", args=schedule().args, interval=DAY))
        client.schedules.pause("kept")
        resumed = client.schedules.resume("kept")
        inserted = client.schedules.run_now("kept")
        found = client.schedules.get("kept")
        listed = client.schedules.list()
        preview = client.schedules.next_instants("kept", 1)
        client.schedules.remove("kept")

    assert resumed.next_run_at == made.next_run_at == preview[0]
    assert (found.last_job_id, listed) == (inserted.job.id, [found])
