"""Where a database names objects: what a value might be, how a bucket is sampled, and how a large table is not read."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from world import World

from millhand.orphans.discovery.discover import (
    COLUMNS,
    NUM_FIRST,
    _sample_sql,
    discover,
    elements,
    sample_keys,
)
from millhand.orphans.discovery.guess import Guess, Shapes, leaves

SHAPES = Shapes.of(
    [
        "media/photos/2026/a1.png",
        "media/photos/2026/b2.png",
        "docs/report.pdf",
        "0b6e4a1c-77aa-4a7e-9f0e-2d1f6a3b9c10",
    ]
)


@pytest.mark.parametrize(
    ("value", "guesses"),
    [
        (
            "docs/other.pdf",
            [Guess(key="docs/other.pdf"), Guess(key="docs/docs/other.pdf", prepend="docs/")],
        ),
        ("other.pdf", [Guess(key="docs/other.pdf", prepend="docs/")]),
        ("photos/2025/x.png", [Guess(key="media/photos/2025/x.png", prepend="media/")]),
        ("7f6e4a1c-0000-4a7e-9f0e-2d1f6a3b9c10", [Guess(key="7f6e4a1c-0000-4a7e-9f0e-2d1f6a3b9c10")]),
        ("https://cdn.x/docs/a%20b.pdf?v=1", [Guess(key="docs/a b.pdf", base="https://cdn.x/")]),
        ("https://s3.x/bucket/docs/a.pdf", [Guess(key="docs/a.pdf", base="https://s3.x/bucket/")]),
        ("s3://bucket/docs/a.pdf", [Guess(key="docs/a.pdf", base="s3://bucket/")]),
        ("//cdn.x/docs/a.pdf", [Guess(key="docs/a.pdf", base="//cdn.x/")]),
        ("/files/docs/a.pdf", [Guess(key="docs/a.pdf", base="/files/")]),
        ("somebody@example.com", []),
        ("docs/a.xls", []),
        ("https://cdn.x/", []),
        ("two\nlines.pdf", []),
        ("", []),
    ],
)
def test_a_value_is_read_in_the_ways_that_fit_the_bucket(value: str, guesses: list[Guess]) -> None:
    """A key, a name below a directory, a URL of any base; what looks like nothing in the bucket is nothing."""
    assert [guess for guess in SHAPES.guesses(value) if guess.prepend != "media/photos/"] == guesses


def test_texts_of_a_document_come_with_their_paths() -> None:
    """Names that are no plain words are quoted, elements are counted together, and other values left out."""
    document = {"a": {"b": "x"}, 'odd "name"': ["y", {"c": "z"}], "n": 5, "none": None}

    assert list(leaves(document)) == [
        ("$.a.b", "x"),
        ('$."odd \\"name\\""[*]', "y"),
        ('$."odd \\"name\\""[*].c', "z"),
    ]


@settings(deadline=None, max_examples=50, suppress_health_check=list(HealthCheck))
@given(values=st.lists(st.one_of(st.none(), st.text(st.characters(exclude_characters="\0", codec="utf-8")))))
async def test_arrays_are_read_as_postgresql_writes_them(world: World, values: list[str | None]) -> None:
    """Whatever stands in an array, its elements come out as they went in; only those that are null do not."""
    [row] = await world.sql("SELECT $1::text[]::text AS written", values)

    assert elements(row["written"]) == [value for value in values if value is not None]


async def test_a_sample_reaches_every_directory_at_the_top(world: World) -> None:
    """Of a bucket that is larger than its first page, keys of each directory are seen, not only of the first."""
    for number in range(NUM_FIRST + 1):
        await world.put(f"a/{number:05}", b"")
    for name in ("b/x", "c/d/y", "z"):
        await world.put(name, b"")

    keys = await sample_keys(world.store)

    assert {"b/x", "c/d/y", "z"} <= set(keys)
    assert len(keys) == len(set(keys)) < NUM_FIRST + 200


async def test_a_large_table_is_sampled_and_never_read_whole(world: World) -> None:
    """Of a table of many rows some blocks are read; the column is found all the same, with the index that it lacks."""
    await world.sql(
        "CREATE TABLE {schema}.large AS SELECT 'big/' || n || '.bin' AS key FROM generate_series(1, 200000) AS n"
    )
    await world.sql("ANALYZE {schema}.large")
    for number in range(1, 200_000, 400):
        await world.put(f"big/{number}.bin", b"")
    rows = await world.sql(COLUMNS)
    plan = await world.sql(f"EXPLAIN {_sample_sql(next(row for row in rows if row['name'] == 'large'))}")

    found = await discover(world.executor, world.store, table_timeout=timedelta(seconds=60))

    [proposal] = found.proposals
    await world.sql("DROP TABLE {schema}.large")
    assert "Seq Scan" not in str(plan)
    assert (proposal.source.key, proposal.num_rows) == ("key", 200_000)
    assert 0 < proposal.num_sampled <= 1_000
    assert proposal.num_found > 0
    assert proposal.index == (
        f'make an index: CREATE INDEX CONCURRENTLY ON "{world.schema}"."large" ("key" COLLATE "C")'
    )


async def test_a_table_that_gives_no_answer_is_named(world: World) -> None:
    """A table that somebody has locked is told when its time is over, and the others are looked at all the same."""
    await world.pair("docs/a.pdf")
    await world.sql("CREATE TABLE {schema}.held (key text)")

    async with world.executor.begin() as theirs:
        await theirs.fetch(f"LOCK TABLE {world.schema}.held IN ACCESS EXCLUSIVE MODE")
        found = await discover(world.executor, world.store, table_timeout=timedelta(seconds=0.5))

    await world.sql("DROP TABLE {schema}.held")
    assert [proposal.source.table for proposal in found.proposals] == [f"{world.schema}.uploads"]
    assert list(found.unread) == [f"{world.schema}.held"]
    assert (found.num_keys, found.num_unnamed) == (1, 0)
