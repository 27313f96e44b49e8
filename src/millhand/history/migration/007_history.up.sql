-- What happened, for the web page and for longer than River keeps finished jobs. One maintenance service writes these
-- tables; it adds up jobs and never changes them. `step` is the length of an interval in seconds: 60, 600,
-- 3600 or 86400.

-- Who counts now, and to which instant all minutes are counted. One row.
CREATE TABLE /* schema */millhand_history (
    name text PRIMARY KEY DEFAULT 'default',
    holder text NOT NULL,
    expires_at timestamptz NOT NULL,
    counted_to timestamptz NOT NULL,
    CONSTRAINT name_is_default CHECK (name = 'default')
);

-- Attempts that ended within an interval, by kind and queue; '*' stands for all kinds, or all queues.
CREATE TABLE /* schema */millhand_job_stats (
    step integer NOT NULL,
    began_at timestamptz NOT NULL,
    kind text NOT NULL,
    queue text NOT NULL,
    completed integer NOT NULL,
    cancelled integer NOT NULL,
    discarded integer NOT NULL,
    -- Attempts that failed and are retried.
    failed integer NOT NULL,
    -- Sums over the histograms: from due to fetched, and from fetched to the end.
    wait_ms bigint NOT NULL,
    run_ms bigint NOT NULL,
    -- Histograms without the empty buckets at their end: below 1 ms, below 2 ms, and so on in powers of two.
    waits integer [] NOT NULL,
    runs integer [] NOT NULL,
    -- The part of the jobs that was read. Below 1 the numbers are estimated from it.
    share real NOT NULL DEFAULT 1,
    PRIMARY KEY (step, kind, queue, began_at)
);

CREATE INDEX millhand_job_stats_began_at_idx ON /* schema */millhand_job_stats (step, began_at);

-- Jobs by queue and state: once a minute, and the largest numbers of longer intervals. '*' stands for all queues.
CREATE TABLE /* schema */millhand_queue_depth (
    step integer NOT NULL,
    began_at timestamptz NOT NULL,
    queue text NOT NULL,
    available integer NOT NULL,
    running integer NOT NULL,
    retryable integer NOT NULL,
    scheduled integer NOT NULL,
    -- How long the oldest available job has been due.
    oldest_ms bigint NOT NULL,
    -- Whether one of the states had more jobs than were counted.
    is_capped boolean NOT NULL,
    PRIMARY KEY (step, queue, began_at)
);

CREATE INDEX millhand_queue_depth_began_at_idx ON /* schema */millhand_queue_depth (step, began_at);

-- Errors whose texts differ only in numbers, ids, addresses and quoted texts.
CREATE TABLE /* schema */millhand_error_group (
    fingerprint text NOT NULL,
    kind text NOT NULL,
    title text NOT NULL,
    sample_job_id bigint NOT NULL,
    first_seen_at timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL,
    PRIMARY KEY (fingerprint, kind)
);

CREATE INDEX millhand_error_group_last_seen_at_idx ON /* schema */millhand_error_group (last_seen_at);

CREATE TABLE /* schema */millhand_error_stats (
    step integer NOT NULL,
    began_at timestamptz NOT NULL,
    fingerprint text NOT NULL,
    kind text NOT NULL,
    num_errors integer NOT NULL,
    PRIMARY KEY (step, fingerprint, kind, began_at)
);

CREATE INDEX millhand_error_stats_began_at_idx ON /* schema */millhand_error_stats (step, began_at);

-- What happened to clients: started, stopped, declared dead, elected as leader; and whose jobs were rescued.
CREATE TABLE /* schema */millhand_fleet_event (
    at timestamptz NOT NULL,
    name text NOT NULL,
    client_id text NOT NULL,
    detail jsonb NOT NULL,
    PRIMARY KEY (at, name, client_id)
);

-- Who did what on the web page. Never a job's args.
CREATE TABLE /* schema */millhand_audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    actor text NOT NULL,
    role text NOT NULL,
    address text NOT NULL,
    action text NOT NULL,
    subject text NOT NULL,
    detail jsonb NOT NULL,
    num_jobs integer NOT NULL
);

CREATE INDEX millhand_audit_at_idx ON /* schema */millhand_audit (at);
