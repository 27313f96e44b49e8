-- name: table_get_options
-- Give the storage parameters that a table has, each as `name=value`; no row if there is no such table.
SELECT coalesce(class.reloptions, '{}')::text []
FROM pg_class AS class
WHERE class.oid = to_regclass('/* schema *//* table */');

-- name: table_set_options
-- Set storage parameters of a table. It keeps no statement waiting but those that tidy up or change the table.
ALTER TABLE /* schema *//* table */ SET (/* options */);

-- name: table_reset_options
-- Have storage parameters of a table be the server's again.
ALTER TABLE /* schema *//* table */ RESET (/* options */);
