-- The archive: pages of finished jobs, the rows of its files, and how far it reaches.

-- name: archive_get_shape
-- Return whether this role may read the tables of migration 15 of line millhand, and whether it may write them too.
-- Each privilege alone: of a list, one suffices.
SELECT
    bool_and(needed.is_held OR needed.privilege <> 'SELECT') AS is_readable,
    bool_and(needed.is_held) AS is_writable
FROM (
    SELECT
        privilege.privilege,
        coalesce(has_table_privilege(to_regclass(relation.name), privilege.privilege), FALSE) AS is_held
    FROM unnest(ARRAY['/* schema */millhand_archive_file', '/* schema */millhand_archive_cursor']) AS relation (name)
    CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS privilege (privilege)
) AS needed;

-- name: archive_begin
-- Return how far the archive reaches, and up to which instant a pass that begins now may archive. From the first pass on,
-- cleaners keep what is not archived.
-- No job can appear below the horizon any more: all transactions that wrote when an earlier pass began have ended, five
-- minutes are left for clocks that differ, and a transaction that is open has the instant of its start for its changes.
WITH progress AS (
    INSERT INTO /* schema */millhand_archive_cursor AS cursor (
        url, archived_at, archived_id, seen_at, seen_xid, worked_at, max_delay
    )
    VALUES (
        @url::text,
        '-infinity',
        0,
        coalesce(@now::timestamptz, now()),
        pg_current_xact_id(),
        coalesce(@now::timestamptz, now()),
        @max_delay::interval
    )
    ON CONFLICT (name) DO UPDATE
        SET max_delay = excluded.max_delay, url = coalesce(cursor.url, excluded.url)
    RETURNING cursor.*
),

instant AS (
    SELECT
        coalesce(@now::timestamptz, now()) AS at,
        (
            SELECT coalesce(min(activity.xact_start), 'infinity')
            FROM pg_stat_activity AS activity
            WHERE activity.datname = current_database() AND activity.pid <> pg_backend_pid()
        ) AS oldest_at
)

SELECT
    instant.at,
    -- Higher than the number of every transaction that has written something until now.
    pg_current_xact_id()::text AS xid,
    progress.archived_at::text,
    progress.archived_id,
    -- All transactions that wrote when the earlier pass began have ended.
    CASE
        WHEN pg_snapshot_xmin(pg_current_snapshot()) >= progress.seen_xid
            THEN least(
                progress.seen_at - @late::interval,
                -- One that is open for longer, such as a dump, only reads.
                greatest(instant.oldest_at, instant.at - @open_at_most::interval)
            )::text
    END AS horizon,
    -- The table was restored from another server, whose numbers are higher.
    coalesce(pg_snapshot_xmax(pg_current_snapshot()) < progress.seen_xid, FALSE) AS is_of_other_server,
    progress.worked_at < instant.at - progress.max_delay AS is_late,
    progress.waiting_id,
    -- The job that waited when the last pass ended was deleted before it was archived.
    (progress.waiting_at, progress.waiting_id) > (progress.archived_at, progress.archived_id)
    AND NOT EXISTS (SELECT FROM /* schema */river_job AS job WHERE job.id = progress.waiting_id) AS is_deleted,
    (SELECT max(leader.leader_id) FROM /* schema */river_leader AS leader) AS leader_id,
    progress.num_erasures,
    progress.url,
    EXISTS (SELECT FROM /* schema */millhand_archive_file) AS has_files
FROM progress
CROSS JOIN instant;

-- name: archive_page_settings
-- Set how this transaction plans, as for dead letters, and the zone of its times.
SELECT
    set_config('enable_bitmapscan', 'off', TRUE),
    set_config('enable_sort', 'off', TRUE),
    set_config('TimeZone', 'UTC', TRUE);

-- fragment: ended_jobs
    SELECT
        id,
        finalized_at
    FROM /* schema */river_job

-- fragment: archive_position
    finalized_at >= @after_at::text::timestamptz
    AND (finalized_at, id) > (@after_at::text::timestamptz, @after_id::bigint)
    AND finalized_at < @horizon::text::timestamptz
    ORDER BY finalized_at, id
    LIMIT @limit::integer

