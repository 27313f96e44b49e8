-- fragment: ended_ids
-- Numbers of many jobs come as the text of an array, because a driver needs 0.25 µs for each element of a list.
ended_ids AS MATERIALIZED (
    SELECT @ids::text::bigint [] AS ids
)

-- fragment: finalized_at_of_ended
    -- Not a join, which the planner might expect to have few rows and run as a nested loop. An id, its end and the number
    -- of its fetch have the same position in the arrays.
    finalized_at = @first_end::timestamptz
    + (SELECT @ends_after::text::bigint [])[width_bucket(job.id, (SELECT ids FROM ended_ids))]
    * interval '1 microsecond'

-- fragment: own_attempt
    -- IS TRUE prevents a scan of the index by state, whose entries for running jobs are mostly dead.
    (job.state = 'running') IS TRUE
    -- The fence: a client that was declared dead changes nothing if another attempt has the job.
    AND job.attempted_at = (@attempted_ats::timestamptz [])[
        (SELECT @fetch_numbers::text::integer [])[width_bucket(job.id, (SELECT ids FROM ended_ids))]
    ]
    AND job.attempted_by[cardinality(job.attempted_by)] = @client_id::text

-- fragment: completed
/* ended_ids */,

ended AS (
    UPDATE /* schema */river_job AS job
    SET
        state = 'completed',
        /* finalized_at_of_ended */
    WHERE job.id = ANY((SELECT ids FROM ended_ids)::bigint [])
    AND /* own_attempt */
    RETURNING job.id
)

-- fragment: deleted_completed
/* ended_ids */,

ended AS (
    DELETE FROM /* schema */river_job AS job
    WHERE job.id = ANY((SELECT ids FROM ended_ids)::bigint [])
    AND /* own_attempt */
    -- Recorded while the job ran, by another program.
    AND NOT job.metadata ? 'output'
    RETURNING job.id
)

-- fragment: job_head
    -- What a row and the details of a job begin with.
    job.id,
    job.state::text AS state,
    job.attempt,
    job.max_attempts,
    CASE WHEN job.attempted_at IS NOT NULL
        THEN least(greatest(job.attempted_at, '0001-01-01Z'), '9999-12-31 23:59:59.999999Z')
    END AS attempted_at,
    least(greatest(job.created_at, '0001-01-01Z'), '9999-12-31 23:59:59.999999Z') AS created_at,
    CASE WHEN job.finalized_at IS NOT NULL
        THEN least(greatest(job.finalized_at, '0001-01-01Z'), '9999-12-31 23:59:59.999999Z')
    END AS finalized_at,
    least(greatest(job.scheduled_at, '0001-01-01Z'), '9999-12-31 23:59:59.999999Z') AS scheduled_at,
    job.priority

-- fragment: job_columns
    /* job_head */,
    job.args::text AS args,
    job.attempted_by,
    job.errors::text [] AS errors,
    job.kind,
    job.metadata::text AS metadata,
    job.queue,
    job.tags::text [] AS tags,
    job.unique_key,
    job.unique_states::integer AS unique_states

-- fragment: job_errors
    -- Flattened if another program wrote an array of several dimensions, to which nothing can be appended.
    CASE WHEN array_ndims(job.errors) > 1 THEN ARRAY(SELECT unnest(job.errors)) ELSE job.errors END

-- fragment: job_names
    id, state, attempt, max_attempts, attempted_at, created_at, finalized_at, scheduled_at, priority, args,
    attempted_by, errors, kind, metadata, queue, tags, unique_key, unique_states

-- fragment: restored_columns
    -- Of a job that is inserted again after its row was deleted.
    id, args, attempt, attempted_at, attempted_by, created_at, errors, kind, max_attempts, metadata, priority, queue,
    scheduled_at, state, tags, unique_key, unique_states

-- fragment: cancelled
    finalized_at = CASE WHEN job.state <> 'running' THEN coalesce(@now::timestamptz, clock_timestamp()) END,
    metadata = CASE jsonb_typeof(job.metadata) WHEN 'object' THEN job.metadata ELSE '{}' END
        || jsonb_build_object(
            'cancel_attempted_at',
            to_char(
                coalesce(@now::timestamptz, clock_timestamp()) AT TIME ZONE 'UTC',
                'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'
            )
        ),
    state = CASE WHEN job.state = 'running' THEN job.state ELSE 'cancelled' END

-- fragment: not_finalized
    -- A job that had all its attempts gets one more.
    finalized_at = NULL,
    max_attempts = CASE
        WHEN job.attempt = job.max_attempts THEN least(job.max_attempts, 32766) + 1
        ELSE job.max_attempts
    END

