-- name: orphan_database_facts
-- Return what the guards need to know about this database.
SELECT
    now(),
    pg_is_in_recovery(),
    current_setting('server_encoding');

-- name: orphan_run_get_unfinished
-- Return the run over a bucket that has not ended. Its heartbeat is recent if a process is at work.
SELECT /* orphan_run_columns */
FROM /* schema */millhand_orphan_run
WHERE bucket = @bucket AND finished_at IS NULL;

-- name: orphan_run_get_scanned
-- Return the last run that scanned all of a prefix, if it had the same sources. A fingerprint begins with that of its prefix.
SELECT /* orphan_run_columns */
FROM (
    SELECT *
    FROM /* schema */millhand_orphan_run
    WHERE
        bucket = @bucket AND scanned_at IS NOT NULL
        AND split_part(fingerprint, '-', 1) = split_part(@fingerprint::text, '-', 1)
    ORDER BY id DESC
    LIMIT 1
) AS run
WHERE fingerprint = @fingerprint::text;

-- name: orphan_run_get_most_rows
-- Return the highest number of rows of each source that runs with these sources counted, since before anything that is due
-- now lost its row. The last run that could remove and did not abort would have removed what it first saw a grace earlier. So
-- the count of the last run before that span is the oldest one that matters. Reports and aborted runs remove nothing.
WITH scanned AS (
    SELECT scanned_at, state = 'completed' AND mode <> 'report' AS is_passed, totals -> 'rows_of' AS rows_of
    FROM /* schema */millhand_orphan_run
    WHERE bucket = @bucket AND fingerprint = @fingerprint AND scanned_at IS NOT NULL
), passed AS (
    SELECT coalesce(max(scanned_at) FILTER (WHERE is_passed), @now::timestamptz) AS last_at
    FROM scanned
), oldest AS (
    SELECT max(scanned_at) AS scanned_at
    FROM scanned, passed
    WHERE scanned_at <= last_at - @span::interval
)
SELECT source.name, max(source.num_rows::bigint)
FROM scanned
CROSS JOIN LATERAL jsonb_each_text(scanned.rows_of) AS source (name, num_rows)
WHERE scanned.scanned_at >= coalesce((SELECT oldest.scanned_at FROM oldest), '-infinity')
GROUP BY source.name;

-- name: orphan_run_insert
-- Insert a run. Returns no row if another run over the bucket was inserted first.
INSERT INTO /* schema */millhand_orphan_run AS run
    (bucket, mode, fingerprint, started_at, heartbeat_at, is_ordered)
VALUES
    (@bucket, @mode, @fingerprint, @now::timestamptz, @now::timestamptz, @is_ordered)
ON CONFLICT (bucket) WHERE finished_at IS NULL DO NOTHING
RETURNING /* orphan_run_columns */;

-- name: orphan_run_take_over
-- Take over a run whose process died. The new epoch locks the old process out if it is alive after all.
UPDATE /* schema */millhand_orphan_run AS run
SET epoch = epoch + 1, heartbeat_at = @now::timestamptz
WHERE id = @id AND epoch = @epoch AND finished_at IS NULL
RETURNING /* orphan_run_columns */;

-- name: orphan_run_beat
-- Write the run's heartbeat. Returns one row if the process still holds the run.
UPDATE /* schema */millhand_orphan_run
SET heartbeat_at = coalesce(@now::timestamptz, now())
WHERE id = @id AND epoch = @epoch AND finished_at IS NULL
RETURNING 1;

-- name: orphan_run_restart
-- Start the scan again from the first key, because the listing is unordered.
UPDATE /* schema */millhand_orphan_run
SET is_ordered = false, cursor_key = '', totals = '{}'
WHERE id = @id AND epoch = @epoch AND finished_at IS NULL
RETURNING 1;

-- name: orphan_run_scanned
-- Record that the run scanned the whole bucket.
UPDATE /* schema */millhand_orphan_run
SET state = 'sweeping', scanned_at = @now::timestamptz, heartbeat_at = coalesce(@beat_at::timestamptz, now())
WHERE id = @id AND epoch = @epoch AND finished_at IS NULL
RETURNING 1;

