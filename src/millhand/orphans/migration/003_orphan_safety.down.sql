DROP TABLE /* schema */millhand_orphan_binding;

DELETE FROM /* schema */millhand_orphan_finding
WHERE kind IN ('near_match', 'upload', 'recalled', 'waiting');

ALTER TABLE /* schema */millhand_orphan_finding
    DROP COLUMN note,
    DROP COLUMN row_version,
    DROP CONSTRAINT kind_is_known,
    ADD CONSTRAINT kind_is_known CHECK (kind IN ('orphan', 'abandoned', 'missing', 'size_mismatch', 'shared'));

UPDATE /* schema */millhand_orphan_action
SET state = 'kept'
WHERE state = 'aborted';

ALTER TABLE /* schema */millhand_orphan_action
    DROP COLUMN alert,
    DROP COLUMN alerted_at,
    DROP COLUMN cascaded_json,
    DROP CONSTRAINT state_is_known,
    ADD CONSTRAINT state_is_known CHECK (
        state IN ('intended', 'quarantined', 'row_deleted', 'purged', 'restored', 'kept')
    );
