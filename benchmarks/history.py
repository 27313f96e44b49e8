"""
Measure what the history's writer costs: CPU time of one pass, of PostgreSQL and of Python, at several rates of jobs.

    python benchmarks/history.py URL    # of an empty database on this machine; prints a table

CPU time and not duration, so other work on the machine changes the figures little. A pass counts one minute, checks three
more, and reads the errors of the last hour. Of the jobs, 2 % failed once, and 1,200 wait for a retry.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from pathlib import Path
from statistics import median

import asyncpg

from millhand.core.clock import SystemClock
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.migrator import Migrator, lines
from millhand.history.writer import HistoryWriter

RATES = (0, 10, 100, 700, 2_000, 5_000)
NUM_MINUTES = 6
NUM_PASSES = 7
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")

FILL = """
INSERT INTO river_job (
    state, attempt, max_attempts, attempted_at, created_at, finalized_at, scheduled_at, args, kind, queue, errors,
    attempted_by
)
SELECT
    CASE WHEN h % 1000 < 6 THEN 'discarded' WHEN h % 1000 < 9 THEN 'cancelled' ELSE 'completed' END::river_job_state,
    1 + (h % 50 = 0)::integer, 25, t - interval '1 ms' * (h % 1000), t - interval '2 s', t,
    t - interval '1 ms' * (h % 1000 + h % 77), '{"account_id": 17, "to": "ann@example.com"}', 'kind_' || h % 60,
    'queue_' || (h % 60) % 11,
    CASE WHEN h % 50 = 0 THEN ARRAY[jsonb_build_object(
        'at', to_char((t - interval '5 s') AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'attempt', 1,
        'error', 'TimeoutError: no answer from https://api.example.com/v1/orders/' || h || ' within 30 s',
        'trace', repeat('File "/app/shop/mail.py", line 12, in send ' || h, 40)
    )] END, ARRAY['worker-1']
FROM (
    SELECT g, abs(hashint8(g)::bigint) AS h, now() - interval '1 second' * (g / $1::float8) AS t
    FROM generate_series(1, $2::bigint) AS g
) AS job
"""
FILL_RETRYABLE = """
INSERT INTO river_job (state, attempt, max_attempts, attempted_at, created_at, scheduled_at, args, kind, queue, errors)
SELECT
    'retryable', 1, 25, t, t, t + interval '5 h', '{}', 'kind_' || g % 60, 'queue_' || (g % 60) % 11,
    ARRAY[jsonb_build_object(
        'at', to_char(t AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'attempt', 1,
        'error', 'ConnectionError: order ' || g || ' was refused',
        'trace', repeat('File "/app/shop/pay.py", line 7, in pay ' || md5(g::text), 40)
    )]
FROM (SELECT g, now() - interval '1 second' * g AS t FROM generate_series(1, 1200) AS g) AS job
"""
# As a leader finds it: the last minute is to be counted, and those before are counted.
REWIND = """
WITH ended AS (SELECT date_trunc('minute', now() - interval '10 seconds') - interval '1 minute' AS at)
UPDATE millhand_history SET counted_to = ended.at FROM ended
"""
FORGET = "DELETE FROM millhand_job_stats WHERE began_at >= (SELECT counted_to FROM millhand_history)"


async def measure(url: str, rate: int) -> tuple[int, int, list[float], list[float]]:
    """Return the jobs of a minute, the rows of a minute, and the milliseconds of PostgreSQL and of Python for each pass."""
    driver = AsyncpgDriver(url, pool_size=1)
    await driver.open()
    connection = await asyncpg.connect(url)
    await connection.execute(
        "TRUNCATE river_job, millhand_history, millhand_job_stats, millhand_queue_depth, millhand_error_group, "
        "millhand_error_stats"
    )
    if rate:
        await connection.execute(FILL_RETRYABLE)
        await connection.execute(FILL, float(rate), rate * 60 * NUM_MINUTES, timeout=600)
    await connection.execute("VACUUM ANALYZE river_job", timeout=600)
    await connection.execute(
        "INSERT INTO millhand_history (holder, expires_at, counted_to) "
        "VALUES ('me', now(), date_trunc('minute', now()) - interval '5 minutes')"
    )
    writer = HistoryWriter(driver.pool, clock=SystemClock(), holder="me")
    await writer.run_once()  # counts the minutes before
    [row] = await driver.pool.fetch("SELECT pg_backend_pid() AS pid")
    of_postgres, of_python, num_rows = [], [], 0
    for _ in range(NUM_PASSES):
        await connection.execute(REWIND)
        await connection.execute(FORGET)
        before, began = _postgres_ms(row["pid"]), time.process_time()
        await writer.run_once()
        of_postgres.append(_postgres_ms(row["pid"]) - before)
        of_python.append((time.process_time() - began) * 1000)
        num_rows = await connection.fetchval(
            "SELECT count(*) FROM millhand_job_stats WHERE step = 60 AND began_at = ("
            "SELECT max(began_at) FROM millhand_job_stats WHERE step = 60)"
        )
    await connection.close()
    await driver.close()
    return rate * 60, num_rows, of_postgres, of_python


def _postgres_ms(pid: int) -> float:
    """Return the CPU time of the server of which `pid` is a backend: of all its processes."""
    postmaster = _fields(pid)[1]
    ticks = 0
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = _fields(int(path.name))
            if fields[1] == postmaster:
                ticks += int(fields[11]) + int(fields[12])
    return ticks * 1000 / TICKS_A_SECOND


def _fields(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


async def main(url: str) -> None:
    driver = AsyncpgDriver(url)
    await driver.open()
    for line in lines():
        await Migrator(driver, line).up()
    await driver.close()
    print("| jobs a second | jobs of the minute | rows written | PostgreSQL, ms | Python, ms | of a core |")
    print("|--:|--:|--:|--:|--:|--:|")
    for rate in RATES:
        num_jobs, num_rows, of_postgres, of_python = await measure(url, rate)
        postgres, python = median(of_postgres), median(of_python)
        seconds = 60 if rate else 120
        share = (postgres + python) / 1000 / seconds
        print(
            f"| {rate:,} | {num_jobs:,} | {num_rows} | {postgres:.0f} | {python:.0f} | {share:.2%} |",
            flush=True,
        )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
