-- Flows: jobs that wait for jobs. What changes the tasks of a flow locks the flow first, and then waits for no job.

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

-- name: flow_get_shape
-- Return whether migration 12 of line millhand is there, and whether this role may read its tables.
SELECT bool_and(coalesce(has_table_privilege(to_regclass(name), 'SELECT'), FALSE)) AS is_there
FROM unnest(
    ARRAY['/* schema */millhand_flow', '/* schema */millhand_flow_task']
) AS needed (name);

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
-- Insert a flow with the joins of its tasks, and wake the leader, which looks for tasks that other programs end. A flow
-- whose groups are all empty has ended.
WITH inserted AS (
    INSERT INTO /* schema */millhand_flow AS flow (id, name, num_tasks, num_open, ended_at)
    VALUES (
        @id::bigint,
        @name::text,
        @num_tasks::bigint,
        @num_tasks::bigint,
        CASE WHEN @num_tasks::bigint = 0 THEN clock_timestamp() END
    )
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
    CASE
        WHEN after_join_id IS NULL OR (after_join_id = ANY(@empty_join_ids::bigint []) AND task_when <> 'failed')
            THEN 'released'
        ELSE 'waiting'
    END,
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

-- name: flow_lock
-- Lock a flow until the end of the transaction, and return it. A process that stands still loses its connection.
SELECT
    /* flow_columns */,
    set_config('idle_in_transaction_session_timeout', '30000', true) AS timeout
FROM /* schema */millhand_flow AS flow
WHERE flow.id = @id::bigint
FOR NO KEY UPDATE;

-- name: flow_lock_unlocked
-- Lock a flow as flow_lock does, unless another transaction has locked it.
SELECT
    id,
    set_config('idle_in_transaction_session_timeout', '30000', true) AS timeout
FROM /* schema */millhand_flow
WHERE id = @id::bigint
FOR NO KEY UPDATE SKIP LOCKED;

-- fragment: flows_of_jobs
FROM /* schema */millhand_flow
WHERE id IN (
    SELECT flow_id
    FROM /* schema */millhand_flow_task
    WHERE job_id = ANY(@job_ids::bigint [])
)

-- name: flow_lock_of_jobs
-- Lock the flows of jobs until the end of the transaction, but those that another transaction has locked. A process that
-- stands still loses its connection.
SELECT
    id,
    set_config('idle_in_transaction_session_timeout', '30000', true) AS timeout
/* flows_of_jobs */
ORDER BY id
FOR NO KEY UPDATE SKIP LOCKED;

-- name: flow_task_get_ends
-- Return those tasks of the flows, among jobs, that are not counted and whose jobs have ended, or were deleted.
SELECT
    task.job_id,
    job.state::text AS state
FROM /* schema */millhand_flow_task AS task
LEFT JOIN /* schema */river_job AS job ON task.job_id = job.id
WHERE task.job_id = ANY(@job_ids::bigint [])
AND task.flow_id = ANY(@flow_ids::bigint [])
AND task.state IN ('waiting', 'released')
AND (job.id IS NULL OR job.finalized_at IS NOT NULL);

-- name: flow_count_ended
-- Lock the flows of jobs until the end of the transaction, count those of their tasks that have ended, each once, and return
-- the joins whose waiting tasks may be decided by that. With an idle timeout, a process that stands still loses its
-- connection, and with it the locks. Each row is counted as it is after the lock: an update sees the newest version of a
-- row that it waited for. With a lock timeout, no lock is waited for longer. Afterwards, the transaction has its own again.
WITH setting AS MATERIALIZED (
    SELECT
        current_setting('lock_timeout') AS own,
        set_config('lock_timeout', coalesce(@lock_timeout::text, current_setting('lock_timeout')), true) AS changed
),

locked AS MATERIALIZED (
    SELECT id
    /* flows_of_jobs */
    AND (SELECT setting.changed FROM setting) IS NOT NULL
    ORDER BY id
    FOR NO KEY UPDATE
),

ended AS (
    UPDATE /* schema */millhand_flow_task AS task
    SET
        state = CASE
            WHEN task.job_id = ANY(@failed_job_ids::bigint []) THEN 'failed'
            WHEN task.job_id = ANY(@skipped_job_ids::bigint []) THEN 'skipped'
            ELSE 'completed'
        END
    WHERE task.job_id = ANY(@job_ids::bigint [])
    AND task.flow_id = ANY(ARRAY(SELECT locked.id FROM locked))
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

SELECT
    array_agg(id ORDER BY id) FILTER (WHERE num_open = 0 OR num_failed > 0) AS join_ids,
    set_config(
        'idle_in_transaction_session_timeout',
        coalesce(@idle_timeout::text, current_setting('idle_in_transaction_session_timeout')),
        true
    ) AS timeout,
    set_config('lock_timeout', (SELECT setting.own FROM setting), true) AS lock_timeout
FROM joins;

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

released AS (
    UPDATE /* schema */river_job AS job
    SET
        state = CASE WHEN job.scheduled_at > coalesce(@now::timestamptz, now()) THEN 'scheduled' ELSE 'available' END
        ::/* schema */river_job_state,
        scheduled_at = greatest(job.scheduled_at, coalesce(@now::timestamptz, now())),
        metadata = job.metadata || (
            SELECT
                jsonb_build_object(
                    'workflow_staged_at',
                    to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
                )
        )
    WHERE job.id = ANY(ARRAY(
        SELECT locked.id
        FROM locked
        INNER JOIN decided ON locked.id = decided.job_id
        WHERE decided.state = 'released'
    ))
    RETURNING
        job.id,
        job.queue,
        job.state
),

-- One row of sorted arrays, and not a join, which the planner might run as a nested loop. A number stands for no job: an
-- array with nulls is read from its beginning for each row.
cancelled AS MATERIALIZED (
    SELECT
        array_agg(decided.job_id ORDER BY decided.job_id) AS ids,
        array_agg((decided.state = 'skipped')::integer ORDER BY decided.job_id) AS are_skipped,
        array_agg(coalesce(decided.failed_job_id, 0) ORDER BY decided.job_id) AS failed_job_ids
    FROM decided
    INNER JOIN locked ON decided.job_id = locked.id
    WHERE decided.state <> 'released'
),

updated AS (
    UPDATE /* schema */river_job AS job
    SET
        state = 'cancelled',
        finalized_at = clock_timestamp(),
        (errors, metadata) = (
            SELECT
                CASE WHEN decision.is_skipped = 0 THEN array_append(
                    /* job_errors */,
                    jsonb_build_object(
                        'at', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
                        'attempt', job.attempt,
                        'error', 'JobCancelledError: ' || CASE decision.failed_job_id
                            WHEN 0 THEN 'the flow was cancelled'
                            ELSE 'job ' || decision.failed_job_id || ', which it waited for, failed'
                        END,
                        'trace', ''
                    )
                )
                ELSE job.errors
                END,
                CASE decision.is_skipped
                    WHEN 1 THEN job.metadata || '{"millhand:skipped": true}'
                    ELSE job.metadata
                END
            FROM (
                SELECT
                    cancelled.are_skipped[width_bucket(job.id, cancelled.ids)] AS is_skipped,
                    cancelled.failed_job_ids[width_bucket(job.id, cancelled.ids)] AS failed_job_id
                FROM cancelled
            ) AS decision
        )
    WHERE job.id = ANY((SELECT cancelled.ids FROM cancelled)::bigint [])
    RETURNING job.id
),

tasks AS (
    UPDATE /* schema */millhand_flow_task AS task
    SET state = 'released'
    WHERE task.job_id = ANY(ARRAY(SELECT released.id FROM released))
),

notified AS MATERIALIZED (
    SELECT pg_notify(/* schema_name */ || '.river_insert', jsonb_build_object('queue', queue)::text)
    FROM (SELECT DISTINCT queue FROM released WHERE state = 'available') AS distinct_queues
)

SELECT
    updated.id,
    cancelled.are_skipped[width_bucket(updated.id, cancelled.ids)] = 1 AS is_skipped
FROM updated
CROSS JOIN cancelled
WHERE (SELECT count(*) FROM notified) >= 0
ORDER BY updated.id;

-- name: flow_get
-- Return one flow.
SELECT
    /* flow_columns */
FROM /* schema */millhand_flow AS flow
WHERE flow.id = @id::bigint;

-- name: flow_list
-- Return flows with ids below a number, newest first; with a state, those in it.
SELECT
    /* flow_columns */
FROM /* schema */millhand_flow AS flow
WHERE (@before_id::bigint IS NULL OR flow.id < @before_id::bigint)
AND (
    @state::text IS NULL
    OR @state::text = CASE
        WHEN flow.ended_at IS NULL THEN 'running'
        WHEN flow.cancelled_at IS NOT NULL THEN 'cancelled'
        WHEN flow.num_failed > 0 THEN 'failed'
        ELSE 'completed'
    END
)
ORDER BY flow.id DESC
LIMIT @limit::integer;

-- name: flow_task_list
-- Return tasks of a flow by id, without their jobs.
SELECT
    task.job_id,
    task.state,
    task.task_when,
    task.after_join_id,
    task.join_ids
FROM /* schema */millhand_flow_task AS task
WHERE task.flow_id = @flow_id::bigint
AND task.job_id > @after_job_id::bigint
ORDER BY task.job_id
LIMIT @limit::integer;

-- name: flow_task_get_ended
-- Walk tasks of flows that run, from a position on. Return the last position; the jobs that have ended and are not
-- counted, with NULL for one that was deleted; and the joins, with their flows, that decide tasks that wait.
WITH walked AS MATERIALIZED (
    SELECT task.*
    FROM /* schema */millhand_flow AS flow
    CROSS JOIN LATERAL (
        SELECT
            own.flow_id,
            own.job_id,
            own.state,
            own.task_when,
            own.after_join_id
        FROM /* schema */millhand_flow_task AS own
        WHERE own.flow_id = flow.id
        AND own.job_id > CASE WHEN flow.id = @after_flow_id::bigint THEN @after_job_id::bigint ELSE 0 END
        ORDER BY own.job_id
        LIMIT @limit::integer
    ) AS task
    WHERE flow.ended_at IS NULL
    AND flow.id >= @after_flow_id::bigint
    ORDER BY flow.id, task.job_id
    LIMIT @limit::integer
),

ended AS MATERIALIZED (
    SELECT
        walked.job_id,
        job.state::text AS state
    FROM walked
    LEFT JOIN /* schema */river_job AS job ON walked.job_id = job.id
    WHERE walked.state IN ('waiting', 'released')
    AND (job.id IS NULL OR job.finalized_at IS NOT NULL)
),

due AS MATERIALIZED (
    SELECT DISTINCT
        joined.flow_id,
        joined.id
    FROM walked
    INNER JOIN /* schema */millhand_flow_join AS joined ON walked.after_join_id = joined.id
    WHERE walked.state = 'waiting'
    AND (joined.num_open = 0 OR (walked.task_when = 'failed' AND joined.num_failed > 0))
)

SELECT
    (SELECT count(*) FROM walked) AS num_walked,
    (SELECT max(flow_id) FROM walked) AS last_flow_id,
    (SELECT max(job_id) FROM walked WHERE flow_id = (SELECT max(flow_id) FROM walked)) AS last_job_id,
    (SELECT array_agg(job_id ORDER BY job_id) FROM ended) AS job_ids,
    (SELECT array_agg(state ORDER BY job_id) FROM ended) AS states,
    (SELECT array_agg(flow_id ORDER BY flow_id, id) FROM due) AS due_flow_ids,
    (SELECT array_agg(id ORDER BY flow_id, id) FROM due) AS due_join_ids;

-- name: flow_task_get_recently_ended
-- Return tasks that are not counted among the jobs that ended last, newest first.
SELECT
    ended.id,
    ended.state
FROM unnest(ARRAY['cancelled', 'completed', 'discarded']) AS finalized (state)
CROSS JOIN LATERAL (
    SELECT
        job.id,
        job.state::text AS state
    FROM /* schema */river_job AS job
    WHERE job.state = finalized.state::/* schema */river_job_state
    AND job.finalized_at IS NOT NULL
    AND job.finalized_at > now() - @within::interval
    ORDER BY job.finalized_at DESC
    LIMIT @limit::integer
) AS ended
INNER JOIN /* schema */millhand_flow_task AS task ON ended.id = task.job_id
WHERE task.state IN ('waiting', 'released');

-- name: flow_get_cancelled
-- Return the flows that were cancelled and have not ended.
SELECT id
FROM /* schema */millhand_flow
WHERE ended_at IS NULL
AND cancelled_at IS NOT NULL
ORDER BY id;

-- name: flow_set_cancelled
-- Record that a locked flow is cancelled.
UPDATE /* schema */millhand_flow
SET cancelled_at = coalesce(cancelled_at, clock_timestamp())
WHERE id = @id::bigint;

-- name: flow_cancel_jobs
-- Cancel jobs of a locked flow that have not ended, after an id; ask for the end of those that run. Return the last
-- id, and the jobs that are cancelled. The leader cancels those that another transaction has locked.
WITH open AS MATERIALIZED (
    SELECT task.job_id
    FROM /* schema */millhand_flow_task AS task
    WHERE task.flow_id = @id::bigint
    AND task.state IN ('waiting', 'released')
    AND task.job_id > @after_job_id::bigint
    ORDER BY task.job_id
    LIMIT @limit::integer
),

locked AS MATERIALIZED (
    SELECT
        job.id,
        job.queue,
        job.state = 'running' AS is_running
    FROM /* schema */river_job AS job
    WHERE job.id = ANY(ARRAY(SELECT open.job_id FROM open))
    AND job.finalized_at IS NULL
    AND NOT (job.state = 'running' AND job.metadata ? 'cancel_attempted_at')
    FOR NO KEY UPDATE SKIP LOCKED
),

notified AS MATERIALIZED (
    SELECT
        pg_notify(
            /* schema_name */ || '.river_control',
            json_build_object('action', 'cancel', 'job_id', id, 'queue', queue)::text
        )
    FROM locked
    WHERE is_running
),

updated AS (
    UPDATE /* schema */river_job AS job
    SET
        finalized_at = CASE WHEN job.state <> 'running' THEN clock_timestamp() END,
        metadata = job.metadata || jsonb_build_object(
            'cancel_attempted_at', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
        ),
        state = CASE WHEN job.state = 'running' THEN job.state ELSE 'cancelled' END
    WHERE job.id = ANY(ARRAY(SELECT locked.id FROM locked))
    AND (SELECT count(*) FROM notified) >= 0
    RETURNING
        job.id,
        job.state
)

SELECT
    (SELECT count(*) FROM open) AS num_open,
    (SELECT max(job_id) FROM open) AS last_job_id,
    (SELECT array_agg(id ORDER BY id) FROM updated WHERE state = 'cancelled') AS job_ids;

-- name: flow_retry_jobs
-- Choose ended tasks of a locked flow, and let their jobs wait or be available again. Return how many, and how many tasks
-- have no job any more. Wake the leader, as an insert does: perhaps no flow ran before.
WITH RECURSIVE chosen (job_id, join_ids) AS (
    SELECT
        task.job_id,
        task.join_ids
    FROM /* schema */millhand_flow_task AS task
    LEFT JOIN /* schema */millhand_flow_join AS joined ON task.after_join_id = joined.id
    WHERE task.flow_id = @id::bigint
    -- Not those that were cancelled because another failed.
    AND (
        @mode::text = 'all'
        OR (task.state = 'failed' AND NOT coalesce(task.task_when = 'completed' AND joined.num_failed > 0, false))
    )
    UNION
    SELECT
        task.job_id,
        task.join_ids
    FROM chosen
    CROSS JOIN unnest(chosen.join_ids) AS join_id
    INNER JOIN /* schema */millhand_flow_task AS task ON join_id = task.after_join_id
    WHERE @mode::text = 'failed_and_downstream'
),

locked AS MATERIALIZED (
    SELECT
        job.id,
        task.after_join_id
    FROM /* schema */river_job AS job
    INNER JOIN /* schema */millhand_flow_task AS task ON job.id = task.job_id
    WHERE job.id IN (SELECT chosen.job_id FROM chosen)
    AND job.finalized_at IS NOT NULL
    AND task.state IN ('completed', 'failed', 'skipped')
    FOR NO KEY UPDATE OF job SKIP LOCKED
),

tasks AS (
    UPDATE /* schema */millhand_flow_task AS task
    SET state = CASE WHEN task.after_join_id IS NULL THEN 'released' ELSE 'waiting' END
    WHERE task.job_id IN (SELECT locked.id FROM locked)
),

-- `failed_only` chooses what is there.
gone AS MATERIALIZED (
    SELECT count(*) AS num_tasks
    FROM chosen
    INNER JOIN /* schema */millhand_flow_task AS task ON chosen.job_id = task.job_id
    LEFT JOIN /* schema */river_job AS job ON task.job_id = job.id
    WHERE @mode::text <> 'failed_only'
    AND task.state IN ('completed', 'failed', 'skipped')
    AND job.id IS NULL
),

-- A job that was cancelled while it waited for a slot of a limit has lost its place: it may wait for other tasks now.
places AS (
    DELETE FROM /* schema */millhand_limited_job
    WHERE job_id = ANY(ARRAY(
        SELECT limited.job_id
        FROM /* schema */millhand_limited_job AS limited
        WHERE limited.job_id = ANY(ARRAY(SELECT locked.id FROM locked))
        AND limited.admitted_at IS NULL
        FOR UPDATE SKIP LOCKED
    ))
),

updated AS (
    UPDATE /* schema */river_job AS job
    SET
        /* not_finalized */,
        metadata = job.metadata - ARRAY['cancel_attempted_at', 'millhand:skipped', 'workflow_staged_at'],
        scheduled_at = coalesce(@now::timestamptz, now()),
        state = CASE WHEN locked.after_join_id IS NULL THEN 'available' ELSE 'pending' END::/* schema */river_job_state
    FROM locked
    WHERE job.id = locked.id
    RETURNING
        job.queue,
        job.state
),

notified AS MATERIALIZED (
    SELECT pg_notify(/* schema_name */ || '.river_insert', jsonb_build_object('queue', queue)::text)
    FROM (SELECT DISTINCT queue FROM updated WHERE state = 'available') AS distinct_queues
)

SELECT
    count(*) AS num_jobs,
    (SELECT gone.num_tasks FROM gone) AS num_gone,
    pg_notify(/* schema_name */ || '.millhand_leader', '{"action":"flow_inserted"}') AS woken
FROM updated
WHERE (SELECT count(*) FROM notified) >= 0;

-- name: flow_count_again
-- Count the tasks of a locked flow and of its joins again after a change of their states; return the joins that may decide
-- tasks that wait.
WITH counted AS (
    SELECT
        join_id,
        count(*) FILTER (WHERE task.state IN ('waiting', 'released')) AS num_open,
        count(*) FILTER (WHERE task.state = 'failed') AS num_failed,
        count(*) FILTER (WHERE task.state = 'skipped') AS num_skipped,
        min(task.job_id) FILTER (WHERE task.state = 'failed') AS failed_job_id
    FROM /* schema */millhand_flow_task AS task
    CROSS JOIN unnest(task.join_ids) AS join_id
    WHERE task.flow_id = @id::bigint
    GROUP BY join_id
),

joins AS (
    UPDATE /* schema */millhand_flow_join AS joined
    SET
        num_open = counted.num_open,
        num_failed = counted.num_failed,
        num_skipped = counted.num_skipped,
        failed_job_id = counted.failed_job_id
    FROM counted
    WHERE joined.id = counted.join_id
    RETURNING
        joined.id,
        joined.num_open,
        joined.num_failed
),

flows AS (
    UPDATE /* schema */millhand_flow AS flow
    SET
        num_open = task.num_open,
        num_failed = task.num_failed,
        num_skipped = task.num_skipped,
        cancelled_at = CASE WHEN task.num_open = 0 THEN flow.cancelled_at END,
        ended_at = CASE WHEN task.num_open = 0 THEN flow.ended_at END
    FROM (
        SELECT
            count(*) FILTER (WHERE state IN ('waiting', 'released')) AS num_open,
            count(*) FILTER (WHERE state = 'failed') AS num_failed,
            count(*) FILTER (WHERE state = 'skipped') AS num_skipped
        FROM /* schema */millhand_flow_task
        WHERE flow_id = @id::bigint
    ) AS task
    WHERE flow.id = @id::bigint
)

SELECT id
FROM joins
WHERE num_open = 0 OR num_failed > 0
UNION ALL
-- An empty group has no tasks to count.
SELECT id
FROM /* schema */millhand_flow_join
WHERE flow_id = @id::bigint
AND id NOT IN (SELECT join_id FROM counted)
ORDER BY id;

-- name: flow_get_outputs
-- Return the outputs that the completed tasks recorded which a job waited for, by id, after an id; with a kind, of it. A task
-- whose job was deleted has NULL: it may have recorded one.
SELECT
    task.job_id,
    (job.metadata -> 'output')::text AS output
FROM /* schema */millhand_flow_task AS own
INNER JOIN /* schema */millhand_flow_task AS task
    ON own.flow_id = task.flow_id
    AND task.join_ids @> ARRAY[own.after_join_id]
LEFT JOIN /* schema */river_job AS job ON task.job_id = job.id
WHERE own.job_id = @job_id::bigint
AND task.state = 'completed'
AND task.job_id > @after_job_id::bigint
AND (
    job.id IS NULL
    OR ((@kind::text IS NULL OR job.kind = @kind::text) AND job.metadata ? 'output')
)
ORDER BY task.job_id
LIMIT @limit::integer;

-- name: flow_task_lock
-- Return the own task of a job whose flow is locked, and whether the job still runs for this attempt.
SELECT
    task.join_ids,
    task.added_job_ids,
    coalesce(
        job.state = 'running'
        AND job.attempted_at = @attempted_at::timestamptz
        AND job.attempted_by[cardinality(job.attempted_by)] = @attempted_by::text,
        false
    ) AS is_running
FROM /* schema */millhand_flow_task AS task
LEFT JOIN /* schema */river_job AS job ON task.job_id = job.id
WHERE task.job_id = @job_id::bigint
AND task.state = 'released';

-- name: flow_add_tasks
-- Count tasks that a running job of a locked flow has added: in the flow, and in the joins that the job is part of.
WITH flows AS (
    UPDATE /* schema */millhand_flow
    SET
        num_tasks = num_tasks + cardinality(@added_job_ids::bigint []),
        num_open = num_open + cardinality(@added_job_ids::bigint [])
    WHERE id = @flow_id::bigint
),

joins AS (
    UPDATE /* schema */millhand_flow_join
    SET num_open = num_open + cardinality(@added_job_ids::bigint [])
    WHERE id = ANY(@join_ids::bigint [])
)

UPDATE /* schema */millhand_flow_task
SET added_job_ids = added_job_ids || @added_job_ids::bigint []
WHERE job_id = @job_id::bigint;

-- name: flow_delete_ended
-- Delete up to @limit flows that ended before an instant, with their joins and tasks; return how many.
WITH old AS MATERIALIZED (
    SELECT id
    FROM /* schema */millhand_flow
    WHERE ended_at < @horizon::timestamptz
    ORDER BY ended_at
    LIMIT @limit::integer
    FOR UPDATE SKIP LOCKED
),

tasks AS (
    DELETE FROM /* schema */millhand_flow_task
    WHERE flow_id IN (SELECT id FROM old)
),

joins AS (
    DELETE FROM /* schema */millhand_flow_join
    WHERE flow_id IN (SELECT id FROM old)
),

deleted AS (
    DELETE FROM /* schema */millhand_flow
    WHERE id IN (SELECT id FROM old)
    RETURNING id
)

SELECT count(*) FROM deleted;
