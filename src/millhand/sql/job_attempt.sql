-- What an attempt writes of its own job, in a transaction of its worker's. An attempt is known by the instant at which
-- its job was fetched, and by whom: attempts that were given back count anew.

-- name: job_complete
-- Complete the job of an attempt that runs, and merge metadata; give the row, and whether it was that attempt's.
WITH locked AS MATERIALIZED (
    SELECT
        /* job_columns */
    FROM /* schema */river_job AS job
    WHERE job.id = @id
    FOR UPDATE
),

updated AS (
    UPDATE /* schema */river_job AS job
    SET
        finalized_at = @finalized_at::timestamptz,
        metadata = job.metadata || @metadata::text::jsonb,
        state = 'completed'
    WHERE job.id = (SELECT id FROM locked)
    AND job.state = 'running'
    AND job.attempted_at IS NOT DISTINCT FROM @attempted_at::timestamptz
    AND job.attempted_by[cardinality(job.attempted_by)] IS NOT DISTINCT FROM @attempted_by::text
    RETURNING
        /* job_columns */
)

SELECT
    /* job_names */,
    TRUE AS is_updated
FROM updated

UNION ALL

SELECT
    /* job_names */,
    FALSE AS is_updated
FROM locked
WHERE NOT EXISTS (SELECT FROM updated);

-- name: job_merge_metadata
-- Merge metadata into that of the job of an attempt that runs; give the row, and whether it was that attempt's.
WITH locked AS MATERIALIZED (
    SELECT
        /* job_columns */
    FROM /* schema */river_job AS job
    WHERE job.id = @id
    FOR UPDATE
),

updated AS (
    UPDATE /* schema */river_job AS job
    SET metadata = job.metadata || @metadata::text::jsonb
    WHERE job.id = (SELECT id FROM locked)
    AND job.state = 'running'
    AND job.attempted_at IS NOT DISTINCT FROM @attempted_at::timestamptz
    AND job.attempted_by[cardinality(job.attempted_by)] IS NOT DISTINCT FROM @attempted_by::text
    RETURNING
        /* job_columns */
)

SELECT
    /* job_names */,
    TRUE AS is_updated
FROM updated

UNION ALL

SELECT
    /* job_names */,
    FALSE AS is_updated
FROM locked
WHERE NOT EXISTS (SELECT FROM updated);
