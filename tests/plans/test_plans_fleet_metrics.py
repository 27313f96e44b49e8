"""What a leader reads for the metrics of the fleet, beside many finished jobs and more waiting ones than it counts."""

from __future__ import annotations

import asyncpg
import pytest
from plan_recorder import PlanRecorder

from factory import qualified
from millhand.core.clock import SystemClock
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.driver import PLANNER_SETTINGS
from millhand.engine.client_metrics import ClientMetrics
from millhand.engine.maintenance.fleet_watcher import FleetWatcher
from millhand.orphans.report.orphan_points import read_orphan_points

pytestmark = pytest.mark.slow

NUM_FINISHED = 200_000
NUM_WAITING = 40_000
BLOCKS = 1_000
SECONDS = 120.0
INSERT = f"""
INSERT INTO /* schema */river_job (
    kind, args, max_attempts, queue, priority, state, scheduled_at, attempted_at, finalized_at
)
SELECT 'act', '{{}}', 25, 'queue_' || n % 3, 1 + n / 3 % 2, state::/* schema */river_job_state, now() - interval '1 minute',
    now() - interval '1 minute',
    CASE WHEN state = 'completed' THEN now() - interval '1 second' END
FROM generate_series(1, {NUM_FINISHED + NUM_WAITING}) AS n,
LATERAL (SELECT CASE
    WHEN n <= {NUM_FINISHED} THEN 'completed'
    WHEN n % 10 = 0 THEN 'scheduled'
    WHEN n % 10 = 1 THEN 'running'
    ELSE 'available'
END AS state) AS its
"""


async def test_fleet_metrics_read_a_bounded_number_of_blocks(
    module_driver: AsyncpgDriver, postgres_url: str
) -> None:
    """A pass reads at most 1,000 blocks, and no table of jobs as a whole, whatever the number of finished jobs."""
    connection = await asyncpg.connect(postgres_url, server_settings=PLANNER_SETTINGS)
    try:
        # Else the vacuum cannot know yet that the rows are committed.
        await connection.execute("SET synchronous_commit = on")
        await connection.execute(qualified(INSERT, module_driver.pool), timeout=SECONDS)
        await connection.execute(f"VACUUM (ANALYZE) {module_driver.schema}.river_job", timeout=SECONDS)
        recorder = PlanRecorder(connection, module_driver.schema)
        metrics = ClientMetrics()
        metrics.collect()
        watcher = FleetWatcher(recorder, clock=SystemClock(), metrics=metrics, more=[read_orphan_points])
        await watcher.run_once()  # reads the catalog, which the session then remembers
        recorder.plans.clear()
        await watcher.run_once()
    finally:
        await connection.close()

    read = {plan.name: plan.num_blocks for plan in recorder.plans}
    assert metrics.fleet
    assert [plan.name for plan in recorder.plans if plan.scans_all] == []
    assert sum(read.values()) <= BLOCKS, read
