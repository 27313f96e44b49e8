-- name: index_get_names
-- Return the names of the schema's indexes that begin with a prefix.
SELECT class.relname::text
FROM pg_class AS class
WHERE class.relkind = 'i'
AND class.relnamespace = to_regnamespace(quote_ident(/* schema_name */))
AND starts_with(class.relname::text, @prefix::text)
ORDER BY class.relname;

-- name: index_reindex
-- Rebuild an index while the table is in use; not in a transaction.
REINDEX INDEX CONCURRENTLY /* schema *//* index */;

-- name: index_drop
-- Drop an index that an interrupted rebuild has left; not in a transaction.
DROP INDEX CONCURRENTLY IF EXISTS /* schema *//* index */;

-- name: index_get_searches
-- Return what has the names of River's search indexes, and whether the role may change it. Without a job table, no row.
SELECT
    wanted.name,
    wanted.column_name,
    pg_get_userbyid(owner.relowner)::text AS owner_name,
    current_user::text AS role_name,
    pg_has_role(owner.relowner, 'USAGE') AS is_owner,
    has_schema_privilege(owner.relnamespace, 'CREATE') AS may_create,
    class.oid IS NOT NULL AS is_there,
    coalesce(
        index.indrelid = owner.oid
        AND index.indnatts = 1
        AND index.indkey[0] = attribute.attnum
        AND index.indpred IS NULL
        AND method.amname = 'gin'
        AND operators.opcname = 'jsonb_ops',
        FALSE
    ) AS is_rivers,
    coalesce(index.indisvalid AND index.indisready AND index.indislive, FALSE) AS is_valid,
    coalesce(
        (
            SELECT lock.pid
            FROM pg_locks AS lock
            WHERE lock.relation = class.oid
            AND lock.database = (SELECT own.oid FROM pg_database AS own WHERE own.datname = current_database())
            AND lock.mode = 'ShareUpdateExclusiveLock'
            AND lock.granted
            LIMIT 1
        ),
        (
            SELECT build.pid
            FROM pg_stat_progress_create_index AS build
            WHERE build.index_relid = class.oid
            LIMIT 1
        )
    ) AS used_by,
    coalesce(pg_relation_size(class.oid), 0) AS num_bytes,
    ARRAY(
        SELECT other.relname::text
        FROM pg_class AS other
        WHERE other.relnamespace = owner.relnamespace
        AND other.relkind = 'i'
        AND starts_with(other.relname::text, wanted.name || '_cc')
        ORDER BY other.relname
    ) AS others
FROM pg_class AS owner
CROSS JOIN unnest(@names::text [], @columns::text []) WITH ORDINALITY AS wanted (name, column_name, position)
LEFT JOIN pg_attribute AS attribute ON owner.oid = attribute.attrelid AND wanted.column_name = attribute.attname
LEFT JOIN pg_class AS class ON owner.relnamespace = class.relnamespace AND wanted.name = class.relname
LEFT JOIN pg_index AS index ON class.oid = index.indexrelid
LEFT JOIN pg_am AS method ON class.relam = method.oid
LEFT JOIN pg_opclass AS operators ON index.indclass[0] = operators.oid
WHERE owner.oid = to_regclass('/* schema */river_job')
ORDER BY wanted.position;

-- name: index_create_search
-- Build a search index as River's migration defines it, while the table is in use; not in a transaction.
CREATE INDEX CONCURRENTLY /* index */ ON /* schema */river_job USING gin (/* column */);

-- fragment: index_columns
SELECT attribute.attname::text
FROM pg_index AS index
INNER JOIN pg_class AS class ON index.indexrelid = class.oid
INNER JOIN pg_am AS method ON class.relam = method.oid
INNER JOIN pg_attribute AS attribute ON index.indrelid = attribute.attrelid AND index.indkey[0] = attribute.attnum
WHERE index.indrelid = to_regclass('/* schema */river_job')
AND index.indisvalid
AND index.indnatts = 1
AND index.indpred IS NULL
AND method.amname = 'gin'

-- name: index_get_columns
-- Return which columns of jobs have a valid index that answers the operator @>: River's, or one of yours.
/* index_columns */;
