-- Halted partitions stay held, so that their jobs do not start: millhand limit release. The day before is an ordinary hold,
-- also after another migration to version 14, which does not know the job.
UPDATE /* schema */millhand_limit_partition
SET
    held_until = '9999-12-30 23:59:59Z',
    opens_at = '9999-12-30 23:59:59Z'
WHERE held_until = '9999-12-31 23:59:59Z';

ALTER TABLE /* schema */millhand_limit_partition
    DROP COLUMN halted_by,
    DROP COLUMN halted_at;

-- What code declares is written again if it differs, so that limits halt again after another migration to version 14.
UPDATE /* schema */millhand_limit
SET declared = declared - 'halt'
WHERE declared ? 'halt';

ALTER TABLE /* schema */millhand_limit
    DROP COLUMN halt;
