-- Jobs that wait for a slot are pending, and without their rows nothing makes them available. Of the two statements, the
-- second sees what committed before the first had its lock.
LOCK TABLE /* schema */millhand_limited_job IN ACCESS EXCLUSIVE MODE;
DO $body$
DECLARE
    num_jobs bigint;
BEGIN
    SELECT count(*) INTO num_jobs
    FROM /* schema */millhand_limited_job AS limited
    INNER JOIN /* schema */river_job AS job ON limited.job_id = job.id
    WHERE job.state = 'pending';
    IF num_jobs > 0 THEN
        RAISE EXCEPTION '% jobs that wait for limits', num_jobs
        USING ERRCODE = 'MH001', HINT = 'While a worker runs, make them available: millhand limit remove QUEUE';
    END IF;
END
$body$;
DROP TABLE /* schema */millhand_limit_arrival;
DROP TABLE /* schema */millhand_limited_job;
DROP TABLE /* schema */millhand_limit_partition;
DROP TABLE /* schema */millhand_limit;