-- fragment: retried
    /* not_finalized */,
    metadata = CASE jsonb_typeof(job.metadata)
        WHEN 'object' THEN job.metadata - 'cancel_attempted_at'
        ELSE job.metadata
    END,
    scheduled_at = coalesce(@now::timestamptz, now()),
    state = 'available'

-- fragment: locked_job
locked AS MATERIALIZED (
    SELECT
        /* job_columns */
    FROM /* schema */river_job AS job
    WHERE job.id = @id
    FOR UPDATE
)

-- fragment: set_states
updated AS (
    UPDATE /* schema */river_job AS job
    SET
        (attempt, errors, finalized_at, metadata, scheduled_at, state) = (
            SELECT
                CASE
                    WHEN is_running AND NOT is_cancelled THEN coalesce(input.attempt, job.attempt)
                    ELSE job.attempt
                END,
                CASE
                    WHEN is_running AND input.error IS NOT NULL THEN array_append(/* job_errors */, input.error::jsonb)
                    ELSE job.errors
                END,
                CASE
                    WHEN NOT is_running THEN job.finalized_at
                    WHEN is_cancelled THEN coalesce(@now::timestamptz, now())
                    ELSE coalesce(input.finalized_at, job.finalized_at)
                END,
                CASE
                    WHEN input.metadata IS NULL THEN job.metadata
                    ELSE job.metadata || input.metadata::jsonb
                END,
                CASE
                    WHEN is_running AND NOT is_cancelled THEN coalesce(input.scheduled_at, job.scheduled_at)
                    ELSE job.scheduled_at
                END,
                CASE
                    WHEN NOT is_running THEN job.state
                    WHEN is_cancelled THEN 'cancelled'
                    ELSE input.state::/* schema */river_job_state
                END
            FROM (
                SELECT
                    job.state = 'running' AS is_running,
                    input.state IN ('available', 'pending', 'retryable', 'scheduled')
                    AND job.metadata ? 'cancel_attempted_at' AS is_cancelled
            ) AS checked
        )
    FROM ROWS FROM (
        unnest(@ids::bigint []),
        unnest(@attempts::integer []),
        unnest(@attempted_ats::timestamptz []),
        unnest(@attempted_bys::text []),
        unnest(@errors::text []),
        unnest(@finalized_ats::timestamptz []),
        unnest(@metadatas::text []),
        unnest(@scheduled_ats::timestamptz []),
        unnest(@states::text []),
        -- The planner expects a thousand rows of this, not ten, and so plans a hash join, not a nested loop.
        generate_series(1, cardinality(@ids::bigint []))
    ) AS input (
        id, attempt, attempted_at, attempted_by, error, finalized_at, metadata, scheduled_at, state, place
    )
    WHERE job.id = input.id
    -- Repeated, so that jobs are found by their primary key, whatever size the planner expects the table to have.
    AND job.id = ANY(@ids::bigint [])
    AND ((job.state = 'running') IS TRUE OR (input.metadata IS NOT NULL AND job.finalized_at IS NOT NULL))
    AND (job.attempted_at IS NOT DISTINCT FROM input.attempted_at) IS TRUE
    AND (job.attempted_by[cardinality(job.attempted_by)] IS NOT DISTINCT FROM input.attempted_by) IS TRUE
    RETURNING
        /* job_columns */
),

unchanged AS (
    SELECT
        /* job_columns */
    FROM /* schema */river_job AS job
    WHERE (SELECT count(*) FROM updated) < cardinality(@ids::bigint [])
    AND job.id = ANY(@ids::bigint [])
    AND job.id NOT IN (SELECT id FROM updated)
)

-- fragment: updated_and_unchanged
SELECT
    /* job_names */
FROM updated
WHERE (SELECT count(*) FROM notified) >= 0
UNION ALL
TABLE unchanged
ORDER BY id

-- name: job_get_available
-- Lock up to @limit available jobs of a queue and mark them running: by priority, then by age. Rows come in any order.
WITH locked AS MATERIALIZED (
    /* first_available */
    LIMIT @limit::integer
    FOR UPDATE SKIP LOCKED
)

/* fetched_of_locked */;

-- name: job_get_lost
-- Return jobs of a queue that run for a client and were fetched after an instant.
SELECT
    /* fetched_columns */
FROM /* schema */river_job AS job
WHERE job.state = 'running'
AND job.queue = @queue
AND job.attempted_at > @after::timestamptz
AND job.attempted_by[cardinality(job.attempted_by)] = @client_id::text;

-- name: job_complete_many
-- Complete jobs of a client's attempts that still run, and return their ids as one array. The ids are sorted.
WITH /* completed */

SELECT array_agg(id) FROM ended;

