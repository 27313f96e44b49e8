-- name: client_get_shape
-- Say whether the tables of clients are there, which migration 2 of line millhand makes.
SELECT
    to_regclass('/* schema */millhand_client') IS NOT NULL
    AND to_regclass('/* schema */millhand_leader') IS NOT NULL AS is_there;

-- name: client_report
-- Say that a client is there, and give what its row now says.
-- A client that comes back under its name keeps what it, or its like, did before.
INSERT INTO /* schema */millhand_client AS client (
    id, language, version, hostname, pid, kinds, queues, queue_updates, report_interval, started_at, last_seen_at
)
VALUES (
    @id,
    @language,
    @version,
    @hostname,
    @pid::integer,
    @kinds::text [],
    @queues::text::jsonb,
    @queue_updates::text::jsonb,
    @report_interval::interval,
    coalesce(@started_at::timestamptz, @now::timestamptz, now()),
    coalesce(@now::timestamptz, now())
)
ON CONFLICT (id) DO UPDATE SET
    language = excluded.language,
    version = excluded.version,
    hostname = excluded.hostname,
    pid = excluded.pid,
    kinds = excluded.kinds,
    queues = excluded.queues,
    queue_updates = CASE
        WHEN @started_at::timestamptz IS NULL THEN client.queue_updates || excluded.queue_updates
        ELSE excluded.queue_updates
    END,
    report_interval = excluded.report_interval,
    started_at = excluded.started_at,
    last_seen_at = excluded.last_seen_at,
    stopped_at = NULL
RETURNING
    client.started_at,
    client.queue_updates::text AS queue_updates,
    -- Who wrote it before: the snapshot of this statement.
    (SELECT before.started_at FROM /* schema */millhand_client AS before WHERE before.id = @id) AS before_at;

-- name: client_stop
-- Say that a client has stopped, if the row is still its own.
UPDATE /* schema */millhand_client
SET
    stopped_at = coalesce(@now::timestamptz, now()),
    last_seen_at = coalesce(@now::timestamptz, now())
WHERE id = @id
AND started_at = @started_at
RETURNING id;

-- name: client_make_way
-- Say that a client is about to give up River's term for others.
UPDATE /* schema */millhand_client
SET made_way_at = coalesce(@now::timestamptz, now())
WHERE id = @id
RETURNING id;

-- name: client_list
-- Give all clients that are known, by the time of their start.
SELECT
    id,
    language,
    version,
    hostname,
    pid,
    kinds,
    queues::text AS queues,
    extract(EPOCH FROM report_interval)::float8 AS report_seconds,
    started_at,
    last_seen_at,
    stopped_at,
    extract(EPOCH FROM coalesce(@now::timestamptz, now()) - last_seen_at)::float8 AS silent_seconds
FROM /* schema */millhand_client
ORDER BY started_at, id;

-- name: client_get_foreign
-- Give clients and queues that speak of somebody who is no client of ours, and when they were seen last.
-- A client is whoever began an attempt of late, as far as the newest of each state tell. A queue is one whose row was
-- touched by none of ours: River's clients do that when they start and every ten minutes. A pause touches it too.
WITH attempts AS (
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

SELECT
    'client' AS what,
    attempt.id AS name,
    max(attempt.attempted_at) AS seen_at
FROM attempts AS attempt
WHERE attempt.id IS NOT NULL
AND attempt.attempted_at > coalesce(@now::timestamptz, now()) - @within::interval
AND NOT EXISTS (SELECT FROM /* schema */millhand_client AS client WHERE client.id = attempt.id)
GROUP BY attempt.id
UNION ALL
SELECT
    'queue' AS what,
    queue.name,
    queue.updated_at AS seen_at
FROM /* schema */river_queue AS queue
WHERE queue.updated_at > coalesce(@now::timestamptz, now()) - @within::interval
AND queue.updated_at < coalesce(@now::timestamptz, now()) - @report_grace::interval
AND queue.updated_at IS DISTINCT FROM queue.paused_at
AND NOT EXISTS (
    SELECT
    FROM /* schema */millhand_client AS client
    WHERE (client.queue_updates ->> queue.name)::timestamptz = queue.updated_at
)
ORDER BY what, name;

-- name: client_delete_gone
-- Delete clients that have been silent since the horizon and hold no job: their names mean nothing to anybody any more.
WITH held AS MATERIALIZED (
    SELECT DISTINCT job.attempted_by[array_upper(job.attempted_by, 1)] AS id
    FROM /* schema */river_job AS job
    WHERE job.state = 'running'
)

DELETE FROM /* schema */millhand_client AS client
WHERE client.last_seen_at < @last_seen_horizon
AND client.id NOT IN (SELECT held.id FROM held WHERE held.id IS NOT NULL)
RETURNING client.id;

-- name: client_get_unknown_kinds
-- Give kinds, other than those a client knows, that jobs have which are due in its queues; of each queue the first.
SELECT DISTINCT due.kind
FROM unnest(@queues::text []) AS wanted (queue)
CROSS JOIN LATERAL (
    SELECT job.kind
    FROM /* schema */river_job AS job
    WHERE job.state = 'available'
    AND job.queue = wanted.queue
    AND job.scheduled_at <= coalesce(@now::timestamptz, now())
    ORDER BY job.priority, job.scheduled_at, job.id
    LIMIT @limit::integer
) AS due
WHERE due.kind <> ALL(@kinds::text [])
ORDER BY due.kind;
