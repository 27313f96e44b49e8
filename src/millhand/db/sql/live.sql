-- name: live_get_jobs
-- Return what changes whenever a job is inserted, changes its state or ends: the newest id and the newest end of each finished
-- state as a text, and the numbers of jobs that have not ended, each counted up to a limit. The numbers are NULL if the text
-- is not that of the look before.
WITH newest AS MATERIALIZED (
    SELECT concat_ws(
        ' ',
        (SELECT max(job.id) FROM /* schema */river_job AS job WHERE job.id > 0),
        ARRAY(
            SELECT
                (
                    SELECT job.finalized_at
                    FROM /* schema */river_job AS job
                    WHERE job.state = finished.state::/* schema */river_job_state
                    AND job.finalized_at IS NOT NULL
                    ORDER BY job.finalized_at DESC
                    LIMIT 1
                )::text
            FROM unnest(ARRAY['cancelled', 'completed', 'discarded']) AS finished (state)
        )
    ) AS text
)

SELECT
    newest.text,
    CASE WHEN @before::text IN ('', newest.text) THEN ARRAY(
        SELECT
            (
                SELECT count(*)
                FROM (
                    SELECT
                    FROM /* schema */river_job AS job
                    WHERE job.state = unfinished.state::/* schema */river_job_state
                    LIMIT @limit::integer
                ) AS counted
            )
        FROM unnest(ARRAY['available', 'pending', 'retryable', 'running', 'scheduled']) AS unfinished (state)
    ) END AS counts
FROM newest;

-- name: live_get_queues
-- Return what changes whenever a queue is created, paused, resumed or deleted. The heartbeats of queues change nothing.
SELECT
    count(*) AS num_queues,
    count(queue.paused_at) AS num_paused,
    max(queue.created_at)::text AS created_at,
    max(queue.paused_at)::text AS paused_at
FROM /* schema */river_queue AS queue;

-- name: live_get_bulk_changes
-- Return what changes whenever a change of many jobs begins, goes on, fails or ends.
SELECT
    max(newest.id) AS id,
    sum(newest.num_jobs) AS num_jobs,
    sum(newest.num_changed + newest.num_skipped) AS num_done,
    string_agg(newest.state, ' ' ORDER BY newest.id) AS states,
    count(newest.stop_reason) AS num_reasons
FROM (
    SELECT bulk.*
    FROM /* schema */millhand_bulk_change AS bulk
    ORDER BY bulk.id DESC
    LIMIT 20
) AS newest;

-- name: live_get_clients
-- Return what changes whenever a client starts, stops or is declared dead, or another one leads.
SELECT
    count(*) AS num_clients,
    max(client.started_at)::text AS started_at,
    max(client.stopped_at)::text AS stopped_at,
    max(client.lost_at)::text AS lost_at,
    (SELECT max(leader.leader_id) FROM /* schema */river_leader AS leader) AS leader_id,
    (SELECT max(leader.leader_id) FROM /* schema */millhand_leader AS leader) AS periodic_leader_id
FROM /* schema */millhand_client AS client;
