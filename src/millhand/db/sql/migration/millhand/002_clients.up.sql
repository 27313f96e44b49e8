-- One row for each client that works jobs, renewed by its heartbeats.
-- Unlogged, as River's table of leaders: after a crash of the server the living clients write their rows again in seconds.
-- Fill factor 50 keeps updates on the same page.
CREATE UNLOGGED TABLE /* schema */millhand_client (
    id text PRIMARY KEY,
    language text NOT NULL,
    version text NOT NULL,
    hostname text NOT NULL,
    pid integer NOT NULL,
    kinds text [] NOT NULL,
    -- Queue name: number of slots.
    queues jsonb NOT NULL,
    -- Queue name: the updated_at that this client last gave to the queue's row, to the microsecond.
    queue_updates jsonb NOT NULL,
    heartbeat_interval interval NOT NULL,
    started_at timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL,
    stopped_at timestamptz,
    -- When it resigned River's term for clients in another language.
    stepped_down_at timestamptz,
    CONSTRAINT id_length CHECK (char_length(id) > 0 AND char_length(id) < 128)
) WITH (fillfactor = 50);

-- The client that inserts the periodic jobs, as river_leader names the client that maintains River's tables.
CREATE UNLOGGED TABLE /* schema */millhand_leader (
    elected_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    leader_id text NOT NULL,
    name text PRIMARY KEY DEFAULT 'default',
    CONSTRAINT name_length CHECK (name = 'default'),
    CONSTRAINT leader_id_length CHECK (char_length(leader_id) > 0 AND char_length(leader_id) < 128)
);
