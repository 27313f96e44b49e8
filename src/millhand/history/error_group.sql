-- name: error_group_put_many
-- Write the errors of minutes by group; a minute that is written again keeps its larger number.
WITH given AS MATERIALIZED (
    SELECT *
    FROM unnest(
        @fingerprints::text [],
        @kinds::text [],
        @titles::text [],
        @sample_job_ids::bigint [],
        @minutes::timestamptz [],
        @nums::integer []
    ) AS item (fingerprint, kind, title, sample_job_id, began_at, num_errors)
),

grouped AS (
    INSERT INTO /* schema */millhand_error_group AS known (
        fingerprint, kind, title, sample_job_id, first_seen_at, last_seen_at
    )
    SELECT
        given.fingerprint,
        given.kind,
        min(given.title),
        max(given.sample_job_id),
        min(given.began_at),
        max(given.began_at)
    FROM given
    GROUP BY given.fingerprint, given.kind
    ORDER BY given.fingerprint, given.kind
    ON CONFLICT (fingerprint, kind) DO UPDATE SET
        sample_job_id = CASE WHEN excluded.last_seen_at < known.last_seen_at
            THEN known.sample_job_id ELSE excluded.sample_job_id
        END,
        first_seen_at = least(known.first_seen_at, excluded.first_seen_at),
        last_seen_at = greatest(known.last_seen_at, excluded.last_seen_at)
)

INSERT INTO /* schema */millhand_error_stats AS stats (step, began_at, fingerprint, kind, num_errors)
SELECT
    60,
    given.began_at,
    given.fingerprint,
    given.kind,
    given.num_errors
FROM given
ORDER BY given.began_at, given.fingerprint, given.kind
ON CONFLICT (step, fingerprint, kind, began_at) DO UPDATE SET num_errors = excluded.num_errors
WHERE excluded.num_errors > stats.num_errors;

-- name: error_stats_count_longer
-- Add up the errors of each longer interval.
INSERT INTO /* schema */millhand_error_stats AS stats (step, began_at, fingerprint, kind, num_errors)
SELECT
    @step::integer,
    longer.began_at,
    shorter.fingerprint,
    shorter.kind,
    sum(shorter.num_errors)
FROM unnest(@began_ats::timestamptz []) AS longer (began_at)
INNER JOIN /* schema */millhand_error_stats AS shorter
    ON shorter.step = @shorter_step::integer
    AND shorter.began_at >= longer.began_at
    AND shorter.began_at < longer.began_at + @step::integer * interval '1 second'
GROUP BY longer.began_at, shorter.fingerprint, shorter.kind
ORDER BY longer.began_at, shorter.fingerprint, shorter.kind
ON CONFLICT (step, fingerprint, kind, began_at) DO UPDATE SET num_errors = excluded.num_errors
WHERE excluded.num_errors > stats.num_errors;

-- name: error_group_list
-- Return groups that were seen since an instant, with their errors in some intervals, newest first.
SELECT
    seen.fingerprint,
    seen.kind,
    seen.title,
    seen.sample_job_id,
    seen.first_seen_at,
    seen.last_seen_at,
    ARRAY(
        SELECT coalesce(
            (
                SELECT stats.num_errors
                FROM /* schema */millhand_error_stats AS stats
                WHERE stats.step = @step::integer
                AND stats.fingerprint = seen.fingerprint
                AND stats.kind = seen.kind
                AND stats.began_at = item.began_at
            ),
            0
        )
        FROM unnest(@began_ats::timestamptz []) WITH ORDINALITY AS item (began_at, place)
        ORDER BY item.place
    ) AS trend
FROM (
    SELECT *
    FROM /* schema */millhand_error_group AS known
    WHERE known.last_seen_at >= @since::timestamptz
    AND (@kinds::text [] IS NULL OR known.kind = ANY(@kinds::text []))
    AND (@fingerprint::text IS NULL OR known.fingerprint = @fingerprint)
    ORDER BY known.last_seen_at DESC
    LIMIT @limit::integer
) AS seen
ORDER BY seen.last_seen_at DESC, seen.fingerprint, seen.kind;

-- name: job_list_retryable_errors
-- Return the last errors of jobs that wait for a retry, of each queue and priority those that are due first.
WITH RECURSIVE /* places */

SELECT
    job.id,
    job.kind,
    job.queue,
    left(job.errors[cardinality(job.errors)] ->> 'error', @characters::integer) AS error
FROM place
CROSS JOIN generate_series(1, 4) AS priority (number)
CROSS JOIN LATERAL (
    SELECT
        waiting.id,
        waiting.kind,
        waiting.queue,
        waiting.errors
    FROM /* schema */river_job AS waiting
    WHERE waiting.state = place.state
    AND waiting.queue = place.queue
    AND waiting.priority = priority.number
    ORDER BY waiting.scheduled_at
    LIMIT @limit::integer
) AS job
LIMIT @limit::integer;
