-- fragment: bulk_change_columns
    bulk.id,
    bulk.created_at,
    bulk.action,
    bulk.search,
    bulk.time_zone,
    bulk.only_queues,
    bulk.only_kinds,
    bulk.actor,
    bulk.state,
    bulk.collected_to,
    bulk.num_jobs,
    bulk.kinds::text AS kinds,
    bulk.queues::text AS queues,
    bulk.num_changed,
    bulk.num_skipped,
    bulk.skipped::text AS skipped,
    bulk.jobs_per_second,
    bulk.started_at,
    bulk.finished_at,
    bulk.stop_reason

-- name: bulk_change_get_shape
-- Return whether the tables are there, as migration 8 of line millhand creates them.
SELECT to_regclass('/* schema */millhand_bulk_change') IS NOT NULL AS is_there;

-- name: bulk_change_insert
-- Begin a change of many jobs.
INSERT INTO /* schema */millhand_bulk_change AS bulk
    (action, search, time_zone, only_queues, only_kinds, actor, role, address)
VALUES
    (@action, @search, @time_zone, @only_queues::text [], @only_kinds::text [], @actor, @role, @address)
RETURNING
    /* bulk_change_columns */;

-- name: bulk_change_get
-- Return one change.
SELECT
    /* bulk_change_columns */
FROM /* schema */millhand_bulk_change AS bulk
WHERE bulk.id = @id;

-- name: bulk_change_list
-- Return the newest changes.
SELECT
    /* bulk_change_columns */
FROM /* schema */millhand_bulk_change AS bulk
ORDER BY bulk.id DESC
LIMIT @limit::integer;

-- name: bulk_change_claim
-- Take the oldest unfinished change that no living process holds, for a while.
UPDATE /* schema */millhand_bulk_change AS bulk
SET
    holder = @holder,
    expires_at = now() + @patience::interval
WHERE bulk.id = (
    SELECT free.id
    FROM /* schema */millhand_bulk_change AS free
    WHERE free.state IN ('collecting', 'running')
    AND (free.holder IS NULL OR free.holder = @holder OR free.expires_at < now())
    ORDER BY free.id
    LIMIT 1
    FOR UPDATE SKIP LOCKED
)
RETURNING
    /* bulk_change_columns */;

-- name: bulk_change_hold
-- Lock a change and hold it for longer; no row if it has another holder or state by now.
UPDATE /* schema */millhand_bulk_change AS bulk
SET expires_at = now() + @patience::interval
WHERE bulk.id = @id
AND bulk.holder = @holder
AND bulk.state = @state
RETURNING bulk.id;

-- name: bulk_change_collect
-- Keep a batch of ids, what they are, and how far the search has come; at the end the change is ready.
WITH batch AS (
    INSERT INTO /* schema */millhand_bulk_batch (bulk_change_id, number, job_ids)
    SELECT
        @id::bigint,
        coalesce(
            (
                SELECT max(earlier.number)
                FROM /* schema */millhand_bulk_batch AS earlier
                WHERE earlier.bulk_change_id = @id::bigint
            ),
            0
        ) + 1,
        @job_ids::bigint []
    WHERE cardinality(@job_ids::bigint []) > 0
)

UPDATE /* schema */millhand_bulk_change AS bulk
SET
    collected_to = @collected_to,
    num_jobs = bulk.num_jobs + cardinality(@job_ids::bigint []),
    kinds = @kinds::text::jsonb,
    queues = @queues::text::jsonb,
    state = CASE WHEN @collected_to::text IS NULL THEN 'ready' ELSE bulk.state END,
    stop_reason = NULL,
    holder = CASE WHEN @collected_to::text IS NOT NULL THEN bulk.holder END
WHERE bulk.id = @id
RETURNING bulk.id;

-- name: bulk_change_start
-- Let a change run that is ready or was stopped. Attempts before a new start do not stop the change again.
UPDATE /* schema */millhand_bulk_change AS bulk
SET
    state = 'running',
    jobs_per_second = @jobs_per_second::integer,
    started_at = now(),
    finished_at = NULL,
    stop_reason = NULL,
    holder = NULL
WHERE bulk.id = @id
AND bulk.state IN ('ready', 'stopped')
RETURNING
    /* bulk_change_columns */;

-- name: bulk_change_stop
-- Stop a change that is not finished. A batch that is under way is finished first, because it holds the row.
UPDATE /* schema */millhand_bulk_change AS bulk
SET
    state = 'stopped',
    finished_at = now(),
    stop_reason = @reason,
    holder = NULL
WHERE bulk.id = @id
AND bulk.state IN ('collecting', 'ready', 'running')
RETURNING
    /* bulk_change_columns */;

-- name: bulk_change_delay
-- Record why a batch failed, and leave the change alone for a while, so that others go on.
UPDATE /* schema */millhand_bulk_change AS bulk
SET
    stop_reason = @reason,
    holder = 'delayed',
    expires_at = now() + @patience::interval
WHERE bulk.id = @id
AND bulk.holder = @holder
AND bulk.state IN ('collecting', 'running')
RETURNING bulk.id;

-- name: bulk_change_next_batch
-- Return the next batch of a change, up to a limit.
SELECT
    batch.number,
    batch.job_ids[:@limit::integer] AS job_ids
FROM /* schema */millhand_bulk_batch AS batch
WHERE batch.bulk_change_id = @id
AND batch.changed_ids IS NULL
ORDER BY batch.number
LIMIT 1;

