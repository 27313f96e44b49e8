-- name: queue_list_names
-- Return names of queues after the last one seen: queues with a row, and queues that only waiting jobs name. A queue with
-- running jobs has a row, because a client works it; the index entries of running jobs are mostly dead.
-- Each step of the recursion reads one entry of the fetch index: the first of its state behind the last queue.
WITH RECURSIVE found (state, name, depth) AS (
    SELECT
        wanted.state,
        first.queue,
        1
    FROM unnest(
        ARRAY['available', 'pending', 'retryable', 'scheduled']::/* schema */river_job_state []
    ) AS wanted (state)
    CROSS JOIN LATERAL (
        SELECT job.queue
        FROM /* schema */river_job AS job
        WHERE job.state = wanted.state AND job.queue > @after_name::text
        ORDER BY job.queue
        LIMIT 1
    ) AS first
    UNION ALL
    SELECT
        found.state,
        next.queue,
        found.depth + 1
    FROM found
    CROSS JOIN LATERAL (
        SELECT job.queue
        FROM /* schema */river_job AS job
        WHERE job.state = found.state AND job.queue > found.name
        ORDER BY job.queue
        LIMIT 1
    ) AS next
    WHERE found.depth < @limit::integer
),

registered AS (
    SELECT queue.name
    FROM /* schema */river_queue AS queue
    WHERE queue.name > @after_name::text
    ORDER BY queue.name
    LIMIT @limit::integer
)

SELECT found.name
FROM found
UNION
SELECT registered.name
FROM registered
ORDER BY name
LIMIT @limit::integer;

-- name: queue_list_names_among
-- Return those of the given names, after the last one seen, that `queue_list_names` finds too.
SELECT DISTINCT wanted.name
FROM unnest(@names::text []) AS wanted (name)
CROSS JOIN LATERAL (
    SELECT 1
    FROM /* schema */river_queue AS queue
    WHERE queue.name = wanted.name
    UNION ALL
    SELECT 1
    FROM unnest(
        ARRAY['available', 'pending', 'retryable', 'scheduled']::/* schema */river_job_state []
    ) AS given (state)
    CROSS JOIN LATERAL (
        SELECT job.id
        FROM /* schema */river_job AS job
        WHERE job.state = given.state AND job.queue = wanted.name
        -- The order makes every plan read the index.
        ORDER BY job.priority
        LIMIT 1
    ) AS first
    LIMIT 1
) AS known
WHERE wanted.name > @after_name::text
ORDER BY wanted.name
LIMIT @limit::integer;

-- name: queue_get_loads
-- Return the row of each queue, if there is one, and its unfinished jobs: how many are in each state, counted up to a
-- limit, since when the oldest available job is due, and when the next scheduled or retryable one is.
-- Each of these reads a part of the fetch index that has a bound.
SELECT
    wanted.name,
    /* queue_row */,
    numbers.available,
    numbers.retryable,
    numbers.running,
    numbers.scheduled,
    oldest.scheduled_at AS oldest_available_at,
    upcoming.scheduled_at AS next_scheduled_at
FROM unnest(@names::text []) AS wanted (name)
LEFT JOIN /* schema */river_queue AS queue ON wanted.name = queue.name
CROSS JOIN LATERAL (
    SELECT
        max(counted.num) FILTER (WHERE state.name = 'available') AS available,
        max(counted.num) FILTER (WHERE state.name = 'retryable') AS retryable,
        max(counted.num) FILTER (WHERE state.name = 'running') AS running,
        max(counted.num) FILTER (WHERE state.name = 'scheduled') AS scheduled
    FROM unnest(ARRAY['available', 'retryable', 'running', 'scheduled']) AS state (name)
    CROSS JOIN LATERAL (
        SELECT count(*) AS num
        FROM (
            SELECT
            FROM /* schema */river_job AS job
            WHERE job.state = state.name::/* schema */river_job_state AND job.queue = wanted.name
            LIMIT @limit::integer
        ) AS jobs
    ) AS counted
) AS numbers
CROSS JOIN LATERAL (
    SELECT min(first.scheduled_at) AS scheduled_at
    FROM generate_series(1, 4) AS priority (number)
    CROSS JOIN LATERAL (
        SELECT greatest(least(job.scheduled_at, '9999-12-31Z'), '0001-01-01Z') AS scheduled_at
        FROM /* schema */river_job AS job
        WHERE job.state = 'available' AND job.queue = wanted.name AND job.priority = priority.number
        ORDER BY job.scheduled_at
        LIMIT 1
    ) AS first
) AS oldest
CROSS JOIN LATERAL (
    SELECT min(first.scheduled_at) AS scheduled_at
    FROM generate_series(1, 4) AS priority (number)
    CROSS JOIN unnest(ARRAY['retryable', 'scheduled']) AS state (name)
    CROSS JOIN LATERAL (
        SELECT greatest(least(job.scheduled_at, '9999-12-31Z'), '0001-01-01Z') AS scheduled_at
        FROM /* schema */river_job AS job
        WHERE job.state = state.name::/* schema */river_job_state
        AND job.queue = wanted.name
        AND job.priority = priority.number
        ORDER BY job.scheduled_at
        LIMIT 1
    ) AS first
) AS upcoming
ORDER BY wanted.name;

-- name: queue_get_due_kinds
-- Return the kinds among the first due jobs of each queue: how many of these jobs each has, and since when they are due.
SELECT
    wanted.name AS queue,
    due.kind,
    count(*) AS num_due,
    greatest(min(due.scheduled_at), '0001-01-01Z') AS oldest_at
FROM unnest(@names::text []) AS wanted (name)
CROSS JOIN LATERAL (
    SELECT
        job.kind,
        job.scheduled_at
    FROM /* schema */river_job AS job
    WHERE job.state = 'available'
    AND job.queue = wanted.name
    AND job.scheduled_at <= coalesce(@now::timestamptz, now())
    ORDER BY job.priority, job.scheduled_at, job.id
    LIMIT @limit::integer
) AS due
GROUP BY wanted.name, due.kind
ORDER BY wanted.name, num_due DESC, due.kind;

-- name: queue_get_newest_jobs
-- Return the newest jobs of a queue. The ids are the last of each state and priority by their schedule, which an index has;
-- by the primary key, a quiet queue would be searched in the whole table.
SELECT
    job.id,
    job.kind,
    job.state::text AS state,
    job.attempt,
    job.max_attempts,
    job.priority,
    greatest(least(job.created_at, '9999-12-31Z'), '0001-01-01Z') AS created_at,
    greatest(least(job.scheduled_at, '9999-12-31Z'), '0001-01-01Z') AS scheduled_at
FROM (
    SELECT newest.id
    FROM unnest(enum_range(NULL::/* schema */river_job_state)) AS state (value)
    CROSS JOIN generate_series(1, 4) AS priority (number)
    CROSS JOIN LATERAL (
        SELECT candidate.id
        FROM /* schema */river_job AS candidate
        WHERE candidate.state = state.value
        AND candidate.queue = @name
        AND candidate.priority = priority.number
        ORDER BY candidate.scheduled_at DESC, candidate.id DESC
        LIMIT @limit::integer
    ) AS newest
    ORDER BY newest.id DESC
    LIMIT @limit::integer
) AS picked
INNER JOIN /* schema */river_job AS job ON picked.id = job.id
ORDER BY job.id DESC;
