"""Sources on a table that other tables inherit from: a run deletes rows of the declared table only."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from world import World

from millhand.orphans import explain

pytestmark = pytest.mark.slow  # CI runs it; the default suite stays within a minute

HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)


@pytest.mark.parametrize("key", ["parent", "child"])
async def test_a_childs_row_with_the_id_of_a_deleted_row_stays(world: World, key: str) -> None:
    """Ids are unique in each table only: the parent's soft-deleted row goes, the child's live row and its object stay."""
    await world.pair("live")
    for name in ("parent", "child"):
        await world.put(name)
    await world.sql("CREATE TABLE {schema}.archived () INHERITS ({schema}.uploads)")
    parent = await world.row("parent", deleted_at=world.now)
    await world.sql("INSERT INTO {schema}.archived (id, key) VALUES ($1, $2)", parent, key)

    reports = await world.runs(2 * HOUR, WEEK, retention=WEEK)

    left = await world.sql("SELECT key FROM ONLY {schema}.uploads")
    archived = await world.sql("SELECT key FROM {schema}.archived")
    explanation = await explain(world.executor, world.store, world.config, key, now=world.now)
    await world.sql("DROP TABLE {schema}.archived")
    assert archived == [{"key": key}]
    assert f"  row: uploads {world.schema}.archived {parent} is other" in explanation.lines()
    if key == "parent":  # both rows name one object
        assert (reports.shared, reports.deleted_rows) == (1, 0)
        assert await world.keys() == ["live", "parent"]
    else:
        assert (left, await world.keys()) == ([{"key": "live"}], ["child", "live"])


async def test_rows_of_a_child_are_never_deleted_and_never_missing(world: World) -> None:
    """A child's soft-deleted row keeps its object: a declared source of its own would clean it."""
    await world.pair("live")
    await world.put("child")
    await world.sql("CREATE TABLE {schema}.archived () INHERITS ({schema}.uploads)")
    sql = "INSERT INTO {schema}.archived (id, key, deleted_at) VALUES (7, $1, $2)"
    for key in ("child", "gone"):
        await world.sql(sql, key, world.now)

    report = await world.runs(2 * HOUR, WEEK, WEEK, retention=WEEK)

    num_left = len(await world.sql("SELECT FROM {schema}.archived"))
    await world.sql("DROP TABLE {schema}.archived")
    assert (report.deleted, report.deleted_rows, report.missing, num_left) == (0, 0, 0, 2)


async def test_rows_of_a_partitioned_table_go_from_their_partition(world: World) -> None:
    """A partitioned table is one table: a pending row of any of its partitions goes a grace after its first sighting."""
    await world.sql(
        "CREATE TABLE {schema}.parts (id bigint PRIMARY KEY, key text, state text, created_at timestamptz) "
        "PARTITION BY RANGE (id)"
    )
    for low, high in ((0, 10), (10, 20)):
        await world.sql(
            f"CREATE TABLE {{schema}}.parts_{low} PARTITION OF {{schema}}.parts FOR VALUES FROM ({low}) TO ({high})"
        )
    for id_, key, state in ((1, "a", "pending"), (11, "b", "pending"), (12, "live", "ready")):
        await world.put(key)
        await world.sql("INSERT INTO {schema}.parts VALUES ($1, $2, $3)", id_, key, state)
    uploads, _ = world.config.sources
    parts = replace(uploads, table=f"{world.schema}.parts", size=None, soft_deleted=None, deleted_at=None)

    early = await world.runs(2 * HOUR, WEEK - HOUR, sources=(parts,))
    await world.sql("UPDATE {schema}.parts SET state = 'pending' WHERE key = 'b'")
    due = await world.run(after=HOUR, sources=(parts,))

    left = await world.sql("SELECT key FROM {schema}.parts ORDER BY key")
    await world.sql("DROP TABLE {schema}.parts")
    assert (early.deleted_rows, due.deleted_rows, due.deleted) == (0, 1, 1)
    assert left == [{"key": "b"}, {"key": "live"}]
