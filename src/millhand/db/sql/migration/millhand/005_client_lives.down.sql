ALTER TABLE /* schema */millhand_client
    DROP COLUMN lost_at,
    DROP COLUMN contested_at,
    DROP COLUMN session_pid,
    DROP COLUMN session_started_at;
