"""The leader's runner of schedules: exactly one job for each due instant, whatever dies."""

from __future__ import annotations

import asyncio
import logging
import random
from datetime import datetime, timedelta
from types import SimpleNamespace

import psycopg
import pytest

from client_harness import GENEROUS
from factory import qualified
from kept_schedules import NOON, Leader, jobs, put, schedule
from millhand.core.args.codec import RawArgs
from millhand.core.config import Config
from millhand.core.errors import ConnectionLost
from millhand.core.hooks import Hook
from millhand.core.insert_opts import InsertOpts, InsertParams
from millhand.core.job import JobState
from millhand.core.schedule import CAUGHT_UP_MAX, CatchUp
from millhand.core.unique import UniqueOpts
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.schedules import runner as schedule_runner
from millhand.schedules.control import ScheduleControl
from millhand.schedules.runner import BATCH_SIZE, HOOKS_SECONDS, PAUSE_SECONDS_MAX
from millhand.schedules.store import schedule_list

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
BACKUP = """
CREATE TEMPORARY TABLE backup_of_schedules ON COMMIT DROP AS TABLE /* schema */millhand_schedule;
CREATE TEMPORARY TABLE backup_of_jobs ON COMMIT DROP AS TABLE /* schema */river_job;
"""
RESTORE = """
DELETE FROM /* schema */millhand_schedule;
INSERT INTO /* schema */millhand_schedule SELECT * FROM backup_of_schedules;
DELETE FROM /* schema */river_job;
INSERT INTO /* schema */river_job SELECT * FROM backup_of_jobs;
"""
MOMENTS = ("locked", "inserted", "moved", "committed")


