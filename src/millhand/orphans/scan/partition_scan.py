"""
Scan one partition: list its objects and read its rows in the order of keys, one range of keys after the other.

Rule 1: a page of objects is listed before the rows of its range are read. So the scan sees the row of each listed object,
        even if it is committed after the listing. The other order would be a race.
Rule 2: the ranges have no gap, from the partition's first possible key to its last. So the scan reads every row, and sees
        every older finding again or drops it.
Rule 3: one transaction writes the findings and the cursor. After a crash, at most one range is scanned again.
Rule 4: with an inventory, the keys that differ from the rows take the place of the listing. Each object is looked up, and
        then the rows of its key are read, so rule 1 holds. The keys of older findings are looked up too: a report that is
        older than a finding may not show it.

    page of keys ─▶ rows of (low, high] ─▶ compare ─▶ evaluate ─▶ findings + cursor ─▶ low = high
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from millhand.db.driver.protocol import Executor
from millhand.db.query import Query
from millhand.orphans.binding import check_nested_markers
from millhand.orphans.evaluate import Observation, evaluate
from millhand.orphans.inventory.differences import Differences, DifferingKey
from millhand.orphans.ledger import Finding, finding_get_many, finding_list_keys
from millhand.orphans.rules import YOUNG, Look, Reference, Scope, Verdict
from millhand.orphans.scan.compare import Comparison, KeyScope, compare, cut_page
from millhand.orphans.scan.context import RunContext, RunState
from millhand.orphans.scan.listing import (
    cut_at,
    is_utf8,
    ordered_pages,
    page_of,
    sorted_pages,
    without_unstorable,
)
from millhand.orphans.scan.lookup import find_listed, find_object, gather_all, is_alias
from millhand.orphans.scan.partition_ledger import Partition, partition_advance
from millhand.orphans.sources.references import RangeRead
from millhand.storage import ListingBroken, ObjectPage, ObjectStore

# How many missing objects one run looks up again and records. It only counts the others, for the guards.
MAX_LOOKS = 1_000
NO_OBJECTS = ObjectPage(describe=().__getitem__, keys=(), sizes=())


class ListingUntrusted(ListingBroken):
    """The listing omits an existing object, so other objects that it omits may exist too."""

    def __init__(self, key: str) -> None:
        super().__init__(
            "list", "an object that HEAD finds and two listings do not; nothing was removed", key=key
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionScan:
    """The scan of one claimed partition. Nothing else writes to `state` while it runs."""

    context: RunContext
    on_progress: Callable[[str], None]
    partition: Partition
    scope_of: KeyScope
    state: RunState
    stopped: asyncio.Event

    async def run(self) -> None:
        """Evaluate what comes after the cursor, until `stopped` is set. Raises: as `partitions.scan_bucket`."""
        if self.context.differences is not None:
            await self._scan_differences(self.context.differences)
            return
        low, high = self.partition.cursor_key, self.partition.high
        async with aclosing(self._pages()) as pages:
            async for listed in pages:
                in_partition = cut_at(listed, high)
                page = without_unstorable(in_partition)
                self.state.add(unclassified=page.num_skipped)
                if page.keys:
                    low = await self._scan_range(page, low, page.keys[-1])
                if self.stopped.is_set():
                    return
                if len(in_partition.keys) < len(listed.keys) or low == high:
                    break
        if low != high:
            await self._scan_range(NO_OBJECTS, low, high)

    async def _scan_differences(self, differences: Differences) -> None:
        low, high = self.partition.cursor_key, self.partition.high
        if self.partition.is_at_start:
            self.state.count_equal(differences, sources=self.context.references.names)
        page_size = self.context.config.page_size
        async with aclosing(differences.batches(after=low, up_to=high, size=page_size)) as batches:
            async for batch in batches:
                await self._judge_up_to(batch, low, batch[-1].key)
                low = batch[-1].key
                if self.stopped.is_set():
                    return
        if low != high:
            await self._judge_up_to([], low, high)

    async def _judge_up_to(self, batch: Sequence[DifferingKey], low: str, high: str | None) -> None:
        """Evaluate the keys of a batch, and those in (low, high] that have findings of earlier runs."""
        context = self.context
        size = context.config.page_size
        while not self.stopped.is_set():
            query = finding_list_keys(context.run, after=low, up_to=high, limit=size)
            earlier = await context.executor.run(query)
            end = high if len(earlier) < size else earlier[-1]
            part = [one for one in batch if end is None or one.key <= end]
            await self._judge(part, earlier, low, end)
            if end is None or end == high:
                return
            batch, low = batch[len(part) :], end

    async def _judge(
        self, batch: Sequence[DifferingKey], earlier: Sequence[str], low: str, high: str | None
    ) -> None:
        """Evaluate keys as they are now. The objects of `earlier`, which do not differ, are counted already."""
        context = self.context
        found = await self._looked_up(await self._keys_to_look_up(batch))
        found.ready_rows = 0  # all rows are counted already
        differing = {one.key for one in batch}
        in_scope = [key for key in earlier if key not in differing and self.scope_of(key) is Scope.IN_SCOPE]
        again = await self._looked_up(in_scope)
        found.absent_keys += again.absent_keys
        found.observations += again.observations
        if found.nested_markers:
            await check_nested_markers(context.executor, context.store, found.nested_markers)
        await self._record(found, low, RangeRead(high=high, ready_keys=[], rows=[], rows_of={}, sized=[]))

    async def _looked_up(self, keys: Sequence[str]) -> Comparison:
        """Compare objects and rows of these keys, objects first. Shape: the keys are in order."""
        context = self.context
        infos = await gather_all([find_listed(context.store, key) for key in keys])
        present = [(key, info.size, info) for key, info in zip(keys, infos, strict=True) if info is not None]
        page = page_of(present, lambda record: record[2])
        found_rows = await context.references.rows_by_key(keys)
        rows = [row for key in keys for row in found_rows.get(key, ())]
        read = RangeRead(high=None, ready_keys=[], rows=rows, rows_of={}, sized=[])
        return compare(page, 0, len(present), read, self.scope_of)

    async def _keys_to_look_up(self, batch: Sequence[DifferingKey]) -> list[str]:
        """Return the keys that may need a finding. Count the objects of those that need none."""
        keys: list[str] = []
        for one in batch:
            scope = self.scope_of(one.key)
            if "\0" in one.key or not is_utf8(one.key):
                self.state.add(unclassified=one.size is not None)
            elif scope is Scope.UNDECLARED:
                self._count(one)
                self.state.add(unclassified=one.size is not None)
            elif scope is Scope.IN_SCOPE or self.scope_of.is_marker_below(one.key):
                keys.append(one.key)
        kept = await self._kept_by_parents(keys)
        for one in batch:
            if one.key in kept:
                self._count(one)
        return [key for key in keys if key not in kept]

    async def _kept_by_parents(self, keys: Sequence[str]) -> set[str]:
        """Return the keys without a row that a parent keeps. Most derived keys are such, so they are not looked up."""
        derived = [key for key in keys if self.context.derived.parents(key)]
        if not derived:
            return set()
        own = await self.context.references.rows_by_key(derived)
        return set(await self.context.rows_keeping([key for key in derived if key not in own]))

    def _count(self, one: DifferingKey) -> None:
        if one.size is not None:
            self.state.add(bytes=one.size, objects=1)

    def _pages(self) -> AsyncGenerator[ObjectPage, None]:
        context, partition = self.context, self.partition
        prefix, page_size, low = context.config.prefix, context.config.page_size, partition.cursor_key
        # Not every store starts a listing exactly after a key. Elsewhere the listing starts at its beginning.
        is_exact = context.capabilities.has_exact_start_after
        if partition.is_ordered and (is_exact or partition.is_at_start):
            after = "" if partition.is_at_start else low
            return ordered_pages(
                context.store, prefix=prefix, start_after=after, up_to=partition.high, page_size=page_size
            )
        return sorted_pages(
            context.store, prefix=prefix, start_after=low, page_size=page_size, beat=context.beat
        )

    async def _scan_range(self, page: ObjectPage, low: str, high: str | None) -> str:
        """Scan the objects of a page and the rows up to `high`, one batch of rows at a time. Return the new cursor."""
        context, start = self.context, 0
        while True:
            read = await context.references.read_range(low, high)
            end = cut_page(page, start, read.high)
            found = compare(page, start, end, read, self.scope_of)
            if found.nested_markers:
                await check_nested_markers(context.executor, context.store, found.nested_markers)
            self.state.record_canaries(page, start, end, found)
            await self._record(found, low, read)
            if read.high is None or read.high == high:
                return high or low
            start, low = end, read.high

    async def _record(self, found: Comparison, low: str, read: RangeRead) -> None:
        context = self.context
        missing = await self._look_for(sorted(set(found.absent_keys)))
        self.state.count_range(found, read)
        observations = await context.derived.with_ties(context.references, found.observations + missing)
        if observations:
            async with context.executor.begin() as tx:
                await context.put_findings(await self._evaluate_all(tx, observations), tx)
                await tx.run(self._advance(low, read.high))
        else:
            await context.executor.run(self._advance(low, read.high))
        self.on_progress(read.high or low)

    def _advance(self, low: str, high: str | None) -> Query[None]:
        return partition_advance(
            self.context.run,
            self.partition,
            low=low,
            high=high,
            live_canaries=sorted(self.state.canaries.seen_live),
            now=self.context.ledger_now,
            totals=self.state.totals,
        )

    async def _look_for(self, keys: list[str]) -> list[Observation]:
        """Look up again the objects that the listing omits. Beyond the limit, only count them."""
        limit = MAX_LOOKS // self.partition.num_partitions
        looked_at = keys[: max(0, limit - self.state.totals.looks)]
        self.state.add(looks=len(looked_at), missing=len(keys) - len(looked_at))
        # One row in state ready for each key that has one, by key, as findings are to be written.
        by_key = await self.context.references.rows_by_key(looked_at)
        ready = {key: [row for row in by_key[key] if row.state == Reference.READY] for key in sorted(by_key)}
        rows = {key: rows[0] for key, rows in ready.items() if rows}
        looks = await gather_all([_look(self.context.store, key) for key in rows])
        return [
            Observation(key=key, object=None, row=row, look=look)
            for (key, row), look in zip(rows.items(), looks, strict=True)
            if look is not None
        ]

    async def _evaluate_all(self, tx: Executor, observations: list[Observation]) -> list[Finding]:
        context = self.context
        keys = sorted({observation.key for observation in observations})
        known = {one.identity: one for one in await tx.run(finding_get_many(context.run.bucket, keys))}
        findings = []
        for observation in _each_once(observations):
            rule, finding = evaluate(
                observation,
                known.get(observation.identity),
                complete_run_id=context.complete_run_id,
                config=context.config,
                now=context.now,
            )
            if rule.verdict is Verdict.FAIL_RUN:
                raise ListingUntrusted(observation.key)
            if rule is YOUNG:
                self.state.count_young()
            if finding is not None:
                self.state.count_finding(finding, is_removable=context.is_removable(finding))
                findings.append(finding)
        return findings


async def _look(store: ObjectStore, key: str) -> Look | None:
    """Look up one object by its key, then in a new listing. Return None if it is listed now, or under another name."""
    if await find_object(store, key) is None:
        return Look.NOT_FOUND
    async for page in store.list_pages(prefix=key):
        if key in page.keys:
            return None
    return None if await is_alias(store, key) else Look.FOUND_UNLISTED


def _each_once(observations: Sequence[Observation]) -> Iterator[Observation]:
    """Yield the first observation of each identity: without row ids, many rows of a source may name one key."""
    seen: set[tuple[str, str, str]] = set()
    for observation in observations:
        if observation.identity not in seen:
            seen.add(observation.identity)
            yield observation
