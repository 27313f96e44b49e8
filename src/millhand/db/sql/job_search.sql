-- fragment: job_line
    job.id,
    job.kind,
    job.queue,
    job.state::text AS state,
    job.priority,
    job.attempt,
    job.max_attempts,
    -- A value of 40 MB takes a second to read as text, so the size is checked first. It is the compressed size.
    CASE WHEN pg_column_size(job.args) <= 65536 THEN left(job.args::text, @args_length::integer) END AS args,
    pg_column_size(job.args) AS args_bytes,
    job.tags[1:20]::text [] AS tags,
    CASE
        WHEN pg_column_size(job.errors) <= 65536
            THEN left(job.errors[cardinality(job.errors)] ->> 'error', 400)
    END AS error,
    least(greatest(job.created_at, '0001-01-01Z'), '9999-12-31 23:59:59.999999Z') AS created_at,
    least(greatest(job.scheduled_at, '0001-01-01Z'), '9999-12-31 23:59:59.999999Z') AS scheduled_at,
    CASE WHEN job.attempted_at IS NOT NULL
        THEN least(greatest(job.attempted_at, '0001-01-01Z'), '9999-12-31 23:59:59.999999Z')
    END AS attempted_at,
    CASE WHEN job.finalized_at IS NOT NULL
        THEN least(greatest(job.finalized_at, '0001-01-01Z'), '9999-12-31 23:59:59.999999Z')
    END AS finalized_at,
    left(job.attempted_by[cardinality(job.attempted_by)], 200) AS client

-- fragment: job_search_lines
-- Return how many rows the search read, the last one's place in the order, and the lines that pass the filters. Without
-- lines there is one row, with nulls.
SELECT
    counted.num_read,
    last.id AS last_id,
    to_jsonb(last.at) #>> '{}' AS last_position,
    least(greatest(last.at, '0001-01-01Z'), '9999-12-31 23:59:59.999999Z') AS last_at,
    line.*
FROM counted
LEFT JOIN (
    SELECT
        id,
        at
    FROM source
    ORDER BY /* last_first */
    LIMIT 1
) AS last ON TRUE
LEFT JOIN LATERAL (
    SELECT
        to_jsonb(/* at */) #>> '{}' AS position,
        /* job_line */
    FROM /* schema */river_job AS job
    -- By the primary key, whatever the filters are: each filter is written with IS TRUE, which no index matches.
    WHERE job.id = ANY(ARRAY(SELECT source.id FROM source))
    AND /* where */
    ORDER BY /* order_by */
    LIMIT @limit::integer
) AS line ON TRUE

-- name: job_search_settings
-- Set how this transaction plans: no scan of a whole table, and a plan for the values of each statement. A page at a random
-- place costs little, because PostgreSQL must not sort all jobs of a state to avoid it.
SELECT
    set_config('enable_seqscan', 'off', TRUE),
    set_config('jit', 'off', TRUE),
    set_config('plan_cache_mode', 'force_custom_plan', TRUE),
    set_config('random_page_cost', '1.1', TRUE),
    set_config('transaction_read_only', 'on', TRUE);

-- name: job_search_ranges
-- Return the ranges of the fetch index that have jobs in some states. Of each range, one index entry is read.
SELECT
    wanted.state::text,
    range.queue,
    range.priority
FROM unnest(@states::text []::/* schema */river_job_state []) AS wanted (state)
CROSS JOIN LATERAL (
    WITH RECURSIVE skipped AS (
        (
            SELECT
                job.queue,
                job.priority
            FROM /* schema */river_job AS job
            WHERE job.state = wanted.state
            ORDER BY job.queue, job.priority
            LIMIT 1
        )
        UNION ALL
        SELECT
            next.queue,
            next.priority
        FROM skipped
        CROSS JOIN LATERAL (
            SELECT
                job.queue,
                job.priority
            FROM /* schema */river_job AS job
            WHERE job.state = wanted.state
            AND (job.queue, job.priority) > (skipped.queue, skipped.priority)
            ORDER BY job.queue, job.priority
            LIMIT 1
        ) AS next
    )

    SELECT
        skipped.queue,
        skipped.priority
    FROM skipped
    LIMIT @limit::integer
) AS range
WHERE (@queues::text [] IS NULL OR range.queue = ANY(@queues::text []));

