"""A writer that is killed again and again, beside another one, counts each job once."""

from __future__ import annotations

import asyncio
import signal
import sys

import pytest

from factory import qualified
from lent_schema import GENEROUS_SECONDS
from millhand.core.clock import SystemClock
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.history.error_group import error_group_list
from millhand.history.job_stats import ALL, Step, job_stats_list, summed
from millhand.history.writer import MINUTES_PER_PASS, HistoryWriter

pytestmark = pytest.mark.slow

NUM_JOBS = 3_000
NUM_MINUTES = 50
NUM_STATEMENTS = 24

# A writer that does not rest, and kills itself while its n-th statement is under way.
PROGRAM = """
import asyncio, os, signal, sys
from millhand.core.clock import SystemClock
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.history.writer import HistoryWriter
from millhand.engine.registration import Registration

class Deadly:
    def __init__(self, pool, left):
        self.pool, self.left = pool, left

    async def run(self, query):
        self.left -= 1
        task = asyncio.create_task(self.pool.run(query))
        if self.left == 0:
            for _ in range(20):
                await asyncio.sleep(0)
            os.kill(os.getpid(), signal.SIGKILL)
        return await task

async def main(url, schema, holder, left):
    driver = AsyncpgDriver(url, schema)
    await driver.open()
    active = Registration(is_active=True)
    pool = Deadly(driver.pool, int(left))
    writer = HistoryWriter(pool, clock=SystemClock(), holder=holder, registration=active)
    while True:
        await writer.run_once()

asyncio.run(main(*sys.argv[1:]))
"""
# Three jobs of four failed once before, which their errors say.
FILL = f"""
INSERT INTO /* schema */river_job (
    kind, queue, args, max_attempts, attempt, state, attempted_at, scheduled_at, finalized_at, errors
)
SELECT
    'kind_' || n % 3, 'queue_' || n % 2, '{{}}', 5, 2, 'completed', at, at, at + interval '20 ms',
    CASE WHEN n % 4 > 0 THEN ARRAY[jsonb_build_object(
        'at', to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), 'attempt', 1, 'error', 'ValueError: ' || n
    )] END
FROM generate_series(1, {NUM_JOBS}) AS n, LATERAL (
    SELECT date_trunc('minute', now()) - interval '1 minute' * (3 + n % {NUM_MINUTES}) AS at
) AS spread
"""
BEGIN = """
INSERT INTO /* schema */millhand_history
VALUES ('default', 'none', now(), date_trunc('minute', now()) - interval '60 minutes')
"""


async def test_killed_writers_count_each_job_once(schema_driver: AsyncpgDriver, postgres_url: str) -> None:
    """Two writers, each killed at every statement in turn, lose no attempt, error or duration, and count none twice."""
    pool = schema_driver.pool
    await pool.fetch(qualified(FILL, pool))
    await pool.fetch(qualified(BEGIN, pool))

    async def run_and_kill(holder: str) -> None:
        for number in range(1, NUM_STATEMENTS, 2):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", PROGRAM, postgres_url, schema_driver.schema, holder, str(number)
            )
            assert await asyncio.wait_for(process.wait(), GENEROUS_SECONDS) == -signal.SIGKILL

    await asyncio.gather(run_and_kill("one"), run_and_kill("two"))
    last = HistoryWriter(pool, clock=SystemClock(), holder="one")
    await pool.fetch(qualified("UPDATE /* schema */millhand_history SET expires_at = now()", pool))
    for _ in range(60 // MINUTES_PER_PASS):
        await last.run_once()

    [times] = await pool.fetch("SELECT now() - interval '2 hours' AS since, now() AS until")
    rows = await pool.run(
        job_stats_list(Step.MINUTE, since=times["since"], until=times["until"], kind=ALL, queue=ALL)
    )
    total = summed(rows, began_at=times["since"])
    minutes = Step.MINUTE.range(times["since"], times["until"])
    groups = await pool.run(error_group_list(Step.MINUTE, minutes, since=times["since"]))
    assert (total.completed, total.failed, sum(total.runs)) == (NUM_JOBS, NUM_JOBS * 3 // 4, NUM_JOBS)
    assert {group.title for group in groups} == {"ValueError: <number>"}
    assert sum(group.num_errors for group in groups) == NUM_JOBS * 3 // 4
