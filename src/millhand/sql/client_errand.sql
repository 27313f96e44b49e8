-- name: client_report_on_errands
-- As client_heartbeat, and on the way: renew the terms that the client leads, and look whether there is anything to be done
-- for all. A row of an leader_role that somebody holds is left to the elector's own renewal: a report waits for nobody.
WITH reported AS (
    /* client_reported */
),

river_renewed AS (
    UPDATE /* schema */river_leader
    SET expires_at = coalesce(@now::timestamptz, now()) + @river_ttl::interval
    WHERE leader_id = @id
    AND elected_at = @river_elected_at::timestamptz
    AND expires_at >= coalesce(@now::timestamptz, now())
    AND name IN (SELECT name FROM /* schema */river_leader FOR UPDATE SKIP LOCKED)
    RETURNING leader_id
),

periodic_renewed AS (
    UPDATE /* schema */millhand_leader
    SET expires_at = coalesce(@now::timestamptz, now()) + @periodic_ttl::interval
    WHERE leader_id = @id
    AND elected_at = @periodic_elected_at::timestamptz
    AND expires_at >= coalesce(@now::timestamptz, now())
    AND name IN (SELECT name FROM /* schema */millhand_leader FOR UPDATE SKIP LOCKED)
    RETURNING leader_id
)

SELECT
    reported.*,
    EXISTS (SELECT FROM river_renewed) AS is_river_renewed,
    EXISTS (SELECT FROM periodic_renewed) AS is_periodic_renewed,
    CASE
        WHEN @due_before::timestamptz IS NOT NULL
            THEN EXISTS (
                SELECT
                FROM /* schema */river_job
                WHERE state IN ('retryable', 'scheduled')
                AND scheduled_at <= @due_before::timestamptz
            )
    END AS is_anything_due,
    -- By the snapshot of this statement: of this client as it was before.
    NOT EXISTS (
        SELECT
        FROM /* schema */millhand_client AS client
        WHERE greatest(client.started_at, client.lost_at, client.stopped_at, client.contested_at)
        > coalesce(@now::timestamptz, now()) - @recently::interval
        OR (
            client.id <> @id
            AND client.stopped_at IS NULL
            AND (client.lost_at > client.last_seen_at) IS NOT TRUE
        )
    ) AS is_alone
FROM reported;
