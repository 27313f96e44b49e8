"""Where rows name objects: read by range and by key, in the order of bytes, whole or not at all."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from world import World

from millhand.errors import ConfigError
from millhand.orphans import OrphansConfig, ReferenceSource, SourceFailed
from millhand.orphans.sources.references import References, open_references

KEYS = ["", "A", "B", "a", "a b", "a-b", "a.b", "a/b", "a0", "b", "z", "é", "ü", "\ue000", "\U00010000"]


async def opened(world: World, **changes: Any) -> References:
    """Open the world's sources, the first of them changed."""
    uploads, avatars = world.config.sources
    return await open_references(
        world.executor, replace(world.config, sources=(replace(uploads, **changes), avatars))
    )


async def test_ranges_follow_the_order_of_bytes_without_gap_or_overlap(world: World) -> None:
    """Stretch by stretch, each row is read once, whatever the locale thinks of its key."""
    for key in KEYS:
        await world.row(key)
    references = await opened(world)

    stretches = [("", "B"), ("B", "a-b"), ("a-b", "a/b"), ("a/b", "é"), ("é", None)]
    reads = [await references.read_range(low, high) for low, high in stretches]

    assert [read.ready_keys for read in reads] == [
        ["A", "B"],
        ["a", "a b", "a-b"],
        ["a.b", "a/b"],
        ["a0", "b", "z", "é"],
        ["ü", "\ue000", "\U00010000"],
    ]
    assert reads[0].rows_of == {"uploads": 2, "avatars": 0}


@given(
    keys=st.lists(st.sampled_from(["a", "a\x1f", "b", "b\x1fc", "c", "d", "e"]), max_size=30),
    limit=st.integers(1, 7),
)
@settings(deadline=None, max_examples=30, suppress_health_check=list(HealthCheck))
async def test_a_read_that_is_cut_holds_every_row_up_to_its_end(
    world: World, keys: list[str], limit: int
) -> None:
    """However many rows name a key, however small the batch, whatever is in a key: batches add up to all rows, each once."""
    await world.sql("TRUNCATE {schema}.uploads, {schema}.avatars")
    for number, key in enumerate(keys):
        if number % 3:
            await world.row(key)
        else:
            await world.sql("INSERT INTO {schema}.avatars VALUES ($1)", key)
    references = await opened(world)

    low, found = "", []
    while True:
        read = await references.read_range(low, "d", limit=limit)
        assert all(low < key <= (read.high or "") for key in read.ready_keys)
        found += read.ready_keys
        if read.high == "d":
            break
        low = read.high or ""

    assert sorted(found) == sorted(key for key in keys if key <= "d")


async def test_rows_say_what_they_are(world: World) -> None:
    """State, age, size and id of a row come as declared; a soft-deleted one is that before it is pending."""
    when = world.now - timedelta(days=3)
    ids = [
        await world.row("deleted", state="pending", deleted_at=when),
        await world.row("pending", state="pending", created_at=when),
        await world.row("ready", size=5),
    ]
    references = await opened(world)

    naming = await references.rows_by_key(["deleted", "pending", "ready", "none"])

    rows = [naming[key][0] for key in ("deleted", "pending", "ready")]
    assert [(row.state, row.row_id, row.size) for row in rows] == [
        ("soft_deleted", str(ids[0]), None),
        ("pending", str(ids[1]), None),
        ("ready", str(ids[2]), 5),
    ]
    assert [row.left_at for row in rows[:2]] == [when, when]
    assert "none" not in naming


async def test_a_row_that_meets_no_condition_keeps_its_object(world: World) -> None:
    """With `ready` declared, a row that is neither ready nor leaving still counts as a reference."""
    await world.row("odd", state="scanning")
    references = await opened(world, ready="state = 'ready'")

    row = (await references.rows_by_key(["odd"]))["odd"][0]

    assert (row.state, row.reference.value) == ("other", "ready")


async def test_names_are_quoted_and_conditions_stand_alone(world: World) -> None:
    """Odd table and column names and conditions with comments or OR mean what they say, and inject nothing."""
    await world.sql(
        'CREATE TABLE {schema}."Odd ""table""" ("Key; DROP" text, id int PRIMARY KEY, a int, b int)'
    )
    await world.sql('INSERT INTO {schema}."Odd ""table""" VALUES (\'x\', 1, 1, 0), (\'y\', 2, 0, 0)')
    source = ReferenceSource(
        name="odd",
        table=f'{world.schema}.Odd "table"',
        key="Key; DROP",
        pending="a = 1 OR b = 1 -- a comment",
    )
    references = await open_references(world.executor, OrphansConfig(sources=(source,)))

    naming = await references.rows_by_key(["x", "y"])

    await world.sql('DROP TABLE {schema}."Odd ""table"""')
    assert {key: rows[0].state for key, rows in naming.items()} == {"x": "pending", "y": "ready"}


