-- name: migration_get_shape
-- Say whether the table of migrations is there, whether it knows lines, and whether its schema is there at all.
SELECT
    to_regclass('/* schema */river_migration') IS NOT NULL AS has_table,
    EXISTS (
        SELECT
        FROM pg_attribute
        WHERE attrelid = to_regclass('/* schema */river_migration')
        AND attname = 'line'
        AND NOT attisdropped
    ) AS has_line,
    /* schema_name */::text AS schema_name,
    to_regnamespace(quote_ident(/* schema_name */)) IS NOT NULL AS has_schema;

-- name: migration_get_foreign
-- Give the names of tables and types that stand where River's are to be made.
SELECT relname::text AS name
FROM pg_class
WHERE relnamespace = to_regnamespace(quote_ident(/* schema_name */))
AND relname = ANY(@names::text [])
UNION
SELECT typname::text
FROM pg_type
WHERE typnamespace = to_regnamespace(quote_ident(/* schema_name */))
AND typname = ANY(@names::text [])
ORDER BY name;

-- name: migration_get_versions
-- Give the versions of a line that are applied.
SELECT version
FROM /* schema */river_migration
WHERE line = @line
ORDER BY version;

-- name: migration_get_versions_without_line
-- Give the versions that are applied, of line main, by a table that knows no other.
SELECT version
FROM /* schema */river_migration
ORDER BY version;

-- name: migration_get_other_lines
-- Give the lines of which versions are applied, without one.
SELECT DISTINCT line
FROM /* schema */river_migration
WHERE line <> @line
ORDER BY line;

-- name: migration_insert
-- Record that a version of a line was applied.
INSERT INTO /* schema */river_migration (line, version)
VALUES (@line, @version);

-- name: migration_insert_without_line
-- Record that a version of line main was applied, in a table that knows no other.
INSERT INTO /* schema */river_migration (version)
VALUES (@version);

-- name: migration_delete
-- Record that a version of a line is applied no longer.
DELETE FROM /* schema */river_migration
WHERE line = @line
AND version = @version;

-- name: migration_delete_without_line
-- Record that a version of line main is applied no longer, in a table that knows no other.
DELETE FROM /* schema */river_migration
WHERE version = @version;

-- name: migration_lock
-- Wait for the other migrator of this schema, if there is one, until the end of the transaction.
-- The key is of two numbers: "engine" in ASCII, and the schema's name.
SELECT pg_advisory_xact_lock(1835625580, hashtext(/* schema_name */)) IS NULL;
