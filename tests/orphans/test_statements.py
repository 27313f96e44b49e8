"""The SQL of a source: quoting, ranges, and the indexes that its reads use."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from posts import CDN, fill, opened, plans_of, source
from world import DAY, World, generous

from millhand.orphans import OrphansConfig, ReferenceSource
from millhand.orphans.sources.references import open_references
from millhand.orphans.sources.statements import value_range
from repeats import first_of

pytestmark = pytest.mark.slow  # CI runs it; the default suite stays within a minute


async def test_names_are_quoted_and_conditions_are_in_parentheses(world: World) -> None:
    """Names with quotes and semicolons, and conditions with OR or a comment, inject no SQL."""
    await world.sql(
        'CREATE TABLE {schema}."A ""table""" ("Key; DROP" text, id int PRIMARY KEY, a int, b int)'
    )
    await world.sql('INSERT INTO {schema}."A ""table""" VALUES (\'x\', 1, 1, 0), (\'y\', 2, 0, 0)')
    source = ReferenceSource(
        name="quoted",
        table=f'{world.schema}.A "table"',
        key="Key; DROP",
        pending="a = 1 OR b = 1 -- a comment",
    )
    references = await open_references(world.executor, OrphansConfig(sources=(source,)))

    naming = await references.rows_by_key(["x", "y"])

    await world.sql('DROP TABLE {schema}."A ""table"""')
    assert {key: rows[0].state for key, rows in naming.items()} == {"x": "pending", "y": "ready"}


async def test_prepend_is_part_of_the_key(posts: World) -> None:
    """With `prepend`, rows name objects below it, and an empty value names no object."""
    for name in ("a", "b", "z", ""):
        await posts.sql("INSERT INTO {schema}.posts (image) VALUES ($1)", name)
    references = await opened(posts, key="image", prepend="media/")

    reads = [
        (await references.read_range(low, high)).ready_keys
        for low, high in (("", None), ("media/a", "media/b"), ("a", "media/"), ("media0", None), ("", "m"))
    ]

    assert reads == [["media/a", "media/b", "media/z"], ["media/b"], [], [], []]
    assert sorted(await references.rows_by_key(["a", "media/", "media/a"])) == ["media/a"]
    assert sorted(await references.sample_keys("posts", prefix="media/b", limit=5)) == ["media/b"]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        ("", None, ("", None)),
        ("a", "z", ("", None)),
        ("m/a", "m/b", ("a", "b")),
        ("m/", "m0", ("", None)),
        ("a", "m/", ("", "")),
        ("m0", None, ("", "")),
        ("a", "b", ("", "")),
    ],
)
def test_a_range_of_keys_is_a_range_of_values(
    low: str, high: str | None, expected: tuple[str, str | None]
) -> None:
    """A range of keys before or after the prefix is an empty or open range of values."""
    assert value_range("m/", low, high) == expected


async def test_a_soft_deleted_row_keeps_its_object_until_its_retention_ends(posts: World) -> None:
    """`deleted_at` alone deletes nothing; with `soft_deleted`, a row and its object are deleted after the retention."""
    for name in ("old.png", "young.png", "live.png"):
        await posts.put(name)
        await posts.sql("INSERT INTO {schema}.posts (image) VALUES ($1)", name)
    await posts.sql("UPDATE {schema}.posts SET deleted_at = $1 WHERE image = 'old.png'", posts.now - 31 * DAY)
    await posts.sql("UPDATE {schema}.posts SET deleted_at = $1 WHERE image = 'young.png'", posts.now - DAY)

    posts.config = generous([source(posts, key="image", deleted_at="deleted_at")])
    await posts.runs(DAY, 8 * DAY)
    before = await posts.keys()
    posts.config = generous(
        [source(posts, key="image", deleted_at="deleted_at", soft_deleted="deleted_at IS NOT NULL")]
    )
    await posts.runs(DAY, 29 * DAY)
    kept = await posts.keys()
    await posts.run(after=DAY)

    assert before == kept == ["live.png", "old.png", "young.png"]
    assert await posts.keys() == ["live.png"]


async def test_range_and_match_use_the_index_of_a_large_table(world: World) -> None:
    """A read of a large table by range or by key is one scan of the advised index."""
    await world.sql(
        "INSERT INTO {schema}.uploads (key, state) SELECT 'key ' || n, 'ready' FROM generate_series(1, 20000) AS n"
    )
    await world.sql("ANALYZE {schema}.uploads")
    references = await open_references(world.executor, world.config)
    statements = references._statements["uploads"]

    plans = []
    for sql, params in (
        statements.range_sql("key 1", "key 2", 1_000),
        statements.range_sql("key 1", "key 2", 1_000, as_one_text=True),
        statements.match_sql(["key 1", "key 2"]),
    ):
        rows = await world.executor.fetch(f"EXPLAIN {sql}", params)
        plans.append("\n".join(row["QUERY PLAN"] for row in rows))

    assert all(
        "uploads_key_idx" in plan and "Seq Scan" not in plan and "Sort" not in plan for plan in plans
    ), plans