-- name: archive_page
-- Return the finished jobs after a position, those of one day, as lines of JSON. The page ends after @max_bytes.
WITH finished AS MATERIALIZED (
    SELECT
        finished.id,
        finished.finalized_at
    FROM (
        (/* ended_jobs */ WHERE state = 'cancelled' AND /* archive_position */)
        UNION ALL
        (/* ended_jobs */ WHERE state = 'completed' AND /* archive_position */)
        UNION ALL
        (/* ended_jobs */ WHERE state = 'discarded' AND /* archive_position */)
    ) AS finished
    ORDER BY finished.finalized_at, finished.id
    LIMIT @limit::integer
),

day AS MATERIALIZED (
    SELECT
        coalesce(
            @day::date,
            (
                SELECT (least(greatest(min(finished.finalized_at), '0001-01-01Z'), '9999-12-31Z') AT TIME ZONE 'UTC')::date
                FROM finished
            )
        ) AS day
),

-- The sizes as they are stored, which reads no large value.
sized AS MATERIALIZED (
    SELECT
        job.id,
        sum(pg_column_size(job.args) + coalesce(pg_column_size(job.errors), 0) + pg_column_size(job.metadata))
            OVER (ORDER BY job.finalized_at, job.id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS bytes_before
    FROM /* schema */river_job AS job
    WHERE job.id = ANY(ARRAY(SELECT finished.id FROM finished))
    AND (
        least(greatest(job.finalized_at, '0001-01-01Z'), '9999-12-31Z') AT TIME ZONE 'UTC'
    )::date = (SELECT day.day FROM day)
),

line AS MATERIALIZED (
    SELECT
        job.id,
        job.finalized_at,
        (
            SELECT row_to_json(line)::text
            FROM (
                SELECT
                    job.id,
                    job.kind,
                    job.queue,
                    job.state,
                    job.attempt,
                    job.max_attempts,
                    job.priority,
                    least(greatest(job.created_at, '0001-01-01Z'), '9999-12-31 23:59:59.999999Z') AS created_at,
                    least(greatest(job.scheduled_at, '0001-01-01Z'), '9999-12-31 23:59:59.999999Z') AS scheduled_at,
                    CASE WHEN job.attempted_at IS NOT NULL
                        THEN least(greatest(job.attempted_at, '0001-01-01Z'), '9999-12-31 23:59:59.999999Z')
                    END AS attempted_at,
                    least(greatest(job.finalized_at, '0001-01-01Z'), '9999-12-31 23:59:59.999999Z') AS finalized_at,
                    job.attempted_by,
                    job.tags,
                    CASE WHEN @is_nested::boolean THEN job.args::json ELSE to_json(job.args::text) END AS args,
                    CASE WHEN @is_nested::boolean THEN job.metadata::json ELSE to_json(job.metadata::text) END AS metadata,
                    CASE WHEN @is_nested::boolean THEN to_json(job.errors) ELSE to_json(to_jsonb(job.errors)::text) END
                        AS errors,
                    encode(job.unique_key, 'hex') AS unique_key,
                    job.unique_states::integer AS unique_states
            ) AS line
        ) AS text
    FROM /* schema */river_job AS job
    WHERE job.id = ANY(ARRAY(SELECT sized.id FROM sized WHERE coalesce(sized.bytes_before, 0) < @max_bytes::bigint))
),

taken AS MATERIALIZED (
    SELECT *
    FROM (
        SELECT
            line.*,
            coalesce(
                sum(octet_length(line.text))
                    OVER (ORDER BY line.finalized_at, line.id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
                0
            ) AS bytes_before
        FROM line
    ) AS line
    WHERE line.bytes_before < @max_bytes::bigint
)

SELECT
    (SELECT count(*) FROM finished) AS num_found,
    count(*) AS num_jobs,
    coalesce(string_agg(taken.text || E'\n', '' ORDER BY taken.finalized_at, taken.id), '') AS lines,
    coalesce(max(octet_length(taken.text)), 0) AS max_bytes,
    (SELECT day.day FROM day) AS day,
    least(greatest(min(taken.finalized_at), '0001-01-01Z'), '9999-12-31 23:59:59.999999Z') AS first_at,
    least(greatest(max(taken.finalized_at), '0001-01-01Z'), '9999-12-31 23:59:59.999999Z') AS last_at,
    min(taken.id) AS min_id,
    max(taken.id) AS max_id,
    max(taken.finalized_at)::text AS archived_at,
    (array_agg(taken.id ORDER BY taken.finalized_at DESC, taken.id DESC))[1] AS archived_id
FROM taken;

-- name: archive_file_begin
-- Record a file that is about to be written; return whether no erasure began since its jobs were read.
WITH progress AS MATERIALIZED (
    SELECT progress.num_erasures
    FROM /* schema */millhand_archive_cursor AS progress
    -- An erasure that begins meanwhile waits, and then finds the file.
    FOR SHARE
)

INSERT INTO /* schema */millhand_archive_file (
    key, day, state, first_at, last_at, min_id, max_id, num_jobs, num_bytes, begun_at
)
SELECT
    @key::text,
    @day::date,
    'writing',
    @first_at::timestamptz,
    @last_at::timestamptz,
    @min_id::bigint,
    @max_id::bigint,
    @num_jobs::bigint,
    @num_bytes::bigint,
    coalesce(@now::timestamptz, now())
-- Without a cursor no pass writes files, and erasures are not counted.
WHERE coalesce((SELECT progress.num_erasures FROM progress), 0) = @num_erasures::bigint
RETURNING key;

-- name: archive_file_commit
-- Add a file that was written, and move the cursor, if it is still where the file begins and no erasure began since;
-- return whether the file was added.
WITH file AS MATERIALIZED (
    SELECT file.key
    FROM /* schema */millhand_archive_file AS file
    WHERE file.key = @key::text AND file.state = 'writing'
    FOR UPDATE
),

moved AS (
    UPDATE /* schema */millhand_archive_cursor AS progress
    SET
        archived_at = @archived_at::text::timestamptz,
        archived_id = @archived_id::bigint,
        worked_at = coalesce(@now::timestamptz, now())
    WHERE (progress.archived_at, progress.archived_id) = (@from_at::text::timestamptz, @from_id::bigint)
    AND progress.num_erasures = @num_erasures::bigint
    AND EXISTS (SELECT FROM file)
    RETURNING progress.name
),

added AS (
    UPDATE /* schema */millhand_archive_file AS file
    SET state = 'ready'
    WHERE file.key = @key::text
    AND EXISTS (SELECT FROM moved)
    RETURNING file.key
)

SELECT count(*) = 1 AS is_added FROM added;

-- name: archive_end
-- Record that a pass has archived all jobs below its horizon, and which job waits for the next one.
WITH waiting AS MATERIALIZED (
    SELECT
        finished.id,
        finished.finalized_at
    FROM (
        SELECT
            first.id,
            first.finalized_at
        FROM unnest(enum_range(NULL::/* schema */river_job_state)) AS ended (state)
        CROSS JOIN LATERAL (
            SELECT
                job.id,
                job.finalized_at
            FROM /* schema */river_job AS job
            WHERE job.state = ended.state
            AND job.finalized_at >= coalesce(
                @horizon::text::timestamptz,
                (SELECT progress.archived_at FROM /* schema */millhand_archive_cursor AS progress)
            )
            ORDER BY job.finalized_at, job.id
            LIMIT 1
        ) AS first
        WHERE ended.state IN ('cancelled', 'completed', 'discarded')
    ) AS finished
    ORDER BY finished.finalized_at, finished.id
    LIMIT 1
)

UPDATE /* schema */millhand_archive_cursor AS progress
SET
    (archived_at, archived_id) = (
        SELECT
            CASE WHEN is_behind THEN @horizon::text::timestamptz ELSE progress.archived_at END,
            CASE WHEN is_behind THEN 0 ELSE progress.archived_id END
        FROM (
            SELECT
                coalesce(
                    (progress.archived_at, progress.archived_id) = (@from_at::text::timestamptz, @from_id::bigint)
                    AND progress.archived_at < @horizon::text::timestamptz,
                    FALSE
                ) AS is_behind
        ) AS comparison
    ),
    seen_at = CASE WHEN @is_seen::boolean THEN @seen_at::timestamptz ELSE progress.seen_at END,
    seen_xid = CASE WHEN @is_seen::boolean THEN @seen_xid::text::xid8 ELSE progress.seen_xid END,
    waiting_at = (SELECT waiting.finalized_at FROM waiting),
    waiting_id = (SELECT waiting.id FROM waiting),
    worked_at = CASE WHEN @horizon::text IS NULL THEN progress.worked_at ELSE coalesce(@now::timestamptz, now()) END;

-- name: archive_file_expire
-- Mark files that a killed pass left, and those that are older than @keep, so that they are deleted.
UPDATE /* schema */millhand_archive_file AS file
SET state = 'removed'
WHERE
    (file.state IN ('writing', 'abandoned')
        AND file.begun_at < coalesce(@now::timestamptz, now()) - @unfinished_for::interval)
    OR (file.state = 'ready' AND file.last_at < coalesce(@now::timestamptz, now()) - @keep::interval);

-- name: archive_file_drop
-- Mark a file that was written in vain, so that it is deleted.
UPDATE /* schema */millhand_archive_file AS file
SET state = 'removed'
WHERE file.key = @key::text AND file.state IN ('writing', 'abandoned');

-- name: archive_erase_begin
-- Count an erasure, so that no process adds a file with jobs that it read earlier; return the new number.
UPDATE /* schema */millhand_archive_cursor AS progress
SET num_erasures = progress.num_erasures + 1
RETURNING progress.num_erasures;

-- name: archive_file_abandon
-- Mark the files that are being written, or that a killed process left, so that none of them is added. Each follows
-- `archive_erase_begin`.
UPDATE /* schema */millhand_archive_file AS file
SET state = 'abandoned'
WHERE file.state = 'writing';

-- name: archive_file_replace
-- Put a file that was written in the place of another, or remove that; return whether the other was still there.
WITH removed AS (
    UPDATE /* schema */millhand_archive_file AS file
    SET state = 'removed'
    WHERE file.key = @key::text
    AND file.state = 'ready'
    AND (
        @new_key::text IS NULL
        OR EXISTS (
            SELECT FROM /* schema */millhand_archive_file AS new
            WHERE new.key = @new_key::text AND new.state = 'writing'
            FOR UPDATE
        )
    )
    RETURNING file.key
),

added AS (
    UPDATE /* schema */millhand_archive_file AS file
    SET state = 'ready'
    WHERE file.key = @new_key::text
    AND EXISTS (SELECT FROM removed)
    RETURNING file.key
)

SELECT
    count(*) = 1 AS is_replaced,
    (SELECT count(*) FROM added) AS num_added
FROM removed;

-- name: archive_file_get_removed
-- Return the keys of files that are to be deleted, those after a key.
SELECT file.key
FROM /* schema */millhand_archive_file AS file
WHERE file.state IN ('removed', 'abandoned')
AND file.key > @after::text
ORDER BY file.key
LIMIT @limit::integer;

-- name: archive_file_forget
-- Delete the rows of files whose objects were deleted. The object of an abandoned file may still come.
DELETE FROM /* schema */millhand_archive_file AS file
WHERE file.key = ANY(@keys::text []) AND file.state = 'removed';

-- name: archive_get_url
-- Return the store of the files, or NULL if the next pass writes its own.
SELECT (SELECT progress.url FROM /* schema */millhand_archive_cursor AS progress) AS url;

-- name: archive_file_has
-- Return whether a file is there for readers.
SELECT EXISTS (
    SELECT FROM /* schema */millhand_archive_file AS file
    WHERE file.key = @key::text AND file.state = 'ready'
) AS is_there;

-- name: archive_file_list
-- Return the files that may hold jobs of a time and an id, the newest first.
SELECT
    file.key,
    file.day,
    file.first_at,
    file.last_at,
    file.num_jobs,
    file.num_bytes
FROM /* schema */millhand_archive_file AS file
WHERE file.state = 'ready'
AND file.last_at >= coalesce(@since::timestamptz, '-infinity')
AND file.first_at < coalesce(@until::timestamptz, 'infinity')
AND (@id::bigint IS NULL OR @id::bigint BETWEEN file.min_id AND file.max_id)
ORDER BY file.last_at DESC, file.key DESC
LIMIT @limit::bigint;

-- name: archive_restore
-- Insert an archived job again, under its id and available now, unless its row is there.
INSERT INTO /* schema */river_job AS job (/* restored_columns */)
VALUES (
    @id::bigint,
    @args::text::jsonb,
    @attempt::smallint,
    @attempted_at::timestamptz,
    @attempted_by::text [],
    @created_at::timestamptz,
    @errors::text []::jsonb [],
    @kind::text,
    -- As a retry of a discarded job.
    CASE
        WHEN @attempt::integer = @max_attempts::integer THEN least(@max_attempts::integer, 32766) + 1
        ELSE @max_attempts::integer
    END,
    CASE jsonb_typeof(@metadata::text::jsonb)
        WHEN 'object' THEN @metadata::text::jsonb - 'cancel_attempted_at'
        ELSE @metadata::text::jsonb
    END,
    @priority::smallint,
    @queue::text,
    coalesce(@now::timestamptz, now()),
    'available',
    @tags::text []::varchar (255) [],
    decode(@unique_key::text, 'hex'),
    @unique_states::integer::bit (8)
)
ON CONFLICT (id) DO NOTHING
RETURNING
    /* job_columns */;
