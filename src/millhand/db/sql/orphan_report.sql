-- A list of one bucket says BETWEEN, not =, and sorts by the bucket first. After = the planner may read the primary key,
-- which has the order too, and so the whole table where the bucket has few rows.

-- name: orphan_ledger_get_shape
-- Return whether the ledger is there, as migrations 1 to 4 of line millhand create it.
SELECT to_regclass('/* schema */millhand_orphan_partition') IS NOT NULL AS is_there;

-- name: orphan_store_list
-- List the buckets that have runs or a binding. Jumps from one bucket to the next in the index of runs.
WITH RECURSIVE known AS (
    (SELECT run.bucket FROM /* schema */millhand_orphan_run AS run ORDER BY run.bucket LIMIT 1)
    UNION ALL
    SELECT later.bucket
    FROM known
    CROSS JOIN LATERAL (
        SELECT run.bucket
        FROM /* schema */millhand_orphan_run AS run
        WHERE run.bucket > known.bucket
        ORDER BY run.bucket
        LIMIT 1
    ) AS later
)
SELECT
    bucket,
    binding.database,
    binding.bound_at,
    binding.searched_at,
    binding.search_seconds
FROM (SELECT known.bucket FROM known LIMIT @limit::integer) AS known
FULL JOIN (
    SELECT * FROM /* schema */millhand_orphan_binding LIMIT @limit::integer
) AS binding USING (bucket)
ORDER BY bucket
LIMIT @limit::integer;

-- name: orphan_run_list_before
-- List runs over a bucket, newest first, before an id.
SELECT /* orphan_run_columns */
FROM /* schema */millhand_orphan_run
WHERE bucket BETWEEN @bucket AND @bucket AND id < coalesce(@before_id::bigint, 9223372036854775807)
ORDER BY bucket DESC, id DESC
LIMIT @limit::integer;

-- name: orphan_run_get_completed_at
-- Return when the last completed run over a bucket ended. Looks at the newest runs only, because no index has the state.
SELECT finished_at
FROM (
    SELECT bucket, id, state, finished_at
    FROM /* schema */millhand_orphan_run
    WHERE bucket BETWEEN @bucket AND @bucket
    ORDER BY bucket DESC, id DESC
    LIMIT @looked_at::integer
) AS run
WHERE state = 'completed'
ORDER BY bucket DESC, id DESC
LIMIT 1;

-- name: orphan_finding_count
-- Count the findings of a bucket by run and rule, each up to a limit. Jumps from one pair to the next in the index.
WITH RECURSIVE pair AS (
    (
        SELECT finding.run_id, finding.rule
        FROM /* schema */millhand_orphan_finding AS finding
        ORDER BY finding.run_id, finding.rule
        LIMIT 1
    )
    UNION ALL
    SELECT later.run_id, later.rule
    FROM pair
    CROSS JOIN LATERAL (
        SELECT finding.run_id, finding.rule
        FROM /* schema */millhand_orphan_finding AS finding
        WHERE (finding.run_id, finding.rule) > (pair.run_id, pair.rule)
        ORDER BY finding.run_id, finding.rule
        LIMIT 1
    ) AS later
)
SELECT
    pair.run_id,
    pair.rule,
    (
        SELECT count(*)
        FROM (
            SELECT
            FROM /* schema */millhand_orphan_finding AS finding
            WHERE finding.run_id BETWEEN pair.run_id AND pair.run_id AND finding.rule = pair.rule
            ORDER BY finding.run_id, finding.rule, finding.id
            LIMIT @limit::integer
        ) AS counted
    ) AS number
FROM (SELECT pair.* FROM pair LIMIT 1000) AS pair
INNER JOIN /* schema */millhand_orphan_run AS run ON run.id = pair.run_id
WHERE run.bucket = @bucket
ORDER BY pair.rule, pair.run_id;

