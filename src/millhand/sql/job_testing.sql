-- What tests of workers say, and nobody else.

-- name: job_begin
-- Mark one job running, whatever it waits for, count the attempt, and merge metadata.
UPDATE /* schema */river_job AS job
SET
    state = 'running',
    attempt = job.attempt + 1,
    attempted_at = @now::timestamptz,
    attempted_by = array_append(job.attempted_by, @client_id::text),
    finalized_at = NULL,
    metadata = job.metadata || @metadata::text::jsonb
WHERE job.id = @id
RETURNING
    /* job_columns */;
