"""Runs in partitions: the same results wherever the bucket is cut, and one page repeated after a kill."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from adversary import ChaosStore, Killed
from world import World

from millhand.core.errors import ConfigError
from millhand.core.orphans import OrphansConfig
from millhand.orphans import RunReport, reconcile
from millhand.orphans.ledger import Totals
from millhand.orphans.scan.partition_ledger import KeyBounds
from millhand.orphans.scan.partitions import split, total_of
from millhand.storage import Capabilities, StoreError

pytestmark = pytest.mark.slow  # CI runs it; the default suite stays within a minute

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
CUTS = ("010", "025", "025.orphan", "060", "zzz")


class Elsewhere(ChaosStore):
    """A directory that has the URL of a bucket, because only buckets are listed in partitions."""

    @property
    def url(self) -> str:
        return "s3://elsewhere/"


async def _nothing(operation: str) -> None:
    """Do nothing."""


def elsewhere(world: World, hook: Callable[[str], Awaitable[None]] = _nothing) -> Elsewhere:
    return Elsewhere(world.store, hook)


async def populate(world: World) -> None:
    """Make one hundred live objects, five orphans and three rows without object, at the cuts and between them."""
    await world.pair(*[f"{number:03}" for number in range(100)])
    for number in (0, 9, 25, 60, 99):
        await world.put(f"{number:03}.orphan")
    for key in ("0100", "025.a", "zzz"):
        await world.row(key)
    world.now += 2 * HOUR


def cut(world: World, **changes: object) -> OrphansConfig:
    return replace(world.config, page_size=10, split_at=CUTS, **changes)  # type: ignore[arg-type]


def figures(report: RunReport) -> tuple[str, int, int, int, int, int]:
    return (report.state, report.objects, report.rows, report.orphan_objects, report.missing, report.bytes)


async def partitions_of(world: World) -> list[tuple[str, str | None, bool]]:
    rows = await world.sql(
        "SELECT low, high, is_done FROM {schema}.millhand_orphan_partition ORDER BY number"
    )
    return [(row["low"], row["high"], row["is_done"]) for row in rows]


@pytest.mark.parametrize(
    "num_partitions", [pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow), 4]
)
async def test_partitions_count_what_one_partition_counts(world: World, num_partitions: int) -> None:
    """Cut between keys, at a key or at an orphan, a run counts every object and every row exactly once."""
    await populate(world)

    report = await reconcile(
        world.executor, elsewhere(world), cut(world, partitions=num_partitions), now=world.now
    )

    assert figures(report) == ("completed", 105, 103, 5, 3, sum(len(key) for key in await world.keys()))
    found = await world.sql(
        "SELECT key FROM {schema}.millhand_orphan_finding WHERE kind = 'orphan' ORDER BY key"
    )
    assert [row["key"] for row in found] == [f"{number:03}.orphan" for number in (0, 9, 25, 60, 99)]
    assert await partitions_of(world) == [
        (low, high, True) for low, high in zip(("", *CUTS), (*CUTS, None), strict=True)
    ]


async def test_partitions_are_listed_side_by_side(world: World) -> None:
    """Four partitions are four listings at once."""
    await populate(world)
    listing = 0
    most = 0
    are_all = asyncio.Event()

    async def count(operation: str) -> None:
        nonlocal listing, most
        if operation != "list" or are_all.is_set():
            return
        listing += 1
        most = max(most, listing)
        if listing == 4:
            are_all.set()
        async with asyncio.timeout(20):
            await are_all.wait()
        listing -= 1

    await reconcile(world.executor, elsewhere(world, count), cut(world, partitions=4), now=world.now)

    assert most == 4


async def test_a_store_that_is_not_ordered_is_one_partition(world: World) -> None:
    """If a listing cannot start exactly after a key there is one partition, with the same results."""
    await populate(world)

    class Inexact(Elsewhere):
        async def probe(self) -> Capabilities:
            return replace(await super().probe(), has_exact_start_after=False, is_ordered=False)

    report = await reconcile(world.executor, Inexact(world.store, _nothing), cut(world), now=world.now)

    assert figures(report)[:5] == ("completed", 105, 103, 5, 3)
    assert await partitions_of(world) == [("", None, True)]


async def test_killed_partitions_continue_at_their_own_cursors(world: World) -> None:
    """After a kill each partition repeats one page at most, and the totals count everything once."""
    await populate(world)
    pages = []

    async def die_at_the_eighth_page(operation: str) -> None:
        if operation == "list":
            pages.append(operation)
            if len(pages) >= 8:
                raise Killed

    with pytest.raises(Killed):
        await reconcile(
            world.executor, elsewhere(world, die_at_the_eighth_page), cut(world, partitions=2), now=world.now
        )
    before = await partitions_of(world)
    redone = []

    async def count(operation: str) -> None:
        if operation == "list":
            redone.append(operation)

    report = await reconcile(
        world.executor, elsewhere(world, count), cut(world, partitions=2), now=world.now + 2 * MINUTE
    )

    assert report.is_resumed
    assert figures(report)[:5] == ("completed", 105, 103, 5, 3)
    assert [partition[:2] for partition in before] == [
        partition[:2] for partition in await partitions_of(world)
    ]
    # 16 pages in all, of which 7 were scanned or requested in two partitions.
    assert len(redone) <= 16 - 7 + 2


async def test_a_partition_that_fails_stops_the_others(world: World) -> None:
    """The first error ends the run after every partition has ended its page; the ledger has its text."""
    await populate(world)
    pages = []

    async def fail_at_the_third_page(operation: str) -> None:
        if operation == "list":
            pages.append(operation)
            if len(pages) == 3:
                raise StoreError("list", "a cable that was pulled")

    with pytest.raises(StoreError, match="a cable that was pulled"):
        await reconcile(
            world.executor, elsewhere(world, fail_at_the_third_page), cut(world, partitions=2), now=world.now
        )

    runs = await world.sql("SELECT state, error FROM {schema}.millhand_orphan_run")
    assert [run["state"] for run in runs] == ["failed"]
    assert len(pages) <= 5


async def test_partitions_are_cut_by_the_statistics_of_the_table(world: World) -> None:
    """Without `split_at`, the statistics of a large table cut the bucket into stretches of about equal size."""
    await world.sql(
        "INSERT INTO {schema}.uploads (key) SELECT 'k' || lpad(n::text, 6, '0') FROM generate_series(1, 60000) AS n"
    )
    await world.sql("ANALYZE {schema}.uploads")
    config = replace(world.config, split_at=(), min_overlap=0.0)

    await reconcile(world.executor, elsewhere(world), config, now=world.now)

    partitions = await partitions_of(world)
    cuts = [int(high.removeprefix("k")) for _, high, _ in partitions if high is not None]
    assert len(partitions) == 3
    assert all(
        abs(found - wanted) < 2_400 for found, wanted in zip(cuts, range(20_000, 60_000, 20_000), strict=True)
    )


def test_split_ignores_points_outside_the_prefix() -> None:
    """Points outside, repeated points, and those that PostgreSQL cannot store are no cuts; the rest is in order."""
    config = OrphansConfig(
        prefix="p/", partitions=4, split_at=("p/b", "q", "p/B", "p/b", "a", "p/\ud800", "p/é")
    )

    assert split([], config, "p.\U0010ffff", "p0") == [
        ("p.\U0010ffff", "p/B"),
        ("p/B", "p/b"),
        ("p/b", "p/é"),
        ("p/é", "p0"),
    ]


def test_split_keeps_a_small_table_whole() -> None:
    """A table that is scanned in seconds is one partition, and so is any table if `partitions` is 1."""
    bounds = KeyBounds(tuple("abcdefghij"), 10_000)

    assert split([bounds], OrphansConfig(), "", None) == [("", None)]
    assert split([KeyBounds(bounds.bounds, 10**9)], OrphansConfig(partitions=1), "", None) == [("", None)]
    assert len(split([KeyBounds(bounds.bounds, 10**9)], OrphansConfig(partitions=2), "", None)) == 8


def test_total_of_sums_number_by_number() -> None:
    """The sum adds every number and every source by itself, and leaves its arguments unchanged."""
    base = Totals(objects=1, rows_of={"a": 1})
    parts = [Totals(objects=2, live=3, rows_of={"a": 2, "b": 5}), Totals(live=4)]

    assert total_of(base, parts) == Totals(objects=3, live=7, rows_of={"a": 3, "b": 5})
    assert base == Totals(objects=1, rows_of={"a": 1})


@pytest.mark.parametrize("partitions", [0, 65])
def test_partitions_must_be_between_1_and_64(partitions: int) -> None:
    """A number of partitions outside 1 to 64 is a ConfigError."""
    with pytest.raises(ConfigError) as raised:
        OrphansConfig(partitions=partitions)

    assert str(raised.value) == f"orphans.partitions must be 1 to 64, got {partitions}"


async def test_a_run_that_is_taken_over_counts_nothing_twice(world: World) -> None:
    """A run that died after all of its partitions were counted continues with the same totals."""
    await populate(world)
    first = await reconcile(world.executor, elsewhere(world), cut(world), now=world.now)
    await world.sql(
        "UPDATE {schema}.millhand_orphan_run SET state = 'scanning', scanned_at = NULL, finished_at = NULL"
    )

    again = await reconcile(world.executor, elsewhere(world), cut(world), now=world.now + 2 * MINUTE)

    assert (again.is_resumed, figures(again)) == (True, figures(first))
