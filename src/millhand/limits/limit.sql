-- fragment: partition_key
    -- The key of the partition that `key_values` makes, the text of a jsonb array. Nothing else computes it.
    CASE
        WHEN octet_length(key_values) <= 200 THEN key_values
        ELSE 'sha256:' || encode(sha256(convert_to(key_values, 'UTF8')), 'hex')
    END

-- fragment: halted_until
    -- No hold is as long. So clients of a release without halts keep a halted partition closed, too.
    '9999-12-31 23:59:59Z'::timestamptz

-- fragment: limit_columns
    queue_limit.queue,
    queue_limit.at_once,
    queue_limit.at_once_per_client,
    queue_limit.total,
    queue_limit.by_args,
    queue_limit.by_kind,
    queue_limit.rate_allowed,
    queue_limit.rate_seconds,
    queue_limit.rate_burst,
    queue_limit.in_order,
    queue_limit.is_shared,
    -- NULL in a schema without version 14.
    (to_jsonb(queue_limit) ->> 'halt')::boolean AS halt,
    -- NULL in a schema without version 16.
    to_jsonb(queue_limit) ->> 'note' AS note,
    queue_limit.declared::text AS declared,
    queue_limit.num_running,
    least(greatest(queue_limit.updated_at, '0001-01-01Z'), '9999-12-31 23:59:59.999999Z') AS updated_at

-- fragment: limit_notification
    -- River's payload. PostgreSQL rejects 8,000 bytes, so large metadata is left out.
    pg_notify(
        /* schema_name */ || '.river_control',
        CASE
            WHEN octet_length(queue.metadata::text) > 7500
                THEN json_build_object('action', 'metadata_changed', 'queue', changed.queue)
            ELSE json_build_object(
                'action', 'metadata_changed',
                'metadata', coalesce(queue.metadata, '{}'),
                'queue', changed.queue
            )
        END::text
    )

-- fragment: notified_of_put
notified AS MATERIALIZED (
    SELECT
        /* limit_notification */
    FROM put AS changed
    LEFT JOIN /* schema */river_queue AS queue ON queue.name = changed.queue
)

-- fragment: smallest_open_turn
    -- A partition that opens again is not ahead of those that are open.
    (
        SELECT min(other.turn)
        FROM /* schema */millhand_limit_partition AS other
        WHERE other.queue = part.queue AND other.is_open
    )

-- fragment: partition_status
    part.queue,
    part.partition_key,
    part.running,
    waiting.num_jobs,
    part.weight,
    part.at_once,
    CASE WHEN part.held_until > coalesce(@now::timestamptz, now()) AND part.held_until <> /* halted_until */
        THEN least(part.held_until, '9999-12-31 23:59:59.999999Z')
    END AS held_until,
    CASE WHEN part.opens_at > coalesce(@now::timestamptz, now()) AND part.opens_at <> /* halted_until */
        THEN least(part.opens_at, '9999-12-31 23:59:59.999999Z')
    END AS next_start_at,
    CASE WHEN part.held_until = /* halted_until */ THEN part.halted_by END AS halted_by,
    CASE WHEN part.held_until = /* halted_until */ THEN part.halted_at END AS halted_at

-- fragment: waiting_in_part
    FROM /* schema */millhand_limited_job AS limited
    WHERE limited.queue = part.queue
    AND limited.partition_key = part.partition_key
    AND limited.admitted_at IS NULL
    AND NOT limited.is_later

-- fragment: waiting_of_partition
    SELECT count(*) AS num_jobs
    FROM (
        SELECT
        /* waiting_in_part */
        LIMIT @counted_max::integer + 1
    ) AS counted

-- name: limit_list
-- Return the limits, and the concurrency settings that River UI's form wrote into queues' metadata.
SELECT
    coalesce(queue_limit.queue, queue.name) AS name,
    queue.form::text AS form,
    queue_limit.form::text AS obeyed_form,
    /* limit_columns */
