-- name: queue_depth_record
-- Record the number of jobs of each queue by state, each counted up to a limit. A minute is recorded once.
-- Return what was recorded of each queue, and of all together.
WITH RECURSIVE /* places */,

counted AS MATERIALIZED (
    SELECT
        place.state,
        place.queue,
        (
            SELECT count(*)
            FROM (
                SELECT
                FROM /* schema */river_job AS job
                WHERE job.state = place.state AND job.queue = place.queue
                LIMIT @limit::integer + 1
            ) AS first
        ) AS num,
        CASE WHEN place.state = 'available' THEN (
            SELECT min(first.scheduled_at)
            FROM generate_series(1, 4) AS priority (number)
            CROSS JOIN LATERAL (
                SELECT job.scheduled_at
                FROM /* schema */river_job AS job
                WHERE job.state = 'available' AND job.queue = place.queue AND job.priority = priority.number
                ORDER BY job.scheduled_at
                LIMIT 1
            ) AS first
        ) END AS oldest_at
    FROM place
),

given AS (
    SELECT coalesce(@now::timestamptz, now()) AS at
)

INSERT INTO /* schema */millhand_queue_depth (
    step, began_at, queue, available, running, retryable, scheduled, oldest_ms, is_capped
)
SELECT
    60,
    date_trunc('minute', given.at),
    label.queue,
    coalesce(sum(least(counted.num, @limit)) FILTER (WHERE counted.state = 'available'), 0),
    coalesce(sum(least(counted.num, @limit)) FILTER (WHERE counted.state = 'running'), 0),
    coalesce(sum(least(counted.num, @limit)) FILTER (WHERE counted.state = 'retryable'), 0),
    coalesce(sum(least(counted.num, @limit)) FILTER (WHERE counted.state = 'scheduled'), 0),
    -- A job's row may have any instant; a job made available by a leader is due within seconds.
    coalesce(
        max(1000 * date_part('epoch', given.at - least(greatest(counted.oldest_at, given.at - interval '1 year'), given.at)))
            FILTER (WHERE counted.oldest_at IS NOT NULL),
        0
    ),
    bool_or(counted.num > @limit)
FROM counted
CROSS JOIN given
CROSS JOIN LATERAL (VALUES (counted.queue), ('*')) AS label (queue)
GROUP BY given.at, label.queue
ORDER BY label.queue
ON CONFLICT DO NOTHING
RETURNING queue, oldest_ms, available;

-- name: queue_depth_count_longer
-- Write the largest numbers of each longer interval.
INSERT INTO /* schema */millhand_queue_depth AS depth (
    step, began_at, queue, available, running, retryable, scheduled, oldest_ms, is_capped
)
SELECT
    @step::integer,
    longer.began_at,
    shorter.queue,
    max(shorter.available),
    max(shorter.running),
    max(shorter.retryable),
    max(shorter.scheduled),
    max(shorter.oldest_ms),
    bool_or(shorter.is_capped)
FROM unnest(@began_ats::timestamptz []) AS longer (began_at)
INNER JOIN /* schema */millhand_queue_depth AS shorter
    ON shorter.step = @shorter_step::integer
    AND shorter.began_at >= longer.began_at
    AND shorter.began_at < longer.began_at + @step::integer * interval '1 second'
GROUP BY longer.began_at, shorter.queue
ORDER BY longer.began_at, shorter.queue
ON CONFLICT (step, queue, began_at) DO UPDATE SET
    available = greatest(depth.available, excluded.available),
    running = greatest(depth.running, excluded.running),
    retryable = greatest(depth.retryable, excluded.retryable),
    scheduled = greatest(depth.scheduled, excluded.scheduled),
    oldest_ms = greatest(depth.oldest_ms, excluded.oldest_ms),
    is_capped = depth.is_capped OR excluded.is_capped;

-- fragment: depth_columns
    depth.began_at,
    depth.queue,
    depth.available,
    depth.running,
    depth.retryable,
    depth.scheduled,
    depth.oldest_ms,
    depth.is_capped

-- name: queue_depth_list
-- Return one queue's depths, oldest first.
SELECT
    /* depth_columns */
FROM /* schema */millhand_queue_depth AS depth
WHERE depth.step = @step::integer
AND depth.queue = @queue
AND depth.began_at >= @since::timestamptz
AND depth.began_at < @until::timestamptz
ORDER BY depth.began_at
LIMIT @limit::integer;

-- name: queue_depth_list_at
-- Return the depths of some queues in some intervals.
SELECT
    /* depth_columns */
FROM unnest(@queues::text []) AS wanted (name)
CROSS JOIN unnest(@began_ats::timestamptz []) AS given (began_at)
INNER JOIN /* schema */millhand_queue_depth AS depth
    ON depth.step = @step::integer
    AND depth.queue = wanted.name
    AND depth.began_at = given.began_at
ORDER BY depth.began_at, depth.queue;
