-- name: periodic_run_exists
-- Say whether a run of a periodic job is there, as it was inserted: one that was tried again since is due at another time.
SELECT EXISTS (
    SELECT
    FROM /* schema */river_job AS job
    -- All states, so that the index by state, queue, priority and instant leads to it.
    WHERE job.state = ANY(enum_range(NULL::/* schema */river_job_state))
    AND job.queue = @queue
    AND job.priority = @priority::smallint
    AND job.scheduled_at = @scheduled_at::timestamptz
    AND job.kind = @kind
    AND job.metadata ->> 'river:periodic_job_id' = @periodic_job_id::text
) AS is_there;
