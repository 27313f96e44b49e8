-- Tasks that wait are pending, and without their rows nothing makes them available. Of the two statements, the second
-- sees what committed before the first had its lock.
LOCK TABLE /* schema */millhand_flow_task IN ACCESS EXCLUSIVE MODE;
DO $body$
DECLARE
    num_jobs bigint;
BEGIN
    SELECT count(*) INTO num_jobs
    FROM /* schema */millhand_flow_task AS task
    INNER JOIN /* schema */river_job AS job ON task.job_id = job.id
    WHERE task.state = 'waiting' AND job.state = 'pending';
    IF num_jobs > 0 THEN
        RAISE EXCEPTION '% jobs that wait for other jobs of their flows', num_jobs
        USING ERRCODE = 'MH001', HINT = 'Cancel their flows: millhand flow cancel ID';
    END IF;
END
$body$;
DROP TABLE /* schema */millhand_flow_task;
DROP TABLE /* schema */millhand_flow_join;
DROP TABLE /* schema */millhand_flow;
DROP SEQUENCE /* schema */millhand_flow_join_id_seq;
DROP SEQUENCE /* schema */millhand_flow_id_seq;
