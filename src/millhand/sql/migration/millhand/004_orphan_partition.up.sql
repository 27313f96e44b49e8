-- One stretch of keys of a pass, (low, high], listed and judged by whoever claims it. Its cursor and totals are written
-- with every page; the pages of the table are kept half empty, so that a row that is written again finds room.
CREATE TABLE /* schema */millhand_orphan_partition (
    run_id bigint NOT NULL,
    number integer NOT NULL,
    bucket text NOT NULL,
    low text COLLATE "C" NOT NULL,
    high text COLLATE "C",
    cursor_key text COLLATE "C" NOT NULL,
    is_ordered boolean NOT NULL,
    is_done boolean NOT NULL DEFAULT false,
    -- Counts claims; whoever holds an older one has lost the partition.
    epoch integer NOT NULL DEFAULT 0,
    -- The epoch of the pass when it was claimed last: a pass that was taken over frees all of its partitions.
    run_epoch integer NOT NULL DEFAULT 0,
    heartbeat_at timestamptz NOT NULL,
    totals jsonb NOT NULL DEFAULT '{}',
    canaries text [] NOT NULL,
    live_canaries text [] NOT NULL DEFAULT '{}',
    PRIMARY KEY (run_id, number)
) WITH (fillfactor = 50);

CREATE INDEX millhand_orphan_partition_bucket_idx ON /* schema */millhand_orphan_partition (bucket);
