-- name: doctor_get_server
-- Return what the server and the session are. All of it is visible to every role.
SELECT
    current_database()::text AS database_name,
    current_user::text AS role_name,
    /* schema_name */::text AS schema_name,
    current_setting('server_version') AS version,
    clock_timestamp() AS at,
    pg_is_in_recovery() AS is_standby,
    current_setting('server_encoding') AS encoding,
    current_setting('fsync')::boolean AS has_fsync,
    current_setting('autovacuum')::boolean AND current_setting('track_counts')::boolean AS has_autovacuum,
    (SELECT setting.setting::float8 / 1000 FROM pg_settings AS setting WHERE setting.name = 'statement_timeout')
        AS statement_timeout_seconds,
    (SELECT sum(stat.numbackends)::integer FROM pg_stat_database AS stat) AS num_connections,
    current_setting('max_connections')::integer
    - current_setting('superuser_reserved_connections')::integer
    - coalesce(current_setting('reserved_connections', TRUE), '0')::integer AS connections_max,
    coalesce(has_schema_privilege(to_regnamespace(quote_ident(/* schema_name */)), 'USAGE'), FALSE) AS can_use_schema,
    pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS sees_sessions,
    pg_notification_queue_usage() AS notification_share,
    (
        SELECT age(own.datfrozenxid)
        FROM pg_database AS own
        WHERE own.datname = current_database()
    ) AS transaction_age;

-- name: doctor_get_backend
-- Return the process of the server that answers.
SELECT pg_backend_pid();

-- name: doctor_get_clock
-- Return the time of the server.
SELECT clock_timestamp();

-- name: doctor_list_tables
-- Return the names of the tables of the schema.
SELECT class.relname::text
FROM pg_class AS class
WHERE class.relnamespace = to_regnamespace(quote_ident(/* schema_name */))
AND class.relkind IN ('r', 'p')
ORDER BY class.relname;

-- name: doctor_list_indexes
-- Return the indexes of Millhand's and River's tables. An index that a session builds now is locked, or listed as progress.
SELECT
    owner.relname::text AS table_name,
    class.relname::text AS index_name,
    method.amname::text AS method,
    index.indisvalid AND index.indisready AS is_valid,
    EXISTS (
        SELECT
        FROM pg_locks AS lock
        WHERE lock.relation = index.indexrelid AND lock.mode = 'ShareUpdateExclusiveLock' AND lock.granted
    )
    OR EXISTS (SELECT FROM pg_stat_progress_create_index AS build WHERE build.index_relid = index.indexrelid)
        AS is_in_work,
    pg_relation_size(index.indexrelid) AS num_bytes,
    greatest(class.reltuples, 0)::bigint AS num_entries
FROM pg_index AS index
INNER JOIN pg_class AS class ON index.indexrelid = class.oid
INNER JOIN pg_class AS owner ON index.indrelid = owner.oid
INNER JOIN pg_am AS method ON class.relam = method.oid
WHERE owner.relnamespace = to_regnamespace(quote_ident(/* schema_name */))
AND (starts_with(owner.relname::text, 'river_') OR starts_with(owner.relname::text, 'millhand_'))
ORDER BY owner.relname, class.relname;

-- name: doctor_list_rights
-- Return which of the rights the role has. Tables and columns that do not exist are left out.
SELECT
    wanted.name,
    wanted.column_name,
    wanted.privilege,
    CASE
        WHEN class.relkind = 'S' THEN has_sequence_privilege(class.oid, wanted.privilege)
        WHEN wanted.column_name = '' THEN has_table_privilege(class.oid, wanted.privilege)
        ELSE has_column_privilege(class.oid, attribute.attnum, wanted.privilege)
    END AS is_held
FROM unnest(@names::text [], @columns::text [], @privileges::text []) WITH ORDINALITY
    AS wanted (name, column_name, privilege, position)
INNER JOIN pg_class AS class
    ON wanted.name = class.relname AND class.relnamespace = to_regnamespace(quote_ident(/* schema_name */))
