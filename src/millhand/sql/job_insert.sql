-- fragment: job_values
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

-- name: job_insert
-- Insert one job that has no unique key, and announce a queue, if one is said.
-- A plain INSERT, which takes two thirds of the time of job_insert_unique. What was sent does not come back, but for what
-- the table may have written in its own way.
INSERT INTO /* schema */river_job AS job (
    args, created_at, kind, max_attempts, metadata, priority, queue, scheduled_at, state, tags
)
VALUES (
    /* job_values */
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
-- Insert jobs without unique keys in the order given, and announce queues.
-- Of a column in which all are alike the list has one value, and of an instant that nobody says none: unnest fills up
-- with nulls. The answer is one row of lists, in the order of those that came, in which a scan of a function gives rows:
-- a row for each job would take the client longer to read than all else takes it. Of instants come those that are not
-- the statement's own.
WITH notified AS MATERIALIZED (
    SELECT pg_notify(/* schema_name */ || '.river_insert', jsonb_build_object('queue', queue)::text)
    FROM unnest(@notify_queues::text []) AS queue
),

inserted AS (
    INSERT INTO /* schema */river_job AS job (
        args, created_at, kind, max_attempts, metadata, priority, queue, scheduled_at, state, tags
    )
    SELECT
        args::jsonb,
        coalesce(created_at, @now::timestamptz, now()),
        coalesce(kind, (@kind::text [])[1]),
        coalesce(max_attempts, (@max_attempts::smallint [])[1]),
        coalesce(metadata, (@metadata::text [])[1])::jsonb,
        coalesce(priority, (@priority::smallint [])[1]),
        coalesce(queue, (@queue::text [])[1]),
        coalesce(scheduled_at, @now::timestamptz, now()),
        coalesce(state, (@state::text [])[1])::/* schema */river_job_state,
        string_to_array(coalesce(tags, (@tags::text [])[1]), ',')::varchar(255) []
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
        @tags::text []
    ) AS t (args, created_at, kind, max_attempts, metadata, priority, queue, scheduled_at, state, tags)
    WHERE (SELECT count(*) FROM notified) >= 0
    RETURNING
        job.id,
        job.args,
        job.metadata,
        least(greatest(job.created_at, '0001-01-01Z'), '9999-12-31 23:59:59.999999Z') AS created_at,
        least(greatest(job.scheduled_at, '0001-01-01Z'), '9999-12-31 23:59:59.999999Z') AS scheduled_at
)

SELECT
    coalesce(@now::timestamptz, now()) AS said_at,
    array_agg(id) AS ids,
    array_agg(args::text) AS args,
    array_agg(metadata::text) AS metadata,
    array_agg(nullif(created_at, coalesce(@now::timestamptz, now()))) AS created_at,
    array_agg(nullif(scheduled_at, coalesce(@now::timestamptz, now()))) AS scheduled_at
FROM inserted;
