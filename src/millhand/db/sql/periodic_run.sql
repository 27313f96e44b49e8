-- name: periodic_run_exists
-- Return whether a run of a periodic job was inserted and has not been retried, which would have moved its scheduled_at.
SELECT EXISTS (
    SELECT
    FROM /* schema */river_job AS job
    -- All states: the index begins with state, queue, priority and scheduled_at.
    WHERE job.state = ANY(enum_range(NULL::/* schema */river_job_state))
    AND job.queue = @queue
    AND job.priority = @priority::smallint
    AND job.scheduled_at = @scheduled_at::timestamptz
    AND job.kind = @kind
    AND job.metadata ->> 'river:periodic_job_id' = @periodic_job_id::text
) AS is_there;
