-- name: job_list_longest_running
-- Return the jobs that have run for longest, of a limited number of running jobs.
SELECT
    running.id,
    running.kind,
    running.queue,
    greatest(least(running.attempted_at, '9999-12-31Z'), '0001-01-01Z') AS attempted_at
FROM (
    SELECT
        job.id,
        job.kind,
        job.queue,
        job.attempted_at
    FROM /* schema */river_job AS job
    WHERE job.state = 'running' AND job.attempted_at IS NOT NULL
    ORDER BY job.queue, job.priority, job.scheduled_at
    LIMIT @running_max::integer
) AS running
ORDER BY running.attempted_at
LIMIT @limit::integer;

-- name: job_get_table_state
-- Return the live and dead rows of the job table, as PostgreSQL estimates them, and when the oldest job was completed. Tasks
-- of flows are kept for longer. If there are no others among the oldest, it is NULL.
SELECT
    coalesce(pg_stat_get_live_tuples(river_job.oid), 0) AS num_live,
    coalesce(pg_stat_get_dead_tuples(river_job.oid), 0) AS num_dead,
    (
        SELECT greatest(least(oldest.finalized_at, '9999-12-31Z'), '0001-01-01Z')
        FROM (
            SELECT
                job.finalized_at,
                job.metadata
            FROM /* schema */river_job AS job
            WHERE job.state = 'completed' AND job.finalized_at IS NOT NULL
            ORDER BY job.finalized_at
            LIMIT 1000
        ) AS oldest
        WHERE NOT oldest.metadata ? 'workflow_id'
        ORDER BY oldest.finalized_at
        LIMIT 1
    ) AS oldest_completed_at
FROM (SELECT to_regclass('/* schema */river_job') AS oid) AS river_job;

-- name: table_list_sizes
-- Return the rows of tables as PostgreSQL estimates them, their sizes, and when each was last vacuumed.
-- A table that is not there is left out.
SELECT
    found.name,
    coalesce(pg_stat_get_live_tuples(found.oid), 0) AS num_live,
    coalesce(pg_stat_get_dead_tuples(found.oid), 0) AS num_dead,
    pg_table_size(found.oid) AS table_bytes,
    pg_indexes_size(found.oid) AS index_bytes,
    greatest(pg_stat_get_last_vacuum_time(found.oid), pg_stat_get_last_autovacuum_time(found.oid)) AS vacuumed_at
FROM (
    SELECT
        wanted.name,
        to_regclass('/* schema */' || quote_ident(wanted.name)) AS oid
    FROM unnest(@names::text []) AS wanted (name)
) AS found
WHERE found.oid IS NOT NULL
ORDER BY found.name;

-- name: index_list_sizes
-- Return the size of each index of the job table.
SELECT
    class.relname AS index_name,
    pg_relation_size(class.oid) AS num_bytes
FROM pg_catalog.pg_index AS index
INNER JOIN pg_catalog.pg_class AS class ON index.indexrelid = class.oid
WHERE index.indrelid = to_regclass('/* schema */river_job')
ORDER BY class.relname;

-- name: session_get_oldest_transaction
-- Return for how many seconds the oldest transaction of this database has been open; null if this role may not see it.
SELECT
    CASE WHEN pg_has_role('pg_read_all_stats', 'USAGE')
        THEN coalesce(extract(EPOCH FROM clock_timestamp() - min(session.xact_start)), 0)::float8
    END AS seconds
FROM pg_catalog.pg_stat_activity AS session
WHERE session.datname = current_database()
AND session.backend_type = 'client backend'
AND session.pid <> pg_backend_pid();
