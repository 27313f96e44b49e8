-- What is known of a client's end: whether it was given up for dead, and whether another one goes by its name.
ALTER TABLE /* schema */millhand_client
    -- When it was given up: jobs that it fetched before are not its own any more, although it may come back.
    ADD COLUMN lost_at timestamptz,
    -- When a report last found the life of another client in the row, one that had not ended.
    ADD COLUMN contested_at timestamptz,
    -- The session that the last report came by, which ends with the client's process; null behind a pooler.
    ADD COLUMN session_pid integer,
    ADD COLUMN session_started_at timestamptz;