LEFT JOIN pg_attribute AS attribute ON class.oid = attribute.attrelid AND wanted.column_name = attribute.attname
WHERE wanted.column_name = '' OR attribute.attnum IS NOT NULL
ORDER BY wanted.position;

-- name: doctor_list_transactions
-- Return transactions that keep PostgreSQL from removing dead rows: of sessions, prepared ones, and those of unused slots.
SELECT
    'session' AS what,
    activity.pid,
    activity.usename::text AS role_name,
    activity.application_name AS name,
    activity.state,
    extract(EPOCH FROM clock_timestamp() - activity.xact_start)::float8 AS seconds
FROM pg_stat_activity AS activity
WHERE activity.datname = current_database()
AND activity.pid <> pg_backend_pid()
AND activity.backend_type = 'client backend'
AND activity.xact_start < clock_timestamp() - @age::interval
AND (activity.backend_xmin IS NOT NULL OR activity.backend_xid IS NOT NULL)
UNION ALL
SELECT
    'prepared',
    NULL,
    prepared.owner::text,
    prepared.gid,
    NULL,
    extract(EPOCH FROM clock_timestamp() - prepared.prepared)::float8
FROM pg_prepared_xacts AS prepared
WHERE prepared.database = current_database()
AND prepared.prepared < clock_timestamp() - @age::interval
UNION ALL
SELECT
    'slot',
    NULL,
    NULL,
    slot.slot_name::text,
    NULL,
    NULL
FROM pg_replication_slots AS slot
WHERE NOT slot.active AND age(slot.xmin) > @num_transactions::integer
ORDER BY seconds DESC NULLS LAST;

-- name: doctor_list_discarded
-- Return how many jobs of each kind were discarded since an instant, of a limited number of jobs.
SELECT
    discarded.kind,
    count(*) AS num_jobs
FROM (
    SELECT job.kind
    FROM /* schema */river_job AS job
    WHERE job.state = 'discarded' AND job.finalized_at > @since::timestamptz
    ORDER BY job.finalized_at DESC
    LIMIT @limit::integer
) AS discarded
GROUP BY discarded.kind
ORDER BY num_jobs DESC, discarded.kind;

-- name: doctor_list_held
-- Return, for each limit, the partitions among those that open last which are held and in which jobs wait: how many, until
-- when the last one is held, and since when the first waiting job of each is due, the earliest. Both are the ends of indexes.
SELECT
    queue_limit.queue,
    count(*) AS num_partitions,
    (array_agg(held.partition_key ORDER BY held.held_until DESC, held.partition_key))[1] AS partition_key,
    least(max(held.held_until), '9999-12-31 23:59:59.999999Z') AS held_until,
    greatest(min(waiting.scheduled_at), '0001-01-01Z') AS due_at
FROM /* schema */millhand_limit AS queue_limit
CROSS JOIN LATERAL (
    SELECT
        closed.partition_key,
        closed.held_until
    FROM (
        SELECT
            part.partition_key,
            part.held_until
        FROM /* schema */millhand_limit_partition AS part
        WHERE part.queue = queue_limit.queue
        AND part.opens_at > now()
        AND part.opens_at < '9999-12-31 23:59:59Z'
        ORDER BY part.opens_at DESC
        LIMIT @limit::integer
    ) AS closed
    WHERE closed.held_until > now()
) AS held
CROSS JOIN LATERAL (
    SELECT job.scheduled_at
    FROM /* schema */millhand_limited_job AS limited
    INNER JOIN /* schema */river_job AS job ON limited.job_id = job.id
    WHERE limited.queue = queue_limit.queue
    AND limited.partition_key = held.partition_key
    AND limited.admitted_at IS NULL
    AND NOT limited.is_later
    ORDER BY limited.priority, limited.due_at, limited.job_id
    LIMIT 1
) AS waiting
GROUP BY queue_limit.queue
ORDER BY queue_limit.queue;

