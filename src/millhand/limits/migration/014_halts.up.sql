-- Halts: a partition in order starts no further job after one that was discarded, until a person resumes it.
ALTER TABLE /* schema */millhand_limit
    ADD COLUMN halt boolean NOT NULL DEFAULT false;

ALTER TABLE /* schema */millhand_limit_partition
    -- The job that halted the partition, and when. It is held until the end of the year 9999.
    ADD COLUMN halted_by bigint,
    ADD COLUMN halted_at timestamptz;
