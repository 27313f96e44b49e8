"""The scan of one partition: the order of objects and rows, unordered listings, and missing objects."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from adversary import ChaosStore
from world import World

from millhand.core.errors import MillhandError
from millhand.orphans import list_findings, list_runs, reconcile
from millhand.orphans.scan import partition_scan

HOUR = timedelta(hours=1)


async def _nothing(operation: str) -> None:
    """Do nothing."""


async def test_a_row_that_is_committed_after_its_page_was_listed_is_seen(world: World) -> None:
    """Objects are listed first and rows are read after, so an object whose row comes in between is live."""
    await world.pair("live")
    await world.put("late")
    world.now += 2 * HOUR
    added = []

    async def add_row(operation: str) -> None:
        if operation == "list" and not added:
            added.append(await world.row("late"))

    report = await reconcile(world.executor, ChaosStore(world.store, add_row), world.config, now=world.now)

    assert (len(added), report.objects, report.orphan_objects) == (1, 2, 0)


@pytest.mark.slow
async def test_batches_of_rows_within_a_page_lose_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If one page of objects takes several reads of rows, every object and every row is counted once."""
    monkeypatch.setattr("millhand.orphans.sources.references.BATCH_ROWS", 7)
    await world.pair(*[f"{number:03}" for number in range(50)])
    await world.put("025.orphan")
    await world.row("zzz")

    report = await world.run(after=2 * HOUR)

    assert (report.objects, report.rows, report.orphan_objects, report.missing) == (51, 51, 1, 1)


@pytest.mark.slow
async def test_missing_objects_beyond_the_limit_of_looks_are_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only MAX_LOOKS missing objects become findings, by key; the guards see the number of all of them."""
    monkeypatch.setattr(partition_scan, "MAX_LOOKS", 2)
    await world.pair("live")
    for number in reversed(range(5)):
        await world.row(f"missing/{number}")

    report = await world.run(after=HOUR)

    found = await list_findings(world.executor, kind="missing")
    assert (report.missing, [finding.key for finding in found]) == (5, ["missing/0", "missing/1"])


async def test_an_object_that_appears_after_its_page_was_listed_is_not_missing(world: World) -> None:
    """The second look finds an object that was put meanwhile, in HEAD and in a new listing."""
    await world.pair("live")
    await world.row("late")
    put = []

    async def put_late(operation: str) -> None:
        if operation == "head" and not put:
            put.append(await world.put("late"))

    report = await reconcile(world.executor, ChaosStore(world.store, put_late), world.config, now=world.now)

    assert (len(put), report.state) == (1, "completed")
    assert report.missing == 0


@pytest.mark.slow
async def test_a_listing_that_turns_out_unordered_is_sorted(world: World) -> None:
    """A store that reports an order and does not keep it is scanned again, sorted, with correct results."""
    await world.pair(*[f"{number:03}/a" for number in range(30)], *[f"{number:03}.b" for number in range(30)])
    await world.put("999")

    class Unordered(ChaosStore):
        async def list_pages(self, **question: object) -> object:
            async for page in super().list_pages(**question):
                keys = list(page.keys)
                order = sorted(range(len(keys)), key=lambda index: keys[index].split("/"))
                yield replace(
                    page,
                    describe=lambda index, page=page, order=order: page.describe(order[index]),
                    keys=[keys[index] for index in order],
                    sizes=[page.sizes[index] for index in order],
                )

    store = Unordered(world.store, _nothing)
    world.now += 2 * HOUR
    report = await reconcile(world.executor, store, replace(world.config, page_size=7), now=world.now)

    assert (report.objects, report.rows, report.orphan_objects, report.missing) == (61, 60, 1, 0)
    assert [run.is_ordered for run in await list_runs(world.executor)] == [False]


@pytest.mark.slow
async def test_rule_19_an_object_that_exists_and_is_not_listed_ends_the_run(world: World) -> None:
    """If HEAD finds an object that two listings do not show, the run fails and removes nothing."""
    await world.pair("live", "hidden")

    class Forgetful(ChaosStore):
        async def list_pages(self, **question: object) -> object:
            async for page in super().list_pages(**question):
                kept = [index for index, key in enumerate(page.keys) if key != "hidden"]
                yield replace(
                    page,
                    describe=lambda index, page=page, kept=kept: page.describe(kept[index]),
                    keys=[page.keys[index] for index in kept],
                    sizes=[page.sizes[index] for index in kept],
                )

    with pytest.raises(MillhandError) as ended:
        await reconcile(world.executor, Forgetful(world.store, _nothing), world.config, now=world.now)

    assert str(ended.value) == (
        "list of 'hidden' must succeed, got an object that HEAD finds and two listings do not; nothing was removed"
    )
