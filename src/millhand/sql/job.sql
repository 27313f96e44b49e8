-- fragment: job_columns
    job.id,
    job.state::text AS state,
    job.attempt,
    job.max_attempts,
    job.attempted_at,
    job.created_at,
    job.finalized_at,
    job.scheduled_at,
    job.priority,
    job.args::text AS args,
    job.attempted_by,
    job.errors::text [] AS errors,
    job.kind,
    job.metadata::text AS metadata,
    job.queue,
    job.tags::text [] AS tags,
    job.unique_key,
    job.unique_states::integer AS unique_states

-- name: job_insert_many
-- Insert jobs in the order given; on a unique conflict give the row that is there already. Announce queues.
-- The ids are drawn beforehand: a row with another id is one that was there.
WITH input AS MATERIALIZED (
    SELECT
        n,
        nextval('/* schema */river_job_id_seq'::regclass) AS id,
        args::jsonb AS args,
        coalesce(created_at, @now::timestamptz, now()) AS created_at,
        kind,
        max_attempts,
        metadata::jsonb AS metadata,
        priority,
        queue,
        coalesce(scheduled_at, @now::timestamptz, now()) AS scheduled_at,
        state::/* schema */river_job_state AS state,
        string_to_array(tags, ',')::varchar(255) [] AS tags,
        unique_key,
        unique_states::bit(8) AS unique_states
    FROM unnest(
        @args::text [],
        @created_at::timestamptz [],
        @kind::text [],
        @max_attempts::smallint [],
        @metadata::text [],
        @priority::smallint [],
        @queue::text [],
        @scheduled_at::timestamptz [],
        @state::text [],
        @tags::text [],
        @unique_key::bytea [],
        @unique_states::integer []
    ) WITH ORDINALITY AS t (
        args, created_at, kind, max_attempts, metadata, priority, queue, scheduled_at, state, tags, unique_key,
        unique_states, n
    )
),

notified AS MATERIALIZED (
    SELECT pg_notify(/* schema_name */ || '.river_insert', jsonb_build_object('queue', queue)::text)
    FROM unnest(@notify_queues::text []) AS queue
)

INSERT INTO /* schema */river_job AS job (
    id, args, created_at, kind, max_attempts, metadata, priority, queue, scheduled_at, state, tags, unique_key,
    unique_states
)
SELECT
    id, args, created_at, kind, max_attempts, metadata, priority, queue, scheduled_at, state, tags, unique_key,
    unique_states
FROM input
WHERE (SELECT count(*) FROM notified) >= 0
ORDER BY n
ON CONFLICT (unique_key)
    WHERE unique_key IS NOT NULL
    AND unique_states IS NOT NULL
    AND /* schema */river_job_state_in_bitmask(unique_states, state)
    -- The row's own kind: nothing changes, but the row is returned.
    DO UPDATE SET kind = job.kind
RETURNING
    /* job_columns */,
    job.id NOT IN (SELECT id FROM input) AS is_duplicate;

-- name: job_insert
-- Insert one job as job_insert_many does; without arrays it takes two thirds of the time.
WITH drawn AS MATERIALIZED (
    SELECT nextval('/* schema */river_job_id_seq'::regclass) AS id
),

notified AS MATERIALIZED (
    SELECT pg_notify(/* schema_name */ || '.river_insert', jsonb_build_object('queue', queue)::text)
    FROM unnest(@notify_queues::text []) AS queue
)

INSERT INTO /* schema */river_job AS job (
    id, args, created_at, kind, max_attempts, metadata, priority, queue, scheduled_at, state, tags, unique_key,
    unique_states
)
SELECT
    id,
    @args::text::jsonb,
    coalesce(@created_at::timestamptz, @now::timestamptz, now()),
    @kind::text,
    @max_attempts::smallint,
    @metadata::text::jsonb,
    @priority::smallint,
    @queue::text,
    coalesce(@scheduled_at::timestamptz, @now::timestamptz, now()),
    @state::text::/* schema */river_job_state,
    @tags::text []::varchar(255) [],
    @unique_key::bytea,
    @unique_states::integer::bit(8)
FROM drawn
WHERE (SELECT count(*) FROM notified) >= 0
ON CONFLICT (unique_key)
    WHERE unique_key IS NOT NULL
    AND unique_states IS NOT NULL
    AND /* schema */river_job_state_in_bitmask(unique_states, state)
    DO UPDATE SET kind = job.kind
RETURNING
    /* job_columns */,
    job.id <> (SELECT id FROM drawn) AS is_duplicate;

-- name: job_notify_insert
-- Announce queues in which jobs became available.
SELECT pg_notify(/* schema_name */ || '.river_insert', jsonb_build_object('queue', queue)::text)
FROM unnest(@queues::text []) AS queue;