-- name: orphan_finding_list_of_rules
-- List findings of these pairs of run and rule by id.
SELECT /* orphan_finding_columns */
FROM unnest(@run_ids::bigint[], @rules::integer[]) AS pair (pair_run_id, pair_rule)
CROSS JOIN LATERAL (
    SELECT finding.*
    FROM /* schema */millhand_orphan_finding AS finding
    WHERE
        finding.run_id BETWEEN pair.pair_run_id AND pair.pair_run_id
        AND finding.rule = pair.pair_rule
        AND finding.id > @after::bigint
    ORDER BY finding.run_id, finding.rule, finding.id
    LIMIT @limit::integer
) AS found
ORDER BY id
LIMIT @limit::integer;

-- name: orphan_finding_list_of_key
-- List what the runs found about one key.
SELECT /* orphan_finding_columns */
FROM /* schema */millhand_orphan_finding
WHERE bucket = @bucket AND key = @key
ORDER BY bucket, key, source, row_id
LIMIT @limit::integer;

-- name: orphan_removal_list_of_key
-- List what was done to one key, newest first, without the content of its row.
SELECT /* orphan_removal_columns */
FROM /* schema */millhand_orphan_action AS action
WHERE action.bucket = @bucket AND action.key = @key
ORDER BY action.id DESC
LIMIT @limit::integer;

-- name: orphan_removal_list_quarantined
-- List what is in quarantine, by id.
SELECT /* orphan_removal_columns */
FROM /* schema */millhand_orphan_action AS action
WHERE action.bucket BETWEEN @bucket AND @bucket AND action.state = 'quarantined' AND action.id > @after::bigint
ORDER BY action.bucket, action.state, action.id
LIMIT @limit::integer;

-- name: orphan_removal_sum_quarantined
-- Return the number and the bytes of the first objects in quarantine.
SELECT count(*) AS number, coalesce(sum(held.size), 0)::bigint AS bytes
FROM (
    SELECT action.size
    FROM /* schema */millhand_orphan_action AS action
    WHERE action.bucket BETWEEN @bucket AND @bucket AND action.state = 'quarantined'
    ORDER BY action.bucket, action.state, action.id
    LIMIT @limit::integer
) AS held;

-- name: orphan_removal_list_alerts
-- List alerts among the newest removals of all buckets.
SELECT /* orphan_removal_columns */
FROM (
    SELECT newest.*
    FROM /* schema */millhand_orphan_action AS newest
    ORDER BY newest.id DESC
    LIMIT @looked_at::integer
) AS action
WHERE action.alert IS NOT NULL AND action.bucket = @bucket
ORDER BY action.id DESC
LIMIT @limit::integer;

-- name: orphan_restore_list
-- List the newest jobs that restore. Large args, outputs and errors are left out.
SELECT
    job.id,
    job.state::text AS state,
    least(greatest(job.created_at, '0001-01-01Z'), '9999-12-31 23:59:59.999999Z') AS created_at,
    CASE WHEN pg_column_size(job.args) <= 65536 THEN job.args::text ELSE '{}' END AS args,
    CASE WHEN pg_column_size(job.metadata) <= 65536 THEN (job.metadata -> 'output')::text END AS output,
    CASE
        WHEN pg_column_size(job.errors) <= 65536
            THEN left(job.errors[cardinality(job.errors)] ->> 'error', 400)
    END AS error
FROM /* schema */river_job AS job
WHERE
    job.id = ANY(ARRAY(
        SELECT of_kind.id
        FROM /* schema */river_job AS of_kind
        -- Not `=`: by a range, the order is one that only the index has, and no plan reads all rows.
        WHERE of_kind.kind >= @kind AND of_kind.kind <= @kind
        ORDER BY of_kind.kind DESC
        LIMIT 2000
    ))
ORDER BY job.id DESC
LIMIT @limit::integer;

-- fragment: orphan_removal_columns
action.id, action.run_id, action.key, action.rule, action.state, action.reason, action.size, action.quarantine_key,
    action.source, action.row_id, action.row_json IS NOT NULL AS has_row, action.updated_at, action.alert, action.alerted_at