FROM (
    SELECT *
    FROM /* schema */millhand_limit
    WHERE @queue::text IS NULL OR queue = @queue::text
) AS queue_limit
FULL JOIN (
    SELECT
        name,
        metadata -> 'concurrency' AS form
    FROM /* schema */river_queue
    WHERE (@queue::text IS NULL OR name = @queue::text)
    AND metadata -> 'concurrency' NOT IN ('null', '{}')
) AS queue ON queue.name = queue_limit.queue
ORDER BY 1;

-- name: limit_lock
-- Lock the limit of a queue until the transaction ends.
SELECT queue
FROM /* schema */millhand_limit
WHERE queue = @queue
FOR UPDATE;

-- name: limit_put
-- Insert limits, or change the columns that each object of `limits` names; notify for each that changed.
WITH said AS MATERIALIZED (
    SELECT
        item ->> 'queue' AS queue,
        item AS columns
    FROM jsonb_array_elements(@limits::text::jsonb) AS item
),

-- Locks the limits first, and then their partitions by queue and key, as everybody does.
old AS MATERIALIZED (
    SELECT
        queue_limit.queue,
        queue_limit AS was
    FROM /* schema */millhand_limit AS queue_limit
    WHERE queue_limit.queue IN (SELECT said.queue FROM said)
    ORDER BY queue_limit.queue
    FOR UPDATE OF queue_limit
),

next AS MATERIALIZED (
    SELECT
        old.was,
        jsonb_populate_record(
            coalesce(
                old.was,
                jsonb_populate_record(
                    NULL::/* schema */millhand_limit,
                    '{"by_args": [], "by_kind": false, "in_order": false, "is_shared": false, "halt": false, "num_running": 0}'
                )
            ),
            said.columns
        ) AS becomes
    FROM said
    LEFT JOIN old ON old.queue = said.queue
),

changed AS MATERIALIZED (
    SELECT
        (next.becomes).*,
        (next.was).total AS old_total
    FROM next
    WHERE CASE
        WHEN @is_declaration::boolean
            THEN (next.was).declared IS DISTINCT FROM (next.becomes).declared
        ELSE next.was IS DISTINCT FROM next.becomes
    END
),

-- Those that may have jobs, and for a new total, all: their slots are counted. An admission that runs with the old limit may
-- close a partition as full: either this waits for it, or it sees that the partition was opened again.
locked AS MATERIALIZED (
    SELECT
        part.queue,
        part.partition_key,
        part.running
    FROM /* schema */millhand_limit_partition AS part
    INNER JOIN changed ON changed.queue = part.queue
    WHERE (changed.total IS NOT NULL AND changed.old_total IS NULL)
    OR part.is_open
    OR part.running > 0
    OR part.opens_at IS NOT NULL
    ORDER BY part.queue, part.partition_key
    FOR UPDATE OF part
),

opened AS (
    UPDATE /* schema */millhand_limit_partition AS part
    SET
        is_open = true,
        opened = part.opened + 1,
        opens_at = NULL,
        turn = greatest(
            part.turn,
            /* smallest_open_turn */
        ),
        updated_at = now()
    FROM locked
    WHERE part.queue = locked.queue
    AND part.partition_key = locked.partition_key
    AND (part.is_open OR part.running > 0 OR part.opens_at IS NOT NULL)
    AND (part.held_until > coalesce(@now::timestamptz, now())) IS NOT TRUE
),

