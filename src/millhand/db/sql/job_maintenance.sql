-- fragment: checked
    -- Which jobs of `ranked` conflict: another job has their unique key, or one before them gets it.
checked AS MATERIALIZED (
    SELECT
        ranked.id,
        ranked.is_unique AND (
            ranked.place > 1
            OR EXISTS (
                SELECT
                FROM /* schema */river_job AS holder
                WHERE holder.unique_key = ranked.unique_key
                AND holder.id <> ranked.id
                AND holder.unique_key IS NOT NULL
                AND holder.unique_states IS NOT NULL
                AND /* schema */river_job_state_in_bitmask(holder.unique_states, holder.state)
            )
        ) AS is_conflicting
    FROM ranked
)

-- fragment: scheduled
    -- Makes the jobs of `due` available, or discards them.
ranked AS MATERIALIZED (
    SELECT
        id,
        unique_key,
        unique_states IS NOT NULL AND unique_key IS NOT NULL AS is_unique,
        row_number() OVER (
            PARTITION BY unique_key, unique_key IS NOT NULL AND unique_states IS NOT NULL
            ORDER BY
                unique_states IS NULL OR NOT /* schema */river_job_state_in_bitmask(unique_states, state),
                priority,
                scheduled_at,
                id
        ) AS place
    FROM due
),

/* checked */,

-- Arrays, not a join: the planner cannot estimate the number of rows.
decided AS MATERIALIZED (
    SELECT
        array_agg(id ORDER BY id) AS ids,
        array_agg(is_conflicting ORDER BY id) AS are_conflicting
    FROM checked
)

UPDATE /* schema */river_job AS job
SET
    (finalized_at, metadata, state, unique_states) = (
        SELECT
            CASE WHEN is_conflicting THEN coalesce(@now::timestamptz, now()) END,
            CASE
                WHEN is_conflicting AND jsonb_typeof(job.metadata) = 'object'
                    THEN job.metadata || '{"unique_key_conflict": "scheduler_discarded"}'
                ELSE job.metadata
            END,
            CASE WHEN is_conflicting THEN 'discarded' ELSE 'available' END::/* schema */river_job_state,
            CASE WHEN is_conflicting THEN job.unique_states & ~B'00001000' ELSE job.unique_states END
        FROM (
            SELECT
                ((SELECT are_conflicting FROM decided))[width_bucket(job.id, (SELECT ids FROM decided))]
                    AS is_conflicting
        ) AS decision
    )
WHERE job.id = ANY((SELECT ids FROM decided)::bigint [])
RETURNING
    job.id,
    job.queue,
    least(greatest(job.scheduled_at, '0001-01-01Z'), '9999-12-31 23:59:59.999999Z') AS scheduled_at,
    job.state = 'discarded' AS is_discarded,
    /* notified_end */

-- fragment: due_columns
    id, state, unique_key, unique_states, priority, scheduled_at

-- name: job_schedule
-- Make due jobs available; discard those whose unique key another job holds.
-- Rows with the same key are ranked, so that one of them becomes available: the one that holds the key now, or the first.
-- If the mask of a discarded row includes `discarded`, that bit is removed: the row could not be written otherwise, because
-- another job has the key.
WITH due AS MATERIALIZED (
    SELECT
        /* due_columns */
    FROM /* schema */river_job
    WHERE state IN ('retryable', 'scheduled')
    AND scheduled_at <= coalesce(@now::timestamptz, now())
    -- Jobs that were due before it are done; their index entries may be dead and not yet removed.
    AND scheduled_at >= coalesce(@due_after::timestamptz, '-infinity')
    AND id <> ALL(@excluded_ids::bigint [])
    ORDER BY priority, scheduled_at, id
    LIMIT @limit::integer
    -- A row that another transaction has locked waits for the next pass.
    FOR UPDATE SKIP LOCKED
),

/* scheduled */;

-- fragment: first_queue
    -- The first queue that has jobs in a state, from one entry of the index of fetches.
CROSS JOIN LATERAL (
    SELECT job.queue
    FROM /* schema */river_job AS job
    WHERE job.state = given.state
    ORDER BY job.queue
    LIMIT 1
) AS first

-- fragment: next_queue
    -- The queue after the one of `place` that has jobs in its state.
CROSS JOIN LATERAL (
    SELECT job.queue
    FROM /* schema */river_job AS job
    WHERE job.state = place.state AND job.queue > place.queue
    ORDER BY job.queue
    LIMIT 1
) AS next

