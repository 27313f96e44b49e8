-- name: limit_get_shape
-- Return whether the tables of limits are there, with the columns of migration 14 of line millhand, and may be read.
SELECT
    coalesce(bool_and(has_table_privilege(to_regclass(named.table_name), 'SELECT')), FALSE)
    AND EXISTS (
        SELECT
        FROM pg_attribute AS attribute
        WHERE attribute.attrelid = to_regclass('/* schema */millhand_limit')
        AND attribute.attname = 'halt'
        AND NOT attribute.attisdropped
    ) AS is_there
FROM (
    VALUES
    ('/* schema */millhand_limit'),
    ('/* schema */millhand_limit_partition'),
    ('/* schema */millhand_limited_job')
) AS named (table_name)
HAVING bool_and(to_regclass(named.table_name) IS NOT NULL);

-- name: limit_count_jobs
-- Return, for those of the queues that have a limit, how many jobs wait for a slot, have one, and wait for their time.
-- Each number reads a part of an index that has a bound. The order is that of the index: without it, the planner expects
-- as many jobs of each queue, and may read the whole table for a queue that has few.
SELECT
    queue_limit.queue,
    waiting.num,
    admitted.num,
    later.num
FROM /* schema */millhand_limit AS queue_limit
CROSS JOIN LATERAL (
    SELECT count(*) AS num
    FROM (
        SELECT
        FROM /* schema */millhand_limited_job AS limited
        WHERE limited.queue = queue_limit.queue AND limited.admitted_at IS NULL AND NOT limited.is_later
        ORDER BY limited.partition_key
        LIMIT @counted_max::integer + 1
    ) AS jobs
) AS waiting
CROSS JOIN LATERAL (
    SELECT count(*) AS num
    FROM (
        SELECT
        FROM /* schema */millhand_limited_job AS limited
        WHERE limited.queue = queue_limit.queue AND limited.admitted_at IS NOT NULL
        ORDER BY limited.job_id
        LIMIT @counted_max::integer + 1
    ) AS jobs
) AS admitted
CROSS JOIN LATERAL (
    SELECT count(*) AS num
    FROM (
        SELECT
        FROM /* schema */millhand_limited_job AS limited
        WHERE limited.queue = queue_limit.queue AND limited.is_later
        ORDER BY limited.due_at
        LIMIT @counted_max::integer + 1
    ) AS jobs
) AS later
WHERE queue_limit.queue = ANY(@names::text [])
ORDER BY queue_limit.queue;

-- name: limit_get_due_kinds
-- Return the kinds of the jobs that are next in the open partitions of each queue, those whose turn comes first: how many
-- each has, and since when they are due. A partition is not open while its slots are taken or a hold or a rate closes it.
SELECT
    part.queue,
    next.kind,
    count(*) AS num_due,
    least(greatest(min(next.scheduled_at), '0001-01-01Z'), '9999-12-31Z') AS oldest_at
FROM unnest(@names::text []) AS wanted (name)
CROSS JOIN LATERAL (
    SELECT
        first.queue,
        first.partition_key
    FROM /* schema */millhand_limit_partition AS first
    WHERE first.queue = wanted.name
    AND first.is_open
    AND EXISTS (SELECT FROM /* schema */millhand_limit AS queue_limit WHERE queue_limit.queue = wanted.name)
    ORDER BY first.turn
    LIMIT @limit::integer
) AS part
CROSS JOIN LATERAL (
    SELECT limited.job_id
    /* waiting_in_part */
    ORDER BY limited.priority, limited.due_at, limited.job_id
    LIMIT 1
) AS waiting
CROSS JOIN LATERAL (
    SELECT
        job.kind,
        job.scheduled_at
    FROM /* schema */river_job AS job
    WHERE job.id = waiting.job_id AND (job.state = 'pending') IS TRUE
) AS next
GROUP BY part.queue, next.kind
ORDER BY part.queue, num_due DESC, next.kind;

-- name: limit_partition_get
-- Return one partition of a limit.
SELECT
    /* partition_status */
