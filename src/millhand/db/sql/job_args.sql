-- Args that are encrypted again.

-- name: job_update_args_many
-- Replace the args of waiting jobs that still have the args that were read, and return their ids. A job that another
-- transaction has locked, such as a fetch, is skipped: the next pass finds it, if it waits again.
WITH changed AS MATERIALIZED (
    SELECT
        job.id,
        input.new_args::jsonb AS new_args
    FROM unnest(@ids::bigint [], @old_args::text [], @new_args::text []) AS input (id, old_args, new_args)
    INNER JOIN /* schema */river_job AS job ON job.id = input.id
    WHERE job.state IN ('available', 'pending', 'retryable', 'scheduled')
    AND job.args = input.old_args::jsonb
    FOR UPDATE OF job SKIP LOCKED
)

UPDATE /* schema */river_job AS job
SET args = changed.new_args
FROM changed
WHERE job.id = changed.id
RETURNING job.id;
