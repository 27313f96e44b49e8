-- fragment: job_details
    /* job_head */,
    job.kind,
    job.queue,
    ARRAY(SELECT tag FROM unnest(job.tags::text []) AS tag WHERE tag IS NOT NULL LIMIT @max_rows::integer) AS tags,
    left(text.args, @max_length::integer) AS args,
    octet_length(text.args) AS args_bytes,
    left(text.metadata, @max_length::integer) AS metadata,
    octet_length(text.metadata) AS metadata_bytes,
    left(text.output, @max_length::integer) AS output,
    octet_length(text.output) AS output_bytes,
    ARRAY(
        SELECT left(client_id, 1000)
        FROM unnest(job.attempted_by) WITH ORDINALITY AS fetched (client_id, number)
        WHERE client_id IS NOT NULL
        ORDER BY number DESC
        LIMIT @max_rows::integer
    ) AS attempted_by,
    coalesce(cardinality(job.attempted_by), 0) AS num_fetches,
    ARRAY(
        SELECT
            jsonb_build_object(
                'at', error -> 'at',
                'attempt', error -> 'attempt',
                'error', left(coalesce(error ->> 'error', error::text), @max_length::integer),
                'trace', left(error ->> 'trace', @max_length::integer)
            )::text
        FROM unnest(job.errors) WITH ORDINALITY AS failure (error, number)
        WHERE error IS NOT NULL
        ORDER BY number DESC
        LIMIT @max_rows::integer
    ) AS errors,
    coalesce(cardinality(job.errors), 0) AS num_errors,
    ARRAY(
        SELECT jsonb_build_array(log -> 'attempt', left(log ->> 'log', @max_length::integer))::text
        FROM
            jsonb_array_elements(CASE jsonb_typeof(text.logs) WHEN 'array' THEN text.logs ELSE '[]' END)
            WITH ORDINALITY AS logged (log, number)
        ORDER BY number DESC
        LIMIT @max_rows::integer
    ) AS logs,
    whole.metadata ? 'cancel_attempted_at' AS is_cancel_requested,
    job.unique_key

-- fragment: job_details_texts
CROSS JOIN LATERAL (
    SELECT CASE jsonb_typeof(job.metadata) WHEN 'object' THEN job.metadata ELSE '{}' END AS metadata
) AS whole
CROSS JOIN LATERAL (
    SELECT
        job.args::text AS args,
        (whole.metadata - ARRAY['output', 'river:log'])::text AS metadata,
        (whole.metadata -> 'output')::text AS output,
        whole.metadata -> 'river:log' AS logs
    -- Without OFFSET 0, PostgreSQL unpacks a column anew for each use of its text.
    OFFSET 0
) AS text

-- name: job_get_details
-- Return one job for the page that shows it. Long texts are cut, and of many attempts, logs and tags only some are read.
-- The value of a job that another program wrote may have any shape.
SELECT
    /* job_details */
FROM /* schema */river_job AS job
/* job_details_texts */
WHERE job.id = @id;