-- name: orphan_run_finish
-- Record how the run ended.
UPDATE /* schema */millhand_orphan_run
SET
    state = @state,
    finished_at = coalesce(@now::timestamptz, now()),
    totals = coalesce(@totals::text::jsonb, totals),
    abort_reasons = @abort_reasons::text[],
    error = @error::text
WHERE id = @id AND epoch = @epoch AND finished_at IS NULL
RETURNING 1;

-- name: orphan_run_list
-- List runs over all buckets, newest first.
SELECT /* orphan_run_columns */
FROM /* schema */millhand_orphan_run
ORDER BY id DESC
LIMIT @limit;

-- fragment: orphan_run_columns
id, bucket, mode, fingerprint, state, epoch, started_at, heartbeat_at, scanned_at, finished_at,
    cursor_key, is_ordered, totals::text, abort_reasons, error

-- name: orphan_finding_get_many
-- Return what earlier runs recorded about these keys.
SELECT /* orphan_finding_columns */
FROM /* schema */millhand_orphan_finding
WHERE bucket = @bucket AND key = ANY(@keys::text[]);

-- name: orphan_finding_put_many
-- Record findings of this run, in place of earlier findings about the same object or row.
INSERT INTO /* schema */millhand_orphan_finding AS finding (
    bucket, run_id, last_seen_at, key, source, row_id, kind, reference, rule, is_present, size, etag, modified_at,
    first_seen_at, sightings, note, row_version
)
SELECT @bucket, @run_id, @now::timestamptz, input.*
FROM unnest(
    @keys::text[],
    @sources::text[],
    @row_ids::text[],
    @kinds::text[],
    @references::text[],
    @rules::integer[],
    @are_present::boolean[],
    @sizes::bigint[],
    @etags::text[],
    @modified_ats::timestamptz[],
    @first_seen_ats::timestamptz[],
    @sightings::integer[],
    @notes::text[],
    @row_versions::text[]
) AS input
ON CONFLICT (bucket, key, source, row_id) DO UPDATE
SET
    run_id = excluded.run_id,
    last_seen_at = excluded.last_seen_at,
    kind = excluded.kind,
    reference = excluded.reference,
    rule = excluded.rule,
    is_present = excluded.is_present,
    size = excluded.size,
    etag = excluded.etag,
    modified_at = excluded.modified_at,
    first_seen_at = excluded.first_seen_at,
    sightings = excluded.sightings,
    note = excluded.note,
    row_version = excluded.row_version;

-- name: orphan_finding_get_due
-- Return the next findings of a run with one of these rules, without keys whose last move is not settled.
SELECT /* orphan_finding_columns */
FROM /* schema */millhand_orphan_finding AS finding
WHERE
    run_id = @run_id AND rule = ANY(@rules::integer[]) AND id > @after
    AND NOT EXISTS (
        SELECT FROM /* schema */millhand_orphan_action AS action
        WHERE action.bucket = finding.bucket AND action.key = finding.key AND action.state = 'intended'
    )
ORDER BY id
LIMIT @limit;

-- name: orphan_finding_delete_many
-- Delete findings that no longer apply.
DELETE FROM /* schema */millhand_orphan_finding
WHERE id = ANY(@ids::bigint[]);

-- name: orphan_finding_delete_restored
-- Delete what is known about the objects of these actions, so that their grace begins anew. A newer object keeps its age.
DELETE FROM /* schema */millhand_orphan_finding AS finding
USING /* schema */millhand_orphan_action AS action
WHERE
    action.id = ANY(@action_ids::bigint[])
    AND finding.bucket = action.bucket AND finding.key = action.key
    AND finding.is_present AND finding.etag = action.etag AND finding.size = action.size;

