-- Flows: jobs that wait for jobs. Whoever changes the tasks of a flow locks the flow first, and then waits for no job.

-- fragment: flow_columns
    flow.id,
    flow.name,
    flow.num_tasks,
    flow.num_open,
    flow.num_failed,
    flow.num_skipped,
    flow.created_at,
    flow.cancelled_at,
    flow.ended_at

-- name: flow_draw_ids
-- Draw the id of a flow, and those of its joins.
SELECT
    nextval('/* schema */millhand_flow_id_seq') AS flow_id,
    ARRAY(
        SELECT nextval('/* schema */millhand_flow_join_id_seq')
        FROM generate_series(1, @num_joins::integer)
    ) AS join_ids,
    to_regclass('/* schema */river_workflow') IS NOT NULL AS has_river_pro;

-- name: flow_insert
-- Insert a flow with the joins of its tasks, and wake the leader, which looks for tasks that other programs end.
WITH inserted AS (
    INSERT INTO /* schema */millhand_flow AS flow (id, name, num_tasks, num_open)
    VALUES (@id::bigint, @name::text, @num_tasks::bigint, @num_tasks::bigint)
    RETURNING
        /* flow_columns */
),

joins AS (
    INSERT INTO /* schema */millhand_flow_join (id, flow_id, num_open)
    SELECT
        given.id,
        @id::bigint,
        given.num_open
    FROM unnest(@join_ids::bigint [], @nums_open::bigint []) AS given (id, num_open)
)

SELECT
    /* flow_columns */,
    pg_notify(/* schema_name */ || '.millhand_leader', '{"action":"flow_inserted"}') AS notified
FROM inserted AS flow;

-- name: flow_task_insert_many
-- Insert tasks of a flow. A text of `join_ids` is an array of the joins that the task is part of.
INSERT INTO /* schema */millhand_flow_task (job_id, flow_id, state, after_join_id, task_when, join_ids)
SELECT
    job_id,
    @flow_id::bigint,
    CASE WHEN after_join_id IS NULL THEN 'released' ELSE 'waiting' END,
    after_join_id,
    task_when,
    join_ids::bigint []
FROM (
    SELECT
        job_id,
        -- An array of one is for all tasks.
        CASE cardinality(@after_join_ids::bigint []) WHEN 1 THEN (@after_join_ids::bigint [])[1] ELSE after_join_id END
            AS after_join_id,
        CASE cardinality(@task_whens::text []) WHEN 1 THEN (@task_whens::text [])[1] ELSE task_when END AS task_when,
        CASE cardinality(@join_ids::text []) WHEN 1 THEN (@join_ids::text [])[1] ELSE join_ids END AS join_ids
    FROM unnest(
        @job_ids::bigint [],
        @after_join_ids::bigint [],
        @task_whens::text [],
        @join_ids::text []
    ) AS given (job_id, after_join_id, task_when, join_ids)
) AS task;

-- name: flow_lock_of_jobs
-- Lock the flows of jobs until the end of the transaction, and return which jobs are their tasks.
-- A process that stands still with the lock loses its connection, and with it the lock.
WITH task AS MATERIALIZED (
    SELECT
        job_id,
        flow_id
    FROM /* schema */millhand_flow_task
    WHERE job_id = ANY(@job_ids::bigint [])
),

locked AS MATERIALIZED (
    SELECT id
    FROM /* schema */millhand_flow
    WHERE id IN (SELECT flow_id FROM task)
    ORDER BY id
    FOR NO KEY UPDATE
)

SELECT
    array_agg(task.job_id ORDER BY task.job_id) AS job_ids,
    set_config('idle_in_transaction_session_timeout', '30000', true) AS timeout
FROM task
INNER JOIN locked ON task.flow_id = locked.id;

-- name: flow_lock
-- Lock a flow until the end of the transaction, and return it. A process that stands still loses its connection.
SELECT
    /* flow_columns */,
    set_config('idle_in_transaction_session_timeout', '30000', true) AS timeout
FROM /* schema */millhand_flow AS flow
WHERE flow.id = @id::bigint
FOR NO KEY UPDATE;

-- name: flow_count_ended
-- Count tasks of locked flows that have ended, each once, and return the joins whose waiting tasks are decided by that.
-- The ids are sorted, and each end has the position of its id.
WITH ended AS (
    UPDATE /* schema */millhand_flow_task AS task
    SET state = (@ends::text [])[width_bucket(task.job_id, @job_ids::bigint [])]
    WHERE task.job_id = ANY(@job_ids::bigint [])
    AND task.state IN ('waiting', 'released')
    RETURNING
        task.job_id,
        task.flow_id,
        task.state,
        task.join_ids
),

counted AS (
    UPDATE /* schema */millhand_flow AS flow
    SET
        num_open = flow.num_open - ended.num,
        num_failed = flow.num_failed + ended.num_failed,
        num_skipped = flow.num_skipped + ended.num_skipped,
        ended_at = CASE WHEN flow.num_open = ended.num THEN clock_timestamp() END
    FROM (
        SELECT
            flow_id,
            count(*) AS num,
            count(*) FILTER (WHERE state = 'failed') AS num_failed,
            count(*) FILTER (WHERE state = 'skipped') AS num_skipped
        FROM ended
        GROUP BY flow_id
    ) AS ended
    WHERE flow.id = ended.flow_id
),

