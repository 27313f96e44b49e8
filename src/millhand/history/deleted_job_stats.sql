-- Jobs that clients deleted when they completed. The history's writer adds them to the jobs that it finds in the table.

-- name: deleted_job_stats_put_many
-- Write what one counter has counted in some minutes, and delete what is old. Numbers never decrease, so that a statement
-- whose answer was lost does no harm when it arrives late.
WITH deleted AS (
    DELETE FROM /* schema */millhand_deleted_job_stats
    WHERE began_at < now() - @kept_for::interval
)

INSERT INTO /* schema */millhand_deleted_job_stats AS stats (
    began_at, kind, queue, counter_id, completed, wait_ms, run_ms, waits, runs
)
SELECT
    item.began_at,
    item.kind,
    item.queue,
    @counter_id::text,
    item.completed,
    item.wait_ms,
    item.run_ms,
    item.waits,
    item.runs
FROM jsonb_to_recordset(@stats::text::jsonb) AS item (
    began_at timestamptz,
    kind text,
    queue text,
    completed integer,
    wait_ms bigint,
    run_ms bigint,
    waits integer [],
    runs integer []
)
ORDER BY item.began_at, item.kind, item.queue
ON CONFLICT (began_at, kind, queue, counter_id) DO UPDATE SET
    completed = excluded.completed,
    /* new_durations */
WHERE excluded.completed > stats.completed;