-- name: bulk_change_record
-- Record what was done to the first ids of a batch. The others become a batch of their own, after all others.
WITH rest AS (
    INSERT INTO /* schema */millhand_bulk_batch (bulk_change_id, number, job_ids)
    SELECT
        batch.bulk_change_id,
        (
            SELECT max(other.number) + 1
            FROM /* schema */millhand_bulk_batch AS other
            WHERE other.bulk_change_id = @id
        ),
        batch.job_ids[@num_done::integer + 1:]
    FROM /* schema */millhand_bulk_batch AS batch
    WHERE batch.bulk_change_id = @id
    AND batch.number = @number::integer
    AND cardinality(batch.job_ids) > @num_done::integer
),

done AS (
    UPDATE /* schema */millhand_bulk_batch AS batch
    SET
        changed_ids = @changed_ids::bigint [],
        job_ids = batch.job_ids[:@num_done::integer]
    WHERE batch.bulk_change_id = @id
    AND batch.number = @number::integer
)

UPDATE /* schema */millhand_bulk_change AS bulk
SET
    num_changed = bulk.num_changed + cardinality(@changed_ids::bigint []),
    num_skipped = bulk.num_skipped + @num_skipped::integer,
    skipped = @skipped::text::jsonb,
    stop_reason = NULL
WHERE bulk.id = @id;

-- name: bulk_change_complete
-- Mark a change as completed.
UPDATE /* schema */millhand_bulk_change AS bulk
SET
    state = 'completed',
    finished_at = now(),
    holder = NULL
WHERE bulk.id = @id
AND bulk.holder = @holder
AND bulk.state = 'running'
RETURNING
    /* bulk_change_columns */;

-- name: bulk_change_get_outcomes
-- Return how many of the first changed jobs have ended an attempt since the start, and how many of these failed.
SELECT
    count(*) FILTER (WHERE job.state IN ('cancelled', 'completed', 'discarded', 'retryable')) AS num_ended,
    count(*) FILTER (WHERE job.state IN ('discarded', 'retryable')) AS num_failed
FROM (
    SELECT unnest(batch.changed_ids) AS id
    FROM /* schema */millhand_bulk_batch AS batch
    WHERE batch.bulk_change_id = @id
    AND batch.number <= @batches::integer
    LIMIT @limit::integer
) AS changed
INNER JOIN /* schema */river_job AS job ON changed.id = job.id
WHERE job.attempted_at > @since::timestamptz;

-- name: bulk_change_delete_old
-- Delete changes that finished before an instant, or were never started, with their batches.
DELETE FROM /* schema */millhand_bulk_change AS bulk
WHERE bulk.id = ANY(
    ARRAY(
        SELECT old.id
        FROM /* schema */millhand_bulk_change AS old
        WHERE old.finished_at < @finished_before::timestamptz
        OR (old.state = 'ready' AND old.created_at < @ready_before::timestamptz)
        ORDER BY old.id
        LIMIT @limit::integer
    )
);

-- name: job_retry_many
-- Make jobs available now, unless they are running, or available and due, or pending and to be kept so. A pending job waits
-- for a slot of a limit, or for other tasks of its flow. A job whose unique key another one holds, or a job before it gets,
-- is returned as conflicting.
WITH locked AS MATERIALIZED (
    SELECT
        id,
        state,
        unique_key,
        unique_states,
        unique_key IS NOT NULL
        AND unique_states IS NOT NULL
        AND /* schema */river_job_state_in_bitmask(unique_states, 'available') AS is_unique
    FROM /* schema */river_job
    WHERE id = ANY(@ids::bigint [])
    AND state <> 'running'
    AND NOT (state = 'available' AND scheduled_at < coalesce(@now::timestamptz, now()))
    AND NOT (state = 'pending' AND @keeps_pending::boolean)
    ORDER BY id
    FOR UPDATE
),

ranked AS MATERIALIZED (
    SELECT
        id,
        unique_key,
        is_unique,
        row_number() OVER (
            PARTITION BY unique_key, is_unique
            ORDER BY is_unique AND NOT /* schema */river_job_state_in_bitmask(unique_states, state), id
        ) AS place
    FROM locked
),

/* checked */,

updated AS (
    UPDATE /* schema */river_job AS job
    SET
        /* retried */
    WHERE job.id = ANY(ARRAY(SELECT checked.id FROM checked WHERE NOT checked.is_conflicting))
    RETURNING job.id
)

SELECT
    updated.id,
    FALSE AS is_conflicting
FROM updated
UNION ALL
SELECT
    checked.id,
    TRUE AS is_conflicting
FROM checked
WHERE checked.is_conflicting;

-- name: job_cancel_many
-- Cancel jobs that are not finalized, and notify the clients of running ones; return their ids.
WITH locked AS MATERIALIZED (
    SELECT
        job.id,
        job.state = 'running' AS is_running,
        job.queue
    FROM /* schema */river_job AS job
    WHERE job.id = ANY(@ids::bigint [])
    AND job.finalized_at IS NULL
    ORDER BY job.id
    FOR UPDATE
),

notified AS MATERIALIZED (
    SELECT
        pg_notify(
            /* schema_name */ || '.river_control',
            json_build_object('action', 'cancel', 'job_id', locked.id, 'queue', locked.queue)::text
        ) AS sent
    FROM locked
    WHERE locked.is_running
)

UPDATE /* schema */river_job AS job
SET
    /* cancelled */
WHERE job.id = ANY(ARRAY(SELECT locked.id FROM locked))
AND (SELECT count(*) FROM notified) >= 0
RETURNING
    job.id,
    /* notified_end */;

-- name: job_delete_ids
-- Delete jobs that are not running; return their ids.
DELETE FROM /* schema */river_job AS job
WHERE job.id = ANY(@ids::bigint [])
AND (job.state <> 'running') IS TRUE
RETURNING
    job.id,
    /* notified_deletion */;
