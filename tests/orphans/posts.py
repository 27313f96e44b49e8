"""A table of posts with keys in several forms, for the tests of reference sources."""

from __future__ import annotations

from typing import Any

from world import World

from millhand.orphans import OrphansConfig, ReferenceSource
from millhand.orphans.sources.references import References, open_references

TABLE = """
CREATE TABLE IF NOT EXISTS {schema}.posts (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    image text,
    link varchar(200),
    title name,
    gallery text[],
    body jsonb,
    old json,
    deleted_at timestamptz
)
"""
CDN = ("https://cdn.example.com/", "//img.example.com/media/")


def source(world: World, **changes: Any) -> ReferenceSource:
    """Return the posts as a source."""
    return ReferenceSource(**{"name": "posts", "table": f"{world.schema}.posts", "min_rows": 0} | changes)


async def opened(world: World, **changes: Any) -> References:
    """Open the posts as the only source."""
    return await open_references(world.executor, OrphansConfig(sources=(source(world, **changes),)))


async def keys_of(world: World, **changes: Any) -> list[str]:
    """Return all keys that the posts name by range, and check that a read by key finds each of them."""
    references = await opened(world, **changes)
    keys = (await references.read_range("", None)).ready_keys
    assert sorted(await references.rows_by_key(keys)) == sorted(set(keys))
    return keys


async def fill(world: World, num_rows: int = 10_000) -> None:
    """Insert many posts, each with one key of each kind."""
    await world.sql(
        "INSERT INTO {schema}.posts (image, link, title, body) "
        "SELECT 'image ' || n, 'image ' || n, 'image ' || n, jsonb_build_object('cover', 'image ' || n) "
        "FROM generate_series(1, $1::integer) AS n",
        num_rows,
    )


async def plans_of(references: References) -> list[str]:
    """Return the plans of a read by range and by key."""
    statements = references._statements["posts"]
    prepend = statements.source.prepend
    plans = []
    for sql, params in (
        statements.range_sql(f"{prepend}image 1", f"{prepend}image 2", 1_000),
        statements.match_sql([f"{prepend}image 1", f"{prepend}image 2"]),
    ):
        rows = await references._executor.fetch(f"EXPLAIN {sql}", params)
        plans.append("\n".join(row["QUERY PLAN"] for row in rows))
    return plans
