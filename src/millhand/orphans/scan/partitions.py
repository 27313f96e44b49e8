"""
Scan a bucket in partitions: ranges of keys that are listed side by side in one process.

Rule 1: a run cuts its bucket into partitions once, without a gap, and keeps them in the ledger. A process that takes the
        run over continues with the same partitions, each at its own cursor.
Rule 2: a task claims a partition before it scans it. A claim is valid for one epoch of the run, so a process that lost the
        run has lost its partitions.
Rule 3: if a listing is not ordered, or cannot start exactly after a key, there is one partition; also with an inventory.
Rule 4: the bucket is scanned when all of its partitions are done.

    split points ─▶ partitions ─▶ claim ─▶ PartitionScan ─▶ claim … none left ─▶ all done? ─▶ totals
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields

from millhand.core.orphans import OrphansConfig
from millhand.db.driver.protocol import Executor
from millhand.orphans.ledger import Totals
from millhand.orphans.scan.canary import Canaries
from millhand.orphans.scan.compare import KeyScope
from millhand.orphans.scan.context import RunContext, RunState
from millhand.orphans.scan.listing import is_utf8
from millhand.orphans.scan.lookup import gather_all
from millhand.orphans.scan.partition_ledger import (
    KeyBounds,
    Partition,
    key_bounds,
    partition_claim,
    partition_count,
    partition_list,
    partition_replace,
)
from millhand.orphans.scan.partition_scan import PartitionScan
from millhand.orphans.sources.key_sql import quoted_table

PARTITIONS_PER_TASK = 4  # no split is even; with several each, all tasks work until the end
RETRY_SECONDS = 1.0  # between two attempts to claim a partition that another process holds locked
MIN_ROWS = 20_000  # of a partition; a smaller one costs more than it saves

KeyRange = tuple[str, str | None]  # keys in (low, high]; None stands for the last key


async def scan_bucket(context: RunContext, state: RunState) -> None:
    """
    Evaluate every object and every row of a bucket, and write findings to the ledger.

    Raises: OutOfOrder, if the listing is not ordered although the run took it to be; ListingUntrusted; SourceFailed.
    """
    partitions = await _open_partitions(context, state)
    scan = _BucketScan(context=context, base=state.totals)
    scan.totals_of.update((partition.number, partition.totals) for partition in partitions)
    await scan.work(len(partitions))
    partitions = await scan.finish()
    state.add_live_canaries(key for partition in partitions for key in partition.live_canaries)
    state.replace_totals(total_of(state.totals, [partition.totals for partition in partitions]))
    await context.executor.run(
        partition_count(context.run, state.totals, is_end=True, now=context.ledger_now)
    )


def total_of(base: Totals, parts: Iterable[Totals]) -> Totals:
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


def split(found: Sequence[KeyBounds], config: OrphansConfig, low: str, high: str | None) -> list[KeyRange]:
    """Cut (low, high] into ranges with about as many rows each, by the statistics of the largest source."""
    points = list(config.split_at)
    if not points and found and config.partitions > 1:
        largest = max(found, key=lambda one: one.rows)
        num_partitions = min(config.partitions * PARTITIONS_PER_TASK, largest.rows // MIN_ROWS)
        # In the order of bytes, whatever the collation of the table.
        inside = sorted(point for point in set(largest.bounds) if _is_inside(point, low, high))
        points = _evenly(inside, num_partitions) if num_partitions > 1 else []
    cuts = sorted({point for point in points if _is_inside(point, low, high)})
    return list(zip([low, *cuts], [*cuts, high], strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class _BucketScan:
    """The tasks of one run. They share how far each partition is, and whether one of them failed."""

    base: Totals
    context: RunContext
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    totals_of: dict[int, Totals] = field(default_factory=dict)

    async def work(self, num_partitions: int) -> None:
        """Scan partitions side by side until none is free. Raises: the first error, after all tasks have stopped."""
        num_tasks = max(1, min(self.context.config.partitions, num_partitions))
        await gather_all([self._claim_and_scan() for _ in range(num_tasks)])

    async def finish(self) -> list[Partition]:
        """Return the partitions once all are done. A process that lost this run may still hold one of them locked."""
        context = self.context
        while True:
            partitions = await context.executor.run(partition_list(context.run))
            if all(partition.is_done for partition in partitions):
                return partitions
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopped.wait(), RETRY_SECONDS)
            await context.beat()
            await self._claim_and_scan()

    async def _claim_and_scan(self) -> None:
        context = self.context
        try:
            while not self.stopped.is_set():
                partition = await context.executor.run(partition_claim(context.run))
                if partition is None:
                    break
                await self._scan_of(partition).run()
        except BaseException:
            self.stopped.set()
            raise

    def _scan_of(self, partition: Partition) -> PartitionScan:
        canaries = Canaries(keys=sorted(partition.canaries), seen_live=set(partition.live_canaries))
        return PartitionScan(
            context=self.context,
            on_progress=lambda key: self._report(partition, key),
            partition=partition,
            scope_of=KeyScope.of(self.context.config),
            state=RunState(canaries=canaries, totals=partition.totals),
            stopped=self.stopped,
        )

    def _report(self, partition: Partition, key: str) -> None:
        """Report the progress of one partition as that of the whole run."""
        if self.context.progress is not None:
            self.totals_of[partition.number] = partition.totals
            self.context.report_progress("scan", key, total_of(self.base, self.totals_of.values()))


async def _open_partitions(context: RunContext, state: RunState) -> list[Partition]:
    """Return the run's partitions: new ones, or those of the process that the run was taken over from."""
    run = context.run
    partitions = await context.executor.run(partition_list(run))
    if not partitions or any(partition.is_ordered != run.is_ordered for partition in partitions):
        ranges = await _ranges(context)
        async with context.executor.begin() as tx:
            await tx.run(partition_count(run, state.totals, is_end=False, now=context.ledger_now))
            await tx.run(partition_replace(run, ranges, state.canaries.keys))
        partitions = await context.executor.run(partition_list(run))
    # A run that was taken over keeps its canaries: new ones may lie in ranges that were scanned already.
    state.expect_canaries(sorted(key for partition in partitions for key in partition.canaries))
    return partitions


async def _ranges(context: RunContext) -> list[KeyRange]:
    config = context.config
    low, high = config.key_range
    is_divisible = (
        context.differences is None
        and context.run.is_ordered
        and context.capabilities.has_exact_start_after
        and context.store.url.startswith("s3:")
    )
    if not is_divisible:
        return [(low, high)]
    found = [] if config.split_at else await _key_bounds(context.executor, config)
    return split(found, config, low, high)


async def _key_bounds(executor: Executor, config: OrphansConfig) -> list[KeyBounds]:
    found = [
        await executor.run(key_bounds(quoted_table(source.table), source.key))
        for source in config.sources
        if source.table is not None and source.is_bare
    ]
    return [one for one in found if one is not None]


def _is_inside(point: str, low: str, high: str | None) -> bool:
    return low < point and (high is None or point < high) and "\0" not in point and is_utf8(point)


def _evenly(points: Sequence[str], num_parts: int) -> list[str]:
    """Choose those of `points` that cut them into this many parts."""
    num_parts = min(num_parts, len(points) + 1)
    return [points[number * len(points) // num_parts] for number in range(1, num_parts)]
