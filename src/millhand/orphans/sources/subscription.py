"""
Detect source tables that a logical subscription fills.

Such a table is a copy: a row that its publisher has committed is missing here until the subscription applies it. While the
subscription is disabled or behind, the objects of new rows look like orphans.

Source: PostgreSQL, "Logical Replication", "System Catalogs" (pg_subscription, pg_subscription_rel).
"""

from __future__ import annotations

from collections.abc import Sequence

from millhand.core.errors import ConfigError
from millhand.db.driver.protocol import Executor
from millhand.orphans.sources.query_plan import relations_read

# A publisher may publish the changes of partitions as those of their table.
SUBSCRIBED = """
WITH read AS (
    SELECT class.oid
    FROM unnest($1::text[], $2::text[]) AS one (schema, name)
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.nspname = one.schema
    JOIN pg_catalog.pg_class AS class ON class.relnamespace = namespace.oid AND class.relname = one.name
)
SELECT subname::text AS name, subenabled AS is_enabled, srrelid::regclass::text AS relation
FROM pg_catalog.pg_subscription_rel
JOIN pg_catalog.pg_subscription AS subscription ON subscription.oid = srsubid
WHERE
    srrelid IN (SELECT oid FROM read)
    OR srrelid IN (SELECT relid FROM read CROSS JOIN LATERAL pg_partition_ancestors(read.oid) AS ancestor (relid))
ORDER BY 1, 3
LIMIT 1
"""


async def check_subscriptions(
    tx: Executor, source: str, query: tuple[str, Sequence[object]], timeout_seconds: float
) -> None:
    """Check that no subscription fills a table that a query of a source reads. Raises: ConfigError; DriverError."""
    relations = await relations_read(tx, *query, timeout_seconds)
    for found in await tx.fetch(
        SUBSCRIBED, [[schema for schema, _ in relations], [name for _, name in relations]]
    ):
        state = "enabled" if found["is_enabled"] else "disabled"
        raise ConfigError(
            f"orphans source {source!r} must read tables that this database itself writes, got {found['relation']!r}, which "
            f"subscription {found['name']!r} ({state}) fills and which may lag behind; give the DATABASE_URL of the "
            "publisher, or drop a subscription that is no longer used"
        )