-- name: job_schedule_by_range
-- Do as job_schedule, for a backlog: read the first due jobs of each state, queue and priority, in the order of the index of
-- fetches, where job_schedule sorts all due jobs. It returns fewer jobs than there are if some of the first ones are locked,
-- and none if a state has more than @queues queues or the index is missing: job_schedule knows whether any are left.
WITH RECURSIVE place (state, queue, number) AS (
    SELECT
        given.state,
        first.queue,
        1
    FROM unnest('{retryable,scheduled}'::/* schema */river_job_state []) AS given (state)
    /* first_queue */
    WHERE EXISTS (
        SELECT
        FROM pg_index AS found
        WHERE found.indexrelid = to_regclass('/* schema */river_job_prioritized_fetching_index')
        AND found.indisvalid
    )
    UNION ALL
    SELECT
        place.state,
        next.queue,
        place.number + 1
    FROM place
    /* next_queue */
    WHERE place.number <= @queues::integer
),

first_due AS MATERIALIZED (
    SELECT found.id
    FROM place
    CROSS JOIN generate_series(1, 4) AS priority (number)
    CROSS JOIN LATERAL (
        SELECT
            job.id,
            job.priority,
            job.scheduled_at
        FROM /* schema */river_job AS job
        WHERE job.state = place.state
        AND job.queue = place.queue
        AND job.priority = priority.number::smallint
        AND job.scheduled_at <= coalesce(@now::timestamptz, now())
        AND job.scheduled_at >= coalesce(@due_after::timestamptz, '-infinity')
        AND job.id <> ALL(@excluded_ids::bigint [])
        ORDER BY job.scheduled_at, job.id
        LIMIT @limit::integer
    ) AS found
    WHERE NOT EXISTS (SELECT FROM place AS last WHERE last.number > @queues::integer)
    ORDER BY found.priority, found.scheduled_at, found.id
    LIMIT @limit::integer
),

due AS MATERIALIZED (
    SELECT
        /* due_columns */
    FROM /* schema */river_job
    WHERE id = ANY(ARRAY(SELECT first_due.id FROM first_due))
    -- The job may have changed since it was read. IS TRUE keeps the planner to the ids.
    AND (state IN ('retryable', 'scheduled') AND scheduled_at <= coalesce(@now::timestamptz, now())) IS TRUE
    FOR UPDATE SKIP LOCKED
),

/* scheduled */;

-- name: job_get_schedulable
-- Return the ids of jobs that are due, in the order in which they would be scheduled.
SELECT id
FROM /* schema */river_job
WHERE state IN ('retryable', 'scheduled')
AND scheduled_at <= @now
AND scheduled_at >= coalesce(@due_after::timestamptz, '-infinity')
AND id <> ALL(@excluded_ids::bigint [])
ORDER BY priority, scheduled_at, id
LIMIT @limit::integer;

-- fragment: stuck_jobs
    SELECT job.id
    FROM /* schema */river_job AS job
    WHERE job.state = 'running'
    AND job.attempted_at < @horizon
    -- No job is fetched before it is due, so this excludes none of them. It skips the index entries, mostly dead, of what
    -- became due later. NULL: no limit, for rows that were changed by hand.
    AND job.scheduled_at <= coalesce(@due_before::timestamptz, 'infinity')
    AND (job.id > @after_id) IS TRUE

-- fragment: stuck_page
SELECT
    /* job_columns */
FROM /* schema */river_job AS job
WHERE job.id = ANY(ARRAY(
    SELECT id
    FROM stuck
    ORDER BY id
    LIMIT @limit::integer
))
ORDER BY job.id

-- name: job_get_stuck
-- Return jobs that have been running since before the horizon, by id, after the last one seen.
-- They are found by state and then ordered: a scan by id would read all finished jobs.
WITH stuck AS MATERIALIZED (
    /* stuck_jobs */
)

/* stuck_page */;

-- fragment: rescued
    -- Lets jobs of `input` wait for another attempt, or ends them.
WITH unlocked AS MATERIALIZED (
    SELECT id
    FROM /* schema */river_job
    WHERE id = ANY(@ids::bigint [])
    -- A row that another transaction has locked waits for the next pass.
    FOR NO KEY UPDATE SKIP LOCKED
)

UPDATE /* schema */river_job AS job
SET
    errors = array_append(/* job_errors */, input.error::jsonb),
    finalized_at = input.finalized_at,
    metadata = CASE jsonb_typeof(job.metadata)
        WHEN 'object' THEN job.metadata || jsonb_build_object(
            'river:rescue_count',
            1 + CASE jsonb_typeof(job.metadata -> 'river:rescue_count')
                WHEN 'number' THEN (job.metadata ->> 'river:rescue_count')::numeric
                ELSE 0
            END
        )
        ELSE job.metadata
    END,
    scheduled_at = coalesce(input.scheduled_at, job.scheduled_at),
    state = input.state::/* schema */river_job_state

