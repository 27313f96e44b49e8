-- Changes of many jobs, which processes of the web page make in batches. A process holds a change until `expires_at`, so
-- that another one goes on if it dies. All ids are collected before the first job is changed.
CREATE TABLE /* schema */millhand_bulk_change (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now(),
    action text NOT NULL,
    -- The line of the search, and the user's limits and time zone with which it is read.
    search text NOT NULL,
    time_zone text NOT NULL,
    only_queues text [],
    only_kinds text [],
    actor text NOT NULL,
    role text NOT NULL,
    address text NOT NULL,
    state text NOT NULL DEFAULT 'collecting',
    -- The cursor of the search, and what it has found so far.
    collected_to text,
    num_jobs integer NOT NULL DEFAULT 0,
    kinds jsonb NOT NULL DEFAULT '{}',
    queues jsonb NOT NULL DEFAULT '{}',
    num_changed integer NOT NULL DEFAULT 0,
    num_skipped integer NOT NULL DEFAULT 0,
    -- Reasons, and how many jobs were left for each.
    skipped jsonb NOT NULL DEFAULT '{}',
    -- NULL for as fast as possible.
    jobs_per_second integer,
    started_at timestamptz,
    finished_at timestamptz,
    stop_reason text,
    holder text,
    expires_at timestamptz,
    CONSTRAINT action_is_known CHECK (action IN ('cancel', 'delete', 'retry')),
    CONSTRAINT state_is_known CHECK (state IN ('collecting', 'ready', 'running', 'stopped', 'completed')),
    CONSTRAINT pace_is_positive CHECK (jobs_per_second > 0)
);

CREATE INDEX millhand_bulk_change_unfinished_idx ON /* schema */millhand_bulk_change (id)
WHERE state IN ('collecting', 'running');

CREATE TABLE /* schema */millhand_bulk_batch (
    bulk_change_id bigint NOT NULL REFERENCES /* schema */millhand_bulk_change (id) ON DELETE CASCADE,
    number integer NOT NULL,
    job_ids bigint [] NOT NULL,
    -- NULL until the batch is done.
    changed_ids bigint [],
    PRIMARY KEY (bulk_change_id, number)
);

CREATE INDEX millhand_bulk_batch_open_idx ON /* schema */millhand_bulk_batch (bulk_change_id, number)
WHERE changed_ids IS NULL;
