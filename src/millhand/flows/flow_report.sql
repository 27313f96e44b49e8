-- Statements that report on flows. They read all tasks of one flow.

-- name: flow_task_get_groups
-- Return the tasks of a flow in groups, by id. Tasks of one kind that wait for the same join and are part of the same joins are
-- a group if there are more of them than @num_listed; any other task is a group of its own.
WITH task AS MATERIALIZED (
    SELECT
        own.job_id,
        own.after_join_id,
        own.task_when,
        own.join_ids,
        own.added_job_ids <> '{}' AS has_added,
        own.job_id IN (
            SELECT unnest(adder.added_job_ids)
            FROM /* schema */millhand_flow_task AS adder
            WHERE adder.flow_id = @flow_id::bigint
            AND adder.added_job_ids <> '{}'
        ) AS is_added,
        job.kind,
        job.metadata ->> 'task' AS name,
        job.attempt,
        CASE
            WHEN own.state <> 'released' THEN own.state
            WHEN job.id IS NULL OR job.state IN ('cancelled', 'discarded') THEN 'failed'
            ELSE job.state::text
        END AS state,
        CASE
            WHEN job.state = 'available' THEN now()
            WHEN job.state = 'running' OR job.finalized_at >= job.attempted_at THEN job.attempted_at
        END - job.scheduled_at AS waited,
        CASE
            WHEN job.state = 'running' THEN now()
            WHEN job.finalized_at >= job.attempted_at THEN job.finalized_at
        END - job.attempted_at AS ran
    FROM /* schema */millhand_flow_task AS own
    LEFT JOIN /* schema */river_job AS job ON own.job_id = job.id
    WHERE own.flow_id = @flow_id::bigint
),

sized AS (
    SELECT
        task.*,
        count(*) OVER (PARTITION BY after_join_id, task_when, join_ids, is_added, kind) AS size
    FROM task
),

grouped AS MATERIALIZED (
    SELECT
        min(job_id) AS first_job_id,
        max(job_id) AS last_job_id,
        min(name) AS name,
        kind,
        after_join_id,
        task_when,
        join_ids,
        is_added,
        bool_or(has_added) AS has_added,
        ARRAY[
            count(*) FILTER (WHERE state = 'waiting'),
            count(*) FILTER (WHERE state = 'pending'),
            count(*) FILTER (WHERE state = 'scheduled'),
            count(*) FILTER (WHERE state = 'available'),
            count(*) FILTER (WHERE state = 'retryable'),
            count(*) FILTER (WHERE state = 'running'),
            count(*) FILTER (WHERE state = 'completed'),
            count(*) FILTER (WHERE state = 'failed'),
            count(*) FILTER (WHERE state = 'skipped')
        ] AS nums,
        max(attempt) AS attempt,
        extract(EPOCH FROM max(waited))::double precision AS waited_seconds,
        extract(EPOCH FROM max(ran))::double precision AS ran_seconds
    FROM sized
    GROUP BY
        after_join_id, task_when, join_ids, is_added, kind, CASE WHEN size <= @num_listed::bigint THEN job_id END
)

SELECT
    grouped.first_job_id,
    grouped.last_job_id,
    CASE WHEN first_job.id IS NULL THEN grouped.name ELSE first_job.metadata ->> 'task' END AS first_name,
    last_job.metadata ->> 'task' AS last_name,
    grouped.kind,
    grouped.after_join_id,
    grouped.task_when,
    grouped.join_ids,
    grouped.is_added,
    grouped.has_added,
    grouped.nums,
    grouped.attempt,
    grouped.waited_seconds,
    grouped.ran_seconds
FROM grouped
LEFT JOIN /* schema */river_job AS first_job
    ON grouped.last_job_id > grouped.first_job_id AND grouped.first_job_id = first_job.id
LEFT JOIN /* schema */river_job AS last_job
    ON grouped.last_job_id > grouped.first_job_id AND grouped.last_job_id = last_job.id
ORDER BY grouped.first_job_id;

-- name: flow_task_get_failed
-- Return the first tasks of a flow that failed, by id; not those that were cancelled because another one failed.
SELECT
    task.job_id,
    job.metadata ->> 'task' AS name,
    job.kind,
    job.state::text AS state,
    job.attempt,
    job.errors[cardinality(job.errors)] ->> 'error' AS error