INDEXED: list[tuple[str, dict[str, Any]]] = [
    ('(image COLLATE "C")', {"key": "image"}),
    ('(image COLLATE "C")', {"key": "image", "prepend": "media/"}),
    ('(link COLLATE "C")', {"key": "link"}),
    ('((title::text) COLLATE "C")', {"key": "title"}),
    ("((body #>> ARRAY['cover']) COLLATE \"C\")", {"key": "body", "json": "$.cover"}),
]


@pytest.mark.parametrize(("index", "changes"), first_of(*INDEXED), ids=lambda value: str(value)[:30])
async def test_each_form_of_key_uses_the_advised_index(
    posts: World, index: str, changes: dict[str, Any]
) -> None:
    """For each form of key, a read by range or by key uses the advised index."""
    await fill(posts)
    await posts.sql("CREATE INDEX millhand_test_index ON {schema}.posts " + index)
    await posts.sql("ANALYZE {schema}.posts")

    plans = await plans_of(await opened(posts, **changes))

    await posts.sql("DROP INDEX {schema}.millhand_test_index")
    assert all("millhand_test_index" in plan and "Seq Scan" not in plan for plan in plans), plans
    assert "Sort" not in plans[0], plans[0]


async def test_a_union_is_read_by_the_index_of_each_table(posts: World) -> None:
    """A read of a UNION ALL uses the index of each table, and scans none of them."""
    await fill(posts)
    await posts.sql('CREATE INDEX millhand_test_index ON {schema}.posts (image COLLATE "C")')
    await posts.sql(
        "INSERT INTO {schema}.uploads (key) SELECT 'image ' || n FROM generate_series(1, 20000) AS n"
    )
    await posts.sql('CREATE INDEX millhand_test_index_2 ON {schema}.posts (link COLLATE "C")')
    await posts.sql("ANALYZE {schema}.posts")
    await posts.sql("ANALYZE {schema}.uploads")
    parts = [("key", "uploads"), ("image", "posts"), ("link", "posts")]
    union = " UNION ALL ".join(
        f'SELECT {column}::text COLLATE "C" AS key FROM {posts.schema}.{table}' for column, table in parts
    )
    plans_of_one_type = await plans_of(
        await opened(
            posts, table=None, select=union.rpartition(" UNION ALL ")[0].replace('::text COLLATE "C"', "")
        )
    )

    plans = await plans_of(await opened(posts, table=None, select=union))

    await posts.sql("DROP INDEX {schema}.millhand_test_index")
    await posts.sql("DROP INDEX {schema}.millhand_test_index_2")
    for plan in plans:
        assert "millhand_test_index " in plan, plan
        assert "millhand_test_index_2" in plan, plan
        assert "uploads_key_idx" in plan, plan
        assert "Seq Scan" not in plan, plan
    assert not any("Seq Scan" in plan for plan in plans_of_one_type), plans_of_one_type


async def test_the_advised_function_makes_urls_as_fast_as_keys(
    posts: World, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning for a large table of URLs holds statements that make its reads index scans."""
    await fill(posts, 150_000)
    await posts.sql("ANALYZE {schema}.posts")
    with caplog.at_level(logging.WARNING):
        slow = await opened(posts, key="image", url=CDN)
    advice = str(vars(caplog.records[0])["reason"])
    function, index, _ = advice.replace("CONCURRENTLY ON", "millhand_test_index ON").split("; ")

    await posts.sql(function)
    await posts.sql(index)
    await posts.sql("ANALYZE {schema}.posts")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        fast = await opened(posts, key="image", function="millhand_key_of_posts")
    plans = await plans_of(fast)
    reads = [
        (await references.read_range("image 1000", "image 1003")).ready_keys for references in (slow, fast)
    ]

    await posts.sql("DROP INDEX {schema}.millhand_test_index")
    await posts.sql("DROP FUNCTION millhand_key_of_posts")
    await posts.sql("TRUNCATE {schema}.posts")
    assert advice.endswith('; and declare function = "millhand_key_of_posts" instead of url')
    assert caplog.records == []
    assert all("millhand_test_index" in plan and "Seq Scan" not in plan for plan in plans), plans
    assert reads[0] == reads[1]
    assert len(reads[0]) > 3
