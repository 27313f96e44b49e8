-- Limits of queues: how many jobs run at once and how many start in a time, by partition, for all clients together.
CREATE TABLE /* schema */millhand_limit (
    queue text PRIMARY KEY,
    -- Of each partition: jobs at once, and of these in one client.
    at_once integer,
    at_once_per_client integer,
    -- Of all partitions together.
    total integer,
    -- What makes a partition: fields of the args, and the kind.
    by_args text [] NOT NULL,
    by_kind boolean NOT NULL,
    -- Starts of a partition: `rate_burst`, and `rate_allowed` in each `rate_seconds`.
    rate_allowed integer,
    rate_seconds float8,
    rate_burst integer,
    in_order boolean NOT NULL,
    -- Go workers fetch from the queue too.
    is_shared boolean NOT NULL,
    -- Slots taken, counted only where there is a total: then admissions and releases wait for each other.
    num_running integer NOT NULL DEFAULT 0,
    -- What the code of a client said last. Its next value replaces what was set at run time.
    declared jsonb,
    -- What River UI's form said last. Its next value replaces what was set at run time.
    form jsonb,
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE /* schema */millhand_limit_partition (
    queue text NOT NULL,
    -- The values that make the partition, as the text of a JSON array; a digest if that is long.
    partition_key text COLLATE "C" NOT NULL,
    -- Slots taken: the rows of millhand_limited_job that were admitted.
    running integer NOT NULL DEFAULT 0,
    -- Whether a job may wait and have a slot, and how often the partition was opened.
    is_open boolean NOT NULL DEFAULT true,
    opened bigint NOT NULL DEFAULT 1,
    -- Until then it is closed: by a hold, or for its next start by the rate.
    opens_at timestamptz,
    -- The partition with the lowest turn is next. A start adds 1 / weight.
    turn float8 NOT NULL DEFAULT 0,
    weight smallint NOT NULL DEFAULT 1,
    -- Of this partition alone.
    at_once integer,
    held_until timestamptz,
    -- The token bucket of the rate.
    tokens float8,
    refilled_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (queue, partition_key)
) WITH (fillfactor = 50);
-- Partial, so that no plan finds a partition by them that the primary key finds.
CREATE INDEX millhand_limit_partition_open_idx
ON /* schema */millhand_limit_partition (queue, turn) WHERE is_open;
CREATE INDEX millhand_limit_partition_closed_idx
ON /* schema */millhand_limit_partition (queue, turn) WHERE NOT is_open;
CREATE INDEX millhand_limit_partition_opens_at_idx
ON /* schema */millhand_limit_partition (queue, opens_at) WHERE opens_at IS NOT NULL;

-- Jobs that wait for a slot, or have one. A row is there until its job's attempt ends, or with a limit in order, the job.
CREATE TABLE /* schema */millhand_limited_job (
    job_id bigint PRIMARY KEY,
    queue text NOT NULL,
    partition_key text COLLATE "C" NOT NULL,
    -- In order of ids: 1 and -infinity.
    priority smallint NOT NULL,
    due_at timestamptz NOT NULL,
    -- Waits until due_at, not for a slot.
    is_later boolean NOT NULL DEFAULT false,
    admitted_at timestamptz
);
CREATE INDEX millhand_limited_job_waiting_idx
ON /* schema */millhand_limited_job (queue, partition_key, priority, due_at, job_id)
WHERE admitted_at IS NULL AND NOT is_later;
CREATE INDEX millhand_limited_job_later_idx
ON /* schema */millhand_limited_job (queue, due_at) WHERE is_later;
CREATE INDEX millhand_limited_job_admitted_idx
ON /* schema */millhand_limited_job (queue, job_id) WHERE admitted_at IS NOT NULL;

-- Partitions to which jobs came. The next fetch takes these rows and opens the partitions, so that an insert locks none.
CREATE TABLE /* schema */millhand_limit_arrival (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    queue text NOT NULL,
    partition_key text COLLATE "C" NOT NULL
);
CREATE INDEX millhand_limit_arrival_queue_idx ON /* schema */millhand_limit_arrival (queue, id);
