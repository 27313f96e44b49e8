"""A process that is stalled between two calls, loses its run to another process, and then goes on or is killed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from adversary import ChaosExecutor, ChaosStore, Killed
from world import World

from factory import GENEROUS_SECONDS, qualified
from millhand.orphans import RestoreReport, reconcile, restore
from millhand.orphans.ledger import RunLost

pytestmark = pytest.mark.slow

BLOCKED = """
    SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
    AND query LIKE '%INSERT INTO %millhand_orphan_run%'
"""
HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)


async def stalled(
    world: World, call: str, meanwhile: Callable[[], Awaitable[object]], *, dies_at: str = ""
) -> None:
    """Run in a process that is stalled before its first call of this name, then goes on, or is killed at another call."""
    stalls: list[str] = []

    async def hook(operation: str) -> None:
        if operation == dies_at and stalls:
            raise Killed
        if operation == call and not stalls:
            stalls.append(operation)
            await meanwhile()

    store = ChaosStore(world.store, hook)
    with contextlib.suppress(Killed, RunLost):
        await reconcile(ChaosExecutor(world.executor, hook), store, world.config, now=world.now)
    assert stalls == [call]


async def refer(world: World) -> None:
    """Insert the row of the object, and let the next run restore it."""
    await world.row("orphan")
    await world.run(after=HOUR)
    assert await world.keys("orphan") == ["orphan"]


async def abandon(world: World) -> None:
    """Make a pending row and its object, which the next run finds due, beside a live pair."""
    await world.pair("live")
    await world.put("abandoned", b"12345")
    await world.row("abandoned", state="pending")
    await world.run(after=2 * HOUR)
    world.now += WEEK


async def test_a_purge_that_was_stalled_destroys_no_object_that_is_restored_meanwhile(
    versioned: World,
) -> None:
    """A row comes while a purge is stalled, the next run restores the object, and the purge goes on: the object stays."""
    world = versioned
    await world.pair("live")
    await world.put("orphan", b"12345")
    await world.runs(2 * HOUR, WEEK)
    world.now += WEEK + HOUR

    await stalled(world, "delete version", lambda: refer(world))

    assert await world.store.get("orphan") == b"12345"


async def test_an_object_that_a_stalled_process_moved_is_restored_although_the_process_died(
    world: World,
) -> None:
    """A process is stalled before a move, a row comes, the process moves the object and dies: the next run restores it."""
    await world.pair("live")
    await world.put("orphan", b"12345")
    await world.run(after=2 * HOUR)
    world.now += WEEK

    await stalled(world, "move", lambda: refer(world), dies_at="moved")
    await world.run(after=HOUR)

    assert await world.store.get("orphan") == b"12345"


async def test_an_object_that_a_stalled_process_moved_after_its_row_is_restored_although_the_process_died(
    world: World,
) -> None:
    """As above, and the process has deleted a pending row before: the next run leaves the action open for it."""
    await world.pair("live")
    await world.put("orphan", b"12345")
    await world.row("orphan", state="pending")
    await world.run(after=2 * HOUR)
    world.now += WEEK

    await stalled(world, "move", lambda: refer(world), dies_at="moved")
    await world.run(after=HOUR)

    assert await world.row_keys() == ["live", "orphan"]
    assert await world.store.get("orphan") == b"12345"


async def test_an_object_that_a_run_moves_after_a_restore_of_its_row_is_restored_although_the_process_died(
    world: World,
) -> None:
    """A restore inserts a row whose object a run is about to move. The run moves it and dies; the next run restores it."""
    await abandon(world)

    async def restore_it() -> None:
        reports = [await restore(world.executor, world.store, run=2, now=world.now) for _ in range(2)]
        assert [(one.rows, one.already, one.failed) for one in reports] == [(1, 0, ()), (0, 1, ())]

    await stalled(world, "move", restore_it, dies_at="moved")
    assert await world.keys() == ["live"]
    await world.run(after=HOUR)

    assert await world.row_keys() == ["abandoned", "live"]
    assert await world.store.get("abandoned") == b"12345"


async def test_a_restore_brings_back_an_object_that_a_run_moves_before_its_row_is_there(world: World) -> None:
    """A restore finds an object in place. A run moves it and reads the references, then the restore inserts the row."""
    await abandon(world)
    at_insert, is_moved = asyncio.Event(), asyncio.Event()
    restoring: list[asyncio.Task[RestoreReport]] = []

    async def wait_at_insert(operation: str) -> None:
        if operation == "begin":
            at_insert.set()
            await is_moved.wait()

    async def begin_restore() -> None:
        executor = ChaosExecutor(world.executor, wait_at_insert)
        restoring.append(asyncio.create_task(restore(executor, world.store, run=2, now=world.now)))
        await at_insert.wait()

    await stalled(world, "move", begin_restore)
    assert await world.keys() == ["live"]
    is_moved.set()
    report = await restoring[0]

    assert (report.restored, report.rows, report.failed) == (1, 1, ())
    assert await world.row_keys() == ["abandoned", "live"]
    assert await world.store.get("abandoned") == b"12345"
    assert await world.sql("SELECT state FROM {schema}.millhand_orphan_action") == [{"state": "restored"}]


async def test_the_ledger_knows_of_a_late_move_of_an_object_that_a_text_has_named_meanwhile(
    world: World,
) -> None:
    """A text names the key while a process is stalled. The next run leaves the object. `restore` finds it after the move."""
    world.config = replace(world.config, mentions=(f"{world.schema}.messages",))
    await world.sql("CREATE TABLE {schema}.messages (body text)")
    await world.pair("live")
    await world.put("2026/abandoned.png", b"12345")
    await world.row("2026/abandoned.png", state="pending")
    await world.run(after=2 * HOUR)
    world.now += WEEK

    async def mention() -> None:
        await world.sql("INSERT INTO {schema}.messages VALUES ('see 2026/abandoned.png')")
        await world.run(after=HOUR)
        assert await world.keys("2026/") == ["2026/abandoned.png"]

    await stalled(world, "move", mention)
    assert await world.keys("2026/") == []
    report = await restore(world.executor, world.store, key="2026/abandoned.png", now=world.now)

    await world.sql("DROP TABLE {schema}.messages")
    assert (report.restored, report.rows) == (1, 1)
    assert await world.store.get("2026/abandoned.png") == b"12345"


async def test_a_stalled_process_does_not_overwrite_what_the_next_run_recorded(world: World) -> None:
    """The next run finishes the move of a stalled process. That one finds the object gone; a later row restores it."""
    await abandon(world)

    await stalled(world, "move", lambda: world.run(after=HOUR))
    await world.row("abandoned")
    report = await world.run(after=HOUR)

    assert report.restored == 1
    assert await world.store.get("abandoned") == b"12345"


async def test_a_stalled_process_does_not_record_a_move_that_was_undone_meanwhile(world: World) -> None:
    """A process is stalled after a move, and the next run restores the object: the ledger keeps that it is restored."""
    await world.pair("live")
    await world.put("orphan", b"12345")
    await world.run(after=2 * HOUR)
    world.now += WEEK

    async def refer() -> None:
        await world.row("orphan")
        await world.run(after=HOUR)

    await stalled(world, "moved", refer)

    assert await world.store.get("orphan") == b"12345"
    states = await world.sql("SELECT state FROM {schema}.millhand_orphan_action")
    assert states == [{"state": "restored"}]


async def test_an_object_that_two_processes_move_at_once_is_in_quarantine(world: World) -> None:
    """
    A stalled process goes on while the next run finishes its move, and moves the object first.

    The run finds the object gone, and its copy there. A later row restores it, in whatever order they record.
    """
    await abandon(world)

    async def overtake() -> None:
        moved: list[str] = []

        async def move_first(operation: str) -> None:
            if operation == "move" and not moved:
                [action] = await world.sql("SELECT quarantine_key FROM {schema}.millhand_orphan_action")
                moved.append(action["quarantine_key"])
                await world.store.move("abandoned", moved[0])

        world.now += HOUR
        await reconcile(world.executor, ChaosStore(world.store, move_first), world.config, now=world.now)

    await stalled(world, "move", overtake)
    await world.row("abandoned")
    report = await world.run(after=HOUR)

    assert report.restored == 1
    assert await world.store.get("abandoned") == b"12345"


async def test_ages_count_from_when_the_run_had_its_place(world: World) -> None:
    """A process is stalled until its run is in the ledger: what it then sees is not older than that."""
    await world.row("missing", created_at=world.now - WEEK)
    async with world.executor.begin() as tx:
        await tx.fetch(qualified("LOCK TABLE /* schema */millhand_orphan_run IN EXCLUSIVE MODE", tx))
        running = asyncio.create_task(reconcile(world.executor, world.store, world.config))
        async with asyncio.timeout(GENEROUS_SECONDS):
            while not await world.sql(BLOCKED):
                pass
        [released] = await tx.fetch("SELECT clock_timestamp() AS at")
    await running

    [finding] = await world.executor.fetch(
        qualified("SELECT first_seen_at FROM /* schema */millhand_orphan_finding", world.executor)
    )
    assert finding["first_seen_at"] > released["at"]
