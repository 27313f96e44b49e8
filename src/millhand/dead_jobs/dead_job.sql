-- Dead letters: copies of discarded jobs, and what is done with them.

-- fragment: dead_job_columns
    /* job_columns */,
    job.copied_at,
    original.state::text AS current_state

-- fragment: dead_job_columns_copied
    id, attempt, max_attempts, attempted_at, created_at, finalized_at, scheduled_at, priority, args,
    attempted_by, errors, kind, metadata, queue, tags, unique_key, unique_states

-- fragment: dead_jobs
    SELECT
        dead.*,
        'discarded'::text AS state
    FROM /* schema */millhand_dead_job AS dead

-- name: dead_job_get_shape
-- Return whether migration 13 of line millhand is there, and whether this role may write its tables.
-- Each privilege alone: of a list, one suffices.
SELECT bool_and(coalesce(has_table_privilege(to_regclass(relation.name), privilege.privilege), FALSE)) AS is_there
FROM unnest(ARRAY['/* schema */millhand_dead_job', '/* schema */millhand_dead_job_cursor']) AS relation (name)
CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS privilege (privilege);

-- name: dead_job_begin
-- Return how far the copies are, and what a pass that begins now sees.
SELECT
    coalesce(@now::timestamptz, now()) AS at,
    -- Higher than the number of every transaction that has written something until now.
    pg_current_xact_id()::text AS xid,
    coalesce(progress.settled_to, '-infinity')::text AS settled_to,
    progress.seen_at,
    -- All transactions that wrote when the last pass began have ended.
    coalesce(pg_snapshot_xmin(pg_current_snapshot()) >= progress.seen_xid, FALSE) AS has_ended,
    -- The table was restored from another server, whose numbers are higher.
    coalesce(pg_snapshot_xmax(pg_current_snapshot()) < progress.seen_xid, FALSE) AS is_of_other_server
FROM (SELECT) AS nothing
LEFT JOIN /* schema */millhand_dead_job_cursor AS progress ON TRUE;

-- name: dead_job_copy_settings
-- Set how this transaction plans: a page is read in the order of the index, also where statistics are missing or old.
-- Sorting would read all discarded jobs for each page.
SELECT
    set_config('enable_bitmapscan', 'off', TRUE),
    set_config('enable_sort', 'off', TRUE);

-- name: dead_job_copy
-- Copy a page of discarded jobs that have no copy of this discard, in the order of the index by state and instant.
-- A copy holds a lock on the job, so that a retry at the same time either comes first or waits. A job that another
-- transaction has locked is left for the next pass.
WITH page AS MATERIALIZED (
    SELECT
        job.id,
        job.finalized_at,
        least(greatest(job.finalized_at, '0001-01-01Z'), '9999-12-31 23:59:59.999999Z') AS bounded_at
    FROM /* schema */river_job AS job
    WHERE job.state = 'discarded'
    AND job.finalized_at >= greatest(
        @after_at::text::timestamptz,
        coalesce(coalesce(@now::timestamptz, now()) - @retention::interval, '-infinity')
    )
    AND (job.finalized_at, job.id) > (@after_at::text::timestamptz, @after_id::bigint)
    ORDER BY job.finalized_at, job.id
    LIMIT @limit::integer
),

missing AS MATERIALIZED (
    SELECT page.id
    FROM page
    WHERE NOT EXISTS (
        SELECT
        FROM /* schema */millhand_dead_job AS dead
        WHERE dead.id = page.id AND dead.finalized_at = page.bounded_at
    )
),

locked AS MATERIALIZED (
    SELECT job.*
    FROM /* schema */river_job AS job
    WHERE job.id = ANY(ARRAY(SELECT missing.id FROM missing))
    AND (job.state = 'discarded') IS TRUE
    FOR SHARE SKIP LOCKED
),