async def test_keys_come_from_where_users_have_them(world: World) -> None:
    """A URL column, a JSON field and an array are read by a SELECT that yields keys."""
    await world.sql(
        "INSERT INTO {schema}.uploads (key, note) VALUES "
        '(\'https://cdn.example.com/a\', \'{"keys": ["b", "c"], "cover": "d"}\')'
    )
    uploads = f"{world.schema}.uploads"
    selects = {
        "url": f"SELECT regexp_replace(key, '^https://[^/]+/', '') AS key FROM {uploads}",
        "array": f"SELECT jsonb_array_elements_text(note -> 'keys') AS key FROM {uploads}",
        "json": f"SELECT note ->> 'cover' AS key FROM {uploads}",
    }
    sources = tuple(ReferenceSource(name=name, select=select) for name, select in selects.items())
    references = await open_references(world.executor, OrphansConfig(sources=sources))

    read = await references.read_range("", None)

    assert read.ready_keys == ["a", "b", "c", "d"]
    assert sorted(await references.rows_by_key(["a", "b", "c", "d", "e"])) == ["a", "b", "c", "d"]


async def test_a_claim_locks_what_is_free_and_waits_for_nobody(world: World) -> None:
    """A row that somebody else holds is left out of a claim; the others come with all of their columns."""
    held, free = await world.row("held", state="pending"), await world.row("free", state="pending")
    references = await opened(world)

    async with world.executor.begin() as theirs, world.executor.begin() as ours:
        await theirs.fetch(f"SELECT FROM {world.schema}.uploads WHERE id = $1 FOR UPDATE", [held])
        claimed = await references.lock_rows(ours, "uploads", [str(held), str(free)])

    assert [claim.row.key for claim in claimed] == ["free"]
    assert '"note": {"from": "a phone"}' in claimed[0].row_json


async def test_a_source_that_cannot_be_read_says_so(world: World) -> None:
    """What PostgreSQL does not understand is an error with the source's name, before anything is judged."""
    with pytest.raises(SourceFailed) as no_condition:
        await opened(world, pending="stat = 1")

    assert str(no_condition.value).startswith("orphans source 'uploads' must answer in full, got ")
    assert 'column "stat" does not exist' in str(no_condition.value)


async def test_an_id_that_does_not_tell_rows_apart_is_refused(world: World) -> None:
    """Rows are deleted by id, so a column without a unique index of its own is none."""
    with pytest.raises(ConfigError) as refused:
        await opened(world, id="state")

    assert str(refused.value) == (
        "id of orphans source 'uploads' must be a column with a unique index of its own, "
        "got 'state'; name the primary key"
    )


async def test_no_sources_is_an_error_with_a_remedy(world: World) -> None:
    """Without a source everything would be an orphan."""
    with pytest.raises(ConfigError) as refused:
        await open_references(world.executor, OrphansConfig())

    assert str(refused.value) == (
        "orphans.sources must name at least one place where rows name objects, got none; "
        "add [[orphans.sources]] with name and table"
    )


async def test_a_large_table_without_an_index_is_warned_of(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A source that would be read from end to end for each page is named with the index that it lacks."""
    await world.sql(
        "CREATE TABLE {schema}.large AS SELECT 'key ' || n AS key FROM generate_series(1, 150000) AS n"
    )
    await world.sql("ANALYZE {schema}.large")
    config = OrphansConfig(sources=(ReferenceSource(name="large", table=f"{world.schema}.large"),))

    with caplog.at_level(logging.WARNING):
        await open_references(world.executor, config)
    before = [record.getMessage() for record in caplog.records]
    caplog.clear()
    await world.sql('CREATE INDEX ON {schema}.large (key COLLATE "C")')
    with caplog.at_level(logging.WARNING):
        await open_references(world.executor, config)

    await world.sql("DROP TABLE {schema}.large")
    assert before == ["orphan source is read from end to end for each page"]
    assert caplog.records == []


async def test_range_and_match_use_the_index_of_a_large_table(world: World) -> None:
    """One page of a large table costs one index scan, by range and by key, with the index that we advise."""
    await world.sql(
        "INSERT INTO {schema}.uploads (key, state) SELECT 'key ' || n, 'ready' FROM generate_series(1, 20000) AS n"
    )
    await world.sql("ANALYZE {schema}.uploads")
    references = await opened(world)
    statements = references._statements["uploads"]

    plans = []
    for sql, params in (
        statements.range_sql("key 1", "key 2", 1_000),
        statements.range_sql("key 1", "key 2", 1_000, is_joined=True),
        statements.match_sql(["key 1", "key 2"]),
    ):
        rows = await world.executor.fetch(f"EXPLAIN {sql}", params)
        plans.append("\n".join(row["QUERY PLAN"] for row in rows))

    assert all(
        "uploads_key_idx" in plan and "Seq Scan" not in plan and "Sort" not in plan for plan in plans
    ), plans
