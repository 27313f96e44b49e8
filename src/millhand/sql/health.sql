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
-- Return the live and dead rows of the job table, as PostgreSQL estimates them, and when the oldest job was completed.
SELECT
    coalesce(pg_stat_get_live_tuples(river_job.oid), 0) AS num_live,
    coalesce(pg_stat_get_dead_tuples(river_job.oid), 0) AS num_dead,
    (
        SELECT greatest(least(job.finalized_at, '9999-12-31Z'), '0001-01-01Z')
        FROM /* schema */river_job AS job
        WHERE job.state = 'completed' AND job.finalized_at IS NOT NULL
        ORDER BY job.finalized_at
        LIMIT 1
    ) AS oldest_completed_at
FROM (SELECT to_regclass('/* schema */river_job') AS oid) AS river_job;
