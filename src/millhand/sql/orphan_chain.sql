-- name: orphan_chain_list
-- Give the chains of a pass in the order of keys.
SELECT /* orphan_chain_columns */
FROM /* schema */millhand_orphan_chain AS chain
WHERE chain.run_id = @run_id
ORDER BY chain.number;

-- name: orphan_chain_replace
-- Lay out the chains of a pass; those of earlier passes over the bucket, and of this one, go.
WITH cleared AS (
    DELETE FROM /* schema */millhand_orphan_chain
    WHERE bucket = @bucket AND (run_id <> @run_id OR number >= cardinality(@lows::text[]))
)
INSERT INTO /* schema */millhand_orphan_chain AS chain
    (run_id, bucket, heartbeat_at, is_ordered, canaries, number, low, high, cursor_key)
SELECT
    @run_id, @bucket, coalesce(@now::timestamptz, now()), @is_ordered,
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
    heartbeat_at = excluded.heartbeat_at,
    is_ordered = excluded.is_ordered,
    canaries = excluded.canaries,
    low = excluded.low,
    high = excluded.high,
    cursor_key = excluded.cursor_key,
    is_done = false,
    epoch = chain.epoch + 1,
    run_epoch = 0,
    totals = '{}',
    live_canaries = '{}';

-- name: orphan_chain_claim
-- Claim a chain that nobody is at: not claimed in this epoch of its pass, or by somebody whose heart stopped.
WITH free AS (
    SELECT chain.run_id, chain.number
    FROM /* schema */millhand_orphan_chain AS chain
    INNER JOIN /* schema */millhand_orphan_run AS run ON run.id = chain.run_id
    WHERE
        chain.run_id = @run_id
        AND NOT chain.is_done
        AND run.epoch = @run_epoch
        AND run.finished_at IS NULL
        AND (
            chain.run_epoch < @run_epoch
            OR chain.heartbeat_at < coalesce(@now::timestamptz, now()) - @lease::interval
        )
    ORDER BY chain.number
    LIMIT 1
    FOR UPDATE OF chain SKIP LOCKED
)
UPDATE /* schema */millhand_orphan_chain AS chain
SET epoch = chain.epoch + 1, run_epoch = @run_epoch, heartbeat_at = coalesce(@now::timestamptz, now())
FROM free
WHERE chain.run_id = free.run_id AND chain.number = free.number
RETURNING /* orphan_chain_columns */;

-- name: orphan_chain_advance
-- Write down that all keys of a chain up to the cursor were judged, and drop what earlier passes found there and this one
-- did not. Nothing waits for the disk: a server that crashes forgets the cursor and what was found together.
WITH advanced AS (
    UPDATE /* schema */millhand_orphan_chain AS chain
    SET
        cursor_key = coalesce(@high::text, chain.cursor_key),
        heartbeat_at = coalesce(@now::timestamptz, now()),
        is_done = @is_done,
        live_canaries = @live_canaries::text[],
        totals = @totals::text::jsonb
    WHERE
        chain.run_id = @run_id
        AND chain.number = @number
        AND chain.epoch = @epoch
        AND NOT chain.is_done
        AND EXISTS (
            SELECT FROM /* schema */millhand_orphan_run AS run
            WHERE run.id = @run_id AND run.epoch = @run_epoch AND run.finished_at IS NULL
        )
    RETURNING chain.bucket
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
/* orphan_chain_beaten */
SELECT set_config('synchronous_commit', 'off', true) FROM advanced;

-- name: orphan_chain_beat
-- Say that somebody is at a chain. One row comes back as long as it is his.
WITH advanced AS (
    UPDATE /* schema */millhand_orphan_chain AS chain
    SET heartbeat_at = coalesce(@now::timestamptz, now())
    WHERE chain.run_id = @run_id AND chain.number = @number AND chain.epoch = @epoch AND NOT chain.is_done
    RETURNING chain.bucket
),
/* orphan_chain_beaten */
SELECT 1 FROM advanced;

-- name: orphan_chain_count
-- Write into a pass what all of its chains have counted, which they then need not keep; else it would count twice.
WITH counted AS (
    UPDATE /* schema */millhand_orphan_run AS run
    SET totals = @totals::text::jsonb, heartbeat_at = coalesce(@now::timestamptz, now())
    WHERE run.id = @run_id AND run.epoch = @run_epoch AND run.finished_at IS NULL
    RETURNING run.id
),
emptied AS (
    UPDATE /* schema */millhand_orphan_chain AS chain
    SET totals = '{}'
    FROM counted
    WHERE chain.run_id = counted.id AND @is_end
)
SELECT 1 FROM counted;

-- name: orphan_key_bounds
-- Give keys that cut a table's rows into stretches of equal number, as the last ANALYZE saw it, and how many rows it has.
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

-- fragment: orphan_chain_beaten
-- The pass lives while its owner's chains do. Now and then is enough, for they all write to this one row.
beaten AS (
    UPDATE /* schema */millhand_orphan_run AS run
    SET heartbeat_at = coalesce(@now::timestamptz, now())
    FROM advanced
    WHERE
        run.id = @run_id
        AND run.epoch = @run_epoch
        AND @is_owner
        AND run.heartbeat_at < coalesce(@now::timestamptz, now()) - interval '10 seconds'
)

-- fragment: orphan_chain_columns
chain.run_id, chain.number, chain.low, chain.high, chain.cursor_key, chain.is_ordered, chain.is_done, chain.epoch,
    chain.run_epoch, chain.totals::text, chain.canaries, chain.live_canaries,
    (
        SELECT count(*) FROM /* schema */millhand_orphan_chain AS sibling WHERE sibling.run_id = chain.run_id
    ) AS num_chains