copied AS (
    INSERT INTO /* schema */millhand_dead_job AS dead (
        /* dead_job_columns_copied */, copied_at
    )
    SELECT
        locked.id,
        locked.attempt,
        locked.max_attempts,
        locked.attempted_at,
        locked.created_at,
        least(greatest(locked.finalized_at, '0001-01-01Z'), '9999-12-31 23:59:59.999999Z'),
        locked.scheduled_at,
        locked.priority,
        locked.args,
        locked.attempted_by,
        locked.errors,
        locked.kind,
        locked.metadata,
        locked.queue,
        locked.tags,
        locked.unique_key,
        locked.unique_states,
        coalesce(@now::timestamptz, now())
    FROM locked
    ORDER BY locked.id
    -- The job was retried, and discarded again.
    ON CONFLICT (id) DO UPDATE SET
        (/* dead_job_columns_copied */, copied_at) = ROW(
            excluded.id,
            excluded.attempt,
            excluded.max_attempts,
            excluded.attempted_at,
            excluded.created_at,
            excluded.finalized_at,
            excluded.scheduled_at,
            excluded.priority,
            excluded.args,
            excluded.attempted_by,
            excluded.errors,
            excluded.kind,
            excluded.metadata,
            excluded.queue,
            excluded.tags,
            excluded.unique_key,
            excluded.unique_states,
            excluded.copied_at
        )
    RETURNING dead.id
)

SELECT
    (SELECT count(*) FROM page) AS num_read,
    (SELECT count(*) FROM copied) AS num_copied,
    -- Locked by another transaction.
    (SELECT count(*) FROM missing) - (SELECT count(*) FROM copied) AS num_skipped,
    last.finalized_at::text AS last_at,
    last.id AS last_id
FROM (SELECT) AS nothing
LEFT JOIN LATERAL (
    SELECT
        page.finalized_at,
        page.id
    FROM page
    ORDER BY page.finalized_at DESC, page.id DESC
    LIMIT 1
) AS last ON TRUE;

-- name: dead_job_end
-- Record how far a pass has come; return whether no job was discarded after that.
INSERT INTO /* schema */millhand_dead_job_cursor AS progress (settled_to, seen_at, seen_xid)
VALUES (coalesce(@settled_to::timestamptz, '-infinity'), @seen_at::timestamptz, @seen_xid::text::xid8)
ON CONFLICT (name) DO UPDATE SET
    settled_to = greatest(progress.settled_to, excluded.settled_to),
    seen_at = CASE WHEN @is_seen::boolean THEN excluded.seen_at ELSE progress.seen_at END,
    seen_xid = CASE WHEN @is_seen::boolean THEN excluded.seen_xid ELSE progress.seen_xid END
RETURNING NOT EXISTS (
    SELECT
    FROM /* schema */river_job AS job
    WHERE job.state = 'discarded'
    AND job.finalized_at >= progress.settled_to
    AND job.finalized_at < @seen_at::timestamptz + interval '1 minute'
) AS is_settled;

-- name: dead_job_forget
-- Delete the record of how far the copies are: without dead letters, the leader deletes discarded jobs at once.
DELETE FROM /* schema */millhand_dead_job_cursor;

-- name: dead_job_delete_before
-- Delete dead letters of jobs that were discarded before the horizon, oldest first, and return how many.
WITH old AS MATERIALIZED (
    SELECT dead.id
    FROM /* schema */millhand_dead_job AS dead
    WHERE dead.finalized_at < coalesce(@now::timestamptz, now()) - @retention::interval
    ORDER BY dead.finalized_at, dead.id
    LIMIT @limit::integer
    FOR UPDATE SKIP LOCKED
),

deleted AS (
    DELETE FROM /* schema */millhand_dead_job AS dead
    WHERE dead.id = ANY(ARRAY(SELECT old.id FROM old))
    RETURNING dead.id
)

SELECT count(*) FROM deleted;

-- name: dead_job_delete_retried
-- Read a page of dead letters by id, and delete those whose job was retried: its row is there, and not discarded.
WITH page AS MATERIALIZED (
    SELECT
        dead.id,
        dead.finalized_at
    FROM /* schema */millhand_dead_job AS dead
    WHERE dead.id > @after_id::bigint
    ORDER BY dead.id
    LIMIT @limit::integer
),

