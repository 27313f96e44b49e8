"""Plans just after many jobs have changed their state, while the statistics are of before."""

from __future__ import annotations

import asyncpg
from plan_recorder import PlanRecorder

from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.driver import PLANNER_SETTINGS
from millhand.engine.store.job_list import JobFilters, JobListParams, job_list

NUM_JOBS = 3_000
INSERT = """
ALTER TABLE /* schema */river_job SET (autovacuum_enabled = off);
INSERT INTO /* schema */river_job (kind, args, max_attempts, queue)
SELECT 'act', '{}', 25, 'mail'
FROM generate_series(1, %d)
"""
CANCEL = "UPDATE /* schema */river_job SET state = 'cancelled', finalized_at = now()"


async def test_last_page_of_a_state_reads_each_job_a_few_times(
    module_driver: AsyncpgDriver, postgres_url: str
) -> None:
    """A page that the end of the table does not fill looks each job up by id, and not in all jobs of the state."""
    await module_driver.pool.execute_script(INSERT % NUM_JOBS)
    await module_driver.pool.execute_script("ANALYZE /* schema */river_job")
    await module_driver.pool.execute_script(CANCEL)
    filters = JobFilters(queues=["mail"], states=[JobState.CANCELLED])
    connection = await asyncpg.connect(postgres_url, server_settings=PLANNER_SETTINGS)
    recorder = PlanRecorder(connection, module_driver.schema)

    jobs = await recorder.run(job_list(JobListParams(filters=filters, limit=NUM_JOBS + 1)))

    await connection.close()
    assert len(jobs) == NUM_JOBS
    assert recorder.plans[0].num_read <= 2 * NUM_JOBS
