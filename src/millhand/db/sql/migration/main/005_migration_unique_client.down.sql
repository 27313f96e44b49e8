-- The older table knows only one line; other lines must go first.
DO $body$
BEGIN
    IF to_regclass('/* schema */river_migration') IS NOT NULL THEN
        IF EXISTS (SELECT FROM /* schema */river_migration WHERE line <> 'main') THEN
            RAISE EXCEPTION 'river_migration holds lines other than main, which version 4 cannot record'
                USING ERRCODE = 'object_not_in_prerequisite_state',
                HINT = 'Migrate every other line all the way down first.';
        END IF;
        ALTER TABLE /* schema */river_migration RENAME TO river_migration_old;
        CREATE TABLE /* schema */river_migration (
            id bigserial PRIMARY KEY,
            created_at timestamptz NOT NULL DEFAULT now(),
            version bigint NOT NULL,
            CONSTRAINT version CHECK (version >= 1)
        );
        CREATE UNIQUE INDEX river_migration_version_idx ON /* schema */river_migration (version);
        INSERT INTO /* schema */river_migration (created_at, version)
        SELECT created_at, version
        FROM /* schema */river_migration_old
        ORDER BY version;
        DROP TABLE /* schema */river_migration_old;
    END IF;
END
$body$;

DROP TABLE /* schema */river_client_queue;
DROP TABLE /* schema */river_client;

DROP INDEX IF EXISTS /* schema */river_job_kind_unique_key_idx;
ALTER TABLE /* schema */river_job DROP COLUMN IF EXISTS unique_key;
