-- name: job_insert_many_plain
-- Insert jobs without unique keys in the order given, and announce queues.
-- Of a column in which all are alike the list has one value, and of an instant that nobody says none: unnest fills up
-- with nulls. Rows come back in the order of the lists, in which a scan of a function gives them.
WITH notified AS MATERIALIZED (
    SELECT pg_notify(/* schema_name */ || '.river_insert', jsonb_build_object('queue', queue)::text)
    FROM unnest(@notify_queues::text []) AS queue
)

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
-- An instant that comes twice is read once.
RETURNING
    job.id,
    job.args::text,
    job.metadata::text,
    job.created_at,
    nullif(job.scheduled_at, job.created_at) AS scheduled_at;