joins AS (
    UPDATE /* schema */millhand_flow_join AS joined
    SET
        num_open = joined.num_open - ended.num,
        num_failed = joined.num_failed + ended.num_failed,
        num_skipped = joined.num_skipped + ended.num_skipped,
        failed_job_id = coalesce(joined.failed_job_id, ended.failed_job_id)
    FROM (
        SELECT
            join_id,
            count(*) AS num,
            count(*) FILTER (WHERE ended.state = 'failed') AS num_failed,
            count(*) FILTER (WHERE ended.state = 'skipped') AS num_skipped,
            min(ended.job_id) FILTER (WHERE ended.state = 'failed') AS failed_job_id
        FROM ended
        CROSS JOIN unnest(ended.join_ids) AS join_id
        GROUP BY join_id
    ) AS ended
    WHERE joined.id = ended.join_id
    RETURNING
        joined.id,
        joined.num_open,
        ended.num_failed
)

SELECT id
FROM joins
WHERE num_open = 0 OR num_failed > 0
ORDER BY id;

-- name: flow_release
-- Decide the waiting tasks of joins of locked flows: release them, or cancel their jobs. Return the jobs that were
-- cancelled, and how their tasks end. A job that another transaction has locked is left to the leader.
WITH decided AS MATERIALIZED (
    SELECT
        task.job_id,
        joined.failed_job_id,
        CASE
            WHEN flow.cancelled_at IS NOT NULL THEN 'failed'
            WHEN task.task_when = 'ended' THEN 'released'
            WHEN task.task_when = 'failed' AND joined.num_failed > 0 THEN 'released'
            WHEN task.task_when = 'failed' THEN 'skipped'
            WHEN joined.num_failed > 0 THEN 'failed'
            WHEN joined.num_skipped > 0 THEN 'skipped'
            ELSE 'released'
        END AS state
    FROM /* schema */millhand_flow_join AS joined
    INNER JOIN /* schema */millhand_flow AS flow ON joined.flow_id = flow.id
    INNER JOIN /* schema */millhand_flow_task AS task ON joined.id = task.after_join_id
    WHERE joined.id = ANY(@join_ids::bigint [])
    AND task.state = 'waiting'
    AND (joined.num_open = 0 OR (task.task_when = 'failed' AND joined.num_failed > 0))
),

locked AS MATERIALIZED (
    SELECT job.id
    FROM /* schema */river_job AS job
    WHERE job.id = ANY(ARRAY(SELECT decided.job_id FROM decided))
    AND (job.state = 'pending') IS TRUE
    FOR NO KEY UPDATE SKIP LOCKED
),

-- One row of sorted arrays, and not a join, which the planner might run as a nested loop.
chosen AS MATERIALIZED (
    SELECT
        array_agg(decided.job_id ORDER BY decided.job_id) AS ids,
        array_agg(decided.state ORDER BY decided.job_id) AS states,
        array_agg(decided.failed_job_id ORDER BY decided.job_id) AS failed_job_ids
    FROM decided
    INNER JOIN locked ON decided.job_id = locked.id
),

updated AS (
    UPDATE /* schema */river_job AS job
    SET
        (state, finalized_at, scheduled_at, errors, metadata) = (
            SELECT
                CASE
                    WHEN decision.state <> 'released' THEN 'cancelled'
                    WHEN job.scheduled_at > now() THEN 'scheduled'
                    ELSE 'available'
                END::/* schema */river_job_state,
                CASE WHEN decision.state <> 'released' THEN clock_timestamp() END,
                CASE
                    WHEN decision.state = 'released' THEN greatest(job.scheduled_at, now())
                    ELSE job.scheduled_at
                END,
                CASE
                    WHEN decision.state = 'failed' THEN array_append(
                        /* job_errors */,
                        jsonb_build_object(
                            'at', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
                            'attempt', job.attempt,
                            'error', coalesce(
                                'JobCancelledError: job ' || decision.failed_job_id || ', which it waited for, failed',
                                'JobCancelledError: the flow was cancelled'
                            ),
                            'trace', ''
                        )
                    )
                    ELSE job.errors
                END,
                job.metadata || CASE decision.state
                    WHEN 'released' THEN jsonb_build_object(
                        'workflow_staged_at',
                        to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
                    )
                    WHEN 'skipped' THEN '{"millhand:skipped": true}'::jsonb
                    ELSE '{}'::jsonb
                END
            FROM (
                SELECT
                    chosen.states[width_bucket(job.id, chosen.ids)] AS state,
                    chosen.failed_job_ids[width_bucket(job.id, chosen.ids)] AS failed_job_id
                FROM chosen
            ) AS decision
        )
    WHERE job.id = ANY((SELECT chosen.ids FROM chosen)::bigint [])
    RETURNING
        job.id,
        job.queue,
        job.state
),

released AS (
    UPDATE /* schema */millhand_flow_task AS task
    SET state = 'released'
    WHERE task.job_id = ANY(ARRAY(SELECT updated.id FROM updated WHERE updated.state <> 'cancelled'))
),

notified AS MATERIALIZED (
    SELECT pg_notify(/* schema_name */ || '.river_insert', jsonb_build_object('queue', queue)::text)
    FROM (SELECT DISTINCT queue FROM updated WHERE state = 'available') AS distinct_queues
)

SELECT
    updated.id,
    chosen.states[width_bucket(updated.id, chosen.ids)] AS state
FROM updated
CROSS JOIN chosen
WHERE updated.state = 'cancelled'
AND (SELECT count(*) FROM notified) >= 0
ORDER BY updated.id;
