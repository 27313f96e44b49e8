DROP TABLE /* schema */millhand_schedule;
