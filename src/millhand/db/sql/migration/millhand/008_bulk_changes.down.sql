DROP TABLE /* schema */millhand_bulk_batch;
DROP TABLE /* schema */millhand_bulk_change;
