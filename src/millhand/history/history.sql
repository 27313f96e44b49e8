-- The history's writer: its claim, and the deletion of what is old.

-- name: history_get_shape
-- Return whether migration 9 of line millhand is there, and whether this role may write the history's tables.
SELECT bool_and(coalesce(has_table_privilege(to_regclass(name), 'INSERT, UPDATE, DELETE'), FALSE)) AS is_there
FROM unnest(
    ARRAY[
        '/* schema */millhand_history',
        '/* schema */millhand_job_stats',
        '/* schema */millhand_fleet_event',
        '/* schema */millhand_deleted_job_stats'
    ]
) AS needed (name);

-- fragment: busy_since
    (
        SELECT coalesce(min(history.counted_to), clock.counts_to - @back::interval) - @busy_for::interval
        FROM /* schema */millhand_history AS history
    )

-- name: history_begin
-- Claim the history for one pass, and record what the rows of clients and leaders show. No row: another writer has it. A
-- leader takes it over.
-- Minutes in which there are no jobs at all count as counted.
WITH clock AS MATERIALIZED (
    SELECT
        coalesce(@now::timestamptz, now()) AS at,
        date_trunc('minute', coalesce(@now::timestamptz, now()) - @delay::interval) AS counts_to
),

busy AS MATERIALIZED (
    SELECT
        -- The orders make every plan read the first entry of an index.
        EXISTS (
            SELECT
            FROM unnest('{available,retryable,running,scheduled}'::/* schema */river_job_state []) AS given (state)
            CROSS JOIN LATERAL (
                SELECT
                FROM /* schema */river_job AS job
                WHERE job.state = given.state
                ORDER BY job.queue, job.priority, job.scheduled_at
                LIMIT 1
            ) AS first
        )
        OR EXISTS (
            SELECT
            FROM unnest('{cancelled,completed,discarded}'::/* schema */river_job_state []) AS given (state)
            CROSS JOIN LATERAL (
                SELECT
                FROM /* schema */river_job AS job
                WHERE job.state = given.state
                AND job.finalized_at >= /* busy_since */
                ORDER BY job.finalized_at
                LIMIT 1
            ) AS first
        )
        OR EXISTS (
            SELECT
            FROM /* schema */millhand_deleted_job_stats AS deleted
            WHERE deleted.began_at >= /* busy_since */
        ) AS has_jobs
    FROM clock
),

-- The first writer begins with the oldest job that finished lately. A job that has not finished may have failed before.
first AS (
    SELECT
        CASE
            WHEN EXISTS (SELECT FROM /* schema */millhand_history) THEN clock.counts_to - @back::interval
            ELSE greatest(
                clock.counts_to - @back::interval,
                date_trunc('minute', coalesce(min(oldest.finalized_at), clock.counts_to)) - @long_attempt::interval
            )
        END AS counts_from
    FROM clock
    LEFT JOIN LATERAL (
        SELECT ended.finalized_at
        FROM unnest('{cancelled,completed,discarded}'::/* schema */river_job_state []) AS given (state)
        CROSS JOIN LATERAL (
            SELECT job.finalized_at
            FROM /* schema */river_job AS job
            WHERE job.state = given.state
            AND job.finalized_at >= clock.counts_to - @back::interval
            ORDER BY job.finalized_at
            LIMIT 1
        ) AS ended
    ) AS oldest ON TRUE
    GROUP BY clock.counts_to
),

claimed AS (
    INSERT INTO /* schema */millhand_history AS history (holder, expires_at, counted_to)
    SELECT
        @holder,
        clock.at + @ttl::interval,
        CASE WHEN busy.has_jobs THEN first.counts_from ELSE clock.counts_to END
    FROM clock, busy, first
    ON CONFLICT (name) DO UPDATE SET
        holder = excluded.holder,
        expires_at = excluded.expires_at,
        -- Not after now, even if the clock was set back.
        counted_to = least(
            greatest(history.counted_to, excluded.counted_to),
            date_trunc('minute', excluded.expires_at - @ttl::interval)
        )
    WHERE history.holder = excluded.holder
    OR history.expires_at < excluded.expires_at - @ttl::interval
    OR @takes_over::boolean
    RETURNING history.counted_to
),

