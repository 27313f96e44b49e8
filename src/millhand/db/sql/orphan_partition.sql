-- name: orphan_partition_list
-- List the partitions of a run in the order of keys.
SELECT /* orphan_partition_columns */
FROM /* schema */millhand_orphan_partition AS partition
WHERE partition.run_id = @run_id
ORDER BY partition.number;

-- name: orphan_partition_replace
-- Write the partitions of a run, and delete those of earlier runs over the bucket and the old ones of this run.
WITH cleared AS (
    DELETE FROM /* schema */millhand_orphan_partition
    WHERE bucket = @bucket AND (run_id <> @run_id OR number >= cardinality(@lows::text[]))
)
INSERT INTO /* schema */millhand_orphan_partition
    (run_id, bucket, is_ordered, canaries, number, low, high, cursor_key)
SELECT
    @run_id, @bucket, @is_ordered,
    coalesce(
        (
            SELECT array_agg(canary)
            FROM unnest(@canaries::text[]) AS canary
            WHERE canary COLLATE "C" > input.low AND (input.high IS NULL OR canary COLLATE "C" <= input.high)
        ),
        '{}'
    ),
    input.position - 1, input.low, input.high, input.low
FROM unnest(@lows::text[], @highs::text[]) WITH ORDINALITY AS input (low, high, position)
ON CONFLICT (run_id, number) DO UPDATE
SET
    is_ordered = excluded.is_ordered,
    canaries = excluded.canaries,
    low = excluded.low,
    high = excluded.high,
    cursor_key = excluded.cursor_key,
    is_done = false,
    run_epoch = 0,
    totals = '{}',
    live_canaries = '{}';

-- name: orphan_partition_claim
-- Claim the first partition that is not done and was not claimed in this epoch of its run.
WITH free AS (
    SELECT partition.run_id, partition.number
    FROM /* schema */millhand_orphan_partition AS partition
    INNER JOIN /* schema */millhand_orphan_run AS run ON run.id = partition.run_id
    WHERE
        partition.run_id = @run_id
        AND NOT partition.is_done
        AND partition.run_epoch < @run_epoch
        AND run.epoch = @run_epoch
        AND run.finished_at IS NULL
    ORDER BY partition.number
    LIMIT 1
    FOR UPDATE OF partition SKIP LOCKED
)
UPDATE /* schema */millhand_orphan_partition AS partition
SET run_epoch = @run_epoch
FROM free
WHERE partition.run_id = free.run_id AND partition.number = free.number
RETURNING /* orphan_partition_columns */;

-- name: orphan_partition_advance
-- Write that all keys of a partition up to the cursor were evaluated, and delete findings of earlier runs in that range.
-- The epoch is compared in the partition's own row too: a claim that commits while this statement waits must stop it.
-- No wait for the disk: a server that crashes loses the cursor and the findings together.
-- The run's heartbeat is written every ten seconds only, because all of its partitions write to that one row.
WITH advanced AS (
    UPDATE /* schema */millhand_orphan_partition AS partition
    SET
        cursor_key = coalesce(@high::text, partition.cursor_key),
        is_done = @is_done,
        live_canaries = @live_canaries::text[],
        totals = @totals::text::jsonb
    WHERE
        partition.run_id = @run_id
        AND partition.number = @number
        AND partition.run_epoch = @run_epoch
        AND NOT partition.is_done
        AND EXISTS (
            SELECT FROM /* schema */millhand_orphan_run AS run
            WHERE run.id = @run_id AND run.epoch = @run_epoch AND run.finished_at IS NULL
        )
    RETURNING partition.bucket
),
cleared AS (
    DELETE FROM /* schema */millhand_orphan_finding AS finding
    USING advanced
    WHERE
        finding.bucket = advanced.bucket
        AND finding.key > @low
        AND (@high::text IS NULL OR finding.key <= @high)
        AND finding.run_id <> @run_id
),
beaten AS (
    UPDATE /* schema */millhand_orphan_run AS run
    SET heartbeat_at = coalesce(@now::timestamptz, now())
    FROM advanced
    WHERE
        run.id = @run_id
        AND run.epoch = @run_epoch
        AND run.heartbeat_at < coalesce(@now::timestamptz, now()) - interval '10 seconds'
)
SELECT set_config('synchronous_commit', 'off', true) FROM advanced;

-- name: orphan_partition_count
-- Write a run's totals. At the end they include those of its partitions, which are emptied so that nothing counts twice.
WITH counted AS (
    UPDATE /* schema */millhand_orphan_run AS run
    SET totals = @totals::text::jsonb, heartbeat_at = coalesce(@now::timestamptz, now())
    WHERE run.id = @run_id AND run.epoch = @run_epoch AND run.finished_at IS NULL
    RETURNING run.id
),
emptied AS (
    UPDATE /* schema */millhand_orphan_partition AS partition
    SET totals = '{}'
    FROM counted
    WHERE partition.run_id = counted.id AND @is_end
)
SELECT 1 FROM counted;

-- name: orphan_key_bounds
-- Return keys that cut a table into ranges of equally many rows, and the number of rows, by the last ANALYZE.
SELECT
    coalesce((stats.histogram_bounds::text::text[]), '{}') AS bounds,
    greatest(class.reltuples, 0)::bigint AS rows
FROM pg_catalog.pg_class AS class
INNER JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
LEFT JOIN pg_catalog.pg_stats AS stats
    ON
        stats.schemaname = namespace.nspname
        AND stats.tablename = class.relname
        AND stats.attname = @column
WHERE class.oid = to_regclass(@table)
ORDER BY stats.inherited DESC
LIMIT 1;

-- fragment: orphan_partition_columns
partition.run_id, partition.number, partition.low, partition.high, partition.cursor_key, partition.is_ordered, partition.is_done,
    partition.run_epoch, partition.totals::text, partition.canaries, partition.live_canaries,
    (
        SELECT count(*) FROM /* schema */millhand_orphan_partition AS sibling WHERE sibling.run_id = partition.run_id
    ) AS num_partitions
