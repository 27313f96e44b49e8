-- fragment: metadata_of_jobs
    SELECT
        job.id,
        job.kind,
        job.queue,
        job.metadata
    FROM /* schema */river_job AS job

-- fragment: periodic_job_seen
-- A few rows of each kind, and the newest rows of all. The limits are literals, so that a plan that is made once knows them.
kind (name, depth) AS (
    (
        SELECT
            job.kind,
            1
        FROM /* schema */river_job AS job
        WHERE job.kind > ''
        ORDER BY job.kind
        LIMIT 1
    )
    UNION ALL
    SELECT
        next.kind,
        kind.depth + 1
    FROM kind
    CROSS JOIN LATERAL (
        SELECT job.kind
        FROM /* schema */river_job AS job
        WHERE job.kind > kind.name
        ORDER BY job.kind
        LIMIT 1
    ) AS next
    WHERE kind.depth < @kinds_max::integer
),

seen AS (
    SELECT of_kind.*
    FROM kind
    CROSS JOIN LATERAL (
        /* metadata_of_jobs */
        -- Not `=`: by a range, the order is one that only the index has, and no plan reads all rows of the kind.
        WHERE job.kind >= kind.name AND job.kind <= kind.name
        ORDER BY job.kind DESC
        LIMIT 5
    ) AS of_kind
    UNION ALL
    SELECT newest.*
    FROM (
        /* metadata_of_jobs */
        WHERE job.id > 0
        ORDER BY job.id DESC
        LIMIT 2000
    ) AS newest
)

-- name: periodic_job_list_ids
-- Return the ids of periodic jobs that runs in the table have, and the kind and queue of such a run.
-- Read are a few rows of each kind, and the newest rows of all: a rare id of a kind that programs insert as well may be
-- missed.
WITH RECURSIVE /* periodic_job_seen */

SELECT DISTINCT ON (periodic_job_id)
    seen.metadata ->> 'river:periodic_job_id' AS periodic_job_id,
    seen.kind,
    seen.queue
FROM seen
WHERE jsonb_typeof(seen.metadata -> 'river:periodic_job_id') = 'string'
ORDER BY periodic_job_id, seen.id DESC
LIMIT @limit::integer;

-- name: periodic_job_list_runs
-- Return the newest runs of each periodic job, newest first, and how many runs were found, up to a limit.
-- The index by metadata has no order. Of a job with more runs, only those among the newest rows of all are returned.
-- If that index is off, runs are found among the rows of the kinds that have some, up to the limit for each kind, and among
-- the newest rows of all. Only one of the two ways is executed.
WITH RECURSIVE indexed AS MATERIALIZED (
    SELECT EXISTS (
        SELECT
        FROM (/* index_columns */) AS has (column_name)
        WHERE has.column_name = 'metadata'
    ) AS has_metadata
),

/* periodic_job_seen */,

newest AS MATERIALIZED (
    SELECT
        job.id,
        job.metadata ->> 'river:periodic_job_id' AS periodic_job_id
    FROM (
        SELECT
            latest.id,
            latest.metadata
        FROM /* schema */river_job AS latest
        WHERE latest.id > 0
        ORDER BY latest.id DESC
        LIMIT 2000
    ) AS job
),

of_kinds AS MATERIALIZED (
    SELECT
        job.id,
        job.metadata ->> 'river:periodic_job_id' AS periodic_job_id
    FROM (
        SELECT DISTINCT seen.kind
        FROM seen
        WHERE NOT (SELECT indexed.has_metadata FROM indexed)
        AND seen.metadata ->> 'river:periodic_job_id' = ANY(@ids::text [])
    ) AS periodic
    CROSS JOIN LATERAL (
        SELECT
            of_kind.id,
            of_kind.metadata
        FROM /* schema */river_job AS of_kind
        -- By a range, as above.
        WHERE of_kind.kind >= periodic.kind AND of_kind.kind <= periodic.kind
        ORDER BY of_kind.kind DESC
        LIMIT 2000
    ) AS job
    UNION
    SELECT
        newest.id,
        newest.periodic_job_id
    FROM newest
    WHERE NOT (SELECT indexed.has_metadata FROM indexed)
),

found AS MATERIALIZED (
    SELECT
        wanted.id AS periodic_job_id,
        count(*) AS num_runs,
        (array_agg(run.id ORDER BY run.id DESC))[1:@limit::integer] AS ids
    FROM unnest(@ids::text []) AS wanted (id)
    CROSS JOIN LATERAL (
        (
            SELECT job.id
            FROM /* schema */river_job AS job
            WHERE (SELECT indexed.has_metadata FROM indexed)
            AND job.metadata @> jsonb_build_object('river:periodic_job_id', wanted.id)
            OFFSET 0
            LIMIT 2000
        )
        UNION ALL
        (
            SELECT of_kinds.id
            FROM of_kinds
            WHERE of_kinds.periodic_job_id = wanted.id
            ORDER BY of_kinds.id DESC
            LIMIT 2000
        )
    ) AS run
    GROUP BY wanted.id
),

picked AS (
    SELECT
        found.periodic_job_id,
        found.num_runs,
        run.id
    FROM found
    CROSS JOIN LATERAL unnest(
        CASE WHEN found.num_runs < 2000 THEN found.ids
            ELSE ARRAY(
                SELECT newest.id
                FROM newest
                WHERE newest.periodic_job_id = found.periodic_job_id
                ORDER BY newest.id DESC
                LIMIT @limit::integer
            )
        END
    ) AS run (id)
)

SELECT
    picked.periodic_job_id,
    job.id,
    job.kind,
    job.queue,
    job.state::text AS state,
    greatest(least(job.created_at, '9999-12-31Z'), '0001-01-01Z') AS created_at,
    picked.num_runs,
    job.metadata ? 'millhand:run_now' AS is_run_now
FROM picked
INNER JOIN /* schema */river_job AS job ON picked.id = job.id
ORDER BY picked.periodic_job_id, job.id DESC;

-- name: periodic_job_list_sources
-- Return what a copy of each job would have.
SELECT
    job.id,
    -- A value of 40 MB takes a second to read as text, so the size is checked first. It is the compressed size.
    CASE WHEN pg_column_size(job.args) <= 65536 THEN left(job.args::text, @args_length::integer) END AS args,
    job.priority,
    job.max_attempts,
    job.tags[1:20]::text [] AS tags
FROM /* schema */river_job AS job
WHERE job.id = ANY(@ids::bigint []);
