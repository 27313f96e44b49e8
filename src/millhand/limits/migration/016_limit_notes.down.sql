-- What code declares is written again if it differs, so that its notes come back with another migration to version 16.
UPDATE /* schema */millhand_limit
SET declared = declared - 'note'
WHERE declared ? 'note';

ALTER TABLE /* schema */millhand_limit
    DROP COLUMN note;
