-- Whose bucket it is. The bucket has a marker with the same token; its generation grows with each run that may remove, so
-- a database that was restored from an older backup, or copied, is found out.
CREATE TABLE /* schema */millhand_orphan_binding (
    bucket text PRIMARY KEY,
    token text NOT NULL,
    database text NOT NULL,
    generation bigint NOT NULL DEFAULT 0,
    bound_at timestamptz NOT NULL,
    searched_at timestamptz,
    searched_fingerprint text
);

-- What a person should know besides: the key that comes near, what a missing object went by.
ALTER TABLE /* schema */millhand_orphan_finding
    ADD COLUMN note text NOT NULL DEFAULT '',
    DROP CONSTRAINT kind_is_known,
    ADD CONSTRAINT kind_is_known CHECK (
        kind IN (
            'orphan', 'abandoned', 'missing', 'size_mismatch', 'shared', 'near_match', 'upload', 'recalled'
        )
    );

-- Why and when somebody asked for what had been taken away.
ALTER TABLE /* schema */millhand_orphan_action
    ADD COLUMN alert text,
    ADD COLUMN alerted_at timestamptz,
    DROP CONSTRAINT state_is_known,
    ADD CONSTRAINT state_is_known CHECK (
        state IN ('intended', 'quarantined', 'row_deleted', 'purged', 'restored', 'kept', 'aborted')
    );
