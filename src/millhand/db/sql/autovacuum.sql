-- name: table_get_options
-- Return a table's storage parameters, each as `name=value`; no row if there is no such table.
SELECT coalesce(class.reloptions, '{}')::text []
FROM pg_class AS class
WHERE class.oid = to_regclass('/* schema *//* table */');

-- name: table_set_options
-- Set storage parameters of a table. Only a vacuum or a change of the table has to wait for it.
ALTER TABLE /* schema *//* table */ SET (/* options */);

-- name: table_reset_options
-- Reset storage parameters of a table to the server's.
ALTER TABLE /* schema *//* table */ RESET (/* options */);