-- name: job_get_available
-- Lock up to @limit available jobs of a queue and mark them running: priority first, then age.
WITH locked AS MATERIALIZED (
    SELECT id
    FROM /* schema */river_job
    WHERE state = 'available'
    AND queue = @queue
    AND scheduled_at <= coalesce(@now::timestamptz, now())
    AND (@kinds::text [] IS NULL OR kind = ANY(@kinds::text []))
    ORDER BY priority, scheduled_at, id
    LIMIT @limit::integer
    FOR UPDATE SKIP LOCKED
),

updated AS (
    UPDATE /* schema */river_job AS job
    SET
        state = 'running',
        attempt = job.attempt + 1,
        attempted_at = coalesce(@now::timestamptz, now()),
        attempted_by = array_append(
            CASE
                WHEN cardinality(job.attempted_by) >= @max_attempted_by::integer
                    THEN job.attempted_by[cardinality(job.attempted_by) - @max_attempted_by::integer + 2:]
                ELSE job.attempted_by
            END,
            @client_id::text
        )
    -- An array and not a join: the planner must not think of reading the whole table.
    WHERE job.id = ANY(ARRAY(SELECT id FROM locked))
    RETURNING
        /* job_columns */
)

TABLE updated
ORDER BY priority, scheduled_at, id;

-- name: job_complete_many
-- Mark running jobs completed, and nothing else. The ids are sorted.
UPDATE /* schema */river_job AS job
SET
    state = 'completed',
    -- No join, which the planner might take for one of a few rows and make a loop in a loop: an id's place among the
    -- sorted ids is that of its instant.
    finalized_at = (@finalized_ats::timestamptz [])[width_bucket(job.id, @ids::bigint [])]
WHERE job.id = ANY(@ids::bigint [])
AND job.state = 'running'
RETURNING job.id;

-- name: job_set_state_if_running_many
-- Write how attempts ended, for jobs that are still running; merge metadata into the others too.
-- A job whose cancellation was asked for is not tried again, whatever its attempt says.
WITH input AS MATERIALIZED (
    SELECT
        id,
        attempt,
        error::jsonb AS error,
        finalized_at,
        metadata::jsonb AS metadata,
        scheduled_at,
        state::/* schema */river_job_state AS state
    FROM unnest(
        @ids::bigint [],
        @attempts::integer [],
        @errors::text [],
        @finalized_ats::timestamptz [],
        @metadatas::text [],
        @scheduled_ats::timestamptz [],
        @states::text []
    ) AS t (id, attempt, error, finalized_at, metadata, scheduled_at, state)
),

locked AS MATERIALIZED (
    SELECT
        job.id,
        job.state = 'running' AS is_running,
        input.state IN ('available', 'retryable', 'scheduled')
        AND job.metadata ? 'cancel_attempted_at' AS is_cancelled
    FROM /* schema */river_job AS job
    INNER JOIN input ON job.id = input.id
    -- Said twice, so that the planner thinks of the primary key whatever it believes of the table's size.
    WHERE job.id = ANY(@ids::bigint [])
    FOR UPDATE OF job
),

updated AS (
    UPDATE /* schema */river_job AS job
    SET
        attempt = CASE
            WHEN locked.is_running AND NOT locked.is_cancelled THEN coalesce(input.attempt, job.attempt)
            ELSE job.attempt
        END,
        errors = CASE
            WHEN locked.is_running AND input.error IS NOT NULL THEN array_append(job.errors, input.error)
            ELSE job.errors
        END,
        finalized_at = CASE
            WHEN NOT locked.is_running THEN job.finalized_at
            WHEN locked.is_cancelled THEN coalesce(@now::timestamptz, now())
            ELSE coalesce(input.finalized_at, job.finalized_at)
        END,
        metadata = CASE
            WHEN input.metadata IS NOT NULL THEN job.metadata || input.metadata
            ELSE job.metadata
        END,
        scheduled_at = CASE
            WHEN locked.is_running AND NOT locked.is_cancelled THEN coalesce(input.scheduled_at, job.scheduled_at)
            ELSE job.scheduled_at
        END,
        state = CASE
            WHEN NOT locked.is_running THEN job.state
            WHEN locked.is_cancelled THEN 'cancelled'
            ELSE input.state
        END
    FROM input
    INNER JOIN locked ON input.id = locked.id
    WHERE job.id = input.id
    AND job.id = ANY(@ids::bigint [])
    AND (locked.is_running OR input.metadata IS NOT NULL)
    RETURNING
        /* job_columns */
),

unchanged AS (
    SELECT
        /* job_columns */
    FROM /* schema */river_job AS job
    WHERE job.id = ANY(ARRAY(
        SELECT locked.id
        FROM locked
        INNER JOIN input ON locked.id = input.id
        WHERE NOT locked.is_running AND input.metadata IS NULL
    ))
)