FROM /* schema */millhand_limit_partition AS part
CROSS JOIN LATERAL (
    /* waiting_of_partition */
) AS waiting
WHERE part.queue = @queue AND part.partition_key = coalesce(
    @digest::text,
    (
        SELECT
            /* partition_key */
        FROM (SELECT @key_values::text::jsonb::text AS key_values) AS given
    )
);

-- name: limit_partition_get_current
-- Return those of the partitions that a job makes by the limit as it is now. Others may be of a limit before it.
WITH limited AS MATERIALIZED (
    SELECT
        first.job_id,
        wanted.partition_key
    FROM unnest(@keys::text []) AS wanted (partition_key)
    CROSS JOIN LATERAL (
        SELECT waiting.job_id
        FROM /* schema */millhand_limited_job AS waiting
        WHERE waiting.queue = @queue
        AND waiting.partition_key = wanted.partition_key
        AND waiting.admitted_at IS NULL
        AND NOT waiting.is_later
        ORDER BY waiting.priority DESC, waiting.due_at DESC, waiting.job_id DESC
        LIMIT 1
    ) AS first
    UNION ALL
    SELECT
        admitted.job_id,
        admitted.partition_key
    FROM (
        SELECT
            slot.job_id,
            slot.partition_key
        FROM /* schema */millhand_limited_job AS slot
        WHERE slot.queue = @queue AND slot.admitted_at IS NOT NULL
        ORDER BY slot.job_id DESC
        LIMIT @counted_max::integer
    ) AS admitted
    WHERE admitted.partition_key = ANY(@keys::text [])
)

SELECT DISTINCT keyed.partition_key
FROM (
    SELECT
        limited.partition_key,
        /* key_values */ AS key_values
    FROM limited
    INNER JOIN /* schema */river_job AS job ON job.id = limited.job_id
    INNER JOIN /* schema */millhand_limit AS limits ON limits.queue = @queue
) AS keyed
WHERE keyed.partition_key = (
    SELECT
        /* partition_key */
);

-- name: limit_get_changes
-- Return a text that is another one after a limit changes, or one of the last holds and starts of its partitions.
SELECT string_agg(
    concat_ws(' ', queue_limit.queue, queue_limit.updated_at, closed.num, closed.opens_at, closed.halted_at), ','
) AS changes
FROM /* schema */millhand_limit AS queue_limit
CROSS JOIN LATERAL (
    SELECT
        count(*) AS num,
        max(last.opens_at) FILTER (WHERE last.opens_at <> /* halted_until */) AS opens_at,
        max(last.halted_at) AS halted_at
    FROM (
        SELECT
            part.opens_at,
            part.halted_at
        FROM /* schema */millhand_limit_partition AS part
        WHERE part.queue = queue_limit.queue AND part.opens_at IS NOT NULL
        ORDER BY part.opens_at DESC
        LIMIT 100
    ) AS last
) AS closed;

-- fragment: waiting_before
    FROM /* schema */millhand_limited_job AS other
    WHERE other.queue = limited.queue
    AND other.partition_key = limited.partition_key
    AND other.admitted_at IS NULL
    AND NOT other.is_later
    AND (other.priority, other.due_at, other.job_id) < (limited.priority, limited.due_at, limited.job_id)

