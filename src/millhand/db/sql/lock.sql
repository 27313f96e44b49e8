-- name: lock_list_holders
-- Return the sessions for which statements of this role wait that have one of the names, and for how long their
-- transactions have been open. A session that waits itself is left out. A pid is 0 for a prepared transaction.
WITH RECURSIVE chain AS (
    SELECT unnest(pg_blocking_pids(waiting.pid)) AS pid
    FROM pg_catalog.pg_stat_activity AS waiting
    WHERE waiting.datname = current_database()
    AND waiting.usename = current_user
    AND waiting.wait_event_type = 'Lock'
    AND split_part(waiting.query, chr(10), 1) = ANY(@headers::text [])
    UNION
    SELECT blocker.pid
    FROM chain
    CROSS JOIN LATERAL unnest(pg_blocking_pids(chain.pid)) AS blocker (pid)
)

SELECT
    chain.pid,
    holder.application_name::text AS application_name,
    extract(EPOCH FROM clock_timestamp() - holder.xact_start)::float8 AS seconds
FROM chain
LEFT JOIN pg_catalog.pg_stat_activity AS holder ON holder.pid = chain.pid
WHERE cardinality(pg_blocking_pids(chain.pid)) = 0
ORDER BY chain.pid;
