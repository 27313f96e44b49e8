-- Halted partitions stay held until the end of the year 9999, so that their jobs do not start: millhand limit release.
ALTER TABLE /* schema */millhand_limit_partition
    DROP COLUMN halted_by,
    DROP COLUMN halted_at;

ALTER TABLE /* schema */millhand_limit
    DROP COLUMN halt;
