-- name: orphan_database_identity
-- Return an identity of this database that a copy elsewhere does not have, and its name.
SELECT
    (SELECT system_identifier FROM pg_control_system()) || '/' || oid,
    datname
FROM pg_database
WHERE datname = current_database();

-- name: orphan_binding_get
-- Return the binding of a bucket.
SELECT bucket, token, database, generation, bound_at, searched_at, search_seconds
FROM /* schema */millhand_orphan_binding
WHERE bucket = @bucket;

-- name: orphan_binding_generations
-- Return the tokens of all buckets that this database has bound, with their generations.
SELECT token, generation
FROM /* schema */millhand_orphan_binding
WHERE database = @database;

-- name: orphan_binding_put
-- Bind a bucket to this database, in place of any earlier binding.
INSERT INTO /* schema */millhand_orphan_binding (bucket, token, database, generation, bound_at)
VALUES (@bucket, @token, @database, @generation, @now::timestamptz)
ON CONFLICT (bucket) DO UPDATE
SET
    token = excluded.token,
    database = excluded.database,
    generation = excluded.generation,
    bound_at = excluded.bound_at,
    searched_at = NULL,
    search_seconds = NULL
RETURNING bucket, token, database, generation, bound_at, searched_at, search_seconds;

-- name: orphan_binding_insert
-- Insert a binding, unless another process has inserted it.
INSERT INTO /* schema */millhand_orphan_binding (bucket, token, database, bound_at)
VALUES (@bucket, @token, @database, @now::timestamptz)
ON CONFLICT (bucket) DO NOTHING;

-- name: orphan_binding_advance
-- Increase the generation before anything is removed. Returns one row if the token is unchanged.
UPDATE /* schema */millhand_orphan_binding
SET generation = generation + 1
WHERE bucket = @bucket AND token = @token
RETURNING bucket, token, database, generation, bound_at, searched_at, search_seconds;

-- name: orphan_binding_searched
-- Record when the database was searched for undeclared references, and how long that took.
UPDATE /* schema */millhand_orphan_binding
SET searched_at = @now::timestamptz, search_seconds = @seconds::double precision
WHERE bucket = @bucket;

-- name: orphan_binding_delete
-- Delete the binding.
DELETE FROM /* schema */millhand_orphan_binding
WHERE bucket = @bucket
RETURNING 1;

-- name: orphan_binding_get_earlier
-- Return the binding with a token under another URL.
SELECT bucket, token, database, generation, bound_at, searched_at, search_seconds
FROM /* schema */millhand_orphan_binding
WHERE token = @token AND bucket <> @bucket;

-- name: orphan_binding_move
-- Rename a bucket in the ledger, and delete its earlier binding. What the new URL has found already is newer.
WITH actions AS (
    UPDATE /* schema */millhand_orphan_action
    SET bucket = @bucket
    WHERE bucket = @earlier
), findings AS (
    UPDATE /* schema */millhand_orphan_finding AS finding
    SET bucket = @bucket
    WHERE
        bucket = @earlier
        AND NOT EXISTS (
            SELECT FROM /* schema */millhand_orphan_finding AS newer
            WHERE newer.bucket = @bucket AND newer.key = finding.key
                AND newer.source = finding.source AND newer.row_id = finding.row_id
        )
)
DELETE FROM /* schema */millhand_orphan_binding
WHERE bucket = @earlier;
