-- Dead letters: copies of discarded jobs, which stay when a leader in any language deletes the rows.
CREATE TABLE /* schema */millhand_dead_job (
    -- As in river_job. The state is always discarded.
    id bigint PRIMARY KEY,
    attempt smallint NOT NULL,
    max_attempts smallint NOT NULL,
    attempted_at timestamptz,
    created_at timestamptz NOT NULL,
    finalized_at timestamptz NOT NULL,
    scheduled_at timestamptz NOT NULL,
    priority smallint NOT NULL,
    args jsonb NOT NULL,
    attempted_by text [],
    errors jsonb [],
    kind text NOT NULL,
    metadata jsonb NOT NULL,
    queue text NOT NULL,
    tags varchar(255) [] NOT NULL,
    unique_key bytea,
    unique_states bit(8),
    copied_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX millhand_dead_job_finalized_at_idx ON /* schema */millhand_dead_job (finalized_at, id);
CREATE INDEX millhand_dead_job_kind_idx ON /* schema */millhand_dead_job (kind, finalized_at, id);

-- How far the copies are. One row.
CREATE TABLE /* schema */millhand_dead_job_cursor (
    name text PRIMARY KEY DEFAULT 'default',
    -- All jobs that were discarded before are copied, and no transaction can add one.
    settled_to timestamptz NOT NULL,
    -- The start of a pass, and the id of its transaction. A later pass settles what this one has seen when all transactions
    -- with lower ids have ended.
    seen_at timestamptz NOT NULL,
    seen_xid xid8 NOT NULL,
    CONSTRAINT name_is_default CHECK (name = 'default')
);