-- name: limit_get_place
-- Return a job's place in the limit of its queue: how many jobs wait before it, or in a queue in order, which job.
SELECT
    limited.partition_key,
    limited.is_later,
    CASE WHEN limited.is_later
        THEN least(greatest(limited.due_at, '0001-01-01Z'), '9999-12-31 23:59:59.999999Z')
    END AS due_at,
    limited.admitted_at IS NOT NULL AS has_slot,
    coalesce(part.running, 0) AS running,
    coalesce(part.at_once, queue_limit.at_once) AS at_once,
    queue_limit.total,
    queue_limit.num_running,
    queue_limit.in_order,
    queue_limit.by_kind,
    queue_limit.by_args,
    coalesce(
        (
            SELECT
                /* partition_key */ = limited.partition_key
            FROM (
                SELECT
                    /* key_values */ AS key_values
                FROM /* schema */river_job AS job
                INNER JOIN /* schema */millhand_limit AS limits ON limits.queue = limited.queue
                WHERE job.id = limited.job_id
            ) AS keyed
        ),
        FALSE
    ) AS is_current,
    CASE WHEN part.held_until > coalesce(@now::timestamptz, now()) AND part.held_until <> /* halted_until */
        THEN least(part.held_until, '9999-12-31 23:59:59.999999Z')
    END AS held_until,
    CASE WHEN part.held_until = /* halted_until */ THEN part.halted_by END AS halted_by,
    CASE WHEN part.opens_at > coalesce(@now::timestamptz, now()) AND part.opens_at <> /* halted_until */
        THEN least(part.opens_at, '9999-12-31 23:59:59.999999Z')
    END AS next_start_at,
    CASE WHEN limited.admitted_at IS NULL AND NOT limited.is_later THEN (
        SELECT count(*)
        FROM (
            SELECT
            /* waiting_before */
            LIMIT @counted_max::integer + 1
        ) AS counted
    ) END AS num_before,
    CASE WHEN limited.admitted_at IS NULL AND queue_limit.in_order THEN coalesce(
        (
            SELECT min(admitted.job_id)
            FROM (
                SELECT
                    other.job_id,
                    other.partition_key
                FROM /* schema */millhand_limited_job AS other
                WHERE other.queue = limited.queue AND other.admitted_at IS NOT NULL
                ORDER BY other.job_id
                LIMIT @counted_max::integer
            ) AS admitted
            WHERE admitted.partition_key = limited.partition_key
        ),
        (
            SELECT other.job_id
            /* waiting_before */
            ORDER BY other.priority, other.due_at, other.job_id
            LIMIT 1
        )
    ) END AS behind
FROM /* schema */millhand_limited_job AS limited
INNER JOIN /* schema */millhand_limit AS queue_limit ON queue_limit.queue = limited.queue
LEFT JOIN /* schema */millhand_limit_partition AS part
    ON part.queue = limited.queue AND part.partition_key = limited.partition_key
WHERE limited.job_id = @id;

-- name: limit_list_held
-- Return, for each limit, the partitions among those that open last which are held and in which jobs wait: how many, until
-- when the last one is held, and since when the first waiting job of each is due, the earliest. Both are the ends of indexes.
SELECT
    queue_limit.queue,
    count(*) AS num_partitions,
    (array_agg(held.partition_key ORDER BY held.held_until DESC, held.partition_key))[1] AS partition_key,
    least(max(held.held_until), '9999-12-31 23:59:59.999999Z') AS held_until,
    greatest(min(waiting.scheduled_at), '0001-01-01Z') AS due_at
FROM /* schema */millhand_limit AS queue_limit
CROSS JOIN LATERAL (
    SELECT
        closed.partition_key,
        closed.held_until
    FROM (
        SELECT
            part.partition_key,
            part.held_until
        FROM /* schema */millhand_limit_partition AS part
        WHERE part.queue = queue_limit.queue
        AND part.opens_at > now()
        AND part.opens_at < '9999-12-31 23:59:59Z'
        ORDER BY part.opens_at DESC
        LIMIT @limit::integer
    ) AS closed
    WHERE closed.held_until > now()
) AS held
CROSS JOIN LATERAL (
    SELECT job.scheduled_at
    FROM /* schema */millhand_limited_job AS limited
    INNER JOIN /* schema */river_job AS job ON limited.job_id = job.id
    WHERE limited.queue = queue_limit.queue
    AND limited.partition_key = held.partition_key
    AND limited.admitted_at IS NULL
    AND NOT limited.is_later
    ORDER BY limited.priority, limited.due_at, limited.job_id
    LIMIT 1
) AS waiting
GROUP BY queue_limit.queue
ORDER BY queue_limit.queue;
