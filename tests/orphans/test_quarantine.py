"""Objects in quarantine: how long they stay, and under which key."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from adversary import ChaosStore
from world import World

from millhand.orphans import Mode, explain, reconcile, restore

HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)


@pytest.mark.slow
async def test_quarantine_mode_never_destroys_an_object(world: World) -> None:
    """In mode quarantine an orphan leaves its key and stays in quarantine, however long it lies there."""
    await world.pair("live")
    await world.put("orphan", b"12345")

    report = await world.runs(2 * HOUR, WEEK, mode=Mode.QUARANTINE)
    later = await world.run(after=52 * WEEK, mode=Mode.QUARANTINE)

    assert (report.quarantined, report.deleted, later.purged) == (1, 0, 0)
    assert await world.keys() == ["live"]
    assert await world.store.get(".millhand/quarantine/2/orphan") == b"12345"


@pytest.mark.slow
async def test_delete_mode_destroys_an_object_after_quarantine_for(world: World) -> None:
    """In mode delete the bytes are destroyed after `quarantine_for`, not before, and no copy is left."""
    await world.pair("live")
    await world.put("orphan")

    await world.runs(2 * HOUR, WEEK)
    early = await world.run(after=WEEK - HOUR)
    late = await world.run(after=HOUR)

    assert (early.purged, late.purged) == (0, 1)
    assert await world.keys(".millhand/quarantine/") == []
    assert await world.keys() == ["live"]


@pytest.mark.slow
async def test_the_time_in_quarantine_begins_with_the_move(world: World) -> None:
    """`quarantine_for` counts from the move of an object, not from the start of its run."""
    config = replace(world.config, grace=timedelta(0), allow_short_grace=True)
    moved_after = []

    async def note(operation: str) -> None:
        if operation == "move":
            moved_after.append((await world.sql("SELECT now() AS now"))[0]["now"])

    await world.pair("live")
    await world.put("orphan")
    for _ in range(2):
        report = await reconcile(world.executor, ChaosStore(world.store, note), config)

    (action,) = (await explain(world.executor, world.store, config, "orphan")).actions
    assert (report.deleted, report.purged, action.state) == (1, 0, "quarantined")
    assert action.updated_at is not None
    assert action.updated_at > moved_after[0]


@pytest.mark.slow
async def test_a_short_grace_takes_two_runs_and_leaves_nothing(world: World) -> None:
    """With a grace of zero, which must be allowed, the second run removes and destroys at once."""
    short = {"grace": timedelta(0), "quarantine_for": timedelta(0), "allow_short_grace": True}
    await world.pair("live")
    await world.put("orphan")

    report = await world.runs(HOUR, timedelta(seconds=1), **short)

    assert (report.deleted, report.purged) == (1, 1)
    assert await world.keys() == ["live"]
    assert await world.keys(".millhand/quarantine/") == []


@pytest.mark.slow
async def test_key_too_long_for_quarantine_gets_another_name(world: World) -> None:
    """If a key is too long for the quarantine's prefix, it is quarantined under another name, and can be restored."""
    key = "/".join(["x" * 100] * 10)
    await world.pair("live")
    await world.put(key, b"12345")

    report = await world.runs(2 * HOUR, WEEK)
    kept = await world.keys(".millhand/quarantine/")
    await restore(world.executor, world.store, key=key, now=world.now)

    assert report.deleted == 1
    assert [len(name) < 200 for name in kept] == [True]
    assert await world.store.get(key) == b"12345"
