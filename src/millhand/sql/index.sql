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
