"""A small application with uploads: rows in PostgreSQL, objects in a directory, and runs that compare them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from millhand.db.driver.protocol import Executor
from millhand.orphans import Mode, OrphansConfig, ReferenceSource, RunReport, reconcile
from millhand.storage import ObjectInfo, ObjectStore

DAY = timedelta(days=1)
TABLES = """
CREATE TABLE IF NOT EXISTS {schema}.uploads (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key text,
    state text NOT NULL DEFAULT 'ready',
    size bigint,
    created_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    note jsonb NOT NULL DEFAULT '{{"from": "a phone"}}'
);
CREATE INDEX IF NOT EXISTS uploads_key_idx ON {schema}.uploads (key COLLATE "C");
CREATE TABLE IF NOT EXISTS {schema}.avatars (key text NOT NULL);
"""
# What a test may have changed of a table: columns, indexes, constraints, triggers, rights, statistics.
SHAPE = """
SELECT
    relname::text AS name,
    ARRAY[relkind::text, relrowsecurity::text, relhastriggers::text, relhasrules::text, relacl::text, reltuples::text,
        relhassubclass::text, reloptions::text] AS flags,
    (SELECT array_agg(row(attname, atttypid::regtype, attnotnull, attisdropped, attacl)::text ORDER BY attnum)
        FROM pg_attribute WHERE attrelid = pg_class.oid AND attnum > 0) AS columns,
    (SELECT array_agg(pg_get_indexdef(indexrelid) ORDER BY 1) FROM pg_index WHERE indrelid = pg_class.oid) AS indexes,
    (SELECT array_agg(pg_get_constraintdef(oid) ORDER BY 1) FROM pg_constraint
        WHERE pg_class.oid IN (conrelid, confrelid)) AS constraints
FROM pg_class
WHERE relnamespace = '{schema}'::regnamespace AND relname IN ('uploads', 'avatars')
ORDER BY 1
"""
KEPT = ("uploads", "avatars")
LOCKED, PLAIN, VERSIONED = "orphans-locked", "orphans-plain", "orphans-versions"  # buckets of the S3 server
_shapes: dict[str, Any] = {}  # of the new tables, by schema


async def provide_tables(executor: Executor, schema: str) -> None:
    """Make the tables, unless an earlier test left them as they were made: their files cost more than a run."""
    shape = SHAPE.format(schema=schema)
    if schema in _shapes and await executor.fetch(shape) == _shapes[schema]:
        return
    drop = "DROP TABLE IF EXISTS {schema}.uploads, {schema}.avatars CASCADE;"
    await executor.execute_script((drop + TABLES).format(schema=schema))
    _shapes[schema] = await executor.fetch(shape)


def uploads_source(schema: str, **changes: Any) -> ReferenceSource:
    """The table of uploads as an application would declare it."""
    source = ReferenceSource(
        name="uploads",
        table=f"{schema}.uploads",
        size="size",
        created_at="created_at",
        deleted_at="deleted_at",
        pending="state = 'pending'",
        soft_deleted="deleted_at IS NOT NULL",
    )
    return replace(source, **changes)


def avatars_source(schema: str) -> ReferenceSource:
    """A plain list of keys, which is never changed and may be empty."""
    return ReferenceSource(name="avatars", select=f"SELECT key FROM {schema}.avatars", min_rows=0)


@dataclass(kw_only=True)
class World:
    """Rows, objects, and a clock that the test moves; it starts at the real time."""

    executor: Executor
    store: ObjectStore
    schema: str
    config: OrphansConfig
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    num_calls: int = 0  # calls of the application, to the database and to the store

    async def row(self, key: str, **columns: Any) -> int:
        """Insert a row and return its id."""
        columns = {"created_at": self.now} | columns | {"key": key}
        names = ", ".join(columns)
        places = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
        sql = f"INSERT INTO {self.schema}.uploads ({names}) VALUES ({places}) RETURNING id"
        self.num_calls += 1
        return int((await self.executor.fetch(sql, list(columns.values())))[0]["id"])

    async def put(self, key: str, data: bytes | None = None) -> ObjectInfo | None:
        """Put an object."""
        self.num_calls += 1
        return await self.store.put(key, key.encode() if data is None else data)

    async def pair(self, *keys: str) -> None:
        """Put objects and insert their rows, ready."""
        for key in keys:
            await self.put(key)
            await self.row(key)

    async def sql(self, sql: str, *params: Any) -> list[dict[str, Any]]:
        """Run SQL as the application."""
        self.num_calls += 1
        return await self.executor.fetch(sql.replace("{schema}", self.schema), params)

    async def keys(self, prefix: str = "") -> list[str]:
        """Return all keys in the store, in order."""
        return sorted([key async for page in self.store.list_pages(prefix=prefix) for key in page.keys])

    async def row_keys(self) -> list[str]:
        """Return the keys of all rows, in order."""
        rows = await self.sql('SELECT key FROM {schema}.uploads ORDER BY key COLLATE "C"')
        return [row["key"] for row in rows]

    async def run(self, *, after: timedelta = timedelta(0), **changes: Any) -> RunReport:
        """Let time pass, then run once; `changes` apply to the configuration."""
        self.now += after
        config = replace(self.config, **changes)
        return await reconcile(self.executor, self.store, config, now=self.now)

    async def runs(self, *spans: timedelta, **changes: Any) -> RunReport:
        """Run once after each span, and return the last report."""
        report = None
        for span in spans:
            report = await self.run(after=span, **changes)
        assert report is not None
        return report


def generous(sources: Sequence[ReferenceSource], **changes: Any) -> OrphansConfig:
    """A configuration for small worlds, in which one object is a large share."""
    return OrphansConfig(sources=tuple(sources), mode=Mode.DELETE, max_share=1.0, min_overlap=0.0, **changes)
