from __future__ import annotations

import asyncio
import contextlib
import html
import itertools
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from limited_reports import reports
from shop_flows import put_flow, shop_import

from factory import insert_job
from millhand.core.clock import SystemClock
from millhand.core.job import JobId, JobState
from millhand.core.limit import Limit
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.db.query import Query
from millhand.engine.store.bulk_change import (
    BulkAction,
    BulkChange,
    BulkState,
    bulk_change_claim,
    bulk_change_get,
    bulk_change_insert,
    bulk_change_start,
    bulk_change_stop,
)
from millhand.shells.web.database import WebDatabase
from millhand.shells.web.hiding import Hiding, hide_rules
from millhand.web import bulk
from millhand.web.bulk import FAIL_AGAIN, BulkRunner, change_jobs, counted

NOW = datetime.now(UTC)
GENEROUS_SECONDS = 20.0
UNIQUE = {"unique_key": b"k", "unique_states": 0b1111_0101}


@pytest.fixture
def database(schema_driver: AsyncpgDriver) -> WebDatabase:
    return WebDatabase(schema_driver, SystemClock())


async def _begun(
    pool: Executor, action: BulkAction = BulkAction.RETRY, search: str = "state:discarded", **limits: Any
) -> BulkChange:
    insert = bulk_change_insert(
        action=action,
        search=search,
        time_zone="UTC",
        actor="ada",
        role="operator",
        address="",
        **{"only_queues": None, "only_kinds": None, **limits},
    )
    return await pool.run(insert)


async def _done(
    database: WebDatabase, change: BulkChange, *, until: BulkState = BulkState.READY
) -> BulkChange:
    """Run one process until the change is in a state, and return it."""
    runner = BulkRunner(database, "one", Hiding())
    await runner.start()
    try:
        async with asyncio.timeout(GENEROUS_SECONDS):
            while True:
                change = await database.run(bulk_change_get(change.id))
                if change.state is until:
                    return change
    finally:
        await runner.stop()


async def _jobs(pool: Executor, state: JobState, number: int, **columns: Any) -> list[JobId]:
    return [(await insert_job(pool, state, **columns)).id for _ in range(number)]


async def _states(driver: AsyncpgDriver) -> dict[str, int]:
    rows = await driver.pool.fetch(
        f'SELECT state::text, count(*) AS number FROM "{driver.schema}".river_job GROUP BY state'
    )
    return {row["state"]: row["number"] for row in rows}


@pytest.mark.slow
async def test_all_matching_jobs_are_changed_and_each_other_one_is_left(
    database: WebDatabase, schema_driver: AsyncpgDriver
) -> None:
    """A bulk retry first counts what it is about, then changes exactly that, and a job that matches later is left."""
    pool = schema_driver.pool
    await _jobs(pool, JobState.DISCARDED, 3, kind="send_mail")
    await _jobs(pool, JobState.DISCARDED, 2, kind="resize", queue="media")
    await _jobs(pool, JobState.COMPLETED, 4)

    ready = await _done(database, await _begun(pool))
    await _jobs(pool, JobState.DISCARDED, 1)
    await pool.run(bulk_change_start(ready.id, jobs_per_second=None))
    done = await _done(database, ready, until=BulkState.COMPLETED)

    assert (ready.num_jobs, ready.kinds, ready.queues) == (
        5,
        {"send_mail": 3, "resize": 2},
        {"default": 3, "media": 2},
    )
    assert (done.num_changed, done.num_skipped, done.skipped) == (5, 0, {})
    assert await _states(schema_driver) == {"available": 5, "completed": 4, "discarded": 1}


async def test_pace_is_kept_within_a_batch(database: WebDatabase, schema_driver: AsyncpgDriver) -> None:
    """At five jobs a second, five of twelve are changed at once, so a stop leaves seven; a later start changes them."""
    pool = schema_driver.pool
    await _jobs(pool, JobState.DISCARDED, 12)
    ready = await _done(database, await _begun(pool))
    runner = BulkRunner(database, "one", Hiding())
    await pool.run(bulk_change_start(ready.id, jobs_per_second=5))
    pause = await runner._step()
    stopped = await pool.run(bulk_change_stop(ready.id, reason="enough"))
    before = await _states(schema_driver)
    await pool.run(bulk_change_start(ready.id, jobs_per_second=None))
    done = await _done(database, ready, until=BulkState.COMPLETED)

    assert 0 < pause <= 1
    assert (stopped.num_changed, stopped.num_left) == (5, 7)
    assert before == {"available": 5, "discarded": 7}
    assert (done.num_changed, done.num_left) == (12, 0)
    assert await _states(schema_driver) == {"available": 12}