-- fragment: rescue_arrays
    unnest(@errors::text []),
    unnest(@finalized_ats::timestamptz []),
    unnest(@scheduled_ats::timestamptz []),
    unnest(@states::text []),
    -- As in job_set_state_if_running_many.
    generate_series(1, cardinality(@ids::bigint []))

-- fragment: not_cancelled_since
(
    -- A cancel since the job was read waits for the next pass. Go's zero time means "not cancelled".
    input.state = 'cancelled'
    OR (job.metadata ->> 'cancel_attempted_at' <> '0001-01-01T00:00:00Z') IS NOT TRUE
)

-- name: job_rescue_many
-- Rescue stuck jobs that are still running, and were neither fetched again nor are to be cancelled meanwhile.
/* rescued */
FROM ROWS FROM (
    unnest(@ids::bigint []),
    /* rescue_arrays */
) AS input (id, error, finalized_at, scheduled_at, state, place)
WHERE job.id = input.id
AND job.id = ANY(ARRAY(SELECT unlocked.id FROM unlocked))
AND (job.state = 'running') IS TRUE
AND job.attempted_at < @horizon
AND /* not_cancelled_since */
RETURNING
    job.id,
    /* notified_end */;

-- name: job_rescue_stranded_many
-- Rescue the jobs of a client that no longer runs them, if they still have the attempt that was read.
/* rescued */
FROM ROWS FROM (
    unnest(@ids::bigint []),
    unnest(@attempts::integer []),
    unnest(@attempted_ats::timestamptz []),
    unnest(@attempted_bys::text []),
    /* rescue_arrays */
) AS input (id, attempt, attempted_at, attempted_by, error, finalized_at, scheduled_at, state, place)
WHERE job.id = input.id
AND job.id = ANY(ARRAY(SELECT unlocked.id FROM unlocked))
AND (job.state = 'running') IS TRUE
AND job.attempt = input.attempt
AND (job.attempted_at = input.attempted_at) IS TRUE
AND (job.attempted_by[cardinality(job.attempted_by)] = input.attempted_by) IS TRUE
AND /* not_cancelled_since */
RETURNING
    job.id,
    /* notified_end */;

-- name: job_delete_before
-- Delete finalized jobs that are older than their state's horizon; a state without a horizon keeps its jobs. With
-- @within, jobs older than the horizon by more than that are not searched. They are gone, and their index entries may be
-- dead and not yet removed.
WITH old AS MATERIALIZED (
    (
        SELECT id
        FROM /* schema */river_job
        WHERE state = 'cancelled' AND finalized_at < @cancelled_horizon::timestamptz
        AND /* may_go */
        AND finalized_at >= coalesce(@cancelled_horizon::timestamptz - @within::interval, '-infinity')
        ORDER BY finalized_at
        LIMIT @limit::integer
    )
    UNION ALL
    (
        SELECT id
        FROM /* schema */river_job
        WHERE state = 'completed' AND finalized_at < @completed_horizon::timestamptz
        AND /* may_go */
        AND finalized_at >= coalesce(@completed_horizon::timestamptz - @within::interval, '-infinity')
        ORDER BY finalized_at
        LIMIT @limit::integer
    )
    UNION ALL
    (
        SELECT id
        FROM (
            SELECT
                id,
                finalized_at
            FROM /* schema */river_job
            WHERE state = 'discarded' AND finalized_at < @discarded_horizon::timestamptz
            AND /* may_go */
            AND finalized_at >= coalesce(@discarded_horizon::timestamptz - @within::interval, '-infinity')
            ORDER BY finalized_at
            LIMIT @limit::integer
        ) AS job
        -- Outside of the limit: the planner cannot estimate it. What has no copy yet is the newest.
        WHERE /* discarded_may_go */
    )
    LIMIT @limit::integer
),

deleted AS (
    DELETE FROM /* schema */river_job AS job
    WHERE job.id = ANY(ARRAY(SELECT id FROM old))
    -- The job may have been retried since it was read. IS TRUE keeps the planner to the ids: with statistics from before
    -- these jobs ended, it would read all old jobs for each batch.
    AND (
        job.finalized_at < greatest(
            @cancelled_horizon::timestamptz, @completed_horizon::timestamptz, @discarded_horizon::timestamptz
        )
    ) IS TRUE
    RETURNING job.id
)

SELECT count(*) FROM deleted;
