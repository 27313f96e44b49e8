-- Bits are counted from the left, as get_bit counts them.
CREATE OR REPLACE FUNCTION /* schema */river_job_state_in_bitmask(
    bitmask bit(8), state /* schema */river_job_state
)
RETURNS boolean LANGUAGE sql IMMUTABLE AS $body$
    SELECT CASE state
        WHEN 'scheduled' THEN get_bit(bitmask, 0)
        WHEN 'running' THEN get_bit(bitmask, 1)
        WHEN 'retryable' THEN get_bit(bitmask, 2)
        WHEN 'pending' THEN get_bit(bitmask, 3)
        WHEN 'discarded' THEN get_bit(bitmask, 4)
        WHEN 'completed' THEN get_bit(bitmask, 5)
        WHEN 'cancelled' THEN get_bit(bitmask, 6)
        WHEN 'available' THEN get_bit(bitmask, 7)
        ELSE 0
    END = 1
$body$;

-- IF NOT EXISTS: on a large table all three may have been made beforehand, the index CONCURRENTLY.
ALTER TABLE /* schema */river_job ADD COLUMN IF NOT EXISTS unique_states bit(8);
-- One that could not be finished beforehand is invalid. The table is locked by now, so nobody builds it at this moment.
DO $body$
BEGIN
    IF EXISTS (
        SELECT
        FROM pg_index
        WHERE indexrelid = to_regclass('/* schema */river_job_unique_idx')
        AND NOT indisvalid
    ) THEN
        DROP INDEX /* schema */river_job_unique_idx;
    END IF;
END
$body$;
CREATE UNIQUE INDEX IF NOT EXISTS river_job_unique_idx ON /* schema */river_job (unique_key)
    WHERE unique_key IS NOT NULL
    AND unique_states IS NOT NULL
    AND /* schema */river_job_state_in_bitmask(unique_states, state);

DROP INDEX /* schema */river_job_kind_unique_key_idx;
