-- name: job_list_unfinished
-- Return jobs in a state after another job, in the order of the fetch index; args only of the given kinds.
-- Instants are texts both ways: PostgreSQL has some that Python cannot represent.
SELECT
    job.id,
    job.kind,
    job.queue,
    job.priority,
    job.scheduled_at::text,
    CASE WHEN job.kind = ANY(@kinds::text []) THEN job.args::text END AS args
FROM /* schema */river_job AS job
WHERE
    job.state = '/* state */'
    AND (job.queue, job.priority, job.scheduled_at, job.id) > (
        @after_queue::text, @after_priority::smallint, @after_scheduled_at::text::timestamptz, @after_id::bigint
    )
ORDER BY job.queue, job.priority, job.scheduled_at, job.id
LIMIT @limit::integer