TABLE updated
UNION ALL
TABLE unchanged
ORDER BY id;

-- name: job_get_by_id
-- Give one job.
SELECT
    /* job_columns */
FROM /* schema */river_job AS job
WHERE job.id = @id;

-- name: job_get_by_ids
-- Give those of the jobs that exist, by id.
SELECT
    /* job_columns */
FROM /* schema */river_job AS job
WHERE job.id = ANY(@ids::bigint [])
ORDER BY job.id;

-- name: job_list
-- Give a page of the jobs that pass the filters.
SELECT
    /* job_columns */
FROM /* schema */river_job AS job
WHERE /* where */
ORDER BY /* order_by */
LIMIT @limit::integer;

-- name: job_count_by_state
-- Count the jobs in each of the states given; a state without jobs has no row.
SELECT
    state::text,
    count(*)
FROM /* schema */river_job
WHERE state = ANY(@states::text []::/* schema */river_job_state [])
GROUP BY state;

-- name: job_get_cancel_requested
-- Give the ids of those of the jobs that are running and whose cancellation was asked for.
SELECT id
FROM /* schema */river_job
WHERE id = ANY(@ids::bigint [])
AND state = 'running'
AND metadata ? 'cancel_attempted_at'
ORDER BY id;

-- name: job_cancel
-- Cancel a job that is not finalized; one that is running is only asked to end, through its client.
-- The row is locked first, so that the later of two who cancel at once gets what the earlier has written.
WITH locked AS MATERIALIZED (
    SELECT
        /* job_columns */
    FROM /* schema */river_job AS job
    WHERE job.id = @id
    FOR UPDATE
),

cancelling AS MATERIALIZED (
    SELECT
        id,
        state = 'running' AS is_running,
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
        finalized_at = CASE WHEN NOT cancelling.is_running THEN coalesce(@now::timestamptz, now()) END,
        metadata = CASE jsonb_typeof(job.metadata) WHEN 'object' THEN job.metadata ELSE '{}' END
            || jsonb_build_object('cancel_attempted_at', @cancel_attempted_at::text),
        state = CASE WHEN cancelling.is_running THEN job.state ELSE 'cancelled' END
    FROM cancelling
    WHERE job.id = cancelling.id
    RETURNING
        /* job_columns */
)

TABLE updated
UNION ALL
SELECT locked.*
FROM locked
WHERE finalized_at IS NOT NULL;

-- name: job_retry
-- Make a job available at once, unless it is running, or is available and due already.
WITH locked AS MATERIALIZED (
    SELECT
        /* job_columns */
    FROM /* schema */river_job AS job
    WHERE job.id = @id
    FOR UPDATE
),

updated AS (
    UPDATE /* schema */river_job AS job
    SET
        finalized_at = NULL,
        max_attempts = CASE
            WHEN job.attempt = job.max_attempts THEN job.max_attempts + 1
            ELSE job.max_attempts
        END,
        metadata = CASE jsonb_typeof(job.metadata)
            WHEN 'object' THEN job.metadata - 'cancel_attempted_at'
            ELSE job.metadata
        END,
        scheduled_at = coalesce(@now::timestamptz, now()),
        state = 'available'
    FROM locked
    WHERE job.id = locked.id
    AND locked.state <> 'running'
    AND NOT (locked.state = 'available' AND locked.scheduled_at < coalesce(@now::timestamptz, now()))
    RETURNING
        /* job_columns */
)

TABLE updated
UNION ALL
SELECT locked.*
FROM locked
WHERE NOT EXISTS (SELECT FROM updated);

-- name: job_delete
-- Delete a job unless it is running; give the row, and whether it was deleted.
WITH locked AS MATERIALIZED (
    SELECT
        /* job_columns */
    FROM /* schema */river_job AS job
    WHERE job.id = @id
    FOR UPDATE
),

deleted AS (
    DELETE FROM /* schema */river_job AS job
    USING locked
    WHERE job.id = locked.id
    AND locked.state <> 'running'
    RETURNING job.id
)

SELECT
    locked.*,
    EXISTS (SELECT FROM deleted) AS is_deleted
FROM locked;

-- name: job_delete_many
-- Delete up to @limit jobs that pass the filters, running ones and those that others hold never.
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
        /* job_columns */
)

TABLE deleted
ORDER BY id;

-- name: job_update_output
-- Store a job's output, in whatever state the job is.
UPDATE /* schema */river_job AS job
SET metadata = job.metadata || jsonb_build_object('output', @output::text::jsonb)
WHERE job.id = @id
RETURNING
    /* job_columns */;
