-- Millhand's roles and their privileges in schema /* schema_title */. Run it as the owner of the tables, with the right
-- to create roles, after all migrations, and again after each new one. You can run it any number of times: it first
-- revokes all privileges of these roles on the tables of Millhand and River.
-- The roles cannot log in. Grant them to roles that can:  GRANT /* worker */ TO shop_worker;
BEGIN;

DO $body$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY[/* role_literals */]
    LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role);
        END IF;
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', /* schema_name */, role);
        -- Only the owner changes the schema. On PostgreSQL 14 and older every role can create tables in schema public,
        -- until you run: REVOKE CREATE ON SCHEMA public FROM PUBLIC.
        EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM %I', /* schema_name */, role);
    END LOOP;
END
$body$;

REVOKE ALL ON TABLE
    /* schema */river_job,
    /* schema */river_leader,
    /* schema */river_migration,
    /* schema */river_notification,
    /* schema */river_queue,
    /* schema */millhand_archive_cursor,
    /* schema */millhand_archive_file,
    /* schema */millhand_audit,
    /* schema */millhand_bulk_batch,
    /* schema */millhand_bulk_change,
    /* schema */millhand_client,
    /* schema */millhand_dead_job,
    /* schema */millhand_dead_job_cursor,
    /* schema */millhand_deleted_job_stats,
    /* schema */millhand_error_group,
    /* schema */millhand_error_stats,
    /* schema */millhand_fleet_event,
    /* schema */millhand_flow,
    /* schema */millhand_flow_join,
    /* schema */millhand_flow_task,
    /* schema */millhand_history,
    /* schema */millhand_job_stats,
    /* schema */millhand_leader,
    /* schema */millhand_limit,
    /* schema */millhand_limit_arrival,
    /* schema */millhand_limit_partition,
    /* schema */millhand_limited_job,
    /* schema */millhand_orphan_action,
    /* schema */millhand_orphan_binding,
    /* schema */millhand_orphan_partition,
    /* schema */millhand_orphan_finding,
    /* schema */millhand_orphan_run,
    /* schema */millhand_queue_depth,
    /* schema */millhand_schedule
FROM /* roles */;
REVOKE ALL ON SEQUENCE
    /* schema */river_job_id_seq,
    /* schema */millhand_flow_id_seq,
    /* schema */millhand_flow_join_id_seq
FROM /* roles */;

-- All roles: read the schema's version, which a client checks at its start, and use the states of jobs.
GRANT SELECT ON TABLE /* schema */river_migration TO /* roles */;
GRANT USAGE ON TYPE /* schema */river_job_state TO /* roles */;
GRANT EXECUTE ON FUNCTION /* schema */river_job_state_in_bitmask(bit, /* schema */river_job_state) TO /* roles */;

-- The worker: works, inserts and controls jobs, leads, and reconciles objects. It reads and changes rows only. Grant it
-- what it needs on your own tables, for its jobs and for the sources of the orphan cleanup.
GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE
    /* schema */river_job,
    /* schema */river_leader,
    /* schema */river_queue,
    /* schema */millhand_archive_cursor,
    /* schema */millhand_archive_file,
    /* schema */millhand_audit,
    /* schema */millhand_bulk_batch,
    /* schema */millhand_bulk_change,
    /* schema */millhand_client,
    /* schema */millhand_dead_job,
    /* schema */millhand_dead_job_cursor,
    /* schema */millhand_deleted_job_stats,
    /* schema */millhand_error_group,
    /* schema */millhand_error_stats,
    /* schema */millhand_fleet_event,
    /* schema */millhand_flow,
    /* schema */millhand_flow_join,
    /* schema */millhand_flow_task,
    /* schema */millhand_history,
    /* schema */millhand_job_stats,
    /* schema */millhand_leader,
    /* schema */millhand_limit,
    /* schema */millhand_limit_arrival,
    /* schema */millhand_limit_partition,
    /* schema */millhand_limited_job,
    /* schema */millhand_orphan_action,
    /* schema */millhand_orphan_binding,
    /* schema */millhand_orphan_partition,
    /* schema */millhand_orphan_finding,
    /* schema */millhand_orphan_run,
    /* schema */millhand_queue_depth,
    /* schema */millhand_schedule
TO /* worker */;
GRANT USAGE ON SEQUENCE
    /* schema */river_job_id_seq,
    /* schema */millhand_flow_id_seq,
    /* schema */millhand_flow_join_id_seq
TO /* worker */;

-- Only the owner can rebuild indexes. A leader in this role logs that once and skips them: run
-- REINDEX TABLE CONCURRENTLY as the owner now and then. From PostgreSQL 17 on, the leader can rebuild them after
-- GRANT MAINTAIN ON TABLE /* schema */river_job TO /* worker */. The owner must drop what an interrupted rebuild leaves.

-- The inserter: inserts jobs and gets the row, the new one or that of the job with the same unique key. This needs SELECT,
-- and UPDATE of one column, on which nothing depends.
GRANT INSERT (id, /* insert_columns */) ON TABLE /* schema */river_job TO /* inserter */;
GRANT SELECT, UPDATE (created_at) ON TABLE /* schema */river_job TO /* inserter */;
GRANT USAGE ON SEQUENCE /* schema */river_job_id_seq TO /* inserter */;
GRANT SELECT, INSERT ON TABLE
    /* schema */millhand_flow,
    /* schema */millhand_flow_join,
    /* schema */millhand_flow_task
TO /* inserter */;
GRANT USAGE ON SEQUENCE /* schema */millhand_flow_id_seq, /* schema */millhand_flow_join_id_seq TO /* inserter */;
/* river_inserter */
-- The feeder: inserts jobs by insert_many_fast, which returns no rows, and reads no jobs.
GRANT INSERT (/* insert_columns */) ON TABLE /* schema */river_job TO /* feeder */;
GRANT USAGE ON SEQUENCE /* schema */river_job_id_seq TO /* feeder */;

-- The reader: reads everything, for dashboards and `millhand job list`, and changes nothing.
GRANT SELECT ON TABLE
    /* schema */river_job,
    /* schema */river_leader,
    /* schema */river_queue,
    /* schema */millhand_archive_cursor,
    /* schema */millhand_archive_file,
    /* schema */millhand_audit,
    /* schema */millhand_bulk_batch,
    /* schema */millhand_bulk_change,
    /* schema */millhand_client,
    /* schema */millhand_dead_job,
    /* schema */millhand_dead_job_cursor,
    /* schema */millhand_deleted_job_stats,
    /* schema */millhand_error_group,
    /* schema */millhand_error_stats,
    /* schema */millhand_fleet_event,
    /* schema */millhand_flow,
    /* schema */millhand_flow_join,
    /* schema */millhand_flow_task,
    /* schema */millhand_history,
    /* schema */millhand_job_stats,
    /* schema */millhand_leader,
    /* schema */millhand_limit,
    /* schema */millhand_limit_arrival,
    /* schema */millhand_limit_partition,
    /* schema */millhand_limited_job,
    /* schema */millhand_orphan_action,
    /* schema */millhand_orphan_binding,
    /* schema */millhand_orphan_partition,
    /* schema */millhand_orphan_finding,
    /* schema */millhand_orphan_run,
    /* schema */millhand_queue_depth,
    /* schema */millhand_schedule
TO /* reader */;

COMMIT;
