"""
A pass in partitions: stretches of keys that are listed and judged side by side, by one worker or by a fleet.

Rule 1: the stretches are laid out once a pass, without a gap, and kept in the ledger. Whoever takes a pass over goes on
        with the same ones, each at its own cursor.
Rule 2: a partition is claimed before it is judged; who is dead, or lost the pass, loses his partitions with it.
Rule 3: where a listing is not ordered, or does not start exactly after a key, there is one partition.
Rule 4: the pass has seen the bucket when all of its partitions are done, whoever did them.

    split points ─▶ partitions ─▶ claim ─▶ scan_partition ─▶ claim … none left ─▶ all done? ─▶ totals
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta

from millhand.driver.protocol import Executor
from millhand.orphans.config import OrphansConfig
from millhand.orphans.ledger import Totals
from millhand.orphans.scan.listing import is_utf8
from millhand.orphans.scan.partition_ledger import (
    KeyBounds,
    Partition,
    key_bounds,
    partition_claim,
    partition_count,
    partition_list,
    partition_replace,
)
from millhand.orphans.scan.scan import Pass, Progress, bounds, gather_all, scan_partition
from millhand.orphans.sources.key_sql import quoted_table

LEASE = timedelta(seconds=60)  # a partition whose heart has not beaten for so long is nobody's
LOOK_SECONDS = 1.0  # how often one who has nothing to do looks whether the others are done
# Several a worker, so that all are at work until the end although no split is even.
PARTITIONS_EACH = 4
MIN_ROWS = 20_000  # of a partition; below, what a partition costs besides its pages is more than it brings


@dataclass(slots=True, kw_only=True)
class Board:
    """What the partitions of one process tell each other: how far each is, and whether one of them failed."""

    base: Totals
    pass_: Pass
    by_number: dict[int, Totals] = field(default_factory=dict)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self, number: int, totals: Totals, progress: Progress) -> None:
        """Pass on how far one partition is as how far all of them are."""
        if self.pass_.progress is not None:
            self.by_number[number] = totals
            whole = total_of(self.base, self.by_number.values())
            self.pass_.progress(replace(progress, bytes=whole.bytes, objects=whole.objects, rows=whole.rows))


async def scan(pass_: Pass) -> None:
    """
    Judge every object and every row, and write what is not as it should be into the ledger.

    Raises: OutOfOrder, when the listing is not as ordered as the run took it to be; ListingUntrusted; SourceFailed;
    RunLost; StoreError; DriverError.
    """
    partitions = await _open(pass_)
    num_helpers = min(pass_.config.helpers, (len(partitions) - 1) // pass_.config.partitions)
    if pass_.ask_for_help is not None and num_helpers:
        await pass_.ask_for_help(pass_.run.id, num_helpers)
    board = Board(base=pass_.run.totals, pass_=pass_)
    board.by_number.update((partition.number, partition.totals) for partition in partitions)
    await _work(board, len(partitions))
    partitions = await _await_all(board)
    pass_.canaries.seen_live.update(key for partition in partitions for key in partition.live_canaries)
    _take_over(pass_.run.totals, total_of(board.base, [partition.totals for partition in partitions]))
    await pass_.executor.run(partition_count(pass_.run, pass_.run.totals, is_end=True, now=pass_.brought_now))


async def help_scan(pass_: Pass) -> int:
    """
    Judge partitions of a pass that another worker began, until none is free, and return how many.

    Raises: as `scan`; OutOfOrder is the other's to act upon, who meets it too.
    """
    board = Board(base=Totals(), pass_=pass_)
    return await _work(board, pass_.config.partitions)


def total_of(base: Totals, parts: Iterable[Totals]) -> Totals:
    """Return the sum, number by number."""
    whole = Totals.from_json(base.to_json())
    for part in parts:
        for name in (one.name for one in fields(Totals)):
            value = getattr(part, name)
            if isinstance(value, dict):
                into = getattr(whole, name)
                into.update({key: into.get(key, 0) + count for key, count in value.items()})
            else:
                setattr(whole, name, getattr(whole, name) + value)
    return whole


def split(
    found: Sequence[KeyBounds], config: OrphansConfig, low: str, high: str | None
) -> list[tuple[str, str | None]]:
    """Cut (low, high] into stretches with about as many rows each, as the largest source has them."""
    points = list(config.split_at)
    if not points and found:
        largest = max(found, key=lambda one: one.rows)
        num_listings = config.partitions * (1 + config.helpers)
        num_partitions = (
            min(num_listings * PARTITIONS_EACH, largest.rows // MIN_ROWS) if num_listings > 1 else 1
        )
        # In the order of bytes, whatever the table's collation made of it.
        inside = sorted(point for point in set(largest.bounds) if _is_inside(point, low, high))
        points = _evenly(inside, num_partitions) if num_partitions > 1 else []
    cuts = sorted({point for point in points if _is_inside(point, low, high)})
    return list(zip([low, *cuts], [*cuts, high], strict=True))


async def _open(pass_: Pass) -> list[Partition]:
    """Lay the partitions out, or find those that were laid out before the pass was taken over."""
    run = pass_.run
    partitions = await pass_.executor.run(partition_list(run))
    if not partitions or any(partition.is_ordered != run.is_ordered for partition in partitions):
        stretches = await _stretches(pass_)
        async with pass_.executor.begin() as tx:
            await tx.run(partition_count(run, run.totals, is_end=False, now=pass_.brought_now))
            await tx.run(partition_replace(run, stretches, pass_.canaries.keys, now=pass_.brought_now))
        partitions = await pass_.executor.run(partition_list(run))
    # Whoever goes on with a pass goes on with its canaries: others may lie where it has been already.
    pass_.canaries.keys = sorted(key for partition in partitions for key in partition.canaries)
    return partitions


async def _stretches(pass_: Pass) -> list[tuple[str, str | None]]:
    config = pass_.config
    low, high = bounds(config.prefix)
    is_divisible = pass_.run.is_ordered and pass_.is_exact and pass_.store.url.startswith("s3:")
    if not is_divisible:
        return [(low, high)]
    return split([] if config.split_at else await _bounds(pass_.executor, config), config, low, high)


async def _bounds(executor: Executor, config: OrphansConfig) -> list[KeyBounds]:
    found = [
        await executor.run(key_bounds(quoted_table(source.table), source.key))
        for source in config.sources
        if source.table is not None and source.is_bare
    ]
    return [one for one in found if one is not None]


async def _work(board: Board, num_partitions: int) -> int:
    """Judge partitions side by side until none is free. Raises: the first error, when all of them have come to a stop."""
    num_workers = max(1, min(board.pass_.config.partitions, num_partitions))
    return sum(await gather_all([_claim_and_scan(board) for _ in range(num_workers)]))


async def _claim_and_scan(board: Board) -> int:
    num_done = 0
    try:
        while not board.stopped.is_set():
            partition = await _claim(board)
            if partition is None:
                break
            await scan_partition(_part(board, partition), board.stopped)
            num_done += not board.stopped.is_set()
    except BaseException:
        board.stopped.set()
        raise
    return num_done


async def _claim(board: Board) -> Partition | None:
    pass_ = board.pass_
    return await pass_.executor.run(partition_claim(pass_.run, lease=LEASE, now=pass_.brought_now))


def _part(board: Board, partition: Partition) -> Pass:
    """Return the pass as one partition sees it: with totals of its own."""
    pass_ = board.pass_
    pass_.canaries.seen_live.update(partition.live_canaries)
    totals = partition.totals
    return replace(
        pass_,
        partition_or_none=partition,
        progress=lambda progress: board.tell(partition.number, totals, progress),
        run=replace(pass_.run, totals=totals),
    )


async def _await_all(board: Board) -> list[Partition]:
    """Wait until others have done their partitions too; one whose worker died is done here."""
    pass_ = board.pass_
    while True:
        partitions = await pass_.executor.run(partition_list(pass_.run))
        if all(partition.is_done for partition in partitions):
            return partitions
        if await _claim_and_scan(board) == 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(board.stopped.wait(), LOOK_SECONDS)
            await pass_.beat()


def _take_over(totals: Totals, whole: Totals) -> None:
    for one in fields(Totals):
        setattr(totals, one.name, getattr(whole, one.name))


def _is_inside(point: str, low: str, high: str | None) -> bool:
    return low < point and (high is None or point < high) and "\0" not in point and is_utf8(point)


def _evenly(points: Sequence[str], num_parts: int) -> list[str]:
    """Choose those of `points` that cut them into so many parts."""
    num_parts = min(num_parts, len(points) + 1)
    return [points[number * len(points) // num_parts] for number in range(1, num_parts)]
