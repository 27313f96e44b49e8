"""What the scheduler reads of many jobs that are due at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import asyncpg
import pytest
from plan_recorder import PlanRecorder

from factory import qualified
from millhand.core.config import Config
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.driver import PLANNER_SETTINGS
from millhand.engine.inserter import Inserter
from millhand.engine.maintenance.batch import BatchSize
from millhand.engine.maintenance.job_scheduler import JobScheduler
from millhand.engine.store.job import job_schedule
from millhand.testing import ManualClock

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
NUM_DUE = 20_000
BATCH = 500
FETCHING = "river_job_prioritized_fetching_index"
ANALYZE = "ANALYZE /* schema */river_job;"
INSERT = """
INSERT INTO /* schema */river_job (kind, args, max_attempts, queue, priority, state, scheduled_at, finalized_at)
SELECT 'k', '{{}}', 25, '{queue}' || n % {num_queues}, 1, '{state}', timestamptz '2026-03-10 11:00Z' - n * interval '1 ms',
    CASE WHEN '{state}' = 'completed' THEN timestamptz '2026-03-10 11:00Z' END
FROM generate_series(1, {num}) AS n;
"""


def inserted(num: int, state: str = "scheduled", *, queue: str = "q", num_queues: int = 1) -> str:
    return INSERT.format(num=num, state=state, queue=queue, num_queues=num_queues)


WORLDS = {
    "current statistics": inserted(NUM_DUE) + ANALYZE,
    "statistics of an empty table": ANALYZE + inserted(NUM_DUE),
    "two queues and both states": inserted(NUM_DUE // 2, num_queues=2)
    + inserted(NUM_DUE // 2, "retryable", num_queues=2)
    + ANALYZE,
    "a state that was rare when the statistics were made": inserted(2 * NUM_DUE, "completed")
    + inserted(1)
    + ANALYZE
    + inserted(NUM_DUE),
}


@pytest.fixture
async def recorder(postgres_url: str, schema_driver: AsyncpgDriver) -> AsyncIterator[PlanRecorder]:
    connection = await asyncpg.connect(postgres_url, server_settings=PLANNER_SETTINGS)
    yield PlanRecorder(connection, schema_driver.schema)
    await connection.close()


def scheduler(recorder: PlanRecorder, num_rows: int = BATCH) -> JobScheduler:
    clock = ManualClock(NOW)
    inserter = Inserter(recorder, Config(clock=clock))
    return JobScheduler(recorder, inserter, clock=clock, batch_size=BatchSize(clock, num_rows=num_rows))


async def count(recorder: PlanRecorder, state: str) -> int:
    sql = qualified("SELECT count(*) FROM /* schema */river_job WHERE state = $1", recorder)
    return int(await recorder.connection.fetchval(sql, state))


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
async def test_scheduler_sorts_a_backlog_once(recorder: PlanRecorder, world: str) -> None:
    """A pass sorts all due jobs once, and then reads a batch of each range, not all that are left for each batch."""
    await recorder.connection.execute(qualified(WORLDS[world], recorder))
    num_ranges = 4 if "queues" in world else 1

    await scheduler(recorder).run_once()

    assert await count(recorder, "available") == NUM_DUE + world.startswith("a state")
    assert [plan for plan in recorder.plans if plan.num_sorted > num_ranges * BATCH][1:] == []
    # The first and the last statement scan all entries of a state. Those of a last one may be dead, which is no row.
    by_range = [plan for plan in recorder.plans if plan.name == "job_schedule_by_range"]
    assert [plan for plan in by_range if plan.num_read > num_ranges * BATCH] == []
    assert len(by_range) >= NUM_DUE // BATCH // 2 - 1  # the recorder runs each statement twice
    assert {plan.name for plan in recorder.plans if plan.scans_all} == set()


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["the index of fetches", "few queues"])
async def test_scheduler_works_off_a_backlog_without_ranges(recorder: PlanRecorder, missing: str) -> None:
    """Without the index, or with more queues than ranges are worth, a pass schedules all jobs and reads no range."""
    num_queues = 2_000 if missing == "few queues" else 1
    transaction = recorder.connection.transaction()
    await transaction.start()
    await recorder.connection.execute(qualified(inserted(2_000, num_queues=num_queues) + ANALYZE, recorder))
    if missing == "the index of fetches":
        await recorder.connection.execute(qualified(f"DROP INDEX /* schema */{FETCHING}", recorder))

    await scheduler(recorder).run_once()

    num_available = await count(recorder, "available")
    await transaction.rollback()
    by_range = [plan for plan in recorder.plans if plan.name == "job_schedule_by_range"]
    assert (num_available, len(by_range) > 0) == (2_000, True)
    assert max(plan.num_blocks for plan in by_range) < 5_000


@pytest.mark.slow
async def test_idle_pass_makes_one_statement_whatever_the_queues(recorder: PlanRecorder) -> None:
    """Ten thousand queues with jobs that are due later cost an idle pass no probe of each queue."""
    later = inserted(10_000, num_queues=10_000).replace("11:00Z' -", "13:00Z' +")
    await recorder.connection.execute(qualified(later + ANALYZE, recorder))

    await scheduler(recorder).run_once()

    assert [plan.name for plan in recorder.plans] == [job_schedule(now=NOW, limit=1).name]


@pytest.mark.slow
async def test_scheduler_does_not_pause_between_full_batches(recorder: PlanRecorder) -> None:
    """A hundred full batches take less than the hundred shortest pauses of other services."""
    await recorder.connection.execute(qualified(inserted(100), recorder))

    async with asyncio.timeout(5.0):
        await scheduler(recorder, num_rows=1).run_once()

    assert await count(recorder, "available") == 100
