DROP TABLE /* schema */millhand_deleted_job_stats;
