-- fragment: client_interval
    -- Bounded: any program may have written the row, and PostgreSQL raises for instants beyond its calendar.
    least(greatest(client.heartbeat_interval, interval '0'), interval '1 day')

-- fragment: client_seen
    greatest(least(client.last_seen_at, '9999-12-31Z'), '0001-01-01Z')

-- fragment: client_contested
    -- Null for an instant that is not within the calendar.
    nullif(greatest(least(client.contested_at, '9999-12-31Z'), '0001-01-01Z'), '9999-12-31Z')

-- name: client_get_shape
-- Return whether the tables of clients are there, as migrations 2 and 5 of line millhand create them.
SELECT
    EXISTS (
        SELECT
        FROM pg_catalog.pg_attribute
        WHERE attrelid = to_regclass('/* schema */millhand_client')
        AND attname = 'lost_at'
    )
    AND to_regclass('/* schema */millhand_leader') IS NOT NULL AS is_there;

-- name: client_ping
-- Return a row, after a round trip.
SELECT 1 AS one;

-- name: client_heartbeat
-- Write a client's heartbeat and return its row. A client that restarts with its id keeps the queue updates of its row.
INSERT INTO /* schema */millhand_client AS client (
    id,
    language,
    version,
    hostname,
    pid,
    session_pid,
    session_started_at,
    kinds,
    queues,
    queue_updates,
    heartbeat_interval,
    started_at,
    last_seen_at
)
VALUES (
    @id,
    @language,
    @version,
    @hostname,
    @pid::integer,
    CASE WHEN @has_session::boolean THEN pg_backend_pid() END,
    CASE
        WHEN @has_session::boolean
            THEN (SELECT own.backend_start FROM pg_catalog.pg_stat_get_activity(pg_backend_pid()) AS own)
    END,
    @kinds::text [],
    @queues::text::jsonb,
    @queue_updates::text::jsonb,
    @heartbeat_interval::interval,
    -- Not in the future, even if the clock was set back.
    least(
        coalesce(@started_at::timestamptz, coalesce(@now::timestamptz, now()) - @age::interval),
        coalesce(@now::timestamptz, now())
    ),
    coalesce(@now::timestamptz, now())
)
ON CONFLICT (id) DO UPDATE SET
    language = excluded.language,
    version = excluded.version,
    hostname = excluded.hostname,
    pid = excluded.pid,
    session_pid = excluded.session_pid,
    session_started_at = excluded.session_started_at,
    kinds = excluded.kinds,
    queues = excluded.queues,
    queue_updates = CASE
        WHEN @started_at::timestamptz IS NULL THEN client.queue_updates || excluded.queue_updates
        ELSE excluded.queue_updates
    END,
    heartbeat_interval = excluded.heartbeat_interval,
    started_at = excluded.started_at,
    -- Others may have declared the client dead since this statement began. One in the future was written before the clock
    -- was set back.
    last_seen_at = greatest(
        excluded.last_seen_at,
        CASE WHEN client.lost_at <= coalesce(@now::timestamptz, clock_timestamp()) THEN client.lost_at END
    ),
    lost_at = CASE WHEN client.lost_at <= coalesce(@now::timestamptz, clock_timestamp()) THEN client.lost_at END,
    stopped_at = NULL,
    contested_at = CASE
        WHEN client.started_at <> excluded.started_at
        AND client.started_at IS DISTINCT FROM @started_at::timestamptz
        AND client.stopped_at IS NULL
        AND (client.lost_at > client.last_seen_at) IS NOT TRUE
        AND /* client_seen */ + (@num_missed::float8 * /* client_interval */ + @grace::interval)
        > excluded.last_seen_at
            THEN excluded.last_seen_at
        ELSE client.contested_at
    END
RETURNING
    client.started_at,
    client.last_seen_at,
    CASE WHEN client.lost_at IS NOT NULL THEN greatest(client.lost_at, '0001-01-01Z') END AS lost_at,
    client.queue_updates::text AS queue_updates,
    -- This and the next read the snapshot of the statement: the table as it was before.
    (
        SELECT greatest(least(before.started_at, '9999-12-31Z'), '0001-01-01Z')
        FROM /* schema */millhand_client AS before
        WHERE before.id = @id
    ) AS previous_started_at,
    NOT EXISTS (
        SELECT
        FROM /* schema */millhand_client AS other
        WHERE greatest(other.started_at, other.lost_at, other.stopped_at, other.contested_at)
        > coalesce(@now::timestamptz, now()) - @recently::interval
        OR (
            other.id <> @id
            AND other.stopped_at IS NULL
            AND (other.lost_at > other.last_seen_at) IS NOT TRUE
        )
    ) AS is_alone,
    -- Another text after each migration, up or down.
    (
        SELECT json_build_array(count(*), extract(EPOCH FROM max(migration.created_at)))::text
        FROM /* schema */river_migration AS migration
    ) AS migrations;

