"""A rehearsal: it predicts what runs do, and it changes nothing."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import timedelta

import pytest
from world import DAY, World

from millhand.orphans import rehearse

HOUR = timedelta(hours=1)
LEDGER = ("run", "finding", "action", "binding", "partition")


async def everything(world: World) -> list[object]:
    """Return all rows, the ledger and all keys of the store, its own ones included."""
    tables = ["uploads", "avatars", *(f"millhand_orphan_{name}" for name in LEDGER)]
    rows = [await world.sql(f"SELECT t::text FROM {{schema}}.{name} AS t ORDER BY 1") for name in tables]
    return [*rows, await world.keys(), await world.keys(".millhand/")]


async def fill(world: World) -> None:
    """Make objects and rows for each rule."""
    await world.pair("live", "parent.png", "near/a.png", "shared")
    objects = (
        "lost.png",
        "near/A.png",
        "v/parent.png/1",
        "v/none.png/1",
        "half.png",
        "old.png",
        "v/old.png/1",
        "tmp/x",
    )
    for key in objects:
        await world.put(key)
    await world.row("half.png", state="pending")
    await world.row("bare", state="pending")
    await world.row("shared", state="pending")
    await world.row("old.png", deleted_at=world.now)
    await world.row("gone")
    await world.sql("INSERT INTO {schema}.avatars VALUES ('gone too')")
    world.config = replace(
        world.config,
        derived=("v/{key}/*",),
        exclude=("tmp/",),
        grace=2 * DAY,
        retention=4 * DAY,
        max_share=1.0,
    )


@pytest.mark.slow
async def test_a_rehearsal_predicts_what_runs_remove_and_changes_nothing(world: World) -> None:
    """By rule, source and day, daily runs remove what the rehearsal says, whether it begins before or after a first run."""
    await fill(world)
    before = await everything(world)
    fresh = await rehearse(world.executor, world.store, world.config, days=8, now=world.now)
    assert await everything(world) == before

    began_at = world.now
    await world.run()
    seen = await rehearse(world.executor, world.store, world.config, days=8, now=world.now)
    for _ in range(8):
        await world.run(after=DAY)
    done = await world.sql(
        "SELECT rule, source, array_agg(key ORDER BY key) AS keys, count(*) FILTER (WHERE is_row) AS rows, "
        "count(*) FILTER (WHERE is_object) AS objects, min(day) AS first_day, max(day) AS last_day "
        "FROM (SELECT *, row_json IS NOT NULL AS is_row, quarantine_key IS NOT NULL AS is_object, "
        "extract(day FROM created_at - $1)::int AS day FROM {schema}.millhand_orphan_action) AS one "
        "GROUP BY rule, source ORDER BY rule, source",
        began_at,
    )

    assert fresh == seen
    predicted = [
        {"rule": one.rule, "source": one.source, "keys": sorted(one.examples), "rows": one.rows, "objects": one.objects,
         "first_day": one.first_day, "last_day": one.last_day}
        for one in fresh.removals
    ]  # fmt: skip
    assert predicted == done
    assert [(one["rule"], one["keys"], one["last_day"]) for one in done] == [
        (4, ["half.png"], 2),
        (7, ["old.png"], 4),
        (12, ["lost.png"], 3),
        (15, ["v/none.png/1", "v/old.png/1"], 7),
        (20, ["bare"], 2),
    ]
    assert (fresh.objects, fresh.rows, fresh.live, fresh.obstacles) == (11, 10, 4, ())
    assert fresh.kept == {"missing": 2, "near_match": 1, "shared": 1}


@pytest.mark.slow
async def test_a_rehearsal_explains_each_removal_and_names_the_obstacles(world: World) -> None:
    """Each removal has its reason with the limit, and each guard that would abort a run is named with its day."""
    await fill(world)
    config = replace(world.config, max_share=0.01)

    found = await rehearse(world.executor, world.store, config, days=3, now=world.now)
    await world.run()
    await world.sql("UPDATE {schema}.millhand_orphan_binding SET token = 'another'")
    await world.sql(
        "CREATE TABLE {schema}.likes (upload bigint REFERENCES {schema}.uploads ON DELETE CASCADE)"
    )
    blocked = await rehearse(world.executor, world.store, config, days=1, now=world.now)
    await world.sql("DROP TABLE {schema}.likes")
    elsewhere = await rehearse(world.executor, world.store, config, days=1, now=world.now)

    assert [(one.rule, one.reason) for one in found.removals] == [
        (4, "a row is pending, unchanged for 2 d"),
        (12, "no row has named an object for 2 d"),
        (15, "no row has named an object or its parent for 2 d"),
        (20, "a row is pending, unchanged and without an object for 2 d"),
    ]
    assert [reason.split(", got")[0] for reason in found.obstacles] == [
        "day 2: a run may remove at most 1.00% of all objects and bytes",
        "day 3: a run may remove at most 1.00% of all objects and bytes",
    ]
    assert blocked.obstacles[0].startswith("cascades of orphans source 'uploads' must be 'accept'")
    assert elsewhere.obstacles[0].startswith("the bucket must be bound to this database")
    assert asdict(found.removals[0]) == {
        "bytes": 8, "examples": ["half.png"], "first_day": 2, "last_day": 2, "objects": 1, "rows": 1, "rule": 4,
        "reason": "a row is pending, unchanged for 2 d", "source": "uploads",
    }  # fmt: skip
