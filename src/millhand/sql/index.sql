-- name: index_get_names
-- Give the names of the indexes in the schema that begin with a name.
SELECT class.relname::text
FROM pg_class AS class
WHERE class.relkind = 'i'
AND class.relnamespace = to_regnamespace(quote_ident(/* schema_name */))
AND starts_with(class.relname::text, @prefix::text)
ORDER BY class.relname;

-- name: index_reindex
-- Rebuild an index beside the old one; not in a transaction.
REINDEX INDEX CONCURRENTLY /* schema *//* index */;

-- name: index_drop
-- Drop an index that a rebuild has left behind; not in a transaction.
DROP INDEX CONCURRENTLY IF EXISTS /* schema *//* index */;