recorded AS (
    INSERT INTO /* schema */millhand_fleet_event (at, name, client_id, detail)
    SELECT
        seen.at,
        seen.name,
        seen.client_id,
        seen.detail
    FROM (
        SELECT
            client.started_at AS at,
            'client_started' AS name,
            client.id AS client_id,
            jsonb_build_object('language', client.language, 'version', client.version) AS detail
        FROM /* schema */millhand_client AS client
        UNION ALL
        SELECT
            client.stopped_at,
            'client_stopped',
            client.id,
            '{}'
        FROM /* schema */millhand_client AS client
        UNION ALL
        SELECT
            client.lost_at,
            'client_declared_dead',
            client.id,
            '{}'
        FROM /* schema */millhand_client AS client
        UNION ALL
        SELECT
            leader.elected_at,
            'leader_elected',
            leader.leader_id,
            '{"leader_role": "river"}'
        FROM /* schema */river_leader AS leader
        UNION ALL
        SELECT
            leader.elected_at,
            'leader_elected',
            leader.leader_id,
            '{"leader_role": "periodic"}'
        FROM /* schema */millhand_leader AS leader
    ) AS seen, clock, claimed
    WHERE seen.at BETWEEN clock.at - interval '1 day' AND clock.at + interval '1 hour'
    ORDER BY seen.at, seen.name, seen.client_id
    ON CONFLICT DO NOTHING
)

SELECT
    clock.at,
    claimed.counted_to,
    clock.counts_to,
    busy.has_jobs,
    -- For dead letters: read here, so that they need no statement of their own. A clock may be ahead.
    (
        SELECT greatest(job.finalized_at, '0001-01-01Z')
        FROM /* schema */river_job AS job
        WHERE job.state = 'discarded'
        AND job.finalized_at < clock.at + interval '1 minute'
        ORDER BY job.finalized_at DESC
        LIMIT 1
    ) AS discarded_at
FROM claimed, clock, busy;

-- name: history_end
-- Record to which instant all minutes are counted, unless another writer has the claim by now.
UPDATE /* schema */millhand_history
SET counted_to = greatest(counted_to, @counted_to::timestamptz)
WHERE holder = @holder
RETURNING counted_to;

-- name: history_get
-- Return who writes the history, until when, and how far it is.
SELECT
    holder,
    expires_at,
    counted_to
FROM /* schema */millhand_history;

-- name: history_delete_intervals
-- Delete old intervals of one table, at most so many of each step, and return how many.
WITH deleted AS (
    DELETE FROM /* schema *//* history_table */ AS stats
    WHERE stats.ctid = ANY(ARRAY(
        SELECT item.ctid
        FROM (
            VALUES
            (60, @minutes_before::timestamptz),
            (600, @minutes_before::timestamptz),
            (3600, @before::timestamptz),
            (86400, @before::timestamptz)
        ) AS old (step, before)
        CROSS JOIN LATERAL (
            SELECT found.ctid
            FROM /* schema *//* history_table */ AS found
            WHERE found.step = old.step AND found.began_at < old.before
            ORDER BY found.began_at
            LIMIT @limit::integer
        ) AS item
    ))
    RETURNING stats.step
)

SELECT count(*) FROM deleted;

-- name: history_delete_records
-- Delete old error groups, events and entries of the audit, at most so many of each, and return how many.
WITH groups AS (
    DELETE FROM /* schema */millhand_error_group
    WHERE ctid = ANY(ARRAY(
        SELECT item.ctid
        FROM /* schema */millhand_error_group AS item
        WHERE item.last_seen_at < @before::timestamptz
        ORDER BY item.last_seen_at
        LIMIT @limit::integer
    ))
    RETURNING 1
),

events AS (
    DELETE FROM /* schema */millhand_fleet_event
    WHERE ctid = ANY(ARRAY(
        SELECT item.ctid
        FROM /* schema */millhand_fleet_event AS item
        WHERE item.at < @events_before::timestamptz
        ORDER BY item.at
        LIMIT @limit::integer
    ))
    RETURNING 1
),

entries AS (
    DELETE FROM /* schema */millhand_audit
    WHERE ctid = ANY(ARRAY(
        SELECT item.ctid
        FROM /* schema */millhand_audit AS item
        WHERE item.at < @audit_before::timestamptz
        ORDER BY item.at
        LIMIT @limit::integer
    ))
    RETURNING 1
)

SELECT (SELECT count(*) FROM groups) + (SELECT count(*) FROM events) + (SELECT count(*) FROM entries) AS num_deleted;