retried AS MATERIALIZED (
    SELECT job.id
    FROM /* schema */river_job AS job
    WHERE job.id = ANY(ARRAY(SELECT page.id FROM page))
    AND (job.state <> 'discarded') IS TRUE
),

deleted AS (
    DELETE FROM /* schema */millhand_dead_job AS dead
    USING page
    WHERE dead.id = page.id
    -- Not if the job was discarded again meanwhile.
    AND dead.finalized_at = page.finalized_at
    AND dead.id = ANY(ARRAY(SELECT retried.id FROM retried))
    RETURNING dead.id
)

SELECT
    (SELECT count(*) FROM page) AS num_read,
    (SELECT count(*) FROM deleted) AS num_deleted,
    (SELECT max(page.id) FROM page) AS last_id;

-- fragment: dead_job_page
FROM (
    /* dead_jobs */
    WHERE /* where */
    ORDER BY dead.finalized_at DESC, dead.id DESC
    LIMIT @limit::integer
) AS job
LEFT JOIN /* schema */river_job AS original ON job.id = original.id
ORDER BY job.finalized_at DESC, job.id DESC

-- name: dead_job_list
-- Return a page of dead letters that pass the filters, those discarded last first.
SELECT
    /* dead_job_columns */
/* dead_job_page */;

-- name: dead_job_list_lines
-- Return a page of dead letters that pass the filters, as lines of a list.
SELECT
    /* job_line */,
    original.state::text AS current_state
/* dead_job_page */;

-- name: dead_job_get_details
-- Return one dead letter for the page that shows it, bounded in size as a job is.
SELECT
    /* job_details */,
    job.copied_at,
    original.state::text AS current_state
FROM (
    /* dead_jobs */
    WHERE dead.id = @id
) AS job
LEFT JOIN /* schema */river_job AS original ON job.id = original.id
/* job_details_texts */;

-- name: dead_job_is_readable
-- Return whether migration 13 of line millhand is there, and whether this role may read the dead letters.
SELECT coalesce(has_table_privilege(to_regclass('/* schema */millhand_dead_job'), 'SELECT'), FALSE) AS is_readable;

-- name: dead_job_exists
-- Return whether a job has a dead letter.
SELECT EXISTS (
    SELECT
    FROM /* schema */millhand_dead_job AS dead
    WHERE dead.id = @id::bigint
) AS is_there;

-- name: dead_job_lock
-- Lock a dead letter, and the row of its job if that is there, until the end of the transaction, and return it. The job
-- is locked first, as a copy locks them.
WITH original AS MATERIALIZED (
    SELECT
        job.id,
        job.state
    FROM /* schema */river_job AS job
    WHERE job.id = @id::bigint
    FOR UPDATE
),

dead AS MATERIALIZED (
    /* dead_jobs */
    WHERE dead.id = @id::bigint
    AND (SELECT count(*) FROM original) >= 0
    FOR UPDATE
)

SELECT
    /* dead_job_columns */
FROM dead AS job
LEFT JOIN original ON job.id = original.id;

-- name: dead_job_restore
-- Insert the job of a dead letter again, under its id and available now; its row is gone.
INSERT INTO /* schema */river_job AS job (/* restored_columns */)
SELECT
    dead.id,
    dead.args,
    dead.attempt,
    dead.attempted_at,
    dead.attempted_by,
    dead.created_at,
    dead.errors,
    dead.kind,
    -- As a retry of a discarded job.
    CASE
        WHEN dead.attempt = dead.max_attempts THEN least(dead.max_attempts, 32766) + 1
        ELSE dead.max_attempts
    END,
    CASE jsonb_typeof(dead.metadata)
        WHEN 'object' THEN dead.metadata - 'cancel_attempted_at'
        ELSE dead.metadata
    END,
    dead.priority,
    dead.queue,
    coalesce(@now::timestamptz, now()),
    'available',
    dead.tags,
    dead.unique_key,
    dead.unique_states
FROM /* schema */millhand_dead_job AS dead
WHERE dead.id = @id::bigint
RETURNING
    /* job_columns */;

-- name: dead_job_remove
-- Delete a dead letter.
DELETE FROM /* schema */millhand_dead_job
WHERE id = @id::bigint;
