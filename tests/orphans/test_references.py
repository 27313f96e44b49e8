"""Reading references by range and by key, in byte order."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from world import World

from millhand.core.errors import ConfigError
from millhand.orphans import OrphansConfig, ReferenceSource, SourceFailed
from millhand.orphans.sources.references import References, open_references

pytestmark = pytest.mark.slow  # CI runs it; the default suite stays within a minute

KEYS = ["", "A", "B", "a", "a b", "a-b", "a.b", "a/b", "a0", "b", "z", "é", "ü", "\ue000", "\U00010000"]


async def opened(world: World, **changes: Any) -> References:
    """Open the sources of the application, with changes to the first one."""
    uploads, avatars = world.config.sources
    return await open_references(
        world.executor, replace(world.config, sources=(replace(uploads, **changes), avatars))
    )


async def test_ranges_read_each_row_once_in_byte_order(world: World) -> None:
    """Adjacent ranges read each row once, whatever its order in the locale."""
    for key in KEYS:
        await world.row(key)
    references = await opened(world)

    ranges = [("", "B"), ("B", "a-b"), ("a-b", "a/b"), ("a/b", "é"), ("é", None)]
    reads = [await references.read_range(low, high) for low, high in ranges]

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
async def test_a_limited_read_holds_every_row_up_to_its_end(
    world: World, keys: list[str], limit: int
) -> None:
    """Limited reads add up to all rows, each once, whatever the limit, the keys, and the number of rows for a key."""
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


async def test_rows_have_their_declared_state_age_size_and_id(world: World) -> None:
    """A row has its declared state, age, size and id; a soft-deleted row that is also pending is soft-deleted."""
    when = world.now - timedelta(days=3)
    ids = [
        await world.row("deleted", state="pending", deleted_at=when),
        await world.row("pending", state="pending", created_at=when),
        await world.row("ready", size=5),
    ]
    references = await opened(world)

    found = await references.rows_by_key(["deleted", "pending", "ready", "none"])

    rows = [found[key][0] for key in ("deleted", "pending", "ready")]
    assert [(row.state, row.row_id, row.size) for row in rows] == [
        ("soft_deleted", str(ids[0]), None),
        ("pending", str(ids[1]), None),
        ("ready", str(ids[2]), 5),
    ]
    assert [row.left_at for row in rows[:2]] == [when, when]
    assert "none" not in found


async def test_a_row_that_meets_no_condition_keeps_its_object(world: World) -> None:
    """With `ready` declared, a row that meets no condition still counts as a reference."""
    await world.row("scanned", state="scanning")
    references = await opened(world, ready="state = 'ready'")

    row = (await references.rows_by_key(["scanned"]))["scanned"][0]

    assert (row.state, row.reference.value) == ("other", "ready")


async def test_lock_rows_locks_the_free_rows_and_waits_for_none(world: World) -> None:
    """A row that another transaction has locked is left out; the others come with all columns."""
    held, free = await world.row("held", state="pending"), await world.row("free", state="pending")
    references = await opened(world)

    async with world.executor.begin() as theirs, world.executor.begin() as ours:
        await theirs.fetch(f"SELECT FROM {world.schema}.uploads WHERE id = $1 FOR UPDATE", [held])
        locked = await references.lock_rows(ours, "uploads", [str(held), str(free)])

    assert [row.key for row in locked] == ["free"]
    assert r'"note": "{\"from\": \"a phone\"}"' in str(locked[0].row_json)


async def test_a_source_with_invalid_sql_raises_source_failed(world: World) -> None:
    """An error of PostgreSQL in a condition names the source."""
    with pytest.raises(SourceFailed) as no_condition:
        await opened(world, pending="stat = 1")

    assert str(no_condition.value).startswith("orphans source 'uploads' must return all its rows, got ")
    assert 'column "stat" does not exist' in str(no_condition.value)


async def test_no_sources_raise_config_error(world: World) -> None:
    """Without a source every object would be an orphan, so it is an error."""
    with pytest.raises(ConfigError) as invalid:
        await open_references(world.executor, OrphansConfig())

    assert str(invalid.value) == (
        "orphans.sources must name at least one place where rows name objects, got none; "
        "add [[orphans.sources]] with name and table"
    )


async def test_a_large_table_without_an_index_logs_a_warning(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A source whose table would be scanned for each page logs a warning until it has the index."""
    await world.sql(
        "CREATE TABLE {schema}.large AS SELECT 'key ' || n AS key FROM generate_series(1, 150000) AS n"
    )
    await world.sql("ANALYZE {schema}.large")
    config = OrphansConfig(sources=(ReferenceSource(name="large", table=f"{world.schema}.large"),))

    with caplog.at_level(logging.WARNING):
        await open_references(world.executor, config)
    before = [record.msg for record in caplog.records]
    caplog.clear()
    await world.sql('CREATE INDEX ON {schema}.large (key COLLATE "C")')
    with caplog.at_level(logging.WARNING):
        await open_references(world.executor, config)

    await world.sql("DROP TABLE {schema}.large")
    assert before == ["orphan source scans its table for each page"]
    assert caplog.records == []
