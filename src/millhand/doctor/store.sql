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