-- name: client_stop
-- Mark a client as stopped, if the row belongs to this life of it.
UPDATE /* schema */millhand_client
SET
    stopped_at = coalesce(@now::timestamptz, now()),
    last_seen_at = coalesce(@now::timestamptz, now())
WHERE id = @id
AND started_at = @started_at
RETURNING id;

-- name: client_step_down
-- Record that a client is about to resign River's term for clients in another language.
UPDATE /* schema */millhand_client
SET stepped_down_at = coalesce(@now::timestamptz, now())
WHERE id = @id
RETURNING id;

-- name: client_list
-- Return the registered clients by start time.
SELECT
    client.id,
    client.language,
    client.version,
    client.hostname,
    client.pid,
    -- One dimension, whatever another program wrote.
    ARRAY(SELECT kind FROM unnest(client.kinds) AS kind WHERE kind IS NOT NULL) AS kinds,
    client.queues::text AS queues,
    extract(EPOCH FROM /* client_interval */)::float8 AS heartbeat_seconds,
    greatest(least(client.started_at, '9999-12-31Z'), '0001-01-01Z') AS started_at,
    /* client_seen */ AS last_seen_at,
    CASE
        WHEN client.stopped_at IS NOT NULL THEN greatest(least(client.stopped_at, '9999-12-31Z'), '0001-01-01Z')
    END AS stopped_at,
    CASE
        WHEN client.lost_at > client.last_seen_at THEN 'infinity'
        ELSE extract(EPOCH FROM coalesce(@now::timestamptz, now()) - /* client_seen */)
    END::float8 AS unseen_seconds
FROM /* schema */millhand_client AS client
ORDER BY client.started_at, client.id;

-- fragment: newest_attempts
attempts AS (
    (
        SELECT
            job.attempted_by[array_upper(job.attempted_by, 1)] AS id,
            job.attempted_at
        FROM /* schema */river_job AS job
        WHERE job.state = 'running'
        AND job.attempted_at > coalesce(@now::timestamptz, now()) - @within::interval
        LIMIT @limit::integer
    )
    UNION ALL
    SELECT
        newest.id,
        newest.attempted_at
    FROM unnest(ARRAY['cancelled', 'completed', 'discarded']) AS wanted (state)
    CROSS JOIN LATERAL (
        SELECT
            job.attempted_by[array_upper(job.attempted_by, 1)] AS id,
            job.attempted_at
        FROM /* schema */river_job AS job
        WHERE job.state = wanted.state::/* schema */river_job_state
        AND job.finalized_at > coalesce(@now::timestamptz, now()) - @within::interval
        ORDER BY job.finalized_at DESC
        LIMIT @limit::integer
    ) AS newest
)

-- fragment: sightings
SELECT
    'client' AS what,
    attempt.id AS name,
    least(max(attempt.attempted_at), '9999-12-31Z') AS seen_at
FROM attempts AS attempt
WHERE attempt.id IS NOT NULL
AND attempt.attempted_at > coalesce(@now::timestamptz, now()) - @within::interval
AND NOT EXISTS (SELECT FROM known AS client WHERE client.id = attempt.id)
GROUP BY attempt.id
UNION ALL
SELECT
    'queue' AS what,
    queue.name,
    least(queue.updated_at, '9999-12-31Z') AS seen_at