-- name: orphan_finding_delete_new
-- Delete what a run saw for the first time. A row that an aborted run does not find must not age its object.
DELETE FROM /* schema */millhand_orphan_finding
WHERE bucket = @bucket AND run_id = @run_id AND first_seen_at = last_seen_at AND sightings = 0;

-- name: orphan_finding_list
-- List findings by id.
SELECT /* orphan_finding_columns */
FROM /* schema */millhand_orphan_finding
WHERE
    (@bucket::text IS NULL OR bucket = @bucket)
    AND (@kind::text IS NULL OR kind = @kind)
    AND id > @after
ORDER BY id
LIMIT @limit;

-- name: orphan_finding_list_keys
-- List keys with findings of earlier runs, in order. An incomplete upload has no object to look up.
SELECT DISTINCT key
FROM /* schema */millhand_orphan_finding
WHERE
    bucket = @bucket
    AND key > @after
    AND (@up_to::text IS NULL OR key <= @up_to)
    AND run_id <> @run_id
    AND kind <> 'upload'
ORDER BY key
LIMIT @limit;

-- name: orphan_finding_summarize
-- Sum up the findings of a bucket by kind, with the keys of the largest objects.
WITH ranked AS (
    SELECT kind, key, size, row_number() OVER (PARTITION BY kind ORDER BY size DESC, key) AS place
    FROM /* schema */millhand_orphan_finding
    WHERE bucket = @bucket
)
SELECT
    kind,
    count(*)::bigint,
    sum(size)::bigint,
    array_agg(key ORDER BY place) FILTER (WHERE place <= @examples::bigint)
FROM ranked
GROUP BY kind
ORDER BY kind;

-- fragment: orphan_finding_columns
id, bucket, key, source, row_id, kind, reference, rule, is_present, size, etag, modified_at, first_seen_at, last_seen_at,
    sightings, run_id, note, row_version

-- name: orphan_action_insert_many
-- Record actions before they are carried out.
INSERT INTO /* schema */millhand_orphan_action (
    run_id, bucket, created_at, updated_at,
    key, rule, state, size, etag, modified_at, quarantine_key, source, table_name, row_id, row_json, cascaded_json
)
SELECT
    @run_id, @bucket, coalesce(@now::timestamptz, now()), coalesce(@now::timestamptz, now()),
    key, rule, state, size, etag, modified_at, quarantine_key, source, table_name, row_id, row_json::jsonb,
    cascaded_json::jsonb
FROM unnest(
    @keys::text[],
    @rules::integer[],
    @states::text[],
    @sizes::bigint[],
    @etags::text[],
    @modified_ats::timestamptz[],
    @quarantine_keys::text[],
    @sources::text[],
    @table_names::text[],
    @row_ids::text[],
    @row_jsons::text[],
    @cascaded_jsons::text[]
) WITH ORDINALITY AS input (
    key, rule, state, size, etag, modified_at, quarantine_key, source, table_name, row_id, row_json, cascaded_json,
    position
)
ORDER BY position
RETURNING /* orphan_action_columns */;

-- name: orphan_action_set_state_many
-- Record the new state of actions, unless another process has changed it meanwhile.
UPDATE /* schema */millhand_orphan_action AS action
SET state = input.state, reason = input.reason, updated_at = coalesce(@now::timestamptz, now())
FROM unnest(@ids::bigint[], @states::text[], @reasons::text[]) AS input (id, state, reason)
WHERE action.id = input.id AND (@was::text IS NULL OR action.state = @was);

-- name: orphan_action_announce_purge
-- Record that quarantined objects are about to be destroyed. Returns the actions whose objects still are in quarantine, and
-- whose time has not begun anew since they were read.
UPDATE /* schema */millhand_orphan_action AS action
SET reason = @reason
FROM unnest(@ids::bigint[], @updated_ats::timestamptz[]) AS input (read_id, read_updated_at)
WHERE action.id = input.read_id AND action.state = 'quarantined' AND action.updated_at = input.read_updated_at
RETURNING action.id;

