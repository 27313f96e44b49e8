"""Which sources cover a table that the search for undeclared references reads."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from posts import CDN
from world import World, generous, uploads_source

from millhand.orphans import ReferenceSource

pytestmark = pytest.mark.slow  # CI runs it; the default suite stays within a minute

WEEK = timedelta(days=7)
DEAD = "deleted_at IS NULL"
PARTS = """
CREATE TABLE {schema}.parts (id bigint PRIMARY KEY, key text, state text, created_at timestamptz) PARTITION BY RANGE (id);
CREATE TABLE {schema}.parts_0 PARTITION OF {schema}.parts FOR VALUES FROM (0) TO (10);
CREATE TABLE {schema}.parts_10 PARTITION OF {schema}.parts FOR VALUES FROM (10) TO (20);
INSERT INTO {schema}.parts VALUES (1, 'own.png', 'pending'), (2, 'deep/cover.png', 'ready'), (12, 'deep/cover.png', 'ready');
"""


async def due(world: World, *keys: str) -> None:
    """Put objects that are due in the next run."""
    for key in keys:
        await world.put(key)
    await world.run(after=timedelta(hours=2))
    world.now += WEEK


async def test_a_partition_that_is_a_source_covers_its_own_rows_only(world: World) -> None:
    """A row that the run removes, and the key of another object, are declared in the partition, and undeclared beside it."""
    await world.executor.execute_script(PARTS.format(schema=world.schema))
    part = uploads_source(world.schema, name="part", size=None, soft_deleted=None, deleted_at=None)
    world.config = generous([replace(part, table=f"{world.schema}.parts_0")])
    await due(world, "cover.png", "deep/cover.png", "own.png")

    refused = await world.run()
    await world.sql("DELETE FROM {schema}.parts_10")
    removed = await world.run()

    left = await world.sql("SELECT key FROM {schema}.parts")
    await world.sql("DROP TABLE {schema}.parts")
    assert (refused.state, refused.deleted) == ("aborted", 0)
    assert refused.abort_reasons == (
        (
            f"every reference must be declared, got 'cover.png' in {world.schema}.parts.key, which no source covers; "
            f"declare it in [[orphans.sources]], or list '{world.schema}.parts.key' in orphans.mentions if what it names is "
            "kept, or in orphans.not_references if it needs no object"
        ),
    )
    assert (removed.state, removed.abort_reasons, removed.deleted, removed.deleted_rows) == (
        "completed",
        (),
        2,
        1,
    )
    assert (left, await world.keys()) == ([{"key": "deep/cover.png"}], ["deep/cover.png"])


async def test_a_source_covers_the_tables_that_inherit_from_its_table(world: World) -> None:
    """The key of another object in a child's row is declared. A child's row is never the row that the run removes."""
    await world.pair("live")
    await world.sql("CREATE TABLE {schema}.archived () INHERITS ({schema}.uploads)")
    own = await world.row("own.png", deleted_at=world.now)
    sql = "INSERT INTO {schema}.archived (id, key, note) VALUES ($1, 'deep/cover.png', $2::text::jsonb)"
    await world.sql(sql, own, '{"thumbnail": "own.png"}')
    await due(world, "cover.png", "deep/cover.png", "own.png")

    report = await world.run(retention=WEEK, mentions=(f"{world.schema}.archived.note",))

    await world.sql("DROP TABLE {schema}.archived")
    assert (report.state, report.abort_reasons, report.deleted, report.kept) == ("completed", (), 1, 1)
    assert await world.keys() == ["deep/cover.png", "live", "own.png"]


async def test_an_error_names_the_select_or_view_that_leaves_a_row_out(world: World) -> None:
    """A dead row that a SELECT or a view leaves out stops the run with a text about it, unless `not_references` has it."""
    await world.sql(f"CREATE VIEW {{schema}}.visible AS SELECT * FROM {{schema}}.uploads WHERE {DEAD}")
    await world.pair("live")
    await world.row("dead.png", deleted_at=world.now)
    rows = f"SELECT key FROM {world.schema}.uploads WHERE {DEAD}"
    sources = [
        ReferenceSource(name="selected", select=rows),
        ReferenceSource(name="viewed", table=f"{world.schema}.visible"),
    ]
    place = f"{world.schema}.uploads.key"
    world.config = generous(sources)
    await due(world, "dead.png")

    reasons = {}
    for source in sources:
        world.config = generous([source])
        await world.run()
        reasons[source.name] = (await world.run()).abort_reasons
    allowed = await world.run(not_references=(place,))

    await world.sql("DROP VIEW {schema}.visible")
    assert reasons == {
        name: (
            (
                f"every reference must be declared, got 'dead.png' in {place}, which source '{name}' reads without "
                "returning this key; declare the table itself, with soft_deleted for its dead rows, or list "
                f"'{place}' in orphans.not_references if the other rows need no object, or in orphans.mentions if what "
                "they name is kept"
            ),
        )
        for name in ("selected", "viewed")
    }
    assert (allowed.state, allowed.deleted) == ("completed", 1)


async def test_urls_of_a_nondeterministic_collation_are_searched(world: World) -> None:
    """The search reads the keys of a case-insensitive column of URLs or arrays, as the scan does."""
    # A server without ICU has no such collation, so a superuser marks one. PostgreSQL before 18 then refuses patterns on it.
    await world.sql("CREATE COLLATION {schema}.loose (provider = libc, locale = 'C.UTF-8')")
    await world.sql("UPDATE pg_collation SET collisdeterministic = false WHERE collname = 'loose'")
    await world.sql("CREATE TABLE {schema}.loosely (key text COLLATE {schema}.loose)")
    await world.sql("INSERT INTO {schema}.loosely VALUES ('https://cdn.example.com/deep/cover.png')")
    world.config = generous([ReferenceSource(name="loose", table=f"{world.schema}.loosely", url=CDN)])
    await due(world, "cover.png", "deep/cover.png")

    report = await world.run()

    await world.sql("DROP TABLE {schema}.loosely")
    await world.sql("DROP COLLATION {schema}.loose")
    assert (report.state, report.abort_reasons, report.deleted) == ("completed", (), 1)
