DROP TABLE /* schema */millhand_audit;
DROP TABLE /* schema */millhand_fleet_event;
DROP TABLE /* schema */millhand_error_stats;
DROP TABLE /* schema */millhand_error_group;
DROP TABLE /* schema */millhand_queue_depth;
DROP TABLE /* schema */millhand_job_stats;
DROP TABLE /* schema */millhand_history;