@pytest.mark.parametrize(
    ("action", "search", "after", "skipped"),
    [
        (BulkAction.RETRY, "", {"available": 3, "running": 1}, {"running, pending, due already, or gone": 2}),
        (
            BulkAction.CANCEL,
            "",
            {"cancelled": 1, "discarded": 1, "running": 1, "completed": 1},
            {"ended before": 2},
        ),
        (BulkAction.DELETE, "", {"running": 1}, {"running, or gone": 1}),
    ],
)
async def test_jobs_that_cannot_be_changed_are_counted_with_the_reason(
    database: WebDatabase,
    schema_driver: AsyncpgDriver,
    action: BulkAction,
    search: str,
    after: dict[str, int],
    skipped: dict[str, int],
) -> None:
    """A state that forbids the change is a reason, and the sum of changed and left jobs is all of them."""
    for state in (JobState.AVAILABLE, JobState.RUNNING, JobState.COMPLETED, JobState.DISCARDED):
        await insert_job(schema_driver.pool, state)

    ready = await _done(database, await _begun(schema_driver.pool, action, search))
    await schema_driver.pool.run(bulk_change_start(ready.id, jobs_per_second=None))
    done = await _done(database, ready, until=BulkState.COMPLETED)

    assert await _states(schema_driver) == after
    assert done.skipped == skipped
    assert done.num_left == 0


@pytest.mark.slow
async def test_retry_leaves_pending_jobs(database: WebDatabase, schema_driver: AsyncpgDriver) -> None:
    """Jobs that wait for a slot of a limit, or for other tasks of a flow, are counted as left, and none starts early."""
    pool = schema_driver.pool
    await reports(schema_driver, Limit(at_once=1), "acme", "acme", "acme", "acme", num_admitted=1)
    await put_flow(pool, shop_import("import 9", 3)[0])
    before = await _states(schema_driver)

    ready = await _done(database, await _begun(pool, search=""))
    await pool.run(bulk_change_start(ready.id, jobs_per_second=None))
    done = await _done(database, ready, until=BulkState.COMPLETED)

    assert before == {"available": 1, "pending": 3 + 7, "running": 1}
    assert await _states(schema_driver) == before
    assert (done.num_changed, done.skipped) == (0, {"running, pending, due already, or gone": 12})


@pytest.mark.slow
async def test_change_that_fails_shows_why_and_keeps_no_other(
    database: WebDatabase, schema_driver: AsyncpgDriver, browser: httpx.AsyncClient
) -> None:
    """While each batch of a change raises, its page has the reason and later changes go on; it goes on after the cause."""
    pool, table = schema_driver.pool, f'"{schema_driver.schema}".millhand_bulk_change'
    await _jobs(pool, JobState.DISCARDED, 2)
    change = await _begun(pool)
    await pool.fetch(f"UPDATE {table} SET time_zone = 'Mars'")

    await _done(database, await _begun(pool))
    failed = await database.run(bulk_change_get(change.id))
    page = html.unescape((await browser.get(f"/bulk/{change.id}")).text)
    # As if PATIENCE had passed.
    await pool.fetch(f"UPDATE {table} SET holder = NULL WHERE id = {change.id}")
    await BulkRunner(database, "two", hide_rules(["args.password"]))._step()
    hidden = await database.run(bulk_change_get(change.id))
    await pool.fetch(f"UPDATE {table} SET holder = NULL, time_zone = 'UTC' WHERE id = {change.id}")
    ready = await _done(database, change)

    reason = "time_zone must be the name of a time zone such as Europe/Berlin, got 'Mars'"
    assert (failed.state, failed.stop_reason) == (BulkState.COLLECTING, reason)
    assert f"The last batch failed: {reason}. It is tried again." in page
    assert hidden.stop_reason == "ValueError; see the log"
    assert (ready.num_jobs, ready.stop_reason) == (2, None)


async def test_taken_unique_key_is_a_reason_and_keeps_no_other_job(tx: Executor) -> None:
    """In a batch with a job whose unique key another one holds, all others are retried."""
    await insert_job(tx, JobState.AVAILABLE, **UNIQUE)
    blocked = await insert_job(tx, JobState.DISCARDED, **UNIQUE)
    free = await _jobs(tx, JobState.DISCARDED, 2)

    changed, reasons = await change_jobs(tx, BulkAction.RETRY, [blocked.id, *free], NOW)

    assert (changed, reasons) == (free, {"another job has the unique key": 1})


async def test_change_that_is_stopped_or_taken_over_changes_no_further_job(
    database: WebDatabase, schema_driver: AsyncpgDriver
) -> None:
    """A process whose change was stopped, or that another process holds by now, leaves the next batch untouched."""
    pool = schema_driver.pool
    await _jobs(pool, JobState.DISCARDED, 2)
    ready = await _done(database, await _begun(pool))
    await pool.run(bulk_change_start(ready.id, jobs_per_second=None))
    held = await pool.run(bulk_change_claim("late"))
    assert held is not None
    late = BulkRunner(database, "late", Hiding())

    await pool.fetch(f"UPDATE \"{schema_driver.schema}\".millhand_bulk_change SET holder = 'other'")
    await late._change_batch(held)
    await pool.run(bulk_change_stop(ready.id, reason="enough"))
    await late._change_batch(held)

    assert await _states(schema_driver) == {"discarded": 2}


