-- name: fleet_event_put_many
-- Record events. Of a rescue that is recorded again, the one with more jobs stays.
INSERT INTO /* schema */millhand_fleet_event AS event (at, name, client_id, detail)
SELECT
    item.at,
    item.name,
    item.client_id,
    item.detail::jsonb
FROM unnest(@ats::timestamptz [], @names::text [], @client_ids::text [], @details::text [])
    AS item (at, name, client_id, detail)
ORDER BY item.at, item.name, item.client_id
ON CONFLICT (at, name, client_id) DO UPDATE SET detail = excluded.detail
WHERE (excluded.detail ->> 'num_jobs')::integer > (event.detail ->> 'num_jobs')::integer;

-- name: fleet_event_list
-- Return events, newest first.
SELECT
    event.at,
    event.name,
    event.client_id,
    event.detail::text
FROM /* schema */millhand_fleet_event AS event
WHERE event.at >= @since::timestamptz AND event.at < @until::timestamptz
ORDER BY event.at DESC, event.name, event.client_id
LIMIT @limit::integer;
