-- Jobs that callers await.

-- fragment: awaited_results
    -- Notifies the clients that await jobs of `updated` which ended; the ids of awaited jobs are sorted. 390 ids of 19 digits
    -- have fewer than 8,000 bytes, which is the most that NOTIFY takes. All notifications of a batch are of one commit.
notified AS MATERIALIZED (
    SELECT pg_notify(/* schema_name */ || '.millhand_result', ids)
    FROM (
        SELECT string_agg(id::text, ' ') AS ids
        FROM (
            SELECT
                id,
                (row_number() OVER () - 1) / 390 AS place
            FROM updated
            -- A binary search: ANY would compare each job with each id.
            WHERE id = (@awaited_ids::bigint [])[width_bucket(id, @awaited_ids::bigint [])]
            AND state IN ('cancelled', 'completed', 'discarded')
        ) AS ended
        GROUP BY place
    ) AS payload
)

-- fragment: notified_end
    -- Notifies the clients that await the job, if it has ended. It is for statements that end few jobs that are awaited:
    -- each has a notification of its own. The mark of a job that goes on is not read.
    (CASE
        WHEN job.state IN ('cancelled', 'completed', 'discarded') AND job.metadata ? 'millhand:awaited'
            THEN pg_notify(/* schema_name */ || '.millhand_result', job.id::text)
    END) IS NOT NULL AS is_notified

-- fragment: notified_deletion
    -- As `notified_end`, of a job that is deleted before its end.
    (CASE
        WHEN job.finalized_at IS NULL AND job.metadata ? 'millhand:awaited'
            THEN pg_notify(/* schema_name */ || '.millhand_result', job.id::text)
    END) IS NOT NULL AS is_notified

-- name: job_get_ended
-- Return those of some jobs that have ended, and the ids of those that do not exist, with NULL in all other columns.
SELECT
    wanted.id AS wanted_id,
    ended.*
FROM unnest(@ids::bigint []) AS wanted (id)
-- Each job is found by its primary key, and the large columns of those that still wait or run are not read.
LEFT JOIN LATERAL (
    SELECT
        job.id,
        job.state IN ('cancelled', 'completed', 'discarded') AS is_ended
    FROM /* schema */river_job AS job
    WHERE job.id = wanted.id
    OFFSET 0
) AS seen ON TRUE
LEFT JOIN LATERAL (
    SELECT
        /* job_columns */
    FROM /* schema */river_job AS job
    WHERE seen.is_ended
    AND job.id = wanted.id
    OFFSET 0
) AS ended ON TRUE
WHERE seen.id IS NULL OR seen.is_ended;
