-- Jobs that clients deleted when they completed, by minute, for the history. Each counter of a client writes rows of its
-- own, so that no two wait for each other.
CREATE TABLE /* schema */millhand_deleted_job_stats (
    began_at timestamptz NOT NULL,
    kind text NOT NULL,
    queue text NOT NULL,
    counter_id text NOT NULL,
    completed integer NOT NULL,
    -- As in millhand_job_stats.
    wait_ms bigint NOT NULL,
    run_ms bigint NOT NULL,
    waits integer [] NOT NULL,
    runs integer [] NOT NULL,
    PRIMARY KEY (began_at, kind, queue, counter_id)
);
