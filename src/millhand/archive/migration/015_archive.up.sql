-- The archive: files of finished jobs in an object store, and how far they reach.
CREATE TABLE /* schema */millhand_archive_file (
    key text PRIMARY KEY,
    -- The day of `finalized_at` of all jobs in the file, in UTC.
    day date NOT NULL,
    -- writing: the object may be there. ready: it is there. removed: it may be there, and is deleted next.
    -- abandoned: an erasure removed it while a process may still write it, so it is deleted again until a day later.
    state text NOT NULL,
    first_at timestamptz NOT NULL,
    last_at timestamptz NOT NULL,
    min_id bigint NOT NULL,
    max_id bigint NOT NULL,
    num_jobs bigint NOT NULL,
    num_bytes bigint NOT NULL,
    begun_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT state_is_known CHECK (state IN ('writing', 'ready', 'removed', 'abandoned'))
);

CREATE INDEX millhand_archive_file_last_at_idx ON /* schema */millhand_archive_file (last_at, key);

-- How far the archive reaches. One row, once a leader with an archive has begun.
CREATE TABLE /* schema */millhand_archive_cursor (
    name text PRIMARY KEY DEFAULT 'default',
    -- The store of the files, without credentials. NULL: the next pass writes its own.
    url text,
    -- The last job that is archived, in the order of (finalized_at, id).
    archived_at timestamptz NOT NULL,
    archived_id bigint NOT NULL,
    -- The start of a pass, and the id of its transaction. When all transactions with lower ids have ended, a later pass
    -- archives what had finished by then.
    seen_at timestamptz NOT NULL,
    seen_xid xid8 NOT NULL,
    -- The last job that was finished, and not archived, when the last pass ended.
    waiting_at timestamptz,
    waiting_id bigint,
    -- When a pass last wrote a file, or had none to write. A cleaner waits for the archive for `max_delay` after it.
    worked_at timestamptz NOT NULL,
    max_delay interval NOT NULL,
    -- How many erasures have begun. What read jobs before the last one adds no file.
    num_erasures bigint NOT NULL DEFAULT 0,
    CONSTRAINT name_is_default CHECK (name = 'default')
);
