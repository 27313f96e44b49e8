ALTER TABLE /* schema */millhand_client
    DROP COLUMN lost_at,
    DROP COLUMN contested_at;
