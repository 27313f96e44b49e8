DROP TABLE /* schema */millhand_orphan_chain;
