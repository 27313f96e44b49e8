"""Runs that are killed, taken over, started twice or started late: what they leave behind and what the next run does."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from adversary import ChaosExecutor, ChaosStore, Killed
from world import DAY, World

from factory import GENEROUS_SECONDS
from millhand.core.errors import MillhandError
from millhand.orphans import RunLost, RunReport, list_runs, reconcile
from millhand.orphans.inventory import duckdb_engine

pytestmark = pytest.mark.slow  # CI runs it; the default suite stays within a minute

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
WEEK = timedelta(days=7)


async def test_a_killed_run_continues_at_its_last_page(world: World) -> None:
    """The next run lists from the cursor on, repeats one page at most, and counts the whole bucket."""
    config = replace(world.config, page_size=10)
    await world.pair(*[f"{number:03}" for number in range(100)])
    for number in range(5):
        await world.put(f"{number:03}.orphan")
    world.now += 2 * HOUR
    pages = []

    async def die_at_the_sixth_page(operation: str) -> None:
        pages.append(operation)
        if pages.count("list") == 6:
            raise Killed

    with pytest.raises(Killed):
        await reconcile(world.executor, ChaosStore(world.store, die_at_the_sixth_page), config, now=world.now)
    pages.clear()
    counted = []

    async def count(operation: str) -> None:
        counted.append(operation)

    report = await reconcile(
        world.executor, ChaosStore(world.store, count), config, now=world.now + 2 * MINUTE
    )

    assert (report.is_resumed, report.objects, report.rows, report.orphan_objects) == (True, 105, 100, 5)
    assert counted.count("list") <= 7  # 105 objects are 11 pages, of which 5 were done


async def test_a_second_run_over_a_bucket_is_busy(world: World) -> None:
    """Of two runs over one bucket at the same time, the second does nothing and reports `busy`."""
    await world.pair("live")
    reports = []

    async def run_beside(operation: str) -> None:
        if operation == "list" and not reports:
            reports.append(await world.run())

    await reconcile(world.executor, ChaosStore(world.store, run_beside), world.config, now=world.now)

    assert [(report.state, report.objects, report.run_id) for report in reports] == [("busy", 0, None)]
    assert len(await list_runs(world.executor)) == 1


async def test_of_many_runs_begun_at_once_one_runs(world: World) -> None:
    """Of five runs that begin at the same moment, four report `busy`."""
    await world.pair("live")

    reports: list[RunReport] = []
    are_all_begun = asyncio.Event()

    async def wait_for_the_others(operation: str) -> None:
        if operation == "list":
            async with asyncio.timeout(30):
                await are_all_begun.wait()

    async def run() -> None:
        store = ChaosStore(world.store, wait_for_the_others)
        reports.append(await reconcile(world.executor, store, world.config, now=world.now))
        if len(reports) == 4:
            are_all_begun.set()

    await asyncio.gather(*(run() for _ in range(5)))

    assert [report.state for report in reports] == ["busy"] * 4 + ["completed"]


async def test_a_process_that_lost_its_run_stops(world: World) -> None:
    """A process that was stalled while its run was taken over raises RunLost at its next statement, and removes nothing."""
    await world.pair("live")
    await world.put("orphan")
    await world.run(after=2 * HOUR)
    world.now += WEEK
    others = []

    async def sleep_long(operation: str) -> None:
        is_sweeping = (await list_runs(world.executor, limit=1))[0].state == "sweeping"
        if operation == "begin" and is_sweeping and not others:
            others.append(None)
            others[0] = await reconcile(world.executor, world.store, world.config, now=world.now + 2 * MINUTE)

    with pytest.raises(RunLost) as lost:
        await reconcile(ChaosExecutor(world.executor, sleep_long), world.store, world.config, now=world.now)

    assert str(lost.value) == (
        "orphan run must be held by this process, got run 2 taken over from epoch 1; wait for it to end"
    )
    assert others[0].deleted == 1
    assert await world.keys() == ["live"]


async def test_a_run_keeps_its_place_while_one_move_lasts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A heartbeat is written during a move that lasts longer than the lease, and no other process takes the run over."""
    monkeypatch.setattr(duckdb_engine, "BEAT_SECONDS", 0.01)
    await world.pair("live")
    await world.put("orphan")
    await world.run(after=2 * HOUR)
    world.now += WEEK
    lasted: list[str] = []

    async def last(operation: str) -> None:
        if operation == "move" and not lasted:
            lasted.append(operation)
            await world.sql("UPDATE {schema}.millhand_orphan_run SET heartbeat_at = '2020-01-01'")
            sql = "SELECT FROM {schema}.millhand_orphan_run WHERE finished_at IS NULL AND heartbeat_at < '2021-01-01'"
            async with asyncio.timeout(GENEROUS_SECONDS):
                while await world.sql(sql):
                    pass
            lasted.append((await world.run()).state)

    report = await reconcile(world.executor, ChaosStore(world.store, last), world.config, now=world.now)

    assert (lasted, report.deleted) == (["move", "busy"], 1)


async def test_a_run_older_than_a_day_is_not_continued(world: World) -> None:
    """A run that began more than a day ago is closed, and a new one begins."""
    await world.pair("live")

    async def die(operation: str) -> None:
        if operation == "list":
            raise Killed

    with pytest.raises(Killed):
        await reconcile(world.executor, ChaosStore(world.store, die), world.config, now=world.now)

    report = await world.run(after=DAY + HOUR)

    runs = await list_runs(world.executor)
    assert (report.is_resumed, report.is_first) == (False, True)
    assert [(run.state, run.error) for run in runs] == [
        ("completed", None),
        ("failed", "its process died; a new run began"),
    ]


async def test_a_failed_run_records_its_error_and_blocks_no_other(world: World) -> None:
    """An error ends the run at once: the ledger has its text, and the next run does not wait for a lease."""
    await world.pair("live")

    class Broken(ChaosStore):
        async def head(self, key: str) -> object:
            raise MillhandError("the disk is on fire")

    await world.row("missing")
    with pytest.raises(MillhandError):
        await reconcile(world.executor, Broken(world.store, _nothing), world.config, now=world.now)
    report = await world.run()

    run = (await list_runs(world.executor))[1]
    assert (run.state, run.error) == ("failed", "MillhandError: the disk is on fire")
    assert (report.state, report.is_first, report.bucket) == ("completed", True, world.store.url)


async def _nothing(operation: str) -> None:
    """Do nothing."""


async def test_sightings_of_incomplete_runs_do_not_count(world: World) -> None:
    """A run that did not scan the whole bucket counts as no sighting and as no first run."""
    await world.pair("a live")
    await world.put("b orphan")
    await world.run(after=2 * HOUR, grace=WEEK)
    await world.sql("UPDATE {schema}.millhand_orphan_run SET scanned_at = NULL")

    first = await world.run(after=WEEK)
    second = await world.run(after=HOUR)

    assert (first.is_first, first.deleted, second.deleted) == (True, 0, 1)
