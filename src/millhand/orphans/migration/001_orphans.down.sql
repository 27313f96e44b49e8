DROP TABLE /* schema */millhand_orphan_action;
DROP TABLE /* schema */millhand_orphan_finding;
DROP TABLE /* schema */millhand_orphan_run;
