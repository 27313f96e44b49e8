-- The database that a bucket is bound to. The bucket has a marker with the same token. Each run that may remove increases
-- the generation, so Millhand notices a database that was restored from an older backup, or copied.
CREATE TABLE /* schema */millhand_orphan_binding (
    bucket text PRIMARY KEY,
    token text NOT NULL,
    database text NOT NULL,
    generation bigint NOT NULL DEFAULT 0,
    bound_at timestamptz NOT NULL,
    searched_at timestamptz,
    search_seconds double precision
);

-- More about a finding: the key that is a near match, or the run that removed a missing object. And the version of its row,
-- so that an updated row begins a new age.
ALTER TABLE /* schema */millhand_orphan_finding
    ADD COLUMN note text NOT NULL DEFAULT '',
    ADD COLUMN row_version text NOT NULL DEFAULT '',
    DROP CONSTRAINT kind_is_known,
    ADD CONSTRAINT kind_is_known CHECK (
        kind IN (
            'orphan', 'abandoned', 'missing', 'size_mismatch', 'shared', 'near_match', 'upload', 'recalled',
            'waiting'
        )
    );

-- Why and when the alert about a removed object was raised, and the rows of other tables that went with a deleted row.
ALTER TABLE /* schema */millhand_orphan_action
    ADD COLUMN alert text,
    ADD COLUMN alerted_at timestamptz,
    ADD COLUMN cascaded_json jsonb,
    DROP CONSTRAINT state_is_known,
    ADD CONSTRAINT state_is_known CHECK (
        state IN ('intended', 'quarantined', 'row_deleted', 'purged', 'restored', 'kept', 'aborted')
    );