-- name: orphan_action_claim
-- Let the time in quarantine of an object begin anew, so that no run destroys it while it is restored. Returns the action as
-- it is then: its reason says whether a run has begun to destroy the object.
UPDATE /* schema */millhand_orphan_action
SET updated_at = CASE WHEN state = 'quarantined' THEN coalesce(@now::timestamptz, now()) ELSE updated_at END
WHERE id = @id
RETURNING /* orphan_action_columns */;

-- name: orphan_action_get_open
-- Return the next actions on a bucket that are not finished.
-- Not `=`: by ranges, the order is one that only their own index has. By `=`, a plan may read the primary key through the
-- finished actions and those of other buckets.
SELECT /* orphan_action_columns */
FROM /* schema */millhand_orphan_action
WHERE
    bucket BETWEEN @bucket AND @bucket
    AND state BETWEEN @state AND @state
    AND state IN ('intended', 'quarantined')
    AND (@updated_before::timestamptz IS NULL OR updated_at <= @updated_before)
    AND id > @after
ORDER BY bucket, state, id
LIMIT @limit;

-- name: orphan_action_get_quarantined
-- Return the actions on these keys whose objects are in quarantine, newest first.
SELECT /* orphan_action_columns */
FROM /* schema */millhand_orphan_action
WHERE bucket = @bucket AND key = ANY(@keys::text[]) AND state = 'quarantined'
ORDER BY id DESC;

-- name: orphan_action_get_outranked
-- Return which quarantined actions are newer than the object that was restored to their key.
SELECT newer.id
FROM /* schema */millhand_orphan_action AS newer
WHERE
    newer.id = ANY(@ids::bigint[])
    AND EXISTS (
        SELECT FROM /* schema */millhand_orphan_action AS older
        WHERE
            older.bucket = newer.bucket AND older.key = newer.key AND older.id < newer.id
            AND older.state = 'restored' AND older.updated_at >= newer.created_at
    );

-- name: orphan_action_sum_quarantined
-- Return how many bytes of a bucket are in quarantine.
SELECT coalesce(sum(size), 0)::bigint
FROM /* schema */millhand_orphan_action
WHERE bucket = @bucket AND state = 'quarantined';

-- name: orphan_action_get_by_key
-- Return the actions on these keys, newest first.
SELECT /* orphan_action_columns */
FROM /* schema */millhand_orphan_action
WHERE bucket = @bucket AND key = ANY(@keys::text[])
ORDER BY id DESC
LIMIT @limit;

-- name: orphan_action_raise_alert
-- Record the first alert of each action, and return the actions that had none.
UPDATE /* schema */millhand_orphan_action AS action
SET alert = input.alert, alerted_at = @now::timestamptz
FROM unnest(@ids::bigint[], @alerts::text[]) AS input (asked_id, alert)
WHERE action.id = input.asked_id AND action.alert IS NULL
RETURNING /* orphan_action_alerted */;

-- name: orphan_action_get_restorable
-- Return the next actions that can be undone, by run, by prefix or by key, newest first. 0 is before the newest.
SELECT /* orphan_action_columns */
FROM /* schema */millhand_orphan_action
WHERE
    bucket = @bucket
    AND state IN ('intended', 'quarantined', 'row_deleted', 'purged', 'restored', 'aborted')
    AND (@run_id::bigint IS NULL OR run_id = @run_id)
    AND (@prefix::text IS NULL OR starts_with(key, @prefix))
    AND (@key::text IS NULL OR key = @key)
    AND (@before::bigint = 0 OR id < @before)
ORDER BY id DESC
LIMIT @limit;

-- fragment: orphan_action_alerted
action.id, run_id, bucket, key, rule, state, reason, size, etag, modified_at, quarantine_key, source, table_name, row_id,
    row_json::text, created_at, updated_at, action.alert, alerted_at, cascaded_json::text

-- fragment: orphan_action_columns
id, run_id, bucket, key, rule, state, reason, size, etag, modified_at, quarantine_key, source, table_name, row_id,
    row_json::text, created_at, updated_at, alert, alerted_at, cascaded_json::text