-- name: doctor_list_stuck_flows
-- Return those of the oldest running flows of which no job is available, scheduled, retryable or running, or waits for a slot
-- of a limit, and no job has ended since an instant; the smallest first, of a number of tasks together. For each, its first
-- open task whose job has ended or is gone, its first task that its join has decided, its first job in a halted partition,
-- and its first other open job. Then return what was left out: how many flows.
WITH oldest AS MATERIALIZED (
    SELECT
        flow.id,
        flow.name,
        flow.num_tasks,
        flow.num_open,
        flow.created_at
    FROM /* schema */millhand_flow AS flow
    WHERE flow.ended_at IS NULL
    AND flow.created_at < @before::timestamptz
    ORDER BY flow.id
    LIMIT @num_flows::integer + 1
),

sized AS MATERIALIZED (
    SELECT
        oldest.*,
        sum(oldest.num_tasks) OVER smaller - oldest.num_tasks AS num_tasks_before,
        row_number() OVER smaller AS position
    FROM oldest
    WINDOW smaller AS (ORDER BY oldest.num_tasks, oldest.id)
),

-- A subquery with a limit stops at the first such task, and the planner joins no whole tables.
still AS MATERIALIZED (
    SELECT sized.*
    FROM sized
    WHERE sized.num_tasks_before < @num_tasks::bigint
    AND sized.position <= @num_flows::integer
    AND (
        SELECT TRUE
        FROM /* schema */millhand_flow_task AS task
        INNER JOIN /* schema */river_job AS job ON task.job_id = job.id
        WHERE task.flow_id = sized.id
        AND task.state IN ('released', 'waiting')
        AND job.state IN ('available', 'retryable', 'running', 'scheduled')
        LIMIT 1
    ) IS NULL
),

reasons AS MATERIALIZED (
    SELECT
        still.id,
        task.*
    FROM still
    CROSS JOIN LATERAL (
        SELECT
            max(job.finalized_at) AS last_at,
            min(own.job_id) FILTER (WHERE own.state IN ('released', 'waiting') AND (job.id IS NULL OR job.finalized_at IS NOT NULL))
                AS ended_job_id,
            min(own.job_id) FILTER (
                WHERE own.state = 'waiting'
                AND (joined.num_open = 0 OR (own.task_when = 'failed' AND joined.num_failed > 0))
            ) AS decided_job_id,
            min(own.job_id) FILTER (WHERE limited.is_halted) AS halted_job_id,
            min(own.job_id) FILTER (WHERE NOT limited.is_halted) AS limited_job_id,
            min(own.job_id) FILTER (WHERE own.state = 'released' AND job.state = 'pending') AS pending_job_id
        FROM /* schema */millhand_flow_task AS own
        LEFT JOIN /* schema */river_job AS job ON own.job_id = job.id
        LEFT JOIN /* schema */millhand_flow_join AS joined ON own.after_join_id = joined.id
        LEFT JOIN LATERAL (
            SELECT coalesce(part.held_until = '9999-12-31 23:59:59Z', FALSE) AS is_halted
            FROM /* schema */millhand_limited_job AS place
            LEFT JOIN /* schema */millhand_limit_partition AS part
                ON place.queue = part.queue AND place.partition_key = part.partition_key
            WHERE place.job_id = own.job_id
            LIMIT 1
        ) AS limited ON own.state = 'released' AND job.state = 'pending'
        WHERE own.flow_id = still.id
    ) AS task
)

SELECT
    still.id,
    still.name,
    still.num_open,
    greatest(coalesce(reasons.last_at, still.created_at), '0001-01-01Z') AS last_at,
    reasons.ended_job_id,
    reasons.decided_job_id,
    reasons.halted_job_id,
    reasons.pending_job_id,
    0 AS num_left_out
FROM still
INNER JOIN reasons ON still.id = reasons.id
WHERE reasons.limited_job_id IS NULL
AND (reasons.last_at < @before::timestamptz) IS NOT FALSE
UNION ALL
SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, left_out.num
FROM (
    SELECT count(*) AS num
    FROM sized
    WHERE sized.num_tasks_before >= @num_tasks::bigint OR sized.position > @num_flows::integer
) AS left_out
ORDER BY 1;
