"""Foreign keys that change other tables when a row is deleted: refused, or accepted, kept in the ledger and restored."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest
from world import World

from millhand.core.errors import ConfigError, DriverError
from millhand.core.orphans import Cascades
from millhand.orphans import Mode, explain, restore
from millhand.orphans.sources.references import open_references

pytestmark = pytest.mark.slow  # CI runs it; the default suite stays within a minute

HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)
TABLES = """
CREATE TABLE {schema}."Comment" (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body json, numbers int[], of_upload bigint NOT NULL
        REFERENCES {schema}.uploads ON DELETE CASCADE, answers bigint REFERENCES {schema}."Comment" ON DELETE CASCADE
);
CREATE TABLE {schema}.likes (
    comment bigint REFERENCES {schema}."Comment" ON DELETE CASCADE, who text, PRIMARY KEY (comment, who)
) PARTITION BY HASH (comment);
CREATE TABLE {schema}.likes_0 PARTITION OF {schema}.likes FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE TABLE {schema}.links (
    id int PRIMARY KEY, first bigint REFERENCES {schema}.uploads ON DELETE SET NULL,
    second bigint REFERENCES {schema}.uploads ON DELETE SET NULL
);
CREATE TABLE {schema}.badges (
    id int PRIMARY KEY, upload bigint DEFAULT 1 REFERENCES {schema}.uploads ON DELETE SET DEFAULT
);
CREATE TABLE {schema}.held (upload bigint REFERENCES {schema}.uploads)
"""
NAMES = ("held", "badges", "links", "likes", '"Comment"')
DUMP = """
SELECT jsonb_agg(to_jsonb(one) ORDER BY one::text)::text AS rows FROM (
    SELECT 'comment' AS name, t::text FROM {schema}."Comment" AS t
    UNION ALL SELECT 'like', t::text FROM {schema}.likes AS t
    UNION ALL SELECT 'link', t::text FROM {schema}.links AS t
    UNION ALL SELECT 'badge', t::text FROM {schema}.badges AS t
    UNION ALL SELECT 'upload', t::text FROM {schema}.uploads AS t
) AS one
"""


@pytest.fixture
async def hit(world: World) -> AsyncIterator[World]:
    """The application with tables that refer to its uploads in each way, and rows of a live and a soft-deleted upload."""
    await world.executor.execute_script(TABLES.replace("{schema}", world.schema))
    await world.pair("live")
    await world.put("old")
    old = await world.row("old", deleted_at=world.now)
    await world.sql(
        'INSERT INTO {schema}."Comment" (body, numbers, of_upload, answers) OVERRIDING SYSTEM VALUE VALUES '
        "('{\"a\":  1}', '[0:1]={1,2}', $1, NULL), (NULL, NULL, $1, 1), ('null', '{}', 1, 2), (NULL, NULL, 1, NULL)",
        old,
    )
    await world.sql("INSERT INTO {schema}.likes VALUES (2, 'a'), (3, 'b'), (4, 'c')")
    await world.sql(
        "INSERT INTO {schema}.links VALUES (1, $1, $1), (2, $1, 1), (3, 1, NULL), (4, $1, NULL)", old
    )
    await world.sql("INSERT INTO {schema}.badges VALUES (1, $1), (2, 1)", old)
    yield world
    for name in NAMES:
        await world.sql(f"DROP TABLE {{schema}}.{name}")


def accepting(world: World) -> World:
    uploads, avatars = world.config.sources
    world.config = replace(
        world.config, retention=WEEK, sources=(replace(uploads, cascades=Cascades.ACCEPT), avatars)
    )
    return world


async def dump(world: World) -> str:
    return str((await world.sql(DUMP))[0]["rows"])


async def test_a_source_with_cascades_is_refused_where_a_run_may_delete(hit: World) -> None:
    """The error names all tables that a deletion would change, however many tables lie between; a report runs."""
    before = await dump(hit)

    with pytest.raises(ConfigError) as error:
        await hit.run(after=HOUR, mode=Mode.QUARANTINE)
    report = await hit.run(after=HOUR, mode=Mode.REPORT)

    schema = hit.schema
    assert str(error.value) == (
        "cascades of orphans source 'uploads' must be 'accept' if the deletion of a row changes other tables, "
        f"got 'refuse', and {schema}.\"Comment\" (rows deleted), {schema}.badges (upload set to default), "
        f"{schema}.links (first set to null), {schema}.links (second set to null), {schema}.likes (rows deleted); "
        'set cascades = "accept", or change these foreign keys'
    )
    assert (report.state, await dump(hit)) == ("completed", before)


async def test_restore_brings_back_what_went_with_a_row(hit: World) -> None:
    """Rows of other tables that were deleted, nulled or set to a default are as before, each value with its text."""
    before = await dump(hit)
    report = await accepting(hit).runs(2 * HOUR, WEEK)
    left = await hit.sql(
        'SELECT (SELECT count(*) FROM {schema}."Comment") AS comments, (SELECT count(*) FROM {schema}.likes) AS likes, '
        "(SELECT count(first) + count(second) FROM {schema}.links) AS links, "
        "(SELECT sum(upload) FROM {schema}.badges) AS badges"
    )
    explanation = await explain(hit.executor, hit.store, hit.config, "old", now=hit.now)

    restored, again = [await restore(hit.executor, hit.store, key="old", now=hit.now) for _ in range(2)]

    assert (report.deleted, report.deleted_rows) == (1, 1)
    assert left == [{"comments": 1, "likes": 1, "links": 2, "badges": 2}]
    assert (
        "  row: uploads 2 was deleted with it, and 10 rows of other tables changed; the ledger has a copy"
        in (explanation.lines())
    )
    assert (restored.failed, restored.restored, restored.rows, again.rows) == ((), 1, 11, 0)
    assert await dump(hit) == before


async def test_restore_leaves_a_row_that_has_changed_since(hit: World) -> None:
    """A link that the application has set again stays, and one whose row is gone is no failure."""
    await accepting(hit).runs(2 * HOUR, WEEK)
    await hit.sql("UPDATE {schema}.links SET first = 1 WHERE id = 2")
    await hit.sql("DELETE FROM {schema}.links WHERE id = 4")

    restored = await restore(hit.executor, hit.store, key="old", now=hit.now)

    links = await hit.sql("SELECT id, first, second FROM {schema}.links ORDER BY id")
    assert restored.failed == ()
    assert links == [
        {"id": 1, "first": 2, "second": 2},
        {"id": 2, "first": 1, "second": 1},
        {"id": 3, "first": 1, "second": None},
    ]


async def test_a_foreign_key_that_comes_later_keeps_its_rows(hit: World) -> None:
    """The keys are read again with each deletion, and a row whose key the source does not accept stays."""
    references = await open_references(hit.executor, replace(hit.config, mode=Mode.REPORT))
    async with hit.executor.begin() as tx:
        locked = await references.lock_rows(tx, "uploads", ["2"])
        with pytest.raises(DriverError) as error:
            await references.lock_cascaded(tx, locked)

    assert error.value.reason == (
        f'a foreign key that changes {hit.schema}."Comment" (rows deleted), which the source does not accept'
    )


async def test_rows_that_could_not_be_found_again_are_refused(hit: World) -> None:
    """Without a primary key a nulled row has no identity, so such a table is refused although cascades are accepted."""
    await hit.sql("ALTER TABLE {schema}.badges DROP CONSTRAINT badges_pkey")

    with pytest.raises(ConfigError) as error:
        await accepting(hit).run(after=HOUR)

    assert str(error.value) == (
        f"orphans source 'uploads' must change only tables that have a primary key, got {hit.schema}.badges (upload set to "
        "default) without one, whose rows a restore could not find again; add a primary key, or change the foreign key"
    )
