-- Statements of the testing kit alone.

-- fragment: may_be_worked
    -- The job is of a wanted kind and queue, and its queue is not paused.
    (@kinds::text[] IS NULL OR job.kind = any(@kinds::text[]))
    AND (@queues::text[] IS NULL OR job.queue = any(@queues::text[]))
    AND NOT job.queue = any(@excluded_queues::text[])
    AND NOT EXISTS (
        SELECT FROM /* schema */river_queue AS queue
        WHERE queue.name = job.queue AND queue.paused_at IS NOT NULL
    )

-- name: job_begin
-- Mark a job running, whatever its state, count the attempt, and merge metadata.
UPDATE /* schema */river_job AS job
SET
    state = 'running',
    attempt = job.attempt + 1,
    attempted_at = @now::timestamptz,
    attempted_by = array_append(job.attempted_by, @client_id::text),
    finalized_at = NULL,
    metadata = job.metadata || @metadata::text::jsonb
WHERE job.id = @id
RETURNING
    /* job_columns */;

-- name: job_get_next_queue
-- Return the unpaused queue whose next job has been due for longest.
SELECT job.queue
FROM /* schema */river_job AS job
WHERE
    job.state = 'available'
    AND job.scheduled_at <= coalesce(@now::timestamptz, now())
    AND /* may_be_worked */
ORDER BY job.scheduled_at, job.priority, job.id
LIMIT 1;

-- name: job_make_due
-- Make waiting jobs due: scheduled ones, ones that wait for a retry, or both.
UPDATE /* schema */river_job AS job
SET scheduled_at = coalesce(@now::timestamptz, now())
WHERE
    job.state IN ('available', 'retryable', 'scheduled')
    AND job.scheduled_at > coalesce(@now::timestamptz, now())
    AND (@queues::text[] IS NULL OR job.queue = any(@queues::text[]))
    AND CASE
        WHEN job.state = 'retryable' OR (job.state = 'available' AND job.errors IS NOT NULL)
            THEN @retryable::boolean
        ELSE @scheduled::boolean
    END
RETURNING job.id;

-- name: leader_get_work
-- Return of which kinds there is work for the leader: limits, flows, schedules, jobs that are due, and discarded jobs
-- without a dead letter.
SELECT
    (
        EXISTS (SELECT FROM /* schema */millhand_limit)
        OR EXISTS (SELECT FROM /* schema */millhand_limited_job)
        OR EXISTS (
            SELECT FROM /* schema */river_queue AS queue
            WHERE queue.metadata -> 'concurrency' NOT IN ('null', '{}')
        )
    ) AS has_limits,
    EXISTS (SELECT FROM /* schema */millhand_flow) AS has_flows,
    EXISTS (SELECT FROM /* schema */millhand_schedule) AS has_schedules,
    EXISTS (
        SELECT FROM /* schema */river_job AS job
        WHERE job.state IN ('retryable', 'scheduled')
        AND job.scheduled_at <= coalesce(@now::timestamptz, now())
    ) AS has_due,
    EXISTS (
        SELECT FROM /* schema */river_job AS job
        WHERE job.state = 'discarded'
        AND job.finalized_at IS NOT NULL
        AND NOT EXISTS (
            SELECT FROM /* schema */millhand_dead_job AS dead
            WHERE dead.id = job.id AND dead.finalized_at = job.finalized_at
        )
    ) AS has_discarded;

-- name: job_next_instant
-- Return the instant at which the next job is due, after one instant and up to another.
SELECT min(job.scheduled_at) AS next_instant
FROM /* schema */river_job AS job
WHERE
    job.state IN ('available', 'retryable', 'scheduled')
    AND job.scheduled_at > @after::timestamptz
    AND job.scheduled_at <= @until::timestamptz;

-- name: limited_job_get_next_queue
-- Return the unpaused queue whose next job has been due for longest, also if the job waits for a slot of a limit.
SELECT job.queue
FROM /* schema */river_job AS job
WHERE
    job.scheduled_at <= coalesce(@now::timestamptz, now())
    AND (
        job.state = 'available'
        OR (
            job.state = 'pending'
            AND EXISTS (
                SELECT FROM /* schema */millhand_limited_job AS limited
                WHERE limited.job_id = job.id AND limited.admitted_at IS NULL
            )
        )
    )
    AND /* may_be_worked */
ORDER BY job.scheduled_at, job.priority, job.id
LIMIT 1;

-- name: limit_next_instant
-- Return the next instant at which a partition opens or a waiting job is due, after one instant and up to another.
SELECT min(moment.instant) AS next_instant
FROM (
    SELECT opens_at AS instant FROM /* schema */millhand_limit_partition
    UNION ALL
    SELECT held_until AS instant FROM /* schema */millhand_limit_partition
    UNION ALL
    SELECT due_at AS instant FROM /* schema */millhand_limited_job WHERE is_later
) AS moment
WHERE moment.instant > @after::timestamptz AND moment.instant <= @until::timestamptz;