-- name: job_delete_completed_many
-- Delete jobs of a client's attempts that still run, as `job_complete_many` completes them.
WITH /* deleted_completed */

SELECT array_agg(id) FROM ended;

-- name: job_get_locked
-- Return those of the jobs that another transaction has locked.
WITH free AS MATERIALIZED (
    SELECT id
    FROM /* schema */river_job
    WHERE id = ANY(@ids::bigint [])
    FOR NO KEY UPDATE SKIP LOCKED
)

SELECT job.id
FROM /* schema */river_job AS job
WHERE job.id = ANY(@ids::bigint [])
AND job.id NOT IN (SELECT free.id FROM free);

-- name: job_set_state_if_running_many
-- Write the outcomes of attempts to jobs that still run for them; merge metadata into jobs that were finalized meanwhile.
-- The fetch instant and the client identify an attempt: a job that has another attempt, or waits for one, is not changed.
-- A job whose cancellation was requested is not retried, whatever the outcome says. The statement waits for a row that
-- another transaction is changing, and then uses the row as changed.
WITH /* set_states */,

/* awaited_results */

/* updated_and_unchanged */;

-- name: job_get_by_id
-- Return one job.
SELECT
    /* job_columns */
FROM /* schema */river_job AS job
WHERE job.id = @id;

-- name: job_lock
-- Lock a job until the end of the transaction, and return it as it is then.
SELECT
    /* job_columns */
FROM /* schema */river_job AS job
WHERE job.id = @id
FOR UPDATE;

-- name: job_lock_many
-- Lock jobs until the end of the transaction, except those that another one has locked. Return what their changes look at.
SELECT
    job.id,
    job.state::text AS state,
    job.queue,
    least(greatest(job.scheduled_at, '0001-01-01Z'), '9999-12-31 23:59:59.999999Z') AS scheduled_at
FROM /* schema */river_job AS job
WHERE job.id = ANY(@ids::bigint [])
FOR UPDATE SKIP LOCKED;

-- name: job_get_by_ids
-- Return those of the jobs that exist, by id.
SELECT
    /* job_columns */
FROM /* schema */river_job AS job
WHERE job.id = ANY(@ids::bigint [])
ORDER BY job.id;

-- name: job_list_states
-- Return the states of those of the jobs that exist.
SELECT
    id,
    state::text AS state
FROM /* schema */river_job
WHERE id = ANY(@ids::bigint []);

-- name: job_list
-- Return a page of the jobs that pass the filters.
SELECT
    /* job_columns */
FROM /* schema */river_job AS job
WHERE /* where */
ORDER BY /* order_by */
LIMIT @limit::integer;

-- name: job_list_by_state
-- Return a page by id of the jobs that pass the filters and are in some states. Finished jobs of other states may separate
-- them from the end of the primary key, so only some rows are read there. If these do not fill the page, the ids come from
-- the index by state. Only if that has very many, the primary key is read to its end.
WITH near AS MATERIALIZED (
    SELECT job.id
    FROM (
        SELECT *
        FROM /* schema */river_job AS job
        WHERE /* after */
        ORDER BY job.id /* direction */
        LIMIT 2000
    ) AS job
    WHERE /* where */
    ORDER BY job.id /* direction */
    LIMIT @limit::integer
),

indexed AS MATERIALIZED (
    SELECT job.id
    FROM unnest(@states::text []::/* schema */river_job_state []) AS wanted (state)
    CROSS JOIN LATERAL (
        SELECT job.id
        FROM /* schema */river_job AS job
        WHERE job.state = wanted.state
        -- The order of the index, so that PostgreSQL cannot choose another.
        ORDER BY job.queue, job.priority, job.scheduled_at, job.id
        LIMIT 500001
    ) AS job
    WHERE (SELECT count(*) FROM near) < @limit::integer
    LIMIT 500001
)

SELECT
    /* job_columns */
FROM (
    SELECT job.*
    FROM /* schema */river_job AS job
    WHERE (SELECT count(*) FROM near) >= @limit::integer
    AND job.id = ANY(ARRAY(SELECT near.id FROM near))
    UNION ALL
    (
        SELECT job.*
        FROM (SELECT indexed.id FROM indexed ORDER BY indexed.id /* direction */) AS indexed
        CROSS JOIN LATERAL (
            SELECT *
            FROM (
                SELECT *
                FROM /* schema */river_job AS job
                WHERE job.id = indexed.id
                -- The row first: with old statistics, PostgreSQL would look for each id in all that the index by state has.
                OFFSET 0
            ) AS job
            WHERE /* where */
            OFFSET 0
        ) AS job
        WHERE (SELECT count(*) FROM indexed) <= 500000
        ORDER BY indexed.id /* direction */
        LIMIT @limit::integer
    )
    UNION ALL
    (
        SELECT job.*
        FROM /* schema */river_job AS job
        WHERE (SELECT count(*) FROM indexed) > 500000
        AND /* where */
        ORDER BY job.id /* direction */
        LIMIT @limit::integer
    )
) AS job
ORDER BY job.id /* direction */;

