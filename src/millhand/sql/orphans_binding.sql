-- name: orphan_database_identity
-- Say which database this is, wherever it is copied to.
SELECT
    (SELECT system_identifier FROM pg_control_system()) || '/' || oid,
    datname
FROM pg_database
WHERE datname = current_database();

-- name: orphan_binding_get
-- Find what this database knows of its bond with a bucket.
SELECT bucket, token, database, generation, bound_at, searched_at, searched_fingerprint
FROM /* schema */millhand_orphan_binding
WHERE bucket = @bucket;

-- name: orphan_binding_generations
-- Give the tokens of all buckets that this very database has bound, and how far each has come.
SELECT token, generation
FROM /* schema */millhand_orphan_binding
WHERE database = @database;

-- name: orphan_binding_put
-- Bind a bucket to this database, in place of any bond that there was.
INSERT INTO /* schema */millhand_orphan_binding (bucket, token, database, generation, bound_at)
VALUES (@bucket, @token, @database, @generation, @now::timestamptz)
ON CONFLICT (bucket) DO UPDATE
SET
    token = excluded.token,
    database = excluded.database,
    generation = excluded.generation,
    bound_at = excluded.bound_at,
    searched_at = NULL,
    searched_fingerprint = NULL
RETURNING bucket, token, database, generation, bound_at, searched_at, searched_fingerprint;

-- name: orphan_binding_insert
-- Begin a bond, unless another process has begun it.
INSERT INTO /* schema */millhand_orphan_binding (bucket, token, database, bound_at)
VALUES (@bucket, @token, @database, @now::timestamptz)
ON CONFLICT (bucket) DO NOTHING;

-- name: orphan_binding_advance
-- Go one generation further, before anything is removed. One row comes back if the bond is still as it was read.
UPDATE /* schema */millhand_orphan_binding
SET generation = generation + 1
WHERE bucket = @bucket AND token = @token
RETURNING bucket, token, database, generation, bound_at, searched_at, searched_fingerprint;

-- name: orphan_binding_searched
-- Write down that the database was searched for references that nobody declared.
UPDATE /* schema */millhand_orphan_binding
SET searched_at = @now::timestamptz, searched_fingerprint = @fingerprint
WHERE bucket = @bucket;

-- name: orphan_binding_delete
-- Dissolve the bond.
DELETE FROM /* schema */millhand_orphan_binding
WHERE bucket = @bucket
RETURNING 1;
