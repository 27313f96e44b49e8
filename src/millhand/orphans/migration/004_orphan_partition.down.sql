DROP TABLE /* schema */millhand_orphan_partition;