async def test_change_is_within_its_users_limits(database: WebDatabase, schema_driver: AsyncpgDriver) -> None:
    """A user who sees one queue changes jobs of that queue only."""
    await _jobs(schema_driver.pool, JobState.DISCARDED, 2, queue="mail")
    await _jobs(schema_driver.pool, JobState.DISCARDED, 1)

    ready = await _done(database, await _begun(schema_driver.pool, only_queues=["mail"]))

    assert ready.queues == {"mail": 2}


async def test_retry_stops_when_most_of_the_first_jobs_fail_again(
    database: WebDatabase, schema_driver: AsyncpgDriver
) -> None:
    """
    After enough attempts that failed, no further job is retried, and the reason is kept.

    A new start is judged by attempts after it, so it changes the next batch.
    """
    ids = await _jobs(schema_driver.pool, JobState.DISCARDED, 60)
    ready = await _done(database, await _begun(schema_driver.pool))
    started = await schema_driver.pool.run(bulk_change_start(ready.id, jobs_per_second=None))
    table = f'"{schema_driver.schema}".'
    await schema_driver.pool.fetch(f"UPDATE {table}millhand_bulk_batch SET changed_ids = job_ids")
    await schema_driver.pool.fetch(f"UPDATE {table}millhand_bulk_change SET num_changed = 60, num_jobs = 70")
    await schema_driver.pool.fetch(
        f"INSERT INTO {table}millhand_bulk_batch VALUES ({ready.id}, 2, ARRAY[{ids[0]}])"
    )
    await schema_driver.pool.fetch(
        f"UPDATE {table}river_job SET state = 'retryable', finalized_at = NULL, attempt = 1, attempted_at = now()"
    )

    stopped = await _done(database, started, until=BulkState.STOPPED)

    assert (stopped.stop_reason, stopped.num_changed) == (FAIL_AGAIN, 60)

    await schema_driver.pool.run(bulk_change_start(stopped.id, jobs_per_second=None))
    done = await _done(database, stopped, until=BulkState.COMPLETED)
    assert (done.stop_reason, done.num_changed) == (None, 61)


class Mortal:
    """An executor whose process is killed at a statement: it raises, and its transaction is rolled back."""

    def __init__(self, executor: Executor, lives: list[int]) -> None:
        self._executor, self._lives = executor, lives

    async def run(self, query: Query[Any]) -> Any:
        self._lives[0] -= 1
        if self._lives[0] < 0:
            raise KilledError
        return await self._executor.run(query)

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[Mortal]:
        async with self._executor.begin() as tx:
            yield Mortal(tx, self._lives)


class KilledError(Exception):
    pass


@pytest.mark.slow
async def test_change_survives_kills_of_its_processes(
    database: WebDatabase, schema_driver: AsyncpgDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes that are killed at each statement, one after the other, change each job once and count each once."""
    monkeypatch.setattr(bulk, "BATCH_SIZE", 7)
    table = f'"{schema_driver.schema}".'
    await schema_driver.pool.fetch(
        f"""
        INSERT INTO {table}river_job (kind, args, max_attempts, state, finalized_at)
        SELECT 'send_mail', '{{}}', 5, 'discarded', now() FROM generate_series(1, 50)
        """
    )
    change = await _begun(schema_driver.pool)

    async def work(state: BulkState) -> BulkChange:
        for lives in itertools.cycle(range(12)):
            mortal = WebDatabase(schema_driver, SystemClock())
            mortal.driver = SimpleNamespace(pool=Mortal(schema_driver.pool, [lives]))  # type: ignore[assignment]
            with contextlib.suppress(KilledError):
                await BulkRunner(mortal, f"mortal {lives}", Hiding())._step()
            # As if PATIENCE had passed.
            await schema_driver.pool.fetch(f"UPDATE {table}millhand_bulk_change SET holder = NULL")
            if (now := await database.run(bulk_change_get(change.id))).state is state:
                return now
        raise AssertionError

    ready = await work(BulkState.READY)
    await schema_driver.pool.run(bulk_change_start(ready.id, jobs_per_second=None))
    done = await work(BulkState.COMPLETED)

    assert (ready.num_jobs, done.num_changed, done.num_skipped) == (50, 50, 0)
    assert await _states(schema_driver) == {"available": 50}


def test_numbers_by_name_are_bounded() -> None:
    """Beyond a hundred names the rest is counted together, and no job is lost."""
    counts = counted({}, [f"kind_{number}" for number in range(150)] * 2)

    assert len(counts) == 101
    assert sum(counts.values()) == 300
