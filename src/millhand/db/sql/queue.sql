-- fragment: queue_row
    least(greatest(queue.created_at, '0001-01-01Z'), '9999-12-31 23:59:59.999999Z') AS created_at,
    queue.metadata::text AS metadata,
    CASE WHEN queue.paused_at IS NOT NULL
        THEN least(greatest(queue.paused_at, '0001-01-01Z'), '9999-12-31 23:59:59.999999Z')
    END AS paused_at,
    least(greatest(queue.updated_at, '0001-01-01Z'), '9999-12-31 23:59:59.999999Z') AS updated_at

-- fragment: queue_columns
    queue.name,
    /* queue_row */

-- fragment: controlled_at
    -- One microsecond more than a whole millisecond marks a command. Clients that work the queue write all microseconds.
    date_trunc('milliseconds', coalesce(@now::timestamptz, now())) + interval '1 microsecond'

-- fragment: notified_of_changed
notified AS MATERIALIZED (
    SELECT pg_notify(/* schema_name */ || '.river_control', @payload::text)
    WHERE @name::text = '*' OR EXISTS (SELECT FROM changed)
)

SELECT
    (SELECT count(*) FROM changed) AS num_queues,
    (SELECT count(*) FROM notified) AS num_notified

-- name: queue_create_or_set_updated_at
-- Create a queue's row, or update its `updated_at`; metadata and a pause stay as they are.
INSERT INTO /* schema */river_queue AS queue (name, created_at, metadata, updated_at)
VALUES (@name, coalesce(@now::timestamptz, now()), '{}', coalesce(@now::timestamptz, now()))
ON CONFLICT (name) DO UPDATE SET updated_at = excluded.updated_at
RETURNING
    /* queue_columns */;

-- name: queue_get
-- Return one queue.
SELECT
    /* queue_columns */
FROM /* schema */river_queue AS queue
WHERE queue.name = @name;

-- name: queue_peek
-- Return the time, and whether a queue has a row that is paused.
SELECT
    now() AS now,
    EXISTS (
        SELECT
        FROM /* schema */river_queue AS queue
        WHERE queue.name = @name
        AND queue.paused_at IS NOT NULL
    ) AS is_paused;

-- name: queue_list
-- Return queues by name, after the last one seen.
SELECT
    /* queue_columns */
FROM /* schema */river_queue AS queue
WHERE queue.name > @after_name
ORDER BY queue.name
LIMIT @limit::integer;

-- name: queue_pause
-- Pause a queue, or all for '*', and notify clients; count the queues. A paused queue keeps its `paused_at`.
WITH changed AS (
    UPDATE /* schema */river_queue
    SET
        paused_at = coalesce(paused_at, @now::timestamptz, now()),
        updated_at = CASE
            WHEN paused_at IS NULL THEN coalesce(@now::timestamptz, now())
            ELSE updated_at
        END
    WHERE @name::text IN (name, '*')
    RETURNING name
),

/* notified_of_changed */;

-- name: queue_resume
-- Resume a queue, or all for '*', and notify clients; count the queues.
WITH changed AS (
    UPDATE /* schema */river_queue
    SET
        paused_at = NULL,
        updated_at = CASE
            WHEN paused_at IS NOT NULL THEN /* controlled_at */
            ELSE updated_at
        END
    WHERE @name::text IN (name, '*')
    RETURNING name
),

/* notified_of_changed */;

-- name: queue_update
-- Replace a queue's metadata and notify clients; without metadata, only update `updated_at`.
WITH updated AS (
    UPDATE /* schema */river_queue AS queue
    SET
        metadata = coalesce(@metadata::text::jsonb, queue.metadata),
        updated_at = /* controlled_at */
    WHERE queue.name = @name
    RETURNING
        /* queue_columns */
),

notified AS MATERIALIZED (
    SELECT pg_notify(/* schema_name */ || '.river_control', @payload::text)
    FROM updated
    WHERE @metadata::text IS NOT NULL
)

SELECT
    name,
    created_at,
    metadata,
    paused_at,
    updated_at
FROM updated
WHERE (SELECT count(*) FROM notified) >= 0;

-- name: queue_delete_expired
-- Delete queues that no client has updated since the horizon.
WITH expired AS MATERIALIZED (
    SELECT name
    FROM /* schema */river_queue
    WHERE updated_at < @updated_at_horizon
    ORDER BY name
    LIMIT @limit::integer
)

DELETE FROM /* schema */river_queue AS queue
WHERE queue.name IN (SELECT name FROM expired)
AND queue.updated_at < @updated_at_horizon
RETURNING queue.name;
