-- How a client ended: whether it was declared dead, and whether another client uses its id.
ALTER TABLE /* schema */millhand_client
    -- When it was declared dead. Jobs that it fetched before belong to others, even if it comes back.
    ADD COLUMN lost_at timestamptz,
    -- When a heartbeat last found the life of another client in the row that had not ended.
    ADD COLUMN contested_at timestamptz,
    -- The session of the last heartbeat, which ends with the client's process; null behind a pooler.
    ADD COLUMN session_pid integer,
    ADD COLUMN session_started_at timestamptz;
