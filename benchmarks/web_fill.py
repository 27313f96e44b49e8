"""
A table as a busy fleet has it: a day of jobs, 97.9 % of them completed, 60 kinds, 11 queues.

The last 1.2 % of the ids have not ended: 62 % of them are available, 28 % scheduled, the others retryable or running. Kind
60 is rare (1 of 5,000 jobs). `args` has an order's id of its own, one of 1,000 accounts and a region that 5 % share.
"""

from __future__ import annotations

import itertools
import math

from millhand.db.driver.protocol import Executor

TIMEOUT_SECONDS = 3_600.0

# All but the primary key: made again when the table is full, which takes a third of the time.
_INDEXES = """
SELECT index.indexrelid::regclass::text AS name, pg_get_indexdef(index.indexrelid) AS made_by
FROM pg_index AS index
WHERE index.indrelid = '{table}'::regclass AND NOT index.indisprimary
"""
_FILL = """
INSERT INTO {table} (
    id, state, attempt, max_attempts, attempted_at, created_at, finalized_at, scheduled_at, priority, args, attempted_by,
    errors, kind, metadata, queue, tags
)
SELECT
    n,
    state::/* schema */river_job_state,
    CASE WHEN state IN ('available', 'scheduled') THEN 0 WHEN state = 'retryable' THEN 1 + h % 9 ELSE 1 END,
    25,
    CASE WHEN state NOT IN ('available', 'scheduled') THEN at END,
    at - interval '1 second',
    CASE WHEN state IN ('completed', 'discarded', 'cancelled') THEN at + interval '1 second' * (h % 9) END,
    at + CASE WHEN state IN ('scheduled', 'retryable') THEN interval '1 second' * (h % 200000) ELSE '0' END,
    CASE WHEN h % 20 = 0 THEN 2 ELSE 1 END,
    jsonb_build_object(
        'order', jsonb_build_object('id', n), 'account_id', h % 1000, 'to', 'user' || h % 50000 || '@example.com',
        'region', CASE WHEN h % 20 = 1 THEN 'eu' ELSE 'us' END
    ),
    CASE WHEN state NOT IN ('available', 'scheduled') THEN ARRAY['worker-' || h % 8 || '_2026'] END,
    CASE WHEN state IN ('discarded', 'retryable') THEN ARRAY[jsonb_build_object(
        'at', to_jsonb(at AT TIME ZONE 'UTC') #>> '{{}}' || 'Z', 'attempt', 1, 'trace', '',
        'error', 'TimeoutError: no answer from 10.0.0.' || h % 255 || ' within 30 s'
    )] END,
    'kind_' || CASE WHEN h % 5000 = 0 THEN 60 ELSE h % 59 END,
    CASE WHEN h % 1000 = 7 THEN '{{"river:periodic_job_id": "nightly"}}' ELSE '{{}}' END::jsonb,
    'queue_' || h % 11,
    CASE WHEN h % 100 = 3 THEN '{{eu,vip}}' ELSE '{{}}' END::varchar []
FROM (
    SELECT n, abs(hashint8(n)::bigint) AS h, now() - interval '1 second' * 86400 * (1 - n / {num_rows}.0) AS at
    FROM generate_series({first}::bigint, {last}::bigint) AS n
) AS numbered
CROSS JOIN LATERAL (
    SELECT CASE
        WHEN n > {num_rows} * 0.988 THEN CASE
            WHEN h % 100 < 62 THEN 'available' WHEN h % 100 < 90 THEN 'scheduled'
            WHEN h % 1000 < 998 THEN 'retryable' ELSE 'running'
        END
        WHEN h % 1000 < 6 THEN 'discarded' WHEN h % 1000 < 9 THEN 'cancelled' ELSE 'completed'
    END AS state
) AS its
"""


async def fill(executor: Executor, schema: str, num_rows: int) -> None:
    """Fill an empty table of jobs, with statistics and a visibility map, on one connection."""
    table = f'"{schema}".river_job' if schema else "river_job"
    indexes = await executor.fetch(_INDEXES.format(table=table))
    statements = ["SET maintenance_work_mem = '512MB'", "SET synchronous_commit = off"]
    statements += [f"DROP INDEX {index['name']}" for index in indexes]
    num_parts = math.ceil(num_rows / 1_000_000)
    ends = [num_rows * part // num_parts for part in range(num_parts + 1)]
    statements += [
        _FILL.format(table=table, num_rows=num_rows, first=start + 1, last=end)
        for start, end in itertools.pairwise(ends)
    ]
    statements += [index["made_by"] for index in indexes]
    statements += [f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), {num_rows})"]
    statements += [f"VACUUM (ANALYZE) {table}", "RESET maintenance_work_mem", "RESET synchronous_commit"]
    for statement in statements:
        await executor.execute_script(statement, timeout_seconds=TIMEOUT_SECONDS)
