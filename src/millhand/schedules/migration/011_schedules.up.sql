-- Schedules that are kept: at each due instant, the leader inserts one job and moves next_run_at in one transaction.
CREATE TABLE /* schema */millhand_schedule (
    id text COLLATE "C" PRIMARY KEY,
    -- The job and its rules. Type json keeps the text of the args, on which unique keys depend.
    definition json NOT NULL,
    -- What the code of a client said last, and when. Its next value replaces what was set at run time.
    declared json,
    declared_at timestamptz,
    -- The next due instant; null if there is none.
    next_run_at timestamptz,
    -- The last instant that was due, and the job of the last run.
    last_due_at timestamptz,
    last_job_id bigint,
    num_runs bigint NOT NULL DEFAULT 0,
    paused_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX millhand_schedule_next_run_at_idx
ON /* schema */millhand_schedule (next_run_at, id) WHERE paused_at IS NULL;
