"""Empty the tables of a migrated schema after a test."""

from __future__ import annotations

from collections.abc import Sequence

from millhand.db.driver.protocol import Executor

# Empty all tables of a schema but the record of migrations. TRUNCATE creates new files, which takes a hundred
# milliseconds for all tables; DELETE takes two, but leaves dead rows, so a table that has grown is truncated.
EMPTY = """
DO $body$
DECLARE
    name text;
    is_small boolean;
BEGIN
    -- Drop what a test created itself; empty what migrations created, and what it shall keep.
    FOR name IN
        SELECT format('%I.%I', schemaname, tablename)
        FROM pg_tables
        WHERE schemaname = /* schema_name */ AND tablename NOT LIKE 'river%' AND tablename NOT LIKE 'millhand%'
            AND NOT tablename = ANY (/* keep */)
    LOOP
        EXECUTE 'DROP TABLE ' || name || ' CASCADE';
    END LOOP;
    FOR name, is_small IN
        SELECT oid::regclass, pg_relation_size(oid) <= 65536
        FROM pg_class
        WHERE relnamespace = /* schema_name */::text::regnamespace AND relkind = 'r' AND relname <> 'river_migration'
    LOOP
        EXECUTE CASE WHEN is_small THEN 'DELETE FROM ' ELSE 'TRUNCATE ' END || name;
    END LOOP;
    PERFORM setval(seqrelid, seqstart, false)
    FROM pg_sequence
    JOIN pg_class ON oid = seqrelid
    WHERE relnamespace = /* schema_name */::text::regnamespace;
END
$body$
"""


async def empty_schema(executor: Executor, *, timeout_seconds: float, keep: Sequence[str] = ()) -> None:
    """Delete all rows of Millhand's and River's tables and of `keep`, drop all other tables, restart the sequences."""
    names = ", ".join(f"'{name}'" for name in keep)
    script = EMPTY.replace("/* keep */", f"ARRAY[{names}]::text []")
    await executor.execute_script(script, timeout_seconds=timeout_seconds)
