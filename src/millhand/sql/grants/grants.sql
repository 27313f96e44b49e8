-- Roles of Millhand, and what each may do in schema /* schema_said */. Run it as the owner of the tables, who may also
-- make roles, once all lines are applied; and again after each migration. It may be run any number of times: what these
-- roles have on the tables of Millhand and River is taken away first, and given anew.
-- The roles do not log in. Make those that do their members:  GRANT /* worker */ TO shop_worker;
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
        -- Nobody but the owner changes the schema. On PostgreSQL 14 and older everybody may create in schema public
        -- until you say: REVOKE CREATE ON SCHEMA public FROM PUBLIC.
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
    /* schema */millhand_client,
    /* schema */millhand_leader,
    /* schema */millhand_orphan_action,
    /* schema */millhand_orphan_binding,
    /* schema */millhand_orphan_partition,
    /* schema */millhand_orphan_finding,
    /* schema */millhand_orphan_run
FROM /* roles */;
REVOKE ALL ON SEQUENCE /* schema */river_job_id_seq FROM /* roles */;

-- Everybody may see which version the schema is at, which a client does when it starts, and name states of jobs.
GRANT SELECT ON TABLE /* schema */river_migration TO /* roles */;
GRANT USAGE ON TYPE /* schema */river_job_state TO /* roles */;
GRANT EXECUTE ON FUNCTION /* schema */river_job_state_in_bitmask(bit, /* schema */river_job_state) TO /* roles */;

-- The worker: works, inserts and controls jobs, leads, and reconciles objects. It reads and changes rows, and nothing
-- else; what it needs of your own tables, for its jobs and for sources of the orphan cleanup, is yours to grant.
GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE
    /* schema */river_job,
    /* schema */river_leader,
    /* schema */river_queue,
    /* schema */millhand_client,
    /* schema */millhand_leader,
    /* schema */millhand_orphan_action,
    /* schema */millhand_orphan_binding,
    /* schema */millhand_orphan_partition,
    /* schema */millhand_orphan_finding,
    /* schema */millhand_orphan_run
TO /* worker */;
GRANT USAGE ON SEQUENCE /* schema */river_job_id_seq TO /* worker */;

-- Indexes are rebuilt by their owner alone: a leader in this role says so once and leaves them, and the owner runs
-- REINDEX TABLE CONCURRENTLY now and then. From PostgreSQL 17 on, GRANT MAINTAIN ON TABLE /* schema */river_job TO
-- /* worker */ lets the leader do it; what a rebuild that was cut short leaves behind is then the owner's to drop.

-- The inserter: inserts jobs, and is given back the row, its own or that of the job which has its unique key: for that it
-- must be able to read jobs, and to update one column, of which nothing follows.
GRANT INSERT (id, /* insert_columns */) ON TABLE /* schema */river_job TO /* inserter */;
GRANT SELECT, UPDATE (created_at) ON TABLE /* schema */river_job TO /* inserter */;
GRANT USAGE ON SEQUENCE /* schema */river_job_id_seq TO /* inserter */;
/* river_inserter */
-- The feeder: inserts jobs by insert_many_fast, which is given nothing back, and reads no job at all.
GRANT INSERT (/* insert_columns */) ON TABLE /* schema */river_job TO /* feeder */;
GRANT USAGE ON SEQUENCE /* schema */river_job_id_seq TO /* feeder */;

-- The reader: sees everything, for dashboards and for `millhand job list`, and changes nothing.
GRANT SELECT ON TABLE
    /* schema */river_job,
    /* schema */river_leader,
    /* schema */river_queue,
    /* schema */millhand_client,
    /* schema */millhand_leader,
    /* schema */millhand_orphan_action,
    /* schema */millhand_orphan_binding,
    /* schema */millhand_orphan_partition,
    /* schema */millhand_orphan_finding,
    /* schema */millhand_orphan_run
TO /* reader */;

COMMIT;
