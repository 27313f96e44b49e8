-- fragment: fetched
    state = 'running',
    -- One who counts on beyond its type would have the whole fetch refused, and all others with it.
    attempt = least(job.attempt, 32766) + 1,
    -- Later than that of the attempt before, although the clock was set back: attempts are told apart by it. What lies
    -- so far ahead that nobody can have meant it is not gone by.
    attempted_at = CASE
        WHEN job.attempted_at >= coalesce(@now::timestamptz, now())
        AND job.attempted_at < coalesce(@now::timestamptz, now()) + interval '1 day'
            THEN job.attempted_at + interval '1 microsecond'
        ELSE coalesce(@now::timestamptz, now())
    END,
    attempted_by = array_append(
        CASE
            WHEN array_ndims(job.attempted_by) > 1 THEN '{}'
            WHEN cardinality(job.attempted_by) >= @max_attempted_by::integer
                THEN job.attempted_by[cardinality(job.attempted_by) - @max_attempted_by::integer + 2:]
            ELSE job.attempted_by
        END,
        @client_id::text
    ),
    -- A cancel ends a job that waits, so a mark that is found here is one that an old River's retry has left standing.
    metadata = CASE
        WHEN jsonb_typeof(job.metadata) = 'object' AND job.metadata ? 'cancel_attempted_at'
            THEN job.metadata - 'cancel_attempted_at'
        ELSE job.metadata
    END

-- name: job_get_available_above
-- As job_get_available, but of each priority only what stands above a floor: dead entries of the index below it are not
-- read. A floor that is NULL is none.
WITH locked AS MATERIALIZED (
    SELECT found.id
    FROM unnest(@floor_ats::timestamptz [], @floor_ids::bigint []) WITH ORDINALITY AS floor (at, id, priority),
    -- A loop, whose inner side is not begun for a priority before the ones before it have brought too little.
    LATERAL (
        SELECT available.id
        FROM /* schema */river_job AS available
        WHERE available.state = 'available'
        AND available.queue = @queue
        AND available.priority = floor.priority::smallint
        AND (available.scheduled_at, available.id) > (
            CASE
                WHEN floor.at IS NULL THEN '-infinity'
                ELSE least(
                    floor.at, coalesce(@now::timestamptz, now()) - make_interval(secs => @slack_seconds::float8)
                )
            END,
            coalesce(floor.id, 0)
        )
        AND available.scheduled_at <= coalesce(@now::timestamptz, now())
        AND (@kinds::text [] IS NULL OR available.kind = ANY(@kinds::text [])) IS TRUE
        ORDER BY available.scheduled_at, available.id
        LIMIT @limit::integer
        FOR UPDATE SKIP LOCKED
    ) AS found
    LIMIT @limit::integer
)

UPDATE /* schema */river_job AS job
SET
    /* fetched */
WHERE job.id = ANY(ARRAY(SELECT id FROM locked))
RETURNING
    /* job_columns */;
