-- One stretch of keys of a run, (low, high]. Its cursor and totals are written with every page of objects. The table's
-- pages stay half empty, so that an updated row fits into its page.
CREATE TABLE /* schema */millhand_orphan_partition (
    run_id bigint NOT NULL,
    number integer NOT NULL,
    bucket text NOT NULL,
    low text COLLATE "C" NOT NULL,
    high text COLLATE "C",
    cursor_key text COLLATE "C" NOT NULL,
    is_ordered boolean NOT NULL,
    is_done boolean NOT NULL DEFAULT false,
    -- The run's epoch at the last claim. A run that is taken over gets a new epoch, and so all of its partitions are free.
    run_epoch integer NOT NULL DEFAULT 0,
    totals jsonb NOT NULL DEFAULT '{}',
    canaries text [] NOT NULL,
    live_canaries text [] NOT NULL DEFAULT '{}',
    PRIMARY KEY (run_id, number)
) WITH (fillfactor = 50);

CREATE INDEX millhand_orphan_partition_bucket_idx ON /* schema */millhand_orphan_partition (bucket);
