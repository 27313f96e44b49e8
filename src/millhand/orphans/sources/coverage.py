"""
Which of the searched tables a source reads, so that a key in them is declared.

A source reads the rows of its table, of the table's partitions, and of tables that inherit from it. A partition that is a
source covers its own rows only, although the search reads them together with the whole table.

Source: PostgreSQL, "System Catalogs" (pg_inherits), "Table Partitioning", "Inheritance".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from millhand.db.driver.protocol import Executor
from millhand.orphans.sources.key_sql import quoted_table
from millhand.orphans.sources.query_plan import relations_read
from millhand.orphans.sources.statements import SourceStatements

BELOW = """
WITH RECURSIVE below AS (
    SELECT to_regclass($1::text)::oid AS relation
    UNION
    SELECT inhrelid FROM below JOIN pg_catalog.pg_inherits ON inhparent = relation
)
SELECT relation::bigint AS relation, coalesce(pg_partition_root(relation)::oid, relation)::bigint AS root
FROM below
WHERE relation IS NOT NULL
"""
BEHIND = """
SELECT class.oid::bigint AS relation, coalesce(pg_partition_root(class.oid)::oid, class.oid)::bigint AS root
FROM unnest($1::text[], $2::text[]) AS one (schema, name)
JOIN pg_catalog.pg_namespace AS namespace ON namespace.nspname = one.schema
JOIN pg_catalog.pg_class AS class ON class.relnamespace = namespace.oid AND class.relname = one.name
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """
    The tables that one source reads, by oid.

    `tables` are its table and what is below it. `roots` are the partitioned tables that these are parts of. `behind` are the
    tables behind a SELECT or a view, of which the source may leave out rows.
    """

    statements: SourceStatements
    tables: frozenset[int]
    roots: frozenset[int]
    behind: frozenset[int]

    @property
    def name(self) -> str:
        return self.statements.source.name

    def is_of(self, oid: int) -> bool:
        """Return whether the source reads rows of a searched table, or of a part of it."""
        return oid in self.tables or oid in self.roots

    def condition(self, oid: int) -> str | None:
        """Return the condition on those rows of a partitioned table that the source reads; None if it reads all."""
        if oid in self.tables:
            return None
        return f"tableoid IN ({', '.join(map(str, sorted(self.tables)))})"


async def coverage_of(
    executor: Executor, statements: Iterable[SourceStatements], timeout_seconds: float
) -> list[Coverage]:
    """Return what each source covers. Raises: DriverError; OperationTimeout."""
    return [await _coverage(executor, one, timeout_seconds) for one in statements]


async def _coverage(executor: Executor, one: SourceStatements, timeout_seconds: float) -> Coverage:
    table = one.source.table
    below = [] if table is None else await executor.fetch(BELOW, [quoted_table(table)])
    behind = []
    if not one.is_of_table:
        read = await relations_read(executor, *one.range_sql("", None, 1), timeout_seconds)
        behind = await executor.fetch(BEHIND, [[schema for schema, _ in read], [name for _, name in read]])
    return Coverage(
        statements=one,
        tables=frozenset(row["relation"] for row in below),
        roots=frozenset(row["root"] for row in below),
        behind=frozenset(oid for row in behind for oid in row.values()),
    )
