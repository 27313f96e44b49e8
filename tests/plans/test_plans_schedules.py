"""What the leader reads of a hundred thousand kept schedules."""

from __future__ import annotations

from datetime import timedelta

import asyncpg
import pytest
from plan_recorder import PlanRecorder

from factory import qualified
from kept_schedules import NOON
from millhand.core.job import JobId
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.driver import PLANNER_SETTINGS
from millhand.schedules.store import Move, schedule_get_next_seconds, schedule_lock_due, schedule_move

INDEX = "millhand_schedule_next_run_at_idx"
BATCH = 200
INSERT = """
INSERT INTO /* schema */millhand_schedule (id, definition, next_run_at, paused_at)
SELECT 's' || n, '{"kind":"x1","args":{},"cron":"@daily"}', $1::timestamptz + n * interval '1 ms',
    CASE WHEN n % 10 = 0 THEN now() END
FROM generate_series(1, 100000) AS n
"""


@pytest.mark.slow
async def test_leader_reads_what_is_due_and_no_other_schedule(
    module_driver: AsyncpgDriver, postgres_url: str
) -> None:
    """A batch and the look for the next instant use the index, and a move reads the rows of the batch."""
    connection = await asyncpg.connect(postgres_url, server_settings=PLANNER_SETTINGS)
    try:
        await connection.execute(qualified(INSERT, module_driver.pool), NOON)
        await connection.execute(f"VACUUM (ANALYZE) {module_driver.schema}.millhand_schedule")
        recorder = PlanRecorder(connection, module_driver.schema)
        # An explained UPDATE is executed: its plan is read in a transaction that is rolled back.
        transaction = connection.transaction()
        await transaction.start()
        due = await recorder.run(schedule_lock_due(limit=BATCH, now=NOON + timedelta(minutes=1)))
        await recorder.run(schedule_get_next_seconds(now=NOON))
        next_run_at = NOON + timedelta(days=1)
        moves = [Move(one.id, one.due_at, next_run_at, one.due_at, JobId(1), 1) for one in due]
        await recorder.run(schedule_move(moves))
        await transaction.rollback()
    finally:
        await connection.close()

    lock, look, move = recorder.plans
    assert len(due) == BATCH
    assert (INDEX in lock.indexes, INDEX in look.indexes) == (True, True)
    assert move.indexes == {"millhand_schedule_pkey"}
    assert (lock.num_blocks < 1_000, look.num_blocks < 20, move.num_blocks < 20 * BATCH) == (True, True, True)
