-- name: migration_get_shape
-- Return whether the migration table exists, whether it has lines, and whether its schema exists.
SELECT
    to_regclass('/* schema */river_migration') IS NOT NULL AS has_table,
    EXISTS (
        SELECT
        FROM pg_attribute
        WHERE attrelid = to_regclass('/* schema */river_migration')
        AND attname = 'line'
        AND NOT attisdropped
    ) AS has_line,
    /* schema_name */::text AS schema_name,
    to_regnamespace(quote_ident(/* schema_name */)) IS NOT NULL AS has_schema;

-- name: migration_get_conflicting_names
-- Return the names of existing tables and types that River's would have.
SELECT relname::text AS name
FROM pg_class
WHERE relnamespace = to_regnamespace(quote_ident(/* schema_name */))
AND relname = ANY(@names::text [])
UNION
SELECT typname::text
FROM pg_type
WHERE typnamespace = to_regnamespace(quote_ident(/* schema_name */))
AND typname = ANY(@names::text [])
ORDER BY name;

-- name: migration_get_versions
-- Return the applied versions of a line.
SELECT version
FROM /* schema */river_migration
WHERE line = @line
ORDER BY version;

-- name: migration_get_versions_without_line
-- Return the applied versions of line main, from a table without lines.
SELECT version
FROM /* schema */river_migration
ORDER BY version;

-- name: migration_get_other_lines
-- Return the other lines that have applied versions.
SELECT DISTINCT line
FROM /* schema */river_migration
WHERE line <> @line
ORDER BY line;

-- name: migration_get_waiting_jobs
-- Count the jobs that wait for the limits of their queues, by queue. Without their rows, nothing makes them available.
SELECT
    limited.queue,
    count(*) AS num_jobs
FROM /* schema */millhand_limited_job AS limited
INNER JOIN /* schema */river_job AS job ON limited.job_id = job.id
WHERE job.state = 'pending'
GROUP BY limited.queue
ORDER BY limited.queue;

-- name: migration_get_waiting_flows
-- Count the jobs that wait for other jobs of their flows: for the first flows, and in all. Without their rows, nothing makes
-- them available.
SELECT
    flow.id,
    flow.name,
    count(*) AS num_jobs,
    count(*) OVER () AS num_flows
FROM /* schema */millhand_flow_task AS task
INNER JOIN /* schema */millhand_flow AS flow ON task.flow_id = flow.id
INNER JOIN /* schema */river_job AS job ON task.job_id = job.id
WHERE task.state = 'waiting'
AND job.state = 'pending'
GROUP BY flow.id
ORDER BY flow.id
LIMIT @limit::integer;

-- name: migration_insert
-- Record that a version of a line was applied.
INSERT INTO /* schema */river_migration (line, version)
VALUES (@line, @version);

-- name: migration_insert_without_line
-- Record that a version of line main was applied, in a table without lines.
INSERT INTO /* schema */river_migration (version)
VALUES (@version);

-- name: migration_delete
-- Delete the record of a version of a line.
DELETE FROM /* schema */river_migration
WHERE line = @line
AND version = @version;

-- name: migration_delete_without_line
-- Delete the record of a version of line main, in a table without lines.
DELETE FROM /* schema */river_migration
WHERE version = @version;

-- name: migration_lock
-- Take the schema's migration lock until the end of the transaction; wait for another migrator that has it.
-- The key is a fixed number of Millhand's, and the hash of the schema's name.
SELECT pg_advisory_xact_lock(1835625580, hashtext(/* schema_name */)) IS NULL;

-- name: migration_set_lock_timeout
-- Limit how long a statement waits for a lock, until the end of the transaction; return the limit before.
SELECT
    before.lock_timeout,
    set_config('lock_timeout', @lock_timeout::text, true)
FROM (SELECT current_setting('lock_timeout') AS lock_timeout OFFSET 0) AS before;

-- name: migration_get_oldest_transaction
-- Return the session whose transaction has been open for longest. A role sees only its own sessions' times.
SELECT
    pid,
    application_name::text AS application_name,
    state::text AS state,
    extract(EPOCH FROM clock_timestamp() - xact_start)::float8 AS seconds
FROM pg_catalog.pg_stat_activity
WHERE datname = current_database()
AND xact_start IS NOT NULL
AND backend_type = 'client backend'
AND pid <> pg_backend_pid()
ORDER BY xact_start
LIMIT 1;

-- name: migration_pause
-- Wait, in a way that code without an event loop can use too.
SELECT pg_sleep(@seconds::float8) IS NULL;
