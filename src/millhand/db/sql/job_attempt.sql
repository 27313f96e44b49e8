-- What an attempt writes of its own job, in a transaction of its worker. The fetch instant and the client identify an
-- attempt; its number does not, because an interrupted or snoozed attempt is not counted.

-- fragment: of_attempt
    WHERE job.id = (SELECT id FROM locked)
    AND job.state = 'running'
    AND job.attempted_at IS NOT DISTINCT FROM @attempted_at::timestamptz
    AND job.attempted_by[cardinality(job.attempted_by)] IS NOT DISTINCT FROM @attempted_by::text

-- fragment: updated_or_locked
SELECT
    /* job_names */,
    TRUE AS is_updated
FROM updated

UNION ALL

SELECT
    /* job_names */,
    FALSE AS is_updated
FROM locked
WHERE NOT EXISTS (SELECT FROM updated)

-- name: job_complete
-- Complete the job of a running attempt, and merge metadata; return the row, and whether the attempt had the job.
WITH /* locked_job */,

updated AS (
    UPDATE /* schema */river_job AS job
    SET
        finalized_at = coalesce(@now::timestamptz, clock_timestamp()),
        metadata = job.metadata || @metadata::text::jsonb,
        state = 'completed'
    /* of_attempt */
    RETURNING
        /* job_columns */,
        /* notified_end */
)

/* updated_or_locked */;

-- name: job_merge_metadata
-- Merge metadata into that of a running attempt's job; return the row, and whether the attempt had the job.
WITH /* locked_job */,

updated AS (
    UPDATE /* schema */river_job AS job
    SET metadata = job.metadata || @metadata::text::jsonb
    /* of_attempt */
    RETURNING
        /* job_columns */
)

/* updated_or_locked */;