FROM /* schema */river_queue AS queue
WHERE queue.updated_at > coalesce(@now::timestamptz, now()) - @within::interval
AND queue.updated_at < coalesce(@now::timestamptz, now()) - @heartbeat_grace::interval
AND queue.updated_at IS DISTINCT FROM queue.paused_at
-- The mark of `controlled_at` in queue.sql. One update in a thousand has it by chance; the next one will not.
AND extract(MICROSECONDS FROM queue.updated_at) % 1000 IS DISTINCT FROM 1
AND NOT EXISTS (
    SELECT
    FROM known AS client
    -- Compared as text: a value that is no instant cannot be cast to one.
    WHERE client.queue_updates ->> queue.name
    = to_char(queue.updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US+00:00')
)
ORDER BY what, name

-- name: client_get_unregistered
-- Return traces of clients that are not in millhand_client, with the time of each.
-- A client: the id in one of the newest attempts of each state. A queue: an update of its row that no registered client
-- declares. River's clients update the row at their start and every ten minutes; commands update it too, and are left out.
WITH /* newest_attempts */,

known AS (
    SELECT
        client.id,
        client.queue_updates
    FROM /* schema */millhand_client AS client
)

/* sightings */;

-- name: client_get_seen
-- As client_get_unregistered, where the table of clients is missing: the traces of all clients.
WITH /* newest_attempts */,

known AS (
    SELECT
        NULL::text AS id,
        NULL::jsonb AS queue_updates
    WHERE FALSE
)

/* sightings */;

-- name: client_get_running
-- Return how many of the running jobs each client holds in each queue, and when the first and the last of them started.
WITH running AS (
    SELECT
        job.attempted_by[array_upper(job.attempted_by, 1)] AS client_id,
        job.queue,
        CASE
            WHEN job.attempted_at IS NOT NULL
                THEN greatest(least(job.attempted_at, '9999-12-31Z'), '0001-01-01Z')
        END AS attempted_at
    FROM /* schema */river_job AS job
    WHERE job.state = 'running'
    LIMIT @limit::integer
)

SELECT
    running.client_id,
    running.queue,
    count(*) AS num_running,
    min(running.attempted_at) AS oldest_at,
    max(running.attempted_at) AS newest_at
FROM running
WHERE running.client_id IS NOT NULL
GROUP BY running.client_id, running.queue
ORDER BY running.client_id, running.queue;

-- name: client_delete_gone
-- Delete clients without a heartbeat since the horizon that hold no running job.
WITH held AS MATERIALIZED (
    SELECT DISTINCT job.attempted_by[array_upper(job.attempted_by, 1)] AS id
    FROM /* schema */river_job AS job
    WHERE job.state = 'running'
)

DELETE FROM /* schema */millhand_client AS client
WHERE client.last_seen_at < @last_seen_horizon
AND client.id NOT IN (SELECT held.id FROM held WHERE held.id IS NOT NULL)
RETURNING client.id;

-- name: client_declare_lost
-- Declare those suspects dead that still miss heartbeats. Return the next suspects, how many clients started, stopped or
-- were declared dead recently, and how soon the next client may become a suspect.
-- Missed heartbeats count only from the instant since which the caller's own heartbeats arrive in time.
-- A client whose session is still open may be alive and stalled, and gets the session grace.
WITH clients AS MATERIALIZED (
    SELECT
        client.id,
        greatest(client.started_at, client.lost_at, client.stopped_at, client.contested_at) AS changed_at,
        client.stopped_at IS NULL
        AND (client.lost_at > client.last_seen_at) IS NOT TRUE
        AND client.id <> @id AS is_expected,
        greatest(/* client_seen */, CASE WHEN client.id <> @id THEN @steady_since::timestamptz END)
        + (@num_missed::float8 * /* client_interval */ + @grace::interval)
        + CASE
            WHEN client.id <> @id
            AND /* client_seen */ + (@num_missed::float8 * /* client_interval */ + @grace::interval)
            < coalesce(@now::timestamptz, now())
            AND EXISTS (
                SELECT
                FROM pg_catalog.pg_stat_get_activity(client.session_pid) AS session
                -- backend_start is null for a role that may not see it. For a null pid the function returns all sessions.
                WHERE client.session_pid IS NOT NULL
                AND (session.backend_start = client.session_started_at) IS NOT FALSE
            )
                THEN @session_grace::interval
            ELSE interval '0'
        END AS dies_at,
        /* client_contested */ + (@num_missed::float8 * /* client_interval */ + @grace::interval) AS settled_at
    FROM /* schema */millhand_client AS client
),

caller AS MATERIALIZED (
    SELECT coalesce(@now::timestamptz, now()) AS at
    FROM clients
    WHERE clients.id = @id
    AND clients.dies_at > coalesce(@now::timestamptz, now())
),

lost AS (
    UPDATE /* schema */millhand_client AS client
    SET lost_at = caller.at
    FROM caller, clients
    WHERE client.id = clients.id
    AND client.id = ANY(@suspect_ids::text [])
    AND clients.is_expected
    AND clients.dies_at < caller.at
    -- Checked again on the row that the UPDATE locks: a heartbeat may have come meanwhile.
    AND client.stopped_at IS NULL
    AND /* client_seen */ + (@num_missed::float8 * /* client_interval */ + @grace::interval) < caller.at
    RETURNING client.id
)

SELECT
    ARRAY(SELECT lost.id FROM lost ORDER BY lost.id) AS lost_ids,
    ARRAY(
        SELECT clients.id
        FROM clients, caller
        WHERE clients.is_expected
        AND clients.dies_at < caller.at
        AND clients.id NOT IN (SELECT lost.id FROM lost)
        ORDER BY clients.id
    ) AS suspect_ids,
    (SELECT count(*) FROM clients, caller WHERE clients.changed_at > caller.at - @recently::interval) AS num_recent,
    (
        SELECT extract(EPOCH FROM min(due.at) - coalesce(@now::timestamptz, now()))::float8
        FROM (
            SELECT clients.dies_at AS at
            FROM clients
            WHERE clients.is_expected
            UNION ALL
            SELECT clients.settled_at
            FROM clients
            WHERE clients.settled_at > coalesce(@now::timestamptz, now())
        ) AS due
    ) AS seconds_left;

-- name: job_get_stranded
-- Return running jobs whose client was declared dead, has stopped, or has restarted since it fetched them.
-- For an id that two living clients use, only the jobs fetched before the declaration of death are returned.
-- For a client that is still gone, jobs fetched after its end are returned a while later: the fetch was on its way.
WITH clients AS MATERIALIZED (
    SELECT
        client.*,
        @num_missed::float8 * /* client_interval */ + @grace::interval AS patience,
        coalesce(@now::timestamptz, now()) AS at
    FROM /* schema */millhand_client AS client
),

ended AS MATERIALIZED (
    SELECT
        client.id,
        CASE
            WHEN client.lost_at > client.last_seen_at THEN greatest(client.lost_at, client.at - client.patience)
            -- A lost_at in the future was written before the clock was set back. Jobs fetched since would look lost.
            WHEN client.lost_at <= client.at THEN client.lost_at
        END AS lost_at,
        CASE
            -- A thread that ignored its cancellation runs until its process ends, shortly after the client stopped.
            WHEN client.stopped_at > client.at - @leaving::interval AND client.stopped_at <= client.at THEN NULL
            WHEN client.stopped_at IS NOT NULL THEN greatest(client.stopped_at, client.at - client.patience)
        END AS stopped_at,
        CASE WHEN (/* client_contested */ + client.patience > client.at) IS NOT TRUE THEN client.started_at END
            AS started_at
    FROM clients AS client
),

-- Found by state and sorted afterwards, as in job_get_stuck.
stranded AS MATERIALIZED (
    SELECT
        job.id,
        CASE
            WHEN job.attempted_at < ended.lost_at THEN 'lost'
            WHEN job.attempted_at < ended.stopped_at THEN 'stopped'
            ELSE 'restarted'
        END AS reason
    FROM /* schema */river_job AS job
    INNER JOIN ended ON ended.id = job.attempted_by[cardinality(job.attempted_by)]
    WHERE job.state = 'running'
    -- No job is fetched before it is due, so nothing due after the last end of a client can be stranded.
    AND job.scheduled_at <= CASE
        WHEN @is_full::boolean THEN 'infinity'
        ELSE (
            SELECT max(greatest(last.lost_at, last.stopped_at, last.started_at))
            FROM ended AS last
        )
    END
    AND (job.id > @after_id) IS TRUE
    AND job.attempted_at < greatest(ended.lost_at, ended.stopped_at, ended.started_at)
),

page AS MATERIALIZED (
    SELECT
        stranded.id,
        stranded.reason
    FROM stranded
    ORDER BY stranded.id
    LIMIT @limit::integer
),

-- Arrays, not a join: the planner cannot estimate the number of rows.
picked AS MATERIALIZED (
    SELECT
        array_agg(page.id ORDER BY page.id) AS ids,
        array_agg(page.reason ORDER BY page.id) AS reasons
    FROM page
)

SELECT
    /* job_columns */,
    ((SELECT picked.reasons FROM picked))[width_bucket(job.id, (SELECT picked.ids FROM picked))] AS reason,
    coalesce(@now::timestamptz, now()) AS at
FROM /* schema */river_job AS job
WHERE job.id = ANY((SELECT picked.ids FROM picked)::bigint [])
AND (job.state = 'running') IS TRUE
ORDER BY job.id;

-- name: job_get_stuck_beside_clients
-- As job_get_stuck, without jobs of registered clients: these find their own stuck jobs, and others rescue them by death.
WITH stuck AS MATERIALIZED (
    /* stuck_jobs */
    AND NOT EXISTS (
        SELECT
        FROM /* schema */millhand_client AS client
        WHERE client.id = job.attempted_by[cardinality(job.attempted_by)]
    )
)

/* stuck_page */;

-- name: job_get_stuck_of_client
-- As job_get_stuck, for the jobs of one client.
WITH stuck AS MATERIALIZED (
    /* stuck_jobs */
    AND job.attempted_by[cardinality(job.attempted_by)] = @client_id
)

/* stuck_page */;
