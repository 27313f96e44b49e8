-- name: leader_attempt_elect
-- Begin a term if no other runs.
-- An expired row is overwritten, not deleted and inserted: one round trip with the same result.
INSERT INTO /* schema *//* leader_table */ AS leader (leader_id, elected_at, expires_at)
VALUES (
    @leader_id,
    coalesce(@now::timestamptz, now()),
    coalesce(@now::timestamptz, now()) + @ttl::interval
)
ON CONFLICT (name) DO UPDATE SET
    leader_id = excluded.leader_id,
    elected_at = excluded.elected_at,
    expires_at = excluded.expires_at
WHERE leader.expires_at < coalesce(@now::timestamptz, now())
RETURNING leader.leader_id, leader.elected_at, leader.expires_at;

-- name: leader_attempt_reelect
-- Renew a term that has not expired.
UPDATE /* schema *//* leader_table */
SET expires_at = coalesce(@now::timestamptz, now()) + @ttl::interval
WHERE leader_id = @leader_id
AND elected_at = @elected_at
AND expires_at >= coalesce(@now::timestamptz, now())
RETURNING leader_id, elected_at, expires_at;

-- name: leader_get
-- Return the term's row, expired or not.
SELECT leader_id, elected_at, expires_at
FROM /* schema *//* leader_table */;

-- name: leader_get_seconds_left
-- Return the seconds until the term expires, negative for an expired one.
SELECT extract(EPOCH FROM expires_at - coalesce(@now::timestamptz, now()))::float8 AS seconds_left
FROM /* schema *//* leader_table */;

-- name: leader_get_view
-- Return what a follower sees before it bids: the leader, whether it is registered, and whether a client has stepped down.
SELECT
    leader.leader_id,
    leader.expires_at >= coalesce(@now::timestamptz, now()) AS is_running,
    leader.leader_id = @client_id
    OR EXISTS (
        SELECT FROM /* schema */millhand_client AS client WHERE client.id = leader.leader_id
    ) AS is_registered,
    EXISTS (
        SELECT
        FROM /* schema */millhand_client AS client
        WHERE client.stepped_down_at > coalesce(@now::timestamptz, now()) - @patience::interval
    ) AS has_stepped_down,
    greatest(extract(EPOCH FROM coalesce(@now::timestamptz, now()) - leader.expires_at), 0)::float8
        AS vacant_seconds
FROM (SELECT) AS nothing
LEFT JOIN /* schema *//* leader_table */ AS leader ON TRUE;

-- name: leader_request_resign
-- Ask the leader to resign.
SELECT pg_notify(/* schema_name */ || './* leader_topic */', @payload::text);

-- name: leader_resign
-- End a term and announce that, if it is still the current one.
WITH locked AS MATERIALIZED (
    SELECT
        name,
        leader_id
    FROM /* schema *//* leader_table */
    WHERE leader_id = @leader_id
    AND elected_at = @elected_at
    FOR UPDATE
),

notified AS MATERIALIZED (
    SELECT
        name,
        pg_notify(
            /* schema_name */ || './* leader_topic */',
            json_build_object('leader_id', leader_id, 'action', 'resigned')::text
        ) AS notified
    FROM locked
)

DELETE FROM /* schema *//* leader_table */ AS leader
USING notified
WHERE leader.name = notified.name
RETURNING leader.leader_id;
