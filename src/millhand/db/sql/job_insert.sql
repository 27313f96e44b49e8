-- Inserts. A new column goes into the first three fragments, and twice into job_insert_many_plain.

-- fragment: insert_columns
    args, created_at, kind, max_attempts, metadata, priority, queue, scheduled_at, state, tags

-- fragment: insert_values
    @args::text::jsonb,
    coalesce(@created_at::timestamptz, @now::timestamptz, now()),
    @kind::text,
    @max_attempts::smallint,
    @metadata::text::jsonb,
    @priority::smallint,
    @queue::text,
    coalesce(@scheduled_at::timestamptz, @now::timestamptz, now()),
    @state::text::/* schema */river_job_state,
    @tags::text []::varchar(255) []

-- fragment: insert_input
    -- The jobs to insert with their ids, in the order given.
input AS MATERIALIZED (
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
    ) WITH ORDINALITY AS t (/* insert_columns */, unique_key, unique_states, n)
)

-- fragment: notified
notified AS MATERIALIZED (
    SELECT pg_notify(/* schema_name */ || '.river_insert', jsonb_build_object('queue', queue)::text)
    FROM unnest(@notify_queues::text []) AS queue
)

-- fragment: on_unique_conflict
ON CONFLICT (unique_key)
    WHERE unique_key IS NOT NULL
    AND unique_states IS NOT NULL
    AND /* schema */river_job_state_in_bitmask(unique_states, state)
    -- Sets a column to its own value, so that the existing row is returned. It is created_at because a role that inserts
    -- must be allowed to update the column, and nothing depends on this one.
    DO UPDATE SET created_at = job.created_at

-- fragment: inserted_of_input
    -- The jobs of `input` in the order of their keys, or the jobs that have their keys.
FROM input
WHERE (SELECT count(*) FROM notified) >= 0
ORDER BY unique_key, n
/* on_unique_conflict */
RETURNING
    /* job_columns */,
    job.id NOT IN (SELECT id FROM input) AS is_duplicate

-- name: job_insert
-- Insert one job that has no unique key, and notify a queue if one is given.
-- A plain INSERT takes two thirds of the time of job_insert_unique. It returns only what the server may have changed.
INSERT INTO /* schema */river_job AS job (/* insert_columns */)
VALUES (
    /* insert_values */
)
RETURNING
    job.id,
    job.args::text AS args,
    job.metadata::text AS metadata,
    least(greatest(job.created_at, '0001-01-01Z'), '9999-12-31 23:59:59.999999Z') AS created_at,
    least(greatest(job.scheduled_at, '0001-01-01Z'), '9999-12-31 23:59:59.999999Z') AS scheduled_at,
    CASE WHEN @notify_queue::text IS NOT NULL
        THEN pg_notify(
            /* schema_name */ || '.river_insert', jsonb_build_object('queue', @notify_queue::text)::text
        )
    END AS notified;

-- name: job_insert_many_plain
-- Insert jobs without unique keys in the order given, and notify queues.
-- Args come as one JSON array, because a driver and the server need longer for an array of texts. A column in which all values
-- are equal comes as an array of one, and an instant that no job has as an empty array. ROWS FROM fills them up with nulls.
-- The result is one row of arrays, in the order of the input: a row for each job would cost the client more than everything
-- else. Metadata are returned only if some job has any, and instants only where some are not the statement's own.
WITH /* notified */,

inserted AS (
    INSERT INTO /* schema */river_job AS job (/* insert_columns */)
    SELECT
        args,
        coalesce(created_at, @now::timestamptz, now()),
        coalesce(kind, (@kind::text [])[1]),
        coalesce(max_attempts, (@max_attempts::smallint [])[1]),
        -- A subquery computes the cast of a value that all jobs share once.
        coalesce(metadata::jsonb, (SELECT (@metadata::text [])[1]::jsonb)),
        coalesce(priority, (@priority::smallint [])[1]),
        coalesce(queue, (@queue::text [])[1]),
        coalesce(scheduled_at, @now::timestamptz, now()),
        coalesce(
            state::/* schema */river_job_state,
            (SELECT (@state::text [])[1]::/* schema */river_job_state)
        ),
        coalesce(
            string_to_array(tags, ',')::varchar(255) [],
            (SELECT string_to_array((@tags::text [])[1], ',')::varchar(255) [])
        )
    FROM ROWS FROM (
        jsonb_array_elements(@args::text::jsonb),
        unnest(@created_at::timestamptz []),
        unnest(@kind::text []),
        unnest(@max_attempts::smallint []),
        unnest(@metadata::text []),
        unnest(@priority::smallint []),
        unnest(@queue::text []),
        unnest(@scheduled_at::timestamptz []),
        unnest(@state::text []),
        unnest(@tags::text [])
    ) AS t (/* insert_columns */)
    WHERE (SELECT count(*) FROM notified) >= 0
    RETURNING
        job.id,
        job.args,
        job.metadata,
        job.created_at,
        job.scheduled_at
)

SELECT
    coalesce(@now::timestamptz, now()) AS statement_at,
    array_agg(id) AS ids,
    array_agg(args::text) AS args,
    CASE WHEN bool_or(metadata <> '{}') THEN (SELECT array_agg(metadata::text) FROM inserted) END AS metadata,
    CASE WHEN bool_or(created_at <> coalesce(@now::timestamptz, now())) THEN
        (
            SELECT array_agg(least(greatest(created_at, '0001-01-01Z'), '9999-12-31 23:59:59.999999Z'))
            FROM inserted
        )
    END AS created_at,
    CASE WHEN bool_or(scheduled_at <> coalesce(@now::timestamptz, now())) THEN
        (
            SELECT array_agg(least(greatest(scheduled_at, '0001-01-01Z'), '9999-12-31 23:59:59.999999Z'))
            FROM inserted
        )
    END AS scheduled_at
FROM inserted;

-- name: job_insert_many
-- Insert jobs, or return the existing row on a unique conflict. Notify queues.
-- The ids are drawn first, in the order given: a row with another id existed before.
-- The rows are inserted and returned in the order of their keys. An insert waits for others that have inserted or locked a
-- job with the same key, so two orders would be a deadlock.
WITH /* insert_input */,

/* notified */

INSERT INTO /* schema */river_job AS job (id, /* insert_columns */, unique_key, unique_states)
SELECT
    id, /* insert_columns */, unique_key, unique_states
/* inserted_of_input */;

-- name: job_insert_unique
-- Insert one job as job_insert_many does. Without arrays it takes two thirds of the time.
WITH drawn AS MATERIALIZED (
    SELECT nextval('/* schema */river_job_id_seq'::regclass) AS id
),

/* notified */

INSERT INTO /* schema */river_job AS job (id, /* insert_columns */, unique_key, unique_states)
SELECT
    id,
    /* insert_values */,
    @unique_key::bytea,
    @unique_states::integer::bit(8)
FROM drawn
WHERE (SELECT count(*) FROM notified) >= 0
/* on_unique_conflict */
RETURNING
    /* job_columns */,
    job.id <> (SELECT id FROM drawn) AS is_duplicate;

-- name: job_notify_insert
-- Notify queues that have new available jobs.
SELECT pg_notify(/* schema_name */ || '.river_insert', jsonb_build_object('queue', queue)::text)
FROM unnest(@queues::text []) AS queue;
