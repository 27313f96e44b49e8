-- fragment: first_available
    SELECT id
    FROM /* schema */river_job
    WHERE state = 'available'
    AND queue = @queue
    AND scheduled_at <= coalesce(@now::timestamptz, now())
    -- IS TRUE prevents a scan of the index by kind, which has not this order.
    AND (@kinds::text [] IS NULL OR kind = ANY(@kinds::text [])) IS TRUE
    ORDER BY priority, scheduled_at, id

-- fragment: fetched
    state = 'running',
    -- Beyond the type's range one job would fail the whole fetch.
    attempt = least(job.attempt, 32766) + 1,
    -- It identifies the attempt, so it must be later than the previous one, even if the clock was set back. A previous
    -- instant more than a day ahead is an error and ignored.
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
    -- A cancel finalizes a waiting job, so a mark found here was left by the retry of an old River.
    metadata = CASE
        WHEN jsonb_typeof(job.metadata) = 'object' AND job.metadata ? 'cancel_attempted_at'
            THEN job.metadata - 'cancel_attempted_at'
        ELSE job.metadata
    END

-- fragment: fetched_columns
    -- In the order of `engine/store/fetched_job.py`. What a column would say of all jobs, or of nearly all, is left out or NULL.
    job.id,
    job.attempt,
    job.max_attempts,
    timestamptz_send(job.attempted_at) AS attempted_at,
    timestamptz_send(job.created_at) AS created_at,
    timestamptz_send(job.scheduled_at) AS scheduled_at,
    job.priority,
    job.args::text AS args,
    CASE WHEN cardinality(job.attempted_by) > 1 THEN job.attempted_by END AS attempted_by,
    job.errors::text [] AS errors,
    job.kind,
    job.metadata::text AS metadata,
    nullif(job.tags::text [], '{}') AS tags,
    job.unique_key,
    job.unique_states::integer AS unique_states

-- fragment: fetched_of_locked
    -- Marks the jobs in `locked` running, and returns them.
UPDATE /* schema */river_job AS job
SET
    /* fetched */
-- An array and not a join, which the planner might answer with a scan of the whole table.
WHERE job.id = ANY(ARRAY(SELECT id FROM locked))
RETURNING
    /* fetched_columns */

-- name: job_get_available_counted
-- As job_get_available, with two more columns: how many blocks and entries of the index the search read. A row without a
-- job has them if there is none. PostgreSQL counts them for the session, so the difference is taken.
WITH before AS MATERIALIZED (
    SELECT
        index,
        pg_stat_get_xact_blocks_fetched(index) AS num_blocks,
        pg_stat_get_xact_tuples_returned(index) AS num_entries
    FROM to_regclass('/* schema */river_job_prioritized_fetching_index') AS index
),

locked AS MATERIALIZED (
    /* first_available */
    -- A limit is computed before the first row is read, and so is `before`.
    LIMIT (SELECT @limit::integer FROM before)
    FOR UPDATE SKIP LOCKED
),

counted AS MATERIALIZED (
    SELECT
        coalesce(pg_stat_get_xact_blocks_fetched(index) - num_blocks, 0) AS num_blocks,
        coalesce(pg_stat_get_xact_tuples_returned(index) - num_entries, 0) AS num_entries
    FROM before
    -- After the search, and before the update reads the same index.
    WHERE (SELECT count(*) FROM locked) >= 0
),

updated AS (
    /* fetched_of_locked */
)

SELECT
    updated.*,
    counted.num_blocks,
    counted.num_entries
FROM counted
LEFT JOIN updated ON true;

-- name: job_get_available_after
-- As job_get_available, but each priority is read from a start on, so that dead index entries before it are not read.
-- A start that is NULL is the beginning.
WITH locked AS MATERIALIZED (
    SELECT found.id
    FROM unnest(@start_ats::timestamptz [], @start_ids::bigint []) WITH ORDINALITY AS start (at, id, priority),
    -- A nested loop: a priority is read only if the ones before it have too few jobs.
    LATERAL (
        SELECT available.id
        FROM /* schema */river_job AS available
        WHERE available.state = 'available'
        AND available.queue = @queue
        AND available.priority = start.priority::smallint
        AND (available.scheduled_at, available.id) > (
            CASE
                WHEN start.at IS NULL THEN '-infinity'
                ELSE least(
                    start.at, coalesce(@now::timestamptz, now()) - make_interval(secs => @slack_seconds::float8)
                )
            END,
            coalesce(start.id, 0)
        )
        AND available.scheduled_at <= coalesce(@now::timestamptz, now())
        AND (@kinds::text [] IS NULL OR available.kind = ANY(@kinds::text [])) IS TRUE
        ORDER BY available.scheduled_at, available.id
        LIMIT @limit::integer
        FOR UPDATE SKIP LOCKED
    ) AS found
    LIMIT @limit::integer
)

/* fetched_of_locked */;