put AS (
    INSERT INTO /* schema */millhand_limit AS queue_limit (
        queue,
        at_once,
        at_once_per_client,
        total,
        by_args,
        by_kind,
        rate_allowed,
        rate_seconds,
        rate_burst,
        in_order,
        is_shared,
        halt,
        note,
        declared,
        form,
        num_running,
        updated_at
    )
    SELECT
        changed.queue,
        changed.at_once,
        changed.at_once_per_client,
        changed.total,
        changed.by_args,
        changed.by_kind,
        changed.rate_allowed,
        changed.rate_seconds,
        changed.rate_burst,
        changed.in_order,
        changed.is_shared,
        changed.halt,
        changed.note,
        changed.declared,
        changed.form,
        CASE
            WHEN changed.total IS NULL THEN 0
            WHEN changed.old_total IS NOT NULL THEN changed.num_running
            ELSE (SELECT coalesce(sum(locked.running), 0) FROM locked WHERE locked.queue = changed.queue)
        END,
        now()
    FROM changed
    ORDER BY changed.queue
    ON CONFLICT (queue) DO UPDATE SET
        at_once = excluded.at_once,
        at_once_per_client = excluded.at_once_per_client,
        total = excluded.total,
        by_args = excluded.by_args,
        by_kind = excluded.by_kind,
        rate_allowed = excluded.rate_allowed,
        rate_seconds = excluded.rate_seconds,
        rate_burst = excluded.rate_burst,
        in_order = excluded.in_order,
        is_shared = excluded.is_shared,
        halt = excluded.halt,
        note = excluded.note,
        declared = excluded.declared,
        form = excluded.form,
        num_running = excluded.num_running,
        updated_at = excluded.updated_at
    RETURNING queue_limit.*
),

-- The next collect opens what admissions that began before the change close by the old limit.
arrival AS (
    INSERT INTO /* schema */millhand_limit_arrival (queue, partition_key)
    SELECT
        queue,
        ''
    FROM put
),

/* notified_of_put */

SELECT
    /* limit_columns */
FROM (
    SELECT put.* FROM put
    UNION ALL
    SELECT (next.was).*
    FROM next
    WHERE (next.was).queue NOT IN (SELECT changed.queue FROM changed)
) AS queue_limit
WHERE (SELECT count(*) FROM notified) >= 0;

-- name: limit_remove
-- Delete the limit of a queue and River UI's concurrency setting of it; or only a limit that no code declared and that has
-- not changed since a client read it, because the form limits nothing now.
WITH removed AS (
    DELETE FROM /* schema */millhand_limit
    WHERE queue = @queue
    AND (NOT @is_for_form::boolean OR (form IS NOT DISTINCT FROM @obeyed_form::text::jsonb AND declared IS NULL))
    RETURNING queue
),

cleared AS (
    UPDATE /* schema */river_queue
    SET
        metadata = metadata - 'concurrency',
        updated_at = now()
    WHERE name = @queue
    AND NOT @is_for_form::boolean
    AND jsonb_typeof(metadata) = 'object'
    AND metadata -> 'concurrency' IS NOT NULL
    RETURNING
        name AS queue,
        metadata
),

changed AS (
    SELECT queue FROM removed
    UNION
    SELECT queue FROM cleared
),

queue AS (
    SELECT
        river_queue.name,
        coalesce(cleared.metadata, river_queue.metadata) AS metadata
    FROM /* schema */river_queue
    LEFT JOIN cleared ON cleared.queue = river_queue.name
),

notified AS MATERIALIZED (
    SELECT
        /* limit_notification */
    FROM changed
    LEFT JOIN queue ON queue.name = changed.queue
)

SELECT count(*) AS num_removed
FROM notified;

-- name: limit_partition_set
-- Change a partition's own settings, hold it, or open it; insert its row if there is none and `creates`. Only `resumes`
-- opens one that is halted, and changes no other.
WITH named AS MATERIALIZED (
    SELECT
        @queue::text AS queue,
        coalesce(
            @digest::text,
            /* partition_key */
        ) AS partition_key,
        coalesce(@now::timestamptz, now()) + @hold_seconds::float8 * interval '1 second' AS held_until
    FROM (SELECT @key_values::text::jsonb::text AS key_values) AS given
),

