"""What a run does with interrupted moves and quarantined objects of earlier runs."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from adversary import ChaosExecutor, ChaosStore, ClumsyStore, Interrupter, Killed
from world import DAY, World

from millhand.orphans import Mode, reconcile

pytestmark = pytest.mark.slow  # CI runs it; the default suite stays within a minute

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
WEEK = timedelta(days=7)


async def _kill() -> None:
    raise Killed


async def killed_at(world: World, step: int) -> bool:
    """Run, get killed at a step, and return whether the run had that many steps."""
    interrupter = Interrupter(interventions={step: [_kill]})
    try:
        await reconcile(
            ChaosExecutor(world.executor, interrupter),
            ChaosStore(world.store, interrupter),
            world.config,
            now=world.now,
        )
    except Killed:
        return True
    return False


async def test_a_quarantined_object_is_restored_when_a_row_names_it(world: World) -> None:
    """The next run restores an object from quarantine once a row names it again."""
    await world.pair("live")
    await world.put("orphan", b"12345")
    await world.runs(2 * HOUR, WEEK)
    await world.row("orphan")

    report = await world.run(after=HOUR)

    assert (report.restored, report.missing, report.deleted) == (1, 0, 0)
    assert await world.store.get("orphan") == b"12345"
    assert await world.keys(".millhand/quarantine/") == []


async def test_the_newest_of_two_quarantined_objects_of_one_key_is_restored(world: World) -> None:
    """A row that names the key means the object that had it last. The older one stays in quarantine, then goes."""
    world.config = replace(world.config, mode=Mode.QUARANTINE)
    await world.pair("live")
    for data in (b"old", b"new"):
        await world.put("twice", data)
        await world.runs(2 * HOUR, WEEK)
    await world.row("twice")

    report = await world.run(after=HOUR)
    kept = await world.keys(".millhand/quarantine/")
    purged = await world.run(after=WEEK, mode=Mode.DELETE)

    assert (report.restored, kept, purged.purged) == (1, [".millhand/quarantine/2/twice"], 1)
    assert await world.store.get("twice") == b"new"
    assert await world.keys(".millhand/quarantine/") == []


@pytest.mark.parametrize("is_live", [False, True], ids=["orphan", "live again"])
async def test_a_copy_stays_while_its_process_may_go_on(world: World, is_live: bool) -> None:
    """
    If a process ends between copy and delete, both stay for `quarantine_for`: it may only be paused, and delete one.

    After that the copy goes, and the object is evaluated again.
    """
    interrupter = Interrupter(interventions={("copied", 1): [_kill]})
    world = replace(world, store=ClumsyStore(world.store, interrupter))
    await world.pair("live")
    await world.put("orphan")
    await world.run(after=2 * HOUR)
    with pytest.raises(Killed):
        await world.run(after=WEEK)
    if is_live:
        await world.row("orphan")

    early = await world.runs(2 * MINUTE, WEEK - HOUR)
    kept = await world.keys(".millhand/quarantine/")
    late = await world.run(after=HOUR)

    assert (early.state, early.deleted, len(kept)) == ("completed", 0, 1)
    assert (late.state, late.deleted) == ("completed", int(not is_live))
    assert await world.keys() == (["live", "orphan"] if is_live else ["live"])
    copies = await world.keys(".millhand/quarantine/")
    assert (copies != kept, len(copies)) == (True, late.deleted)


async def test_a_kill_at_any_step_is_repaired_by_the_next_run(world: World) -> None:
    """Whatever statement or request was the last one, the next run ends where an unbroken run would have ended."""
    step = 0
    while True:
        step += 1
        name = f"{step:03}"
        await world.pair(f"{name}/live")
        await world.put(f"{name}/orphan")
        await world.put(f"{name}/abandoned")
        await world.row(f"{name}/abandoned", state="pending", created_at=world.now - 30 * DAY)
        await world.run(after=2 * HOUR)
        world.now += WEEK
        if not await killed_at(world, step):
            break

        await world.run(after=2 * MINUTE)

        left = await world.keys(name)
        # If the run died before the move, its object is evaluated again. If the row is gone, its object goes too.
        assert left in ([f"{name}/live"], [f"{name}/live", f"{name}/orphan"]), step
        await world.run(after=WEEK)
        assert await world.keys(name) == [f"{name}/live"], step
        assert await world.store.get(f"{name}/live") == f"{name}/live".encode()

    assert step > 40
    open_actions = await world.sql(
        "SELECT key, state FROM {schema}.millhand_orphan_action WHERE state = 'intended'"
    )
    assert open_actions == []
