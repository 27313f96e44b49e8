-- One run over one bucket.
CREATE TABLE /* schema */millhand_orphan_run (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    bucket text NOT NULL,
    mode text NOT NULL,
    fingerprint text NOT NULL,
    state text NOT NULL DEFAULT 'scanning',
    epoch integer NOT NULL DEFAULT 1,
    started_at timestamptz NOT NULL,
    heartbeat_at timestamptz NOT NULL,
    scanned_at timestamptz,
    finished_at timestamptz,
    cursor_key text COLLATE "C" NOT NULL DEFAULT '',
    is_ordered boolean NOT NULL DEFAULT true,
    totals jsonb NOT NULL DEFAULT '{}',
    abort_reasons text[] NOT NULL DEFAULT '{}',
    error text,
    CONSTRAINT state_is_known CHECK (state IN ('scanning', 'sweeping', 'completed', 'aborted', 'failed')),
    CONSTRAINT state_or_finished_at CHECK ((finished_at IS NULL) = (state IN ('scanning', 'sweeping')))
);

-- One unfinished run per bucket.
CREATE UNIQUE INDEX millhand_orphan_run_unfinished_idx ON /* schema */millhand_orphan_run (bucket)
    WHERE finished_at IS NULL;
CREATE INDEX millhand_orphan_run_bucket_idx ON /* schema */millhand_orphan_run (bucket, id);

-- What the last run found: a line for each object without a row, or for each row (source, row_id), that needs attention.
CREATE TABLE /* schema */millhand_orphan_finding (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    bucket text NOT NULL,
    key text COLLATE "C" NOT NULL,
    source text NOT NULL DEFAULT '',
    row_id text NOT NULL DEFAULT '',
    kind text NOT NULL,
    reference text NOT NULL,
    rule integer NOT NULL,
    is_present boolean NOT NULL,
    size bigint NOT NULL DEFAULT 0,
    etag text NOT NULL DEFAULT '',
    modified_at timestamptz,
    first_seen_at timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL,
    sightings integer NOT NULL,
    run_id bigint NOT NULL,
    CONSTRAINT kind_is_known CHECK (kind IN ('orphan', 'abandoned', 'missing', 'size_mismatch', 'shared'))
);

CREATE UNIQUE INDEX millhand_orphan_finding_key_idx
    ON /* schema */millhand_orphan_finding (bucket, key, source, row_id);
CREATE INDEX millhand_orphan_finding_rule_idx ON /* schema */millhand_orphan_finding (run_id, rule, id);

-- What was done to which key, why, and what is needed to undo it. Millhand never deletes these rows.
CREATE TABLE /* schema */millhand_orphan_action (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id bigint NOT NULL,
    bucket text NOT NULL,
    key text COLLATE "C" NOT NULL,
    rule integer NOT NULL,
    state text NOT NULL,
    reason text NOT NULL DEFAULT '',
    size bigint NOT NULL DEFAULT 0,
    etag text NOT NULL DEFAULT '',
    modified_at timestamptz,
    quarantine_key text COLLATE "C",
    source text NOT NULL DEFAULT '',
    table_name text,
    row_id text NOT NULL DEFAULT '',
    row_json jsonb,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT state_is_known CHECK (
        state IN ('intended', 'quarantined', 'row_deleted', 'purged', 'restored', 'kept')
    )
);

CREATE INDEX millhand_orphan_action_key_idx ON /* schema */millhand_orphan_action (bucket, key);
CREATE INDEX millhand_orphan_action_run_idx ON /* schema */millhand_orphan_action (run_id, id);
-- Unfinished actions, which a run settles, purges or restores.
CREATE INDEX millhand_orphan_action_open_idx ON /* schema */millhand_orphan_action (bucket, state, id)
    WHERE state IN ('intended', 'quarantined');
