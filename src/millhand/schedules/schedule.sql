-- Schedules that are kept. The one who moves next_run_at inserts the job, in the same transaction.

-- fragment: schedule_columns
    schedule.id,
    schedule.definition::text AS definition,
    schedule.declared::text AS declared,
    schedule.declared_at,
    schedule.next_run_at,
    schedule.last_due_at,
    schedule.last_job_id,
    schedule.num_runs,
    schedule.paused_at

-- fragment: schedule_changed
    pg_notify(/* schema_name */ || '.millhand_leader', '{"action":"schedule_changed"}')

-- name: schedule_lock_due
-- Lock schedules that are due, earliest first, and return them. The state of the last run's job is read afterwards: this
-- statement does not see a job that another transaction inserted before the lock.
-- Another leader skips them. One that stalls loses its connection, and with it the locks.
WITH due AS MATERIALIZED (
    SELECT *
    FROM /* schema */millhand_schedule
    WHERE next_run_at <= coalesce(@now::timestamptz, now())
    AND paused_at IS NULL
    AND id <> ALL(@excluded::text [])
    ORDER BY next_run_at, id
    LIMIT @limit::integer
    FOR UPDATE SKIP LOCKED
)

SELECT
    due.id,
    due.definition::text AS definition,
    due.next_run_at,
    due.last_job_id,
    coalesce(@now::timestamptz, now()) AS now,
    set_config('idle_in_transaction_session_timeout', '30000', true) AS timeout
FROM due
ORDER BY due.next_run_at, due.id;

-- name: schedule_move
-- Move schedules from the instant that was due to the next one, and return how many were moved.
WITH moved AS (
    UPDATE /* schema */millhand_schedule AS schedule
    SET
        next_run_at = run.next_run_at,
        last_due_at = run.last_due_at,
        last_job_id = coalesce(run.last_job_id, schedule.last_job_id),
        num_runs = schedule.num_runs + run.num_runs
    FROM unnest(
        @ids::text [],
        @due_at::timestamptz [],
        @next_run_at::timestamptz [],
        @last_due_at::timestamptz [],
        @last_job_id::bigint [],
        @num_runs::integer []
    ) AS run (id, due_at, next_run_at, last_due_at, last_job_id, num_runs)
    WHERE schedule.id = run.id
    AND schedule.next_run_at = run.due_at
    RETURNING schedule.id
)

SELECT count(*) FROM moved;

-- name: schedule_get_next_seconds
-- Return how many seconds it is to the next due instant of all schedules.
SELECT extract(EPOCH FROM min(next_run_at) - coalesce(@now::timestamptz, clock_timestamp()))::float8 AS seconds
FROM /* schema */millhand_schedule
WHERE paused_at IS NULL
AND id <> ALL(@excluded::text []);

-- name: schedule_list
-- Return schedules by id.
SELECT
    /* schedule_columns */
FROM /* schema */millhand_schedule AS schedule
WHERE (@ids::text [] IS NULL OR schedule.id = ANY(@ids::text []))
AND schedule.id > @after::text
ORDER BY schedule.id
LIMIT @limit::integer;

-- name: schedule_insert_missing
-- Insert schedules without an instant, unless they exist: then each has a row to lock.
INSERT INTO /* schema */millhand_schedule (id, definition)
SELECT
    id,
    definition::json
FROM unnest(@ids::text [], @definitions::text []) AS given (id, definition)
ORDER BY id
ON CONFLICT (id) DO NOTHING;

-- name: schedule_lock
-- Lock schedules, and return them with the time after that.
WITH locked AS MATERIALIZED (
    SELECT *
    FROM /* schema */millhand_schedule
    WHERE id = ANY(@ids::text [])
    ORDER BY id
    FOR UPDATE
)

SELECT
    /* schedule_columns */,
    coalesce(@now::timestamptz, clock_timestamp()) AS now
FROM locked AS schedule
ORDER BY schedule.id;

-- name: schedule_update
-- Write locked schedules, and wake the leader.
WITH changed AS (
    UPDATE /* schema */millhand_schedule AS schedule
    SET
        -- A null keeps the text: an older client would leave out fields that it does not know.
        definition = coalesce(given.definition::json, schedule.definition),
        declared = coalesce(given.declared::json, schedule.declared),
        next_run_at = given.next_run_at,
        paused_at = given.paused_at,
        updated_at = now()
    FROM unnest(
        @ids::text [],
        @definitions::text [],
        @declared::text [],
        @next_run_at::timestamptz [],
        @paused_at::timestamptz []
    ) AS given (id, definition, declared, next_run_at, paused_at)
    WHERE schedule.id = given.id
)

SELECT /* schedule_changed */;

-- name: schedule_set_declared_at
-- Record that a client declares schedules.
UPDATE /* schema */millhand_schedule
SET declared_at = now()
WHERE id = ANY(@ids::text []);

-- name: schedule_remove
-- Delete a schedule, and return how many there were.
WITH removed AS (
    DELETE FROM /* schema */millhand_schedule
    WHERE id = @id
    RETURNING id
)

SELECT count(*) FROM removed;

-- name: schedule_set_last_job
-- Record a run that a person inserted.
UPDATE /* schema */millhand_schedule
SET
    last_job_id = @job_id::bigint,
    num_runs = num_runs + 1
WHERE id = @id;

-- name: schedule_list_undeclared
-- Return the schedules that code declared once, and no client for this long.
SELECT id
FROM /* schema */millhand_schedule
WHERE declared_at < now() - @age::interval
ORDER BY id
LIMIT 100;

-- name: schedule_get_shape
-- Return whether the table of schedules is there, and may be read.
SELECT coalesce(
    has_table_privilege(to_regclass('/* schema */millhand_schedule'), 'SELECT'), FALSE
) AS is_there;

-- name: schedule_list_kept
-- Return those of the ids that schedules have, and whether one of them is late.
SELECT
    id,
    coalesce(paused_at IS NULL AND next_run_at < now() - interval '1 minute', FALSE) AS is_late
FROM /* schema */millhand_schedule
WHERE id = ANY(@ids::text []);
