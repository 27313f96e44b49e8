"""
The blobs of jobs, as a source that no one needs to declare: the rows of jobs name them.

Rule 1: a row in any state keeps the objects that its args and its output name. When the row is deleted, they are orphans by
        the usual rules.
Rule 2: every table of Millhand and River in the database counts, in each schema. If one cannot be read, the run ends.
Rule 3: the source is added if the bucket has a blob. All other runs are as before.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

from millhand.core.blob import BLOB_KEY, BLOB_PREFIX
from millhand.core.orphans import BLOB_PATTERN, BLOB_SOURCE, OrphansConfig, ReferenceSource
from millhand.db.driver.protocol import Executor
from millhand.orphans.sources.key_sql import literal, quoted
from millhand.storage import ObjectStore, StoreError

# Tables with args or metadata of jobs, in the schemas that River migrated: also those that later versions add.
TABLES = """
SELECT
    namespace.nspname::text AS schema,
    class.relname::text AS name,
    attribute.attname::text AS column_name
FROM pg_catalog.pg_class AS class
INNER JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
INNER JOIN pg_catalog.pg_attribute AS attribute ON attribute.attrelid = class.oid
WHERE
    class.relname ~ '^(river|millhand)_'
    AND class.relkind IN ('r', 'p')
    AND NOT class.relispartition
    AND attribute.attname IN ('args', 'metadata')
    AND attribute.atttypid = 'jsonb'::regtype
    AND NOT attribute.attisdropped
    AND EXISTS (
        SELECT FROM pg_catalog.pg_class AS migration
        WHERE migration.relnamespace = class.relnamespace AND migration.relname = 'river_migration'
    )
ORDER BY 1, 2, 3
"""
# The condition is the faster of the two, and nearly all rows fail it. The strict path returns each value once.
HAS_BLOB = literal(f'$.**."{BLOB_KEY}"')
BLOBS = literal(f'strict $.**."{BLOB_KEY}"')


async def with_blobs(executor: Executor, store: ObjectStore, config: OrphansConfig) -> OrphansConfig:
    """Return the settings with the source of blobs, if the store has any. Raises: DriverError; StoreError."""
    try:
        has_blobs = await _has_blobs(store)
    except StoreError:
        if config.sources:
            raise
        return config  # the run has nothing to compare, and its caller reports that first
    if not has_blobs:
        return config
    tables = await executor.fetch(TABLES)
    if not tables:
        return config
    source = ReferenceSource(
        name=BLOB_SOURCE, select="\nUNION ALL\n".join(map(_keys_sql, tables)), min_rows=0, prepend=BLOB_PREFIX
    )
    patterns = (*config.key_patterns, BLOB_PATTERN) if config.key_patterns else ()
    return replace(config, sources=(*config.sources, source), key_patterns=patterns)


async def _has_blobs(store: ObjectStore) -> bool:
    async with contextlib.aclosing(store.list_pages(prefix=BLOB_PREFIX, page_size=1)) as pages:
        async for page in pages:
            if page.keys:
                return True
    return False


def _keys_sql(table: dict[str, object]) -> str:
    """Return the SELECT of the keys that one column names, without the prefix."""
    key = "blob ->> 'key'"
    place = f"{quoted(str(table['schema']))}.{quoted(str(table['name']))}"
    column = quoted(str(table["column_name"]))
    return (
        f"SELECT substr({key}, {len(BLOB_PREFIX) + 1}) AS key\n"
        f"FROM {place} AS job\n"
        f"CROSS JOIN LATERAL jsonb_path_query(job.{column}, {BLOBS}) AS blob\n"
        f"WHERE job.{column} @? {HAS_BLOB} AND starts_with({key}, {literal(BLOB_PREFIX)})"
    )
