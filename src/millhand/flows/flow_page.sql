-- What the web page shows of flows.

-- fragment: task_name
    -- The name of a task; none if the metadata is large, because all of it would be read.
    CASE WHEN pg_column_size(job.metadata) < 100000 THEN job.metadata ->> 'task' END AS name

-- name: flow_get_of_job
-- Return the flow of a job, and how many tasks the job still waits for.
SELECT
    flow.id,
    flow.name,
    task.state,
    task.task_when,
    coalesce(joined.num_open, 0) AS num_before
FROM /* schema */millhand_flow_task AS task
INNER JOIN /* schema */millhand_flow AS flow ON task.flow_id = flow.id
LEFT JOIN /* schema */millhand_flow_join AS joined ON task.after_join_id = joined.id
WHERE task.job_id = @job_id::bigint;

-- name: flow_task_list_lines
-- Return tasks of a flow with what a list shows of their jobs, by id; with a state, those in it.
SELECT
    task.job_id,
    task.state,
    /* task_name */,
    job.kind,
    job.queue,
    job.state::text AS job_state,
    job.attempt,
    job.max_attempts,
    CASE WHEN job.finalized_at IS NOT NULL THEN greatest(least(job.finalized_at, '9999-12-31Z'), '0001-01-01Z') END
        AS finalized_at
FROM /* schema */millhand_flow_task AS task
LEFT JOIN /* schema */river_job AS job ON task.job_id = job.id
WHERE task.flow_id = @flow_id::bigint
AND task.job_id > @after_job_id::bigint
AND (@state::text IS NULL OR task.state = @state::text)
ORDER BY task.job_id
LIMIT @limit::integer;

-- fragment: own_tasks
    SELECT
        own.job_id,
        own.state,
        own.after_join_id,
        own.task_when,
        own.join_ids
    FROM /* schema */millhand_flow_task AS own
    WHERE own.flow_id = @flow_id::bigint

-- name: flow_task_count_groups
-- Count the tasks of a flow in groups: those that wait for the same tasks, and that the same tasks wait for. With
-- @has_jobs, kinds and states of jobs make groups too, which reads each job.
WITH first_tasks AS MATERIALIZED (
    /* own_tasks */
    ORDER BY own.job_id
    LIMIT @num_first::integer
),

-- What waits for a large group was inserted after it.
last_tasks AS MATERIALIZED (
    /* own_tasks */
    AND own.job_id > (SELECT max(first_tasks.job_id) FROM first_tasks)
    ORDER BY own.job_id DESC
    LIMIT @num_last::integer
),

task AS (
    SELECT *
    FROM first_tasks
    UNION ALL
    SELECT *
    FROM last_tasks
),

counted AS MATERIALIZED (
    SELECT
        task.after_join_id,
        task.task_when,
        task.join_ids,
        found.kind,
        CASE task.state WHEN 'released' THEN coalesce(found.state, 'released') ELSE task.state END AS state,
        count(*) AS num_tasks,
        min(task.job_id) AS first_job_id
    FROM task
    -- One look by key for each task, whatever the planner expects.
    LEFT JOIN LATERAL (
        SELECT
            job.kind,
            job.state::text AS state
        FROM /* schema */river_job AS job
        WHERE job.id = task.job_id
        AND @has_jobs::boolean
        LIMIT 1
    ) AS found ON TRUE
    GROUP BY 1, 2, 3, 4, 5
    ORDER BY 7
    LIMIT @limit::integer
)

SELECT
    counted.first_job_id,
    counted.after_join_id,
    counted.task_when,
    counted.join_ids,
    coalesce(counted.kind, job.kind) AS kind,
    /* task_name */,
    counted.state,
    counted.num_tasks
FROM counted
LEFT JOIN /* schema */river_job AS job ON counted.first_job_id = job.id
ORDER BY counted.first_job_id;
