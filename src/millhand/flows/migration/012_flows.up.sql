-- Flows: jobs that wait for jobs. A task is a job of a flow; a join is a set of tasks that others wait for.
CREATE SEQUENCE /* schema */millhand_flow_id_seq;

CREATE TABLE /* schema */millhand_flow (
    id bigint PRIMARY KEY DEFAULT nextval('/* schema */millhand_flow_id_seq'),
    name text NOT NULL,
    -- How many tasks there are, how many have not ended, and how many failed or were skipped.
    num_tasks bigint NOT NULL,
    num_open bigint NOT NULL,
    num_failed bigint NOT NULL DEFAULT 0,
    num_skipped bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    cancelled_at timestamptz,
    -- Set when the last task has ended.
    ended_at timestamptz
) WITH (fillfactor = 50);

CREATE INDEX millhand_flow_running_idx ON /* schema */millhand_flow (id) WHERE ended_at IS NULL;
CREATE INDEX millhand_flow_ended_at_idx ON /* schema */millhand_flow (ended_at) WHERE ended_at IS NOT NULL;

CREATE SEQUENCE /* schema */millhand_flow_join_id_seq;

CREATE TABLE /* schema */millhand_flow_join (
    id bigint PRIMARY KEY DEFAULT nextval('/* schema */millhand_flow_join_id_seq'),
    flow_id bigint NOT NULL,
    num_open bigint NOT NULL,
    num_failed bigint NOT NULL DEFAULT 0,
    num_skipped bigint NOT NULL DEFAULT 0,
    -- The first task that failed.
    failed_job_id bigint
) WITH (fillfactor = 50);

CREATE INDEX millhand_flow_join_flow_id_idx ON /* schema */millhand_flow_join (flow_id);

CREATE TABLE /* schema */millhand_flow_task (
    job_id bigint PRIMARY KEY,
    flow_id bigint NOT NULL,
    -- waiting for its join, released, or ended as completed, failed or skipped.
    state text NOT NULL,
    -- The join that the task waits for, and how these must end: completed, ended or failed.
    after_join_id bigint,
    task_when text,
    -- The joins that this task is part of.
    join_ids bigint [] NOT NULL,
    -- The jobs that this task added to its flow, in order: its next attempt adds none of them again.
    added_job_ids bigint [] NOT NULL DEFAULT '{}'
) WITH (fillfactor = 45);

CREATE INDEX millhand_flow_task_flow_id_idx ON /* schema */millhand_flow_task (flow_id, job_id);
CREATE INDEX millhand_flow_task_after_join_id_idx
ON /* schema */millhand_flow_task (after_join_id) WHERE after_join_id IS NOT NULL;
