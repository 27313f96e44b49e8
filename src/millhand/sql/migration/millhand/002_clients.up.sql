-- One row for each client that works: who it is, and that it was there a moment ago.
-- Unlogged, as River's table of leaders: a server that crashed has no clients, and those that live are back in seconds.
-- The pages are kept half empty, so that a row that is written again and again finds room where it is.
CREATE UNLOGGED TABLE /* schema */millhand_client (
    id text PRIMARY KEY,
    language text NOT NULL,
    version text NOT NULL,
    hostname text NOT NULL,
    pid integer NOT NULL,
    kinds text [] NOT NULL,
    -- Name: how many jobs at once.
    queues jsonb NOT NULL,
    -- Name: the updated_at that this client gave to the queue's row last, to the microsecond.
    queue_updates jsonb NOT NULL,
    heartbeat_interval interval NOT NULL,
    started_at timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL,
    stopped_at timestamptz,
    -- When it gave up River's term for clients of another language to take.
    stepped_down_at timestamptz,
    CONSTRAINT id_length CHECK (char_length(id) > 0 AND char_length(id) < 128)
) WITH (fillfactor = 50);

-- Who inserts our periodic jobs, as river_leader says who sweeps River's tables.
CREATE UNLOGGED TABLE /* schema */millhand_leader (
    elected_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    leader_id text NOT NULL,
    name text PRIMARY KEY DEFAULT 'default',
    CONSTRAINT name_length CHECK (name = 'default'),
    CONSTRAINT leader_id_length CHECK (char_length(leader_id) > 0 AND char_length(leader_id) < 128)
);