-- name: job_search_ids_of_period
-- Return between which ids the jobs of a period were created, if ids grow with the time: a search by halves of the primary
-- key, in 64 steps at most. Each step reads ten jobs, because a transaction that took long inserts some with an old instant;
-- these move the bounds outwards.
SELECT (
    WITH RECURSIVE half AS (
        SELECT
            least(coalesce(min(job.id), 1), 1) AS low,
            least(coalesce(max(job.id), 1), 9223372036854775806) + 1 AS high
        FROM /* schema */river_job AS job
        UNION ALL
        SELECT
            CASE WHEN probe.created_at < wanted.at THEN probe.id + 1 ELSE half.low END,
            CASE WHEN probe.created_at < wanted.at THEN half.high ELSE half.low + (half.high - half.low) / 2 END
        FROM half
        CROSS JOIN LATERAL (
            -- Of ten jobs, because a transaction that took long inserted some with an old instant.
            SELECT
                min(near.id) AS id,
                CASE WHEN wanted.number = 1 THEN max(near.created_at) ELSE min(near.created_at) END AS created_at
            FROM (
                SELECT
                    job.id,
                    job.created_at
                FROM /* schema */river_job AS job
                WHERE job.id >= half.low + (half.high - half.low) / 2
                ORDER BY job.id
                LIMIT 10
            ) AS near
        ) AS probe
        WHERE half.low < half.high
    )

    SELECT max(half.low) FROM half
) AS id
FROM unnest(ARRAY[@since::timestamptz, @until::timestamptz]) WITH ORDINALITY AS wanted (at, number)
ORDER BY wanted.number;

-- name: job_search_by_id
-- Read jobs below an id, newest first.
WITH source AS MATERIALIZED (
    SELECT
        job.id,
        job.created_at AS at
    FROM /* schema */river_job AS job
    WHERE job.id < @after_id::bigint
    AND job.id >= @since_id::bigint
    ORDER BY job.id DESC
    LIMIT @num_rows::bigint
),

counted AS (SELECT count(*) AS num_read FROM source)

/* job_search_lines */;

-- name: job_search_by_time
-- Read jobs in the order of their time: finalized ones by the index of their state, live ones by ranges of the fetch index.
-- The same number of rows is read from each of them, and merged.
WITH source AS MATERIALIZED (
    SELECT
        merged.id,
        merged.at
    FROM (
        SELECT
            job.id,
            job.at
        FROM unnest(@finalized_states::text []::/* schema */river_job_state []) AS wanted (state)
        CROSS JOIN LATERAL (
            SELECT
                job.id,
                job.finalized_at AS at
            FROM /* schema */river_job AS job
            WHERE job.state = wanted.state
            -- The index has only rows with an instant; without this line PostgreSQL sorts all rows of the state.
            AND job.finalized_at IS NOT NULL
            AND job.finalized_at >= coalesce(@since::timestamptz, '-infinity')
            AND job.finalized_at <= coalesce(@until::timestamptz, 'infinity')
            AND job.finalized_at /* beyond */= @after_at::text::timestamptz
            AND (job.finalized_at, job.id) /* beyond */ (@after_at::text::timestamptz, @after_id::bigint)
            ORDER BY job.finalized_at /* direction */, job.id /* direction */
            LIMIT @num_rows::bigint
        ) AS job
        UNION ALL
        SELECT
            job.id,
            job.at
        FROM ROWS FROM (
            unnest(@states::text []::/* schema */river_job_state []),
            unnest(@queues::text []),
            unnest(@priorities::smallint [])
        ) AS range (state, queue, priority)
        CROSS JOIN LATERAL (
            SELECT
                job.id,
                job.scheduled_at AS at
            FROM /* schema */river_job AS job
            WHERE job.state = range.state
            AND job.queue = range.queue
            AND job.priority = range.priority
            AND job.scheduled_at >= coalesce(@since::timestamptz, '-infinity')
            AND job.scheduled_at <= coalesce(@until::timestamptz, 'infinity')
            AND (job.scheduled_at, job.id) /* beyond */ (@after_at::text::timestamptz, @after_id::bigint)
            ORDER BY job.scheduled_at /* direction */, job.id /* direction */
            LIMIT @num_rows::bigint
        ) AS job
    ) AS merged
    ORDER BY merged.at /* direction */, merged.id /* direction */
    LIMIT @num_rows::bigint
),

counted AS (SELECT count(*) AS num_read FROM source)

/* job_search_lines */;

-- fragment: found_in_index
    -- The fence: PostgreSQL must not read the primary key instead, in search of the newest ones.
found AS MATERIALIZED (
    SELECT job.id
    FROM /* schema */river_job AS job
    WHERE /* indexed */
    LIMIT @num_rows::bigint
),

counted AS (SELECT count(*) AS num_read FROM found)

-- name: job_search_in_index
-- Read the jobs that an indexed condition selects, if there are fewer than a limit.
WITH /* found_in_index */,

source AS (
    SELECT
        found.id,
        NULL::timestamptz AS at
    FROM found
    WHERE (SELECT counted.num_read FROM counted) < @num_rows::bigint
)

/* job_search_lines */;

-- name: job_search_is_rare
-- Return whether an indexed condition selects fewer jobs than a limit.
SELECT count(*) < @num_rows::bigint
FROM (
    SELECT
    FROM /* schema */river_job AS job
    WHERE /* indexed */
    LIMIT @num_rows::bigint
) AS counted;