put AS (
    INSERT INTO /* schema */millhand_limit_partition AS old (
        queue, partition_key, at_once, weight, held_until, opens_at, is_open, turn
    )
    SELECT
        part.queue,
        part.partition_key,
        @at_once::integer,
        coalesce(@weight::smallint, 1),
        part.held_until,
        part.held_until,
        part.held_until IS NULL,
        coalesce(
            /* smallest_open_turn */,
            0
        )
    FROM named AS part
    WHERE @creates::boolean OR EXISTS (
        SELECT
        FROM /* schema */millhand_limit_partition AS known
        WHERE known.queue = part.queue
        AND known.partition_key = part.partition_key
        AND (NOT @resumes::boolean OR known.held_until = /* halted_until */)
    )
    ON CONFLICT (queue, partition_key) DO UPDATE SET
        at_once = CASE WHEN @sets_at_once::boolean THEN excluded.at_once ELSE old.at_once END,
        weight = coalesce(@weight::smallint, old.weight),
        (held_until, opens_at, is_open, opened, turn) = (
            SELECT
                hold.until,
                hold.until,
                hold.until IS NULL,
                old.opened + CASE WHEN hold.until IS NULL THEN 1 ELSE 0 END,
                CASE
                    WHEN old.is_open OR hold.until IS NOT NULL THEN old.turn
                    ELSE greatest(old.turn, excluded.turn)
                END
            FROM (
                SELECT CASE
                    WHEN @sets_hold::boolean AND (@resumes::boolean OR old.held_until = /* halted_until */) IS NOT TRUE
                        THEN excluded.held_until
                    WHEN old.held_until > coalesce(@now::timestamptz, now()) AND NOT @resumes::boolean THEN old.held_until
                END AS until
            ) AS hold
        ),
        halted_by = CASE WHEN NOT @resumes::boolean THEN old.halted_by END,
        updated_at = now()
    RETURNING *
),

/* notified_of_put */

SELECT
    /* partition_status */
FROM put AS part
CROSS JOIN LATERAL (
    /* waiting_of_partition */
) AS waiting
WHERE (SELECT count(*) FROM notified) >= 0;

-- name: limit_partition_list
-- Return the busiest partitions of a limit, of those that have jobs or settings of their own. Without a worker, jobs arrive
-- and no fetch opens their partitions.
WITH arrived_key AS MATERIALIZED (
    SELECT DISTINCT arrival.partition_key
    FROM (
        SELECT partition_key
        FROM /* schema */millhand_limit_arrival
        WHERE queue = @queue AND partition_key <> ''
        ORDER BY id
        LIMIT @counted_max::integer
    ) AS arrival
),

known AS MATERIALIZED (
    SELECT
        queue,
        partition_key,
        running,
        turn,
        weight,
        at_once,
        held_until,
        opens_at,
        halted_by,
        halted_at
    FROM /* schema */millhand_limit_partition
    WHERE queue = @queue
    AND (is_open OR running > 0 OR opens_at IS NOT NULL OR at_once IS NOT NULL OR weight <> 1)
    ORDER BY running DESC, turn, partition_key
    LIMIT @searched_max::integer
),

part AS MATERIALIZED (
    TABLE known
    UNION ALL
    (
        SELECT
            @queue,
            arrived_key.partition_key,
            0,
            0,
            1::smallint,
            NULL,
            NULL,
            NULL,
            NULL,
            NULL
        FROM arrived_key
        WHERE arrived_key.partition_key NOT IN (SELECT known.partition_key FROM known)
        LIMIT @searched_max::integer
    )
)

SELECT
    /* partition_status */
FROM part
CROSS JOIN LATERAL (
    /* waiting_of_partition */
) AS waiting
ORDER BY part.running DESC, waiting.num_jobs DESC, part.partition_key
LIMIT @limit::integer;

-- name: limit_partition_list_halted
-- Return halted partitions of one limit or of all, those that were halted first. An index has them.
SELECT
    /* partition_status */
FROM /* schema */millhand_limit AS queue_limit
CROSS JOIN LATERAL (
    SELECT halted.*
    FROM /* schema */millhand_limit_partition AS halted
    WHERE halted.queue = queue_limit.queue
    AND halted.opens_at = /* halted_until */
    AND halted.held_until = /* halted_until */
    ORDER BY halted.halted_at, halted.partition_key
    LIMIT @limit::integer
) AS part
CROSS JOIN LATERAL (
    /* waiting_of_partition */
) AS waiting
WHERE @queue::text IS NULL OR queue_limit.queue = @queue::text
ORDER BY part.halted_at, part.queue, part.partition_key
LIMIT @limit::integer;