FROM /* schema */millhand_flow_task AS task
LEFT JOIN /* schema */millhand_flow_join AS joined ON task.after_join_id = joined.id
LEFT JOIN /* schema */river_job AS job ON task.job_id = job.id
WHERE task.flow_id = @flow_id::bigint
AND task.state = 'failed'
AND NOT coalesce(task.task_when = 'completed' AND joined.num_failed > 0, false)
ORDER BY task.job_id
LIMIT @limit::integer;

-- name: flow_list_stuck
-- Return those of the oldest running flows of which no job is available, scheduled, retryable or running, or waits for a slot
-- of a limit, and no job has ended since an instant; the smallest first, of a number of tasks together. For each, its first
-- open task whose job has ended or is gone, its first task that its join has decided, its first job in a halted partition,
-- and its first other open job. Then return what was left out: how many flows.
WITH oldest AS MATERIALIZED (
    SELECT
        flow.id,
        flow.name,
        flow.num_tasks,
        flow.num_open,
        flow.created_at
    FROM /* schema */millhand_flow AS flow
    WHERE flow.ended_at IS NULL
    AND flow.created_at < @before::timestamptz
    ORDER BY flow.id
    LIMIT @num_flows::integer + 1
),

sized AS MATERIALIZED (
    SELECT
        oldest.*,
        sum(oldest.num_tasks) OVER smaller - oldest.num_tasks AS num_tasks_before,
        row_number() OVER smaller AS position
    FROM oldest
    WINDOW smaller AS (ORDER BY oldest.num_tasks, oldest.id)
),

-- A subquery with a limit stops at the first such task, and the planner joins no whole tables.
still AS MATERIALIZED (
    SELECT sized.*
    FROM sized
    WHERE sized.num_tasks_before < @num_tasks::bigint
    AND sized.position <= @num_flows::integer
    AND (
        SELECT TRUE
        FROM /* schema */millhand_flow_task AS task
        INNER JOIN /* schema */river_job AS job ON task.job_id = job.id
        WHERE task.flow_id = sized.id
        AND task.state IN ('released', 'waiting')
        AND job.state IN ('available', 'retryable', 'running', 'scheduled')
        LIMIT 1
    ) IS NULL
),

reasons AS MATERIALIZED (
    SELECT
        still.id,
        task.*
    FROM still
    CROSS JOIN LATERAL (
        SELECT
            max(job.finalized_at) AS last_at,
            min(own.job_id) FILTER (WHERE own.state IN ('released', 'waiting') AND (job.id IS NULL OR job.finalized_at IS NOT NULL))
                AS ended_job_id,
            min(own.job_id) FILTER (
                WHERE own.state = 'waiting'
                AND (joined.num_open = 0 OR (own.task_when = 'failed' AND joined.num_failed > 0))
            ) AS decided_job_id,
            min(own.job_id) FILTER (WHERE limited.is_halted) AS halted_job_id,
            min(own.job_id) FILTER (WHERE NOT limited.is_halted) AS limited_job_id,
            min(own.job_id) FILTER (WHERE own.state = 'released' AND job.state = 'pending') AS pending_job_id
        FROM /* schema */millhand_flow_task AS own
        LEFT JOIN /* schema */river_job AS job ON own.job_id = job.id
        LEFT JOIN /* schema */millhand_flow_join AS joined ON own.after_join_id = joined.id
        LEFT JOIN LATERAL (
            SELECT coalesce(part.held_until = '9999-12-31 23:59:59Z', FALSE) AS is_halted
            FROM /* schema */millhand_limited_job AS place
            LEFT JOIN /* schema */millhand_limit_partition AS part
                ON place.queue = part.queue AND place.partition_key = part.partition_key
            WHERE place.job_id = own.job_id
            LIMIT 1
        ) AS limited ON own.state = 'released' AND job.state = 'pending'
        WHERE own.flow_id = still.id
    ) AS task
)

SELECT
    still.id,
    still.name,
    still.num_open,
    greatest(coalesce(reasons.last_at, still.created_at), '0001-01-01Z') AS last_at,
    reasons.ended_job_id,
    reasons.decided_job_id,
    reasons.halted_job_id,
    reasons.pending_job_id,
    0 AS num_left_out
FROM still
INNER JOIN reasons ON still.id = reasons.id
WHERE reasons.limited_job_id IS NULL
AND (reasons.last_at < @before::timestamptz) IS NOT FALSE
UNION ALL
SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, left_out.num
FROM (
    SELECT count(*) AS num
    FROM sized
    WHERE sized.num_tasks_before >= @num_tasks::bigint OR sized.position > @num_flows::integer
) AS left_out
ORDER BY 1;