-- name: job_count_bounded
-- Count the jobs in each state, up to a limit.
SELECT
    wanted.state::text,
    (
        SELECT count(*)
        FROM (
            SELECT
            FROM /* schema */river_job AS job
            WHERE job.state = wanted.state
            AND /* indexed */
            LIMIT @limit::bigint
        ) AS counted
    ) AS num_jobs
FROM unnest(@states::text []::/* schema */river_job_state []) AS wanted (state);

-- name: job_count_estimated
-- Return how many jobs each frequent state has by the statistics of the last ANALYZE, at the table's size of now.
SELECT
    frequent.state,
    (
        frequent.share * class.reltuples * greatest(
            pg_relation_size(class.oid)::float8 / current_setting('block_size')::integer / greatest(class.relpages, 1), 1
        )
    )::bigint AS num_jobs
FROM pg_catalog.pg_class AS class
INNER JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
INNER JOIN pg_catalog.pg_stats AS stats
    ON stats.schemaname = namespace.nspname AND stats.tablename = class.relname AND stats.attname = 'state'
CROSS JOIN LATERAL unnest(stats.most_common_vals::text::text [], stats.most_common_freqs) AS frequent (state, share)
WHERE class.oid = '/* schema */river_job'::regclass
AND class.reltuples > 0;

-- name: job_count_in_index
-- Count by state the jobs that pass the filters, of those that an indexed condition selects; null if these are too many.
WITH /* found_in_index */

SELECT
    counted.num_read,
    line.state,
    line.num_jobs
FROM counted
LEFT JOIN LATERAL (
    SELECT
        job.state::text,
        count(*) AS num_jobs
    FROM /* schema */river_job AS job
    WHERE counted.num_read < @num_rows::bigint
    AND job.id = ANY(ARRAY(SELECT found.id FROM found))
    AND /* where */
    GROUP BY job.state
) AS line ON TRUE;

-- name: job_search_kinds
-- Return the kinds of all jobs, by a search of the index for the next kind after each.
WITH RECURSIVE skipped AS (
    (
        SELECT job.kind
        FROM /* schema */river_job AS job
        ORDER BY job.kind
        LIMIT 1
    )
    UNION ALL
    SELECT next.kind
    FROM skipped
    CROSS JOIN LATERAL (
        SELECT job.kind
        FROM /* schema */river_job AS job
        WHERE job.kind > skipped.kind
        ORDER BY job.kind
        LIMIT 1
    ) AS next
)

SELECT skipped.kind
FROM skipped
LIMIT @limit::integer;

-- name: job_search_newest
-- Return what the newest jobs of some kinds and queues have: each key of their args, to a depth of two, with the keys above
-- it; their kinds, queues, tags and clients. It reads the newest jobs of all kinds, and these alone.
WITH newest AS MATERIALIZED (
    SELECT
        job.kind,
        job.queue,
        CASE
            WHEN pg_column_size(job.args) <= 65536 AND jsonb_typeof(job.args) = 'object' THEN job.args
            ELSE '{}'
        END AS args,
        job.tags[1:20]::text [] AS tags,
        job.attempted_by[cardinality(job.attempted_by)] AS client
    FROM (
        SELECT *
        FROM /* schema */river_job
        ORDER BY id DESC
        LIMIT @num_rows::integer
    ) AS job
    WHERE (@kinds::text [] IS NULL OR job.kind = ANY(@kinds::text []))
    AND (@queues::text [] IS NULL OR job.queue = ANY(@queues::text []))
),

top AS MATERIALIZED (
    SELECT
        entry.key,
        CASE WHEN jsonb_typeof(entry.value) = 'object' THEN entry.value ELSE '{}' END AS value
    FROM newest
    CROSS JOIN LATERAL jsonb_each(newest.args) AS entry (key, value)
),

had AS (
    SELECT
        'args' AS what,
        ARRAY[key] AS names
    FROM top
    UNION ALL
    SELECT
        'args',
        ARRAY[top.key, entry.key]
    FROM top
    CROSS JOIN LATERAL jsonb_object_keys(top.value) AS entry (key)
    UNION ALL
    SELECT
        'kind',
        ARRAY[kind]
    FROM newest
    UNION ALL
    SELECT
        'queue',
        ARRAY[queue]
    FROM newest
    UNION ALL
    SELECT
        'tag',
        ARRAY[tag.name]
    FROM newest
    CROSS JOIN LATERAL unnest(newest.tags) AS tag (name)
    UNION ALL
    SELECT
        'client',
        ARRAY[client]
    FROM newest
)

SELECT
    what,
    names,
    count(*) AS num_jobs
FROM had
WHERE names[1] IS NOT NULL
GROUP BY what, names
ORDER BY num_jobs DESC, what, names
LIMIT 500;
