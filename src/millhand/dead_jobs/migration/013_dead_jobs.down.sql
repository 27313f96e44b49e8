DROP TABLE /* schema */millhand_dead_job_cursor;
DROP TABLE /* schema */millhand_dead_job;
