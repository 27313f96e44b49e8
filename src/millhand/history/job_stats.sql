-- Attempts that ended, by minute and hour. A minute is counted as a whole and written over, so that it may be counted twice.
-- All statements write rows in one order, so that two writers do not lock each other out.

-- fragment: places
-- Each queue that has jobs in one of the states, found in the index without reading these jobs.
place (state, queue) AS (
    SELECT
        given.state,
        first.queue
    FROM unnest(@states::text []::/* schema */river_job_state []) AS given (state)
    /* first_queue */
    UNION ALL
    SELECT
        place.state,
        next.queue
    FROM place
    /* next_queue */
)

-- fragment: in_order
-- The order and the limit make every plan read one range of the index.
        ORDER BY finished.finalized_at
        LIMIT @jobs_max::integer

-- fragment: attempt_errors
-- The errors of attempts, by the minute in which the attempt began, or for the last attempt of a finished job, in which
-- it ended. That is what the rows show. Read are jobs that finished within a range, and unfinished jobs that are due since
-- then: one that failed is due later than it failed. Of finished jobs, one in `stride` is read.
label AS MATERIALIZED (
    SELECT
        minute.began_at,
        -- As Go and Python write the instant of an error, which is compared as text: a cast could raise.
        to_char(minute.began_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI') AS text
    FROM generate_series(@errors_since::timestamptz, @counts_to::timestamptz - interval '1 minute', interval '1 minute')
        AS minute (began_at)
),

attempt_error AS MATERIALIZED (
    SELECT
        coalesce(found.ended_at, label.began_at) AS began_at,
        found.id,
        found.kind,
        found.queue,
        found.num,
        found.error,
        found.ended_at IS NULL AS is_retried
    FROM (
        SELECT
            job.id,
            job.kind,
            job.queue,
            @stride::bigint AS num,
            item.error,
            CASE WHEN (item.error -> 'attempt') >= to_jsonb(job.attempt)
                THEN date_trunc('minute', job.finalized_at)
            END AS ended_at
        FROM unnest('{cancelled,completed,discarded}'::/* schema */river_job_state []) AS outcome (state)
        CROSS JOIN LATERAL (
            SELECT ended.*
            FROM (
                SELECT
                    finished.id,
                    finished.kind,
                    finished.queue,
                    finished.attempt,
                    finished.errors,
                    finished.finalized_at
                FROM /* schema */river_job AS finished
                WHERE finished.state = outcome.state
                AND finished.finalized_at >= @since::timestamptz
                AND finished.finalized_at < @until::timestamptz
                /* in_order */
            ) AS ended
            WHERE ended.errors IS NOT NULL AND abs(hashint8(ended.id) % @stride::integer) < 1
        ) AS job
        CROSS JOIN LATERAL unnest(job.errors) AS item (error)
        UNION ALL
        SELECT
            job.id,
            job.kind,
            job.queue,
            1 AS num,
            item.error,
            NULL AS ended_at
        FROM place
        CROSS JOIN generate_series(1, 4) AS priority (number)
        CROSS JOIN LATERAL (
            SELECT waiting.*
            FROM (
                SELECT
                    unfinished.id,
                    unfinished.kind,
                    unfinished.queue,
                    unfinished.errors,
                    unfinished.attempted_at
                FROM /* schema */river_job AS unfinished
                WHERE unfinished.state = place.state
                AND unfinished.queue = place.queue
                AND unfinished.priority = priority.number
                AND unfinished.scheduled_at >= @since::timestamptz
                ORDER BY unfinished.scheduled_at
                LIMIT @limit::integer
            ) AS waiting
            -- The errors of jobs that failed long ago are not read again.
            WHERE waiting.errors IS NOT NULL AND waiting.attempted_at >= @errors_since::timestamptz
        ) AS job
        CROSS JOIN LATERAL unnest(job.errors) AS item (error)
    ) AS found
    LEFT JOIN label ON left(found.error ->> 'at', 16) = label.text AND right(found.error ->> 'at', 1) = 'Z'
    WHERE found.ended_at < @counts_to::timestamptz OR (found.ended_at IS NULL AND label.began_at IS NOT NULL)
)

-- fragment: stats_insert
INSERT INTO /* schema */millhand_job_stats AS stats (
    step, began_at, kind, queue, completed, cancelled, discarded, failed, wait_ms, run_ms, waits, runs, share
)

-- fragment: new_durations
    wait_ms = excluded.wait_ms,
    run_ms = excluded.run_ms,
    waits = excluded.waits,
    runs = excluded.runs

-- name: job_stats_get_uncounted
-- Return the minutes that are not counted, or in which more jobs finished than were counted, each with those of its jobs
-- that have a row.
SELECT
    minute.began_at,
    finished.num_jobs
FROM generate_series(@since::timestamptz, @until::timestamptz - interval '1 minute', interval '1 minute')
    AS minute (began_at)
CROSS JOIN LATERAL (
    SELECT count(*) AS num_jobs
    FROM /* schema */river_job AS job
    WHERE job.state IN ('cancelled', 'completed', 'discarded')
    AND job.finalized_at >= minute.began_at
    AND job.finalized_at < minute.began_at + interval '1 minute'
) AS finished
CROSS JOIN LATERAL (
    SELECT coalesce(sum(stats.completed), 0) AS num_jobs
    FROM /* schema */millhand_deleted_job_stats AS stats
    WHERE stats.began_at = minute.began_at
) AS deleted
LEFT JOIN /* schema */millhand_job_stats AS stats
    ON stats.step = 60
    AND stats.kind = '*'
    AND stats.queue = '*'
    AND stats.began_at = minute.began_at
WHERE minute.began_at >= @counted_to::timestamptz
OR finished.num_jobs + deleted.num_jobs > coalesce(stats.completed + stats.cancelled + stats.discarded, 0)
-- A minute that was estimated is not counted again.
AND coalesce(stats.share, 1) = 1
ORDER BY minute.began_at;

-- name: job_stats_count_minutes
-- Count the jobs that finished within each of the minutes, and those that clients deleted when they completed.
-- Grouped twice: by buckets, and then into histograms, which is several times faster than a filter for each bucket.
WITH cell AS (
    SELECT
        minute.began_at,
        job.kind,
        job.queue,
        job.state::text AS outcome,
        1 + width_bucket(duration.wait_ms, @bounds_ms::float8 []) AS wait_bucket,
        1 + width_bucket(duration.run_ms, @bounds_ms::float8 []) AS run_bucket,
        count(*) * @stride::integer AS num,
        sum(duration.wait_ms) * @stride::integer AS wait_ms,
        sum(duration.run_ms) * @stride::integer AS run_ms
    FROM unnest(@minutes::timestamptz []) AS minute (began_at)
    CROSS JOIN unnest('{cancelled,completed,discarded}'::/* schema */river_job_state []) AS outcome (state)
    CROSS JOIN LATERAL (
        SELECT
            finished.id,
            -- Grouping sorts faster in this order.
            finished.kind COLLATE "C" AS kind,
            finished.queue COLLATE "C" AS queue,
            finished.state,
            finished.finalized_at,
            finished.scheduled_at,
            -- Bounded: any program may have written the row, and PostgreSQL raises for instants beyond its calendar.
            -- The job of a cancelled attempt may have waited for its cancellation, so it has no duration.
            CASE WHEN finished.state <> 'cancelled' AND finished.attempted_at IS NOT NULL
                THEN least(
                    greatest(finished.attempted_at, finished.finalized_at - interval '30 days'), finished.finalized_at
                )
            END AS fetched_at
        FROM /* schema */river_job AS finished
        WHERE finished.state = outcome.state
        AND finished.finalized_at >= minute.began_at
        AND finished.finalized_at < minute.began_at + interval '1 minute'
        /* in_order */
    ) AS job
    CROSS JOIN LATERAL (
        SELECT
            1000 * date_part('epoch', job.fetched_at - CASE WHEN job.fetched_at IS NOT NULL
                THEN least(greatest(job.scheduled_at, job.fetched_at - interval '30 days'), job.fetched_at)
            END) AS wait_ms,
            1000 * date_part('epoch', job.finalized_at - job.fetched_at) AS run_ms
    ) AS duration
    WHERE abs(hashint8(job.id) % @stride::integer) < 1
    GROUP BY run_bucket, wait_bucket, job.state, job.kind, job.queue, minute.began_at
),

-- Each cell also counts for the sums over all kinds and all queues.
part AS MATERIALIZED (
    SELECT
        cell.began_at,
        label.kind,
        label.queue,
        cell.outcome,
        cell.wait_bucket,
        cell.run_bucket,
        sum(cell.num) AS num,
        sum(cell.wait_ms) AS wait_ms,
        sum(cell.run_ms) AS run_ms
    FROM cell
    CROSS JOIN LATERAL (
        VALUES (cell.kind, cell.queue), (cell.kind, '*'), ('*', cell.queue), ('*', '*')
    ) AS label (kind, queue)
    GROUP BY
        cell.began_at, label.kind, label.queue, cell.outcome, cell.wait_bucket, cell.run_bucket
),

deleted AS MATERIALIZED (
    SELECT
        stats.began_at,
        label.kind,
        label.queue,
        stats.completed,
        stats.wait_ms,
        stats.run_ms,
        stats.waits,
        stats.runs
    FROM unnest(@minutes::timestamptz []) AS minute (began_at)
    INNER JOIN /* schema */millhand_deleted_job_stats AS stats USING (began_at)
    CROSS JOIN LATERAL (
        VALUES
        (stats.kind COLLATE "C", stats.queue COLLATE "C"),
        (stats.kind COLLATE "C", '*'),
        ('*', stats.queue COLLATE "C"),
        ('*', '*')
    ) AS label (kind, queue)
),

total AS MATERIALIZED (
    SELECT
        summed.began_at,
        summed.kind,
        summed.queue,
        coalesce(sum(summed.num) FILTER (WHERE summed.outcome = 'completed'), 0) AS completed,
        coalesce(sum(summed.num) FILTER (WHERE summed.outcome = 'cancelled'), 0) AS cancelled,
        coalesce(sum(summed.num) FILTER (WHERE summed.outcome = 'discarded'), 0) AS discarded,
        coalesce(sum(summed.wait_ms), 0) AS wait_ms,
        coalesce(sum(summed.run_ms), 0) AS run_ms
    FROM (
        SELECT
            part.began_at,
            part.kind,
            part.queue,
            part.outcome,
            part.num,
            part.wait_ms,
            part.run_ms
        FROM part
        UNION ALL
        SELECT
            deleted.began_at,
            deleted.kind,
            deleted.queue,
            'completed',
            deleted.completed,
            deleted.wait_ms,
            deleted.run_ms
        FROM deleted
    ) AS summed
    GROUP BY summed.began_at, summed.kind, summed.queue
),

filled AS (
    SELECT
        part.began_at,
        part.kind,
        part.queue,
        part.wait_bucket AS bucket,
        part.num AS wait_num,
        0 AS run_num
    FROM part
    WHERE part.wait_bucket IS NOT NULL
    UNION ALL
    SELECT
        part.began_at,
        part.kind,
        part.queue,
        part.run_bucket,
        0,
        part.num
    FROM part
    WHERE part.run_bucket IS NOT NULL
    UNION ALL
    SELECT
        deleted.began_at,
        deleted.kind,
        deleted.queue,
        bucket.number,
        coalesce(bucket.wait_num, 0),
        coalesce(bucket.run_num, 0)
    FROM deleted
    CROSS JOIN LATERAL unnest(deleted.waits, deleted.runs) WITH ORDINALITY AS bucket (wait_num, run_num, number)
    UNION ALL
    SELECT
        total.began_at,
        total.kind,
        total.queue,
        bucket.number,
        0,
        0
    FROM total
    CROSS JOIN generate_series(1, 1 + cardinality(@bounds_ms::float8 [])) AS bucket (number)
),

histogram AS (
    SELECT
        bucket.began_at,
        bucket.kind,
        bucket.queue,
        (array_agg(bucket.wait_num ORDER BY bucket.bucket))[
            1:coalesce(max(bucket.bucket) FILTER (WHERE bucket.wait_num > 0), 0)
        ] AS waits,
        (array_agg(bucket.run_num ORDER BY bucket.bucket))[
            1:coalesce(max(bucket.bucket) FILTER (WHERE bucket.run_num > 0), 0)
        ] AS runs
    FROM (
        SELECT
            filled.began_at,
            filled.kind,
            filled.queue,
            filled.bucket,
            sum(filled.wait_num)::integer AS wait_num,
            sum(filled.run_num)::integer AS run_num
        FROM filled
        GROUP BY filled.began_at, filled.kind, filled.queue, filled.bucket
    ) AS bucket
    GROUP BY bucket.began_at, bucket.kind, bucket.queue
)

/* stats_insert */
SELECT
    60,
    total.began_at,
    total.kind,
    total.queue,
    total.completed,
    total.cancelled,
    total.discarded,
    0,
    total.wait_ms,
    total.run_ms,
    histogram.waits,
    histogram.runs,
    1.0 / @stride::integer
FROM total
INNER JOIN histogram USING (began_at, kind, queue)
ORDER BY total.began_at, total.kind, total.queue
ON CONFLICT (step, kind, queue, began_at) DO UPDATE SET
    completed = excluded.completed,
    cancelled = excluded.cancelled,
    discarded = excluded.discarded,
    /* new_durations */,
    share = excluded.share
-- Fewer jobs than before: they were deleted or retried since, but they did finish.
WHERE excluded.completed + excluded.cancelled + excluded.discarded
> stats.completed + stats.cancelled + stats.discarded;

-- name: job_stats_count_failed
-- Count the attempts that failed and are retried. Return the newest errors of the minutes that are counted or changed, also
-- of attempts that are not retried, each with the number of all errors of its minute.
WITH RECURSIVE /* places */,

/* attempt_errors */,

written AS (
    /* stats_insert */
    SELECT
        60,
        attempt_error.began_at,
        label.kind,
        label.queue,
        0,
        0,
        0,
        sum(attempt_error.num),
        0,
        0,
        '{}',
        '{}',
        1
    FROM attempt_error
    CROSS JOIN LATERAL (
        VALUES
        (attempt_error.kind, attempt_error.queue),
        (attempt_error.kind, '*'),
        ('*', attempt_error.queue),
        ('*', '*')
    ) AS label (kind, queue)
    WHERE attempt_error.is_retried
    GROUP BY attempt_error.began_at, label.kind, label.queue
    ORDER BY attempt_error.began_at, label.kind COLLATE "C", label.queue COLLATE "C"
    ON CONFLICT (step, kind, queue, began_at) DO UPDATE SET failed = excluded.failed
    WHERE excluded.failed > stats.failed
    RETURNING stats.began_at
)

SELECT
    attempt_error.began_at,
    attempt_error.kind,
    attempt_error.id,
    left(attempt_error.error ->> 'error', @characters::integer) AS error,
    (sum(attempt_error.num) OVER (PARTITION BY attempt_error.began_at))::bigint AS num_errors
FROM attempt_error
WHERE attempt_error.began_at >= @since::timestamptz
OR attempt_error.began_at IN (SELECT written.began_at FROM written)
ORDER BY attempt_error.began_at DESC, hashint8(attempt_error.id)
LIMIT @errors_max::integer;

-- fragment: total_numbers
    total.completed,
    total.cancelled,
    total.discarded,
    total.failed,
    total.wait_ms,
    total.run_ms

-- name: job_stats_count_longer
-- Add up the shorter intervals of each longer one.
WITH shorter AS MATERIALIZED (
    SELECT
        longer.began_at AS longer_at,
        stats.*
    FROM unnest(@began_ats::timestamptz []) AS longer (began_at)
    INNER JOIN /* schema */millhand_job_stats AS stats
        ON stats.step = @shorter_step::integer
        AND stats.began_at >= longer.began_at
        AND stats.began_at < longer.began_at + @step::integer * interval '1 second'
),

histogram AS (
    SELECT
        bucket.longer_at,
        bucket.kind,
        bucket.queue,
        (array_agg(bucket.wait_num ORDER BY bucket.number))[
            1:coalesce(max(bucket.number) FILTER (WHERE bucket.wait_num > 0), 0)
        ] AS waits,
        (array_agg(bucket.run_num ORDER BY bucket.number))[
            1:coalesce(max(bucket.number) FILTER (WHERE bucket.run_num > 0), 0)
        ] AS runs
    FROM (
        SELECT
            shorter.longer_at,
            shorter.kind,
            shorter.queue,
            item.number,
            coalesce(sum(item.wait_num), 0)::integer AS wait_num,
            coalesce(sum(item.run_num), 0)::integer AS run_num
        FROM shorter
        CROSS JOIN LATERAL unnest(shorter.waits, shorter.runs) WITH ORDINALITY AS item (wait_num, run_num, number)
        GROUP BY shorter.longer_at, shorter.kind, shorter.queue, item.number
    ) AS bucket
    GROUP BY bucket.longer_at, bucket.kind, bucket.queue
)

/* stats_insert */
SELECT
    @step::integer,
    total.longer_at,
    total.kind,
    total.queue,
    /* total_numbers */,
    coalesce(histogram.waits, '{}'),
    coalesce(histogram.runs, '{}'),
    total.share
FROM (
    SELECT
        shorter.longer_at,
        shorter.kind,
        shorter.queue,
        sum(shorter.completed) AS completed,
        sum(shorter.cancelled) AS cancelled,
        sum(shorter.discarded) AS discarded,
        sum(shorter.failed) AS failed,
        sum(shorter.wait_ms) AS wait_ms,
        sum(shorter.run_ms) AS run_ms,
        min(shorter.share) AS share
    FROM shorter
    GROUP BY shorter.longer_at, shorter.kind, shorter.queue
) AS total
LEFT JOIN histogram
    ON histogram.longer_at = total.longer_at AND histogram.kind = total.kind AND histogram.queue = total.queue
ORDER BY total.longer_at, total.kind COLLATE "C", total.queue COLLATE "C"
ON CONFLICT (step, kind, queue, began_at) DO UPDATE SET
    completed = excluded.completed,
    cancelled = excluded.cancelled,
    discarded = excluded.discarded,
    failed = excluded.failed,
    /* new_durations */,
    share = excluded.share
-- Fewer than before: some of the shorter intervals are gone.
WHERE excluded.completed + excluded.cancelled + excluded.discarded + excluded.failed
> stats.completed + stats.cancelled + stats.discarded + stats.failed;

-- fragment: stats_columns
    stats.began_at,
    stats.kind,
    stats.queue,
    stats.completed,
    stats.cancelled,
    stats.discarded,
    stats.failed,
    stats.wait_ms,
    stats.run_ms,
    stats.waits,
    stats.runs,
    stats.share

-- name: job_stats_list
-- Return the intervals of one kind and queue, oldest first.
SELECT
    /* stats_columns */
FROM /* schema */millhand_job_stats AS stats
WHERE stats.step = @step::integer
AND stats.kind = @kind
AND stats.queue = @queue
AND stats.began_at >= @since::timestamptz
AND stats.began_at < @until::timestamptz
ORDER BY stats.began_at
LIMIT @limit::integer;

-- name: job_stats_list_sums
-- Return the sums of the intervals of some kinds in some queues, oldest first.
WITH part AS MATERIALIZED (
    SELECT
        /* stats_columns */
    FROM unnest(@kinds::text []) AS kind (name)
    CROSS JOIN unnest(@queues::text []) AS queue (name)
    INNER JOIN /* schema */millhand_job_stats AS stats
        ON stats.step = @step::integer
        AND stats.kind = kind.name
        AND stats.queue = queue.name
        AND stats.began_at >= @since::timestamptz
        AND stats.began_at < @until::timestamptz
),

total AS (
    SELECT
        part.began_at,
        sum(part.completed) AS completed,
        sum(part.cancelled) AS cancelled,
        sum(part.discarded) AS discarded,
        sum(part.failed) AS failed,
        sum(part.wait_ms)::bigint AS wait_ms,
        sum(part.run_ms)::bigint AS run_ms,
        min(part.share) AS share
    FROM part
    GROUP BY part.began_at
),

histogram AS (
    SELECT
        bucket.began_at,
        array_agg(bucket.wait_num ORDER BY bucket.number) AS waits,
        array_agg(bucket.run_num ORDER BY bucket.number) AS runs
    FROM (
        SELECT
            part.began_at,
            item.number,
            coalesce(sum(item.wait_num), 0) AS wait_num,
            coalesce(sum(item.run_num), 0) AS run_num
        FROM part
        CROSS JOIN LATERAL unnest(part.waits, part.runs) WITH ORDINALITY AS item (wait_num, run_num, number)
        GROUP BY part.began_at, item.number
    ) AS bucket
    GROUP BY bucket.began_at
)

SELECT
    total.began_at,
    '*' AS kind,
    '*' AS queue,
    /* total_numbers */,
    coalesce(histogram.waits, '{}') AS waits,
    coalesce(histogram.runs, '{}') AS runs,
    total.share
FROM total
LEFT JOIN histogram USING (began_at)
ORDER BY total.began_at
LIMIT @limit::integer;

-- fragment: known_kinds
-- The kinds that have intervals, from a loose index scan.
known (kind) AS (
    (
        SELECT stats.kind
        FROM /* schema */millhand_job_stats AS stats
        WHERE stats.step = @step::integer
        ORDER BY stats.kind
        LIMIT 1
    )
    UNION ALL
    SELECT next.kind
    FROM known
    CROSS JOIN LATERAL (
        SELECT stats.kind
        FROM /* schema */millhand_job_stats AS stats
        WHERE stats.step = @step::integer AND stats.kind > known.kind
        ORDER BY stats.kind
        LIMIT 1
    ) AS next
)

-- fragment: given_intervals
-- Some intervals of every known kind, in one queue or in all.
FROM known
CROSS JOIN unnest(@began_ats::timestamptz []) AS given (began_at)
INNER JOIN /* schema */millhand_job_stats AS stats
    ON stats.step = @step::integer
    AND stats.kind = known.kind
    AND stats.queue = @queue
    AND stats.began_at = given.began_at
WHERE known.kind <> '*'
LIMIT @limit::integer

-- name: job_stats_list_by_kind
-- Return some intervals of every kind, in one queue or in all.
WITH RECURSIVE /* known_kinds */

SELECT
    /* stats_columns */
/* given_intervals */;

-- name: job_stats_count_by_kind
-- Return how many attempts some intervals have, and how many of them failed, of every kind in one queue or in all.
WITH RECURSIVE /* known_kinds */

SELECT
    found.kind,
    sum(found.num_attempts)::bigint AS num_attempts,
    sum(found.num_errors)::bigint AS num_errors
FROM (
    SELECT
        stats.kind,
        stats.completed + stats.cancelled + stats.discarded + stats.failed AS num_attempts,
        stats.discarded + stats.failed AS num_errors
    /* given_intervals */
) AS found
GROUP BY found.kind;

-- name: job_stats_list_of_kinds
-- Return some intervals of some kinds, in one queue or in all.
WITH known AS (SELECT unnest(@kinds::text []) AS kind)

SELECT
    /* stats_columns */
/* given_intervals */;

-- name: job_stats_list_by_queue
-- Return some intervals of every queue, of one kind or of all.
WITH RECURSIVE known (queue) AS (
    (
        SELECT stats.queue
        FROM /* schema */millhand_job_stats AS stats
        WHERE stats.step = @step::integer AND stats.kind = @kind
        ORDER BY stats.queue
        LIMIT 1
    )
    UNION ALL
    SELECT next.queue
    FROM known
    CROSS JOIN LATERAL (
        SELECT stats.queue
        FROM /* schema */millhand_job_stats AS stats
        WHERE stats.step = @step::integer AND stats.kind = @kind AND stats.queue > known.queue
        ORDER BY stats.queue
        LIMIT 1
    ) AS next
)

SELECT
    /* stats_columns */
FROM known
CROSS JOIN unnest(@began_ats::timestamptz []) AS given (began_at)
INNER JOIN /* schema */millhand_job_stats AS stats
    ON stats.step = @step::integer
    AND stats.kind = @kind
    AND stats.queue = known.queue
    AND stats.began_at = given.began_at
WHERE known.queue <> '*'
LIMIT @limit::integer;

-- name: job_stats_count_by_queue
-- Return how many jobs finished and how many attempts ended in some intervals, of each of some queues.
SELECT
    stats.queue,
    sum(stats.completed + stats.cancelled + stats.discarded) AS num_finished,
    sum(stats.completed + stats.cancelled + stats.discarded + stats.failed) AS num_attempts
FROM unnest(@queues::text []) AS wanted (name)
CROSS JOIN unnest(@began_ats::timestamptz []) AS given (began_at)
INNER JOIN /* schema */millhand_job_stats AS stats
    ON stats.step = @step::integer
    AND stats.kind = '*'
    AND stats.queue = wanted.name
    AND stats.began_at = given.began_at
GROUP BY stats.queue;