class Killer:
    """Terminates the connections of open transactions at a moment of a leader, as a killed process would."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __call__(self) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
            )


def killing_at(leader: Leader, moment: str, kill: Killer) -> None:
    def probe(reached: str, _value: object = None) -> None:
        if reached == moment:
            kill()

    leader.runner.probe = probe  # type: ignore[method-assign]


async def test_a_due_instant_has_one_job(tx: Executor) -> None:
    """The job names its schedule and instant, and a second pass inserts nothing."""
    await put(tx, schedule(opts=InsertOpts(queue="mail", priority=3, tags=["daily"], metadata={"a": 1})))
    leader = Leader(tx)

    await leader.run_at(NOON)
    await leader.run_at(NOON + timedelta(seconds=59))

    [job] = await jobs(
        tx, "kind", "queue", "priority", "tags", "state::text", "scheduled_at", "metadata::text"
    )
    assert job[:-1] == ("digest", "mail", 3, ["daily"], "available", NOON)
    assert job[-1] == (
        '{"a": 1, "periodic": true, "millhand:due_at": "2026-03-10T12:00:00Z", "river:periodic_job_id": "digest"}'
    )
    [row] = await tx.run(schedule_list())
    assert (row.next_run_at, row.last_due_at, row.num_runs) == (NOON + MINUTE, NOON, 1)


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_leader_killed_at_any_statement_leaves_neither_two_nor_none(
    schema_driver: AsyncpgDriver, postgres_url: str, moment: str
) -> None:
    """The connection ends at each moment of the transaction; the next leader inserts what is missing."""
    pool = schema_driver.pool
    await put(pool, schedule("a1"), schedule("b1"))
    dying, next_leader = Leader(pool), Leader(pool)
    killing_at(dying, moment, Killer(postgres_url))

    has_succeeded = await dying.runner.try_pass()
    await next_leader.run_at(NOON)

    assert has_succeeded is (moment == "committed")
    assert await jobs(pool) == [("a1", NOON), ("b1", NOON)]


@pytest.mark.slow
async def test_leaders_at_once_with_random_kills_insert_each_instant_once(
    schema_driver: AsyncpgDriver, postgres_url: str
) -> None:
    """Three leaders run at the same time for thirty minutes of five schedules, and one of three passes is killed."""
    pool, ids = schema_driver.pool, [f"s{n}" for n in range(5)]
    rng = random.Random(7)  # noqa: S311 - chooses moments
    kill = Killer(postgres_url)
    await put(pool, *(schedule(id, catch_up="all") for id in ids))
    for minute in range(30):
        leaders = [Leader(pool, NOON + minute * MINUTE) for _ in range(3)]
        killing_at(leaders[0], rng.choice(MOMENTS), kill)
        await asyncio.gather(*(leader.runner.try_pass() for leader in leaders))
    await Leader(pool).run_at(NOON + 29 * MINUTE)

    found = await jobs(pool)

    assert sorted(found) == sorted((id, NOON + minute * MINUTE) for id in ids for minute in range(30))


async def test_a_leader_skips_what_another_one_has_locked(schema_driver: AsyncpgDriver) -> None:
    """A stalled leader delays its own batch only, and looks again a second later, not at once."""
    pool = schema_driver.pool
    await put(pool, schedule("a1"))
    async with pool.begin() as stalled:
        await stalled.fetch(qualified("SELECT FROM /* schema */millhand_schedule FOR UPDATE", stalled))
        await put(pool, schedule("b1"))
        leader = Leader(pool)
        await leader.run_at(NOON)
        await leader.run_at(NOON)
        found = await jobs(pool)

    assert (found, leader.runner.next_pause_seconds()) == ([("b1", NOON)], 1.0)


async def test_a_clock_set_back_repeats_no_instant(tx: Executor) -> None:
    """An hour back, nothing is due; when the clock reaches the next instant, it has one job."""
    await put(tx, schedule())
    leader = Leader(tx)

    for minute in (0, -60, -59, 0, 1):
        await leader.run_at(NOON + minute * MINUTE)

    assert await jobs(tx) == [("digest", NOON), ("digest", NOON + MINUTE)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("catch_up", "interval", "last", "num"),
    [
        ("skip", HOUR, NOON, 0),
        ("once", HOUR, NOON, 1),
        ("all", HOUR, NOON, 24),
        ("all", MINUTE, NOON + 30 * MINUTE, CAUGHT_UP_MAX),
    ],
)
async def test_a_database_restored_from_yesterday_catches_up_as_the_schedule_says(
    tx: Executor, catch_up: CatchUp, interval: timedelta, last: datetime, num: int
) -> None:
    """A backup of a day ago has neither the instants of the day nor their jobs; then the usual instants follow."""
    yesterday = NOON - 24 * HOUR
    await put(tx, schedule(interval=interval, catch_up=catch_up), next_run_at=yesterday)
    leader = Leader(tx)
    await leader.run_at(yesterday)
    await tx.execute_script(BACKUP)
    for n in range(1, 24):
        await leader.run_at(yesterday + n * HOUR)
    await tx.execute_script(RESTORE)

    await leader.run_at(NOON + 30 * MINUTE)
    await leader.run_at(last + interval)

    instants = [yesterday, *(last - n * interval for n in reversed(range(num))), last + interval]
    assert await jobs(tx) == [("digest", at) for at in instants]


@pytest.mark.parametrize(
    ("overlap", "state", "has_run"),
    [
        ("allow", JobState.RUNNING, True),
        ("skip", JobState.RUNNING, False),
        ("skip", JobState.RETRYABLE, False),
        ("skip", JobState.COMPLETED, True),
        ("skip", JobState.DISCARDED, True),
        ("once_waiting", JobState.RUNNING, True),
        ("once_waiting", JobState.AVAILABLE, False),
        ("once_waiting", JobState.CANCELLED, True),
    ],
)
async def test_overlap_depends_on_the_job_of_the_last_run(
    tx: Executor, overlap: str, state: JobState, *, has_run: bool
) -> None:
    """The second run is inserted or left out, and the schedule moves on in either case."""
    await put(tx, schedule(overlap=overlap))
    leader = Leader(tx)
    await leader.run_at(NOON)
    finalized = "now()" if state.is_finalized else "NULL"
    await tx.fetch(f"UPDATE river_job SET state = '{state}', finalized_at = {finalized}")

    await leader.run_at(NOON + MINUTE)

    [row] = await tx.run(schedule_list())
    assert (row.num_runs, row.next_run_at) == (1 + has_run, NOON + 2 * MINUTE)


# A view in place of the table: a statement that reads the row of a1 waits for an advisory lock.
SLOW_VIEW = """
ALTER TABLE {schema}.millhand_schedule RENAME TO kept_rows;
CREATE FUNCTION {schema}.may_read(id text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF id = 'a1' THEN
        PERFORM pg_advisory_xact_lock_shared(hashtext('{schema}'));
    END IF;
    RETURN TRUE;
END $$;
CREATE VIEW {schema}.millhand_schedule AS SELECT * FROM {schema}.kept_rows WHERE {schema}.may_read(id);
"""
NO_VIEW = """
DROP VIEW {schema}.millhand_schedule;
DROP FUNCTION {schema}.may_read;
ALTER TABLE {schema}.kept_rows RENAME TO millhand_schedule;
"""
IS_WAITING = """
SELECT EXISTS (
    SELECT FROM pg_locks
    WHERE locktype = 'advisory' AND NOT granted AND objid::bigint = hashtext('{schema}') & x'ffffffff'::bigint
) AS is_waiting
"""


@pytest.mark.slow
async def test_a_run_that_a_person_inserts_meanwhile_is_the_last_run(schema_driver: AsyncpgDriver) -> None:
    """It is committed after the leader began to look, and before the leader locks the row: no second run beside it."""
    pool, schema = schema_driver.pool, schema_driver.schema
    await put(pool, schedule("a1"), schedule("b1", overlap="skip"))
    await pool.execute_script(SLOW_VIEW.format(schema=schema))
    try:
        async with pool.begin() as holder:
            await holder.fetch(f"SELECT pg_advisory_xact_lock(hashtext('{schema}'))")
            looking = asyncio.create_task(Leader(pool).run_at(NOON))
            async with asyncio.timeout(GENEROUS):
                while not (await pool.fetch(IS_WAITING.format(schema=schema)))[0]["is_waiting"]:
                    pass
            ran = await ScheduleControl(schema_driver).run_now("b1")
        await looking
    finally:  # other tests use the schema again
        await pool.execute_script(NO_VIEW.format(schema=schema))

    assert ran.job.state is JobState.AVAILABLE
    found = await jobs(pool, "metadata ->> 'river:periodic_job_id'", "metadata ->> 'millhand:run_now'")
    assert sorted(found, key=str) == [("a1", None), ("b1", "true")]


async def test_a_deleted_job_does_not_hold_its_schedule_up(tx: Executor) -> None:
    """With overlap skip, a job without a row has ended."""
    await put(tx, schedule(overlap="skip"))
    leader = Leader(tx)
    await leader.run_at(NOON)
    await tx.fetch("DELETE FROM river_job")

    await leader.run_at(NOON + MINUTE)

    assert await jobs(tx) == [("digest", NOON + MINUTE)]


async def test_a_delayed_run_waits_for_its_part_of_the_jitter(tx: Executor) -> None:
    """The job is scheduled for the same instant by every leader; a caught up one that is past is available."""
    delayed = schedule(jitter=timedelta(seconds=30))
    await put(tx, delayed)

    await Leader(tx).run_at(NOON)

    [(state, at)] = await jobs(tx, "state::text", "scheduled_at")
    assert (state, NOON < at < NOON + timedelta(seconds=30)) == ("scheduled", True)


async def test_unique_runs_of_one_batch_are_inserted_once(tx: Executor) -> None:
    """Two schedules with the same unique job have one, both move on, and one of them counts it."""
    unique = InsertOpts(unique=UniqueOpts(by_args=True))
    await put(tx, schedule("a1", opts=unique), schedule("b1", opts=unique))

    await Leader(tx).run_at(NOON)

    assert await jobs(tx) == [("a1", NOON)]
    rows = await tx.run(schedule_list())
    assert [(row.num_runs, row.next_run_at) for row in rows] == [(1, NOON + MINUTE), (0, NOON + MINUTE)]
    assert rows[0].last_job_id == rows[1].last_job_id


async def test_a_unique_period_is_that_of_the_instant(tx: Executor) -> None:
    """A run that is caught up the next day does not take the place of that day's run."""
    unique = InsertOpts(unique=UniqueOpts(by_period=timedelta(days=1)))
    await put(tx, schedule(cron="0 12 * * *", opts=unique), next_run_at=NOON - timedelta(days=1))
    leader = Leader(tx)

    await leader.run_at(NOON - timedelta(hours=1))
    await leader.run_at(NOON)

    assert [at for _, at in await jobs(tx)] == [NOON - timedelta(days=1), NOON]


class RefusesOne(Hook):
    """A hook of a user that raises for one kind."""

    async def insert_begin(self, params: InsertParams) -> InsertParams:
        if params.encoded_args == '{"bad":true}':
            raise ValueError("no")
        return params


async def test_a_job_that_cannot_be_inserted_does_not_stop_the_others(
    tx: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once for each instant, and its schedule moves on."""
    await put(tx, schedule("a1"), schedule("bad", args=RawArgs("digest", '{"bad":true}')), schedule("c1"))

    with caplog.at_level(logging.ERROR, "millhand.engine.maintenance"):
        await Leader(tx, config=Config(hooks=[RefusesOne()])).run_at(NOON)

    assert await jobs(tx) == [("a1", NOON), ("c1", NOON)]
    assert [(one.msg, one.schedule_id, one.error) for one in caplog.records] == [
        ("scheduled job not inserted", "bad", "no")
    ]
    assert [row.next_run_at for row in await tx.run(schedule_list())] == [NOON + MINUTE] * 3


class HoldsOneUp(Hook):
    """A hook of a user that never ends for one kind; only there, the time of the hooks is over, at once."""

    def __init__(self) -> None:
        self._deadline = asyncio.timeout(None)

    def timeout(self, seconds: float) -> asyncio.Timeout:
        assert seconds == HOOKS_SECONDS
        self._deadline = asyncio.timeout(None)
        return self._deadline

    async def insert_begin(self, params: InsertParams) -> InsertParams:
        if params.encoded_args == '{"bad":true}':
            self._deadline.reschedule(asyncio.get_running_loop().time())
            await asyncio.Event().wait()
        return params


async def test_a_hook_that_takes_too_long_does_not_stop_the_others(
    tx: Executor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The server would end the transaction meanwhile. The run is logged once, and its schedule moves on."""
    hook = HoldsOneUp()
    monkeypatch.setattr(schedule_runner, "asyncio", SimpleNamespace(timeout=hook.timeout))
    await put(tx, schedule("a1"), schedule("bad", args=RawArgs("digest", '{"bad":true}')), schedule("c1"))

    with caplog.at_level(logging.ERROR, "millhand.engine.maintenance"):
        async with asyncio.timeout(GENEROUS):
            await Leader(tx, config=Config(hooks=[hook])).run_at(NOON)

    assert await jobs(tx) == [("a1", NOON), ("c1", NOON)]
    assert [(one.msg, one.schedule_id, one.error_type) for one in caplog.records] == [
        ("scheduled job not inserted", "bad", "TimeoutError")
    ]
    assert [row.next_run_at for row in await tx.run(schedule_list())] == [NOON + MINUTE] * 3


class UsesAnotherDatabase(Hook):
    """A hook of a user that needs another database for one kind."""

    is_away = True

    async def insert_begin(self, params: InsertParams) -> InsertParams:
        if self.is_away and params.encoded_args == '{"bad":true}':
            raise ConnectionLost("look_up", "connection refused")
        return params


async def test_a_hook_whose_database_is_away_does_not_stop_the_others(
    tx: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    """Its schedule is due first. It is left out for a minute, and has its job when the database is back."""
    await put(tx, schedule("a1", args=RawArgs("digest", '{"bad":true}')), schedule("b1"), schedule("c1"))
    hook = UsesAnotherDatabase()
    leader = Leader(tx, config=Config(hooks=[hook]))

    with caplog.at_level(logging.WARNING, "millhand.engine.maintenance"):
        passes = [await leader.runner.try_pass() for _ in range(3)]
    beside = await jobs(tx)
    hook.is_away = False
    for _ in range(100):  # each look at the clock of this leader takes a second
        await leader.run_at(NOON)

    assert (passes, beside) == ([False, False, True], [("b1", NOON), ("c1", NOON)])
    assert await jobs(tx) == [("b1", NOON), ("c1", NOON), ("a1", NOON)]
    assert [(one.msg, one.schedule_id) for one in caplog.records if one.msg != "pass failed"] == [
        ("scheduled job delayed", "a1")
    ]


class BlocksFromTheThird(Hook):
    """A hook of a user that blocks the event loop, so that the server ends the transaction at its third job."""

    def __init__(self, kill: Killer) -> None:
        self.kill = kill
        self.num_jobs = 0

    async def insert_begin(self, params: InsertParams) -> InsertParams:
        self.num_jobs += 1
        if self.num_jobs == 3:
            self.kill()
        return params


async def test_a_transaction_that_the_server_ends_is_tried_again_with_fewer_runs(
    schema_driver: AsyncpgDriver, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Two jobs are inserted in time, and more are not. Some passes later, all have their jobs; none was left out."""
    pool, ids = schema_driver.pool, ["a1", "b1", "c1", "d1"]
    await put(pool, *(schedule(id) for id in ids))
    hook = BlocksFromTheThird(Killer(postgres_url))
    leader = Leader(pool, config=Config(hooks=[hook]))

    def probe(moment: str, _value: object = None) -> None:
        if moment == "locked":
            hook.num_jobs = 0

    leader.runner.probe = probe  # type: ignore[method-assign]
    with caplog.at_level(logging.ERROR, "millhand.engine.maintenance"):
        passes = [await leader.runner.try_pass() for _ in range(BATCH_SIZE.bit_length() + 1)]

    assert (passes[0], passes[-1]) == (False, True)
    assert await jobs(pool) == [(id, NOON) for id in ids]
    assert caplog.records == []


async def test_an_invalid_row_does_not_stop_the_others(
    tx: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    """A zone that this leader does not know is logged, the others run, and another leader may run it."""
    await put(tx, schedule("a1"), schedule("b1"))
    await tx.fetch(
        """UPDATE millhand_schedule SET definition = '{"kind":"x1","args":{},"cron":"* * * * *","timezone":"Mars/X"}'
        WHERE id = 'a1'"""
    )
    leader = Leader(tx)

    with caplog.at_level(logging.ERROR, "millhand.engine.maintenance"):
        await leader.run_at(NOON)

    assert await jobs(tx) == [("b1", NOON)]
    assert [(one.msg, one.schedule_id) for one in caplog.records] == [("schedule invalid", "a1")]
    [due, _] = [(await tx.fetch("SELECT next_run_at FROM millhand_schedule ORDER BY id"))[n] for n in (0, 1)]
    assert due["next_run_at"] == NOON


@pytest.mark.slow
async def test_many_due_schedules_run_in_batches(tx: Executor) -> None:
    """More than a batch is due at once: all have their job after one pass."""
    ids = [f"s{n:04}" for n in range(2 * BATCH_SIZE + 1)]
    await put(tx, *(schedule(id) for id in ids))

    await Leader(tx).run_at(NOON)

    assert await jobs(tx) == [(id, NOON) for id in ids]


@pytest.mark.parametrize(
    ("next_run_at", "pause"),
    [(NOON + timedelta(seconds=3), 3.002), (NOON + MINUTE, PAUSE_SECONDS_MAX), (None, 60.0)],
)
async def test_the_leader_sleeps_until_the_next_instant(
    tx: Executor, next_run_at: datetime | None, pause: float
) -> None:
    """It looks again at the next due instant, and after ten seconds at most, or a minute without schedules."""
    await put(tx, schedule(), next_run_at=next_run_at)
    leader = Leader(tx)

    await leader.run_at(NOON)

    assert leader.runner.next_pause_seconds() == pytest.approx(pause)


async def test_a_schedule_that_code_no_longer_declares_is_logged_and_runs(
    tx: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not deleted; the log names the command that removes it."""
    await put(tx, schedule("old"), schedule("new"))
    await tx.fetch("UPDATE millhand_schedule SET declared_at = now() - interval '2 days' WHERE id = 'old'")
    await tx.fetch("UPDATE millhand_schedule SET declared_at = now() WHERE id = 'new'")

    with caplog.at_level(logging.WARNING, "millhand.engine.maintenance"):
        await Leader(tx).run_at(NOON)

    assert [(one.msg, one.schedule_id, one.remedy) for one in caplog.records] == [
        ("schedule not declared", "old", "remove it: millhand schedule remove old")
    ]
    assert sorted(await jobs(tx)) == [("new", NOON), ("old", NOON)]


async def test_without_the_table_a_leader_idles(schema_driver: AsyncpgDriver) -> None:
    """A schema before version 11 has no schedules, and no pass fails."""
    async with schema_driver.pool.begin() as tx:
        await tx.fetch(qualified("ALTER TABLE /* schema */millhand_schedule RENAME TO hidden", tx))
    leader = Leader(schema_driver.pool)

    has_succeeded = await leader.runner.try_pass()
    await schema_driver.pool.fetch(
        qualified("ALTER TABLE /* schema */hidden RENAME TO millhand_schedule", schema_driver.pool)
    )

    assert (has_succeeded, leader.runner.next_pause_seconds()) == (True, 60.0)