-- name: job_count_by_state
-- Count the jobs in each of the given states; a state without jobs has no row.
SELECT
    state::text,
    count(*)
FROM /* schema */river_job
WHERE state IN (/* states */)
GROUP BY state;

-- name: job_get_cancel_requested
-- Return the ids of those of the jobs that are running and whose cancellation was requested.
SELECT id
FROM /* schema */river_job
WHERE id = ANY(@ids::bigint [])
AND (state = 'running') IS TRUE
AND (metadata ? 'cancel_attempted_at') IS TRUE
ORDER BY id;

-- name: job_cancel
-- Cancel a job that is not finalized. For a running job, notify its client, which ends the attempt.
-- The row is locked first, so that the second of two concurrent cancels returns what the first has written.
WITH /* locked_job */,

cancelling AS MATERIALIZED (
    SELECT
        id,
        pg_notify(
            /* schema_name */ || '.river_control',
            json_build_object('action', 'cancel', 'job_id', id, 'queue', queue)::text
        ) AS notified
    FROM locked
    WHERE finalized_at IS NULL
),

updated AS (
    UPDATE /* schema */river_job AS job
    SET
        /* cancelled */
    FROM cancelling
    WHERE job.id = cancelling.id
    RETURNING
        /* job_columns */,
        /* notified_end */
)

SELECT
    /* job_names */
FROM updated
UNION ALL
SELECT
    /* job_names */
FROM locked
WHERE finalized_at IS NOT NULL;

-- name: job_retry
-- Make a job available now, unless it is running, or is available and due, or is to be kept pending.
WITH /* locked_job */,

updated AS (
    UPDATE /* schema */river_job AS job
    SET
        /* retried */
    FROM locked
    WHERE job.id = locked.id
    AND locked.state <> 'running'
    AND NOT (locked.state = 'available' AND locked.scheduled_at < coalesce(@now::timestamptz, now()))
    AND NOT (locked.state = 'pending' AND @keeps_pending::boolean)
    RETURNING
        /* job_columns */
)

TABLE updated
UNION ALL
SELECT
    /* job_names */
FROM locked
WHERE NOT EXISTS (SELECT FROM updated);

-- fragment: snoozed
    -- The changed row, or the one that is not changed.
SELECT
    updated.*,
    TRUE AS is_changed
FROM updated
UNION ALL
SELECT
    /* job_names */,
    FALSE AS is_changed
FROM locked
WHERE NOT EXISTS (SELECT FROM updated)

-- name: job_snooze
-- Let a waiting job wait until an instant; return the row, and whether it was changed.
WITH /* locked_job */,

updated AS (
    UPDATE /* schema */river_job AS job
    SET
        scheduled_at = @until::timestamptz,
        state = CASE WHEN locked.state = 'available' THEN 'scheduled' ELSE job.state END
    FROM locked
    WHERE job.id = locked.id
    AND locked.state IN ('available', 'retryable', 'scheduled')
    RETURNING
        /* job_columns */
)

/* snoozed */;

-- name: job_delete
-- Delete a job unless it is running; return the row, and whether it was deleted.
WITH /* locked_job */,

deleted AS (
    DELETE FROM /* schema */river_job AS job
    USING locked
    WHERE job.id = locked.id
    AND locked.state <> 'running'
    RETURNING
        job.id,
        /* notified_deletion */
)

SELECT
    /* job_names */,
    EXISTS (SELECT FROM deleted) AS is_deleted
FROM locked;

-- name: job_delete_many
-- Delete up to @limit jobs that pass the filters, except running ones and those that another transaction has locked.
WITH locked AS MATERIALIZED (
    SELECT job.id
    FROM /* schema */river_job AS job
    WHERE job.state <> 'running'
    AND /* where */
    ORDER BY job.id
    LIMIT @limit::integer
    FOR UPDATE SKIP LOCKED
),

deleted AS (
    DELETE FROM /* schema */river_job AS job
    WHERE job.id = ANY(ARRAY(SELECT id FROM locked))
    RETURNING
        /* job_columns */,
        /* notified_deletion */
)

SELECT
    /* job_names */
FROM deleted
ORDER BY id;

-- name: job_update_output
-- Store a job's output, in any state.
UPDATE /* schema */river_job AS job
SET metadata = job.metadata || jsonb_build_object('output', @output::text::jsonb)
WHERE job.id = @id
RETURNING
    /* job_columns */;
