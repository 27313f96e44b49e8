"""
One partition of a pass over a bucket in the order of keys, in both directions, stretch by stretch.

Rule 1: a page of objects is listed first and the rows of the same stretch of keys are read after. A row that is
        committed after its page was listed is thus seen; the other way round it would be a race.
Rule 2: stretches follow one another without a gap, from the partition's first possible key to its last, so every row is
        read and every older finding is either seen again or dropped.
Rule 3: what was found and the cursor are one transaction. Whoever goes on after a crash redoes one stretch at most.

    page of keys ──▶ rows of (low, high] ──▶ compare ──▶ weigh ──▶ findings + cursor ──▶ low = high
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from typing import NoReturn, TypeVar

from millhand.driver.protocol import Executor
from millhand.orphans.binding import check_below
from millhand.orphans.config import OrphansConfig
from millhand.orphans.event import OnEvent, OrphanEvent, OrphanEventKind
from millhand.orphans.ledger import (
    Action,
    Finding,
    Kind,
    Run,
    finding_get_many,
    finding_put_many,
    run_beat,
)
from millhand.orphans.rules import REMOVING, Look, Reference, Rule, Verdict
from millhand.orphans.scan.canary import Canaries
from millhand.orphans.scan.compare import (
    Comparison,
    KeyScope,
    Observation,
    by_identity,
    compare,
    cut_page,
    each_once,
    weigh,
)
from millhand.orphans.scan.derived import DerivedFrom
from millhand.orphans.scan.inventory import Inventory
from millhand.orphans.scan.listing import cut_at, ordered_pages, sorted_pages, without_unstorable
from millhand.orphans.scan.partition_ledger import Partition, partition_advance, partition_beat
from millhand.orphans.sources.references import RangeRead, References
from millhand.orphans.sources.statements import ReferenceRow
from millhand.storage import InvalidKey, ListingBroken, ObjectNotFound, ObjectPage, ObjectStore
from millhand.store.query import Query

MAX_LOOKS = (
    1_000  # missing objects that one run looks for again and notes; beyond, they are counted, for the guards
)

T = TypeVar("T")
# Told the id of a run whose partitions are laid out, and how many other workers may help with it.
AskForHelp = Callable[[int, int], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run has come; `key` is the last one judged."""

    bytes: int
    key: str
    objects: int
    phase: str
    rows: int
    seconds: float


class ListingUntrusted(ListingBroken):
    """An object that is there is not in the listing, so nothing may be concluded from what is not in it."""

    def __init__(self, key: str) -> None:
        super().__init__(
            "list", "an object that HEAD finds and two listings do not; nothing was removed", key=key
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """What one run works with. `now` is its instant for ages; `brought_now` is the caller's, for the ledger's clock."""

    ask_for_help: AskForHelp | None = None
    brought_now: datetime | None
    canaries: Canaries
    partition_or_none: Partition | None = None
    complete_run_id: int | None
    config: OrphansConfig
    executor: Executor
    has_versions: bool = False
    inventory: Inventory | None = None
    is_exact: bool
    is_helper: bool = False
    kin: DerivedFrom
    now: datetime
    on_event: OnEvent | None = None
    progress: Callable[[Progress], None] | None
    recalled: list[Action] = field(default_factory=list)
    references: References
    run: Run
    started: float
    store: ObjectStore

    async def beat(self) -> None:
        """Say that the run, and the partition if it is one's, is alive. Raises: RunLost."""
        if self.partition_or_none is None:
            await self.executor.run(run_beat(self.run, now=self.brought_now))
        else:
            is_owner = not self.is_helper
            query = partition_beat(self.run, self.partition_or_none, is_owner=is_owner, now=self.brought_now)
            await self.executor.run(query)

    @property
    def partition(self) -> Partition:
        """The partition that is being judged. Only while one is."""
        if self.partition_or_none is None:
            raise LookupError("a pass must be at a partition to judge, got one that is at none")
        return self.partition_or_none

    async def holding(self, keys: Sequence[str]) -> dict[str, list[ReferenceRow]]:
        """Return the rows that hold the object of any of `keys` at this moment, by key."""
        return await self.kin.holding(self.references, keys)

    def announce(
        self, kind: OrphanEventKind, reason: str, figures: Mapping[str, str | int | float] | None = None
    ) -> None:
        """Tell a program that wants to know."""
        if self.on_event is not None:
            run = self.run
            self.on_event(
                OrphanEvent(bucket=run.bucket, figures=figures, kind=kind, reason=reason, run_id=run.id)
            )

    def tell(self, phase: str, key: str) -> None:
        """Let whoever watches know."""
        if self.progress is not None:
            totals = self.run.totals
            seconds = time.monotonic() - self.started
            self.progress(
                Progress(
                    bytes=totals.bytes,
                    key=key,
                    objects=totals.objects,
                    phase=phase,
                    rows=totals.rows,
                    seconds=seconds,
                )
            )


async def scan_partition(pass_: Pass, stopped: asyncio.Event) -> None:
    """
    Judge the objects and rows of one partition from its cursor on, and write what is not as it should be into the ledger.

    When `stopped` is set, it ends after the page that it is at.

    Raises: as `partitions.scan`.
    """
    partition = pass_.partition
    low, scope_of = partition.cursor_key, KeyScope.of(pass_.config)
    async with aclosing(_pages(pass_, partition)) as pages:
        async for listed in pages:
            mine = cut_at(listed, partition.high)
            page = without_unstorable(mine)
            pass_.run.totals.unclassified += page.num_skipped
            if page.keys:
                low = await _judge_stretch(pass_, page, low, page.keys[-1], scope_of)
            if stopped.is_set():
                return
            if len(mine.keys) < len(listed.keys) or low == partition.high:
                break
    if low != partition.high:
        nothing = ObjectPage(describe=_no_object, keys=(), sizes=())
        await _judge_stretch(pass_, nothing, low, partition.high, scope_of)


def bounds(prefix: str) -> tuple[str, str | None]:
    """Return a key before all that begin with `prefix`, which ends with a slash or is empty, and one after them."""
    # In the order of bytes `.` comes right before the slash, and `0` right after.
    return (f"{prefix[:-1]}.\U0010ffff", f"{prefix[:-1]}0") if prefix else ("", None)


async def gather_all(coroutines: Sequence[Awaitable[T]]) -> list[T]:
    """Await all of them to their end, then raise the first error if there was one."""
    results = await asyncio.gather(*coroutines, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


def _pages(pass_: Pass, partition: Partition) -> AsyncGenerator[ObjectPage, None]:
    prefix, page_size, low = pass_.config.prefix, pass_.config.page_size, partition.cursor_key
    lists = pass_.inventory or pass_.store
    # A cursor is only worth something where starting after it is exact; elsewhere the listing begins at its beginning.
    if partition.is_ordered and (pass_.is_exact or partition.is_at_start):
        start_after = "" if partition.is_at_start else low
        return ordered_pages(
            lists, prefix=prefix, start_after=start_after, up_to=partition.high, page_size=page_size
        )
    return sorted_pages(lists, prefix=prefix, start_after=low, page_size=page_size, beat=pass_.beat)


async def _judge_stretch(
    pass_: Pass, page: ObjectPage, low: str, high: str | None, scope_of: KeyScope
) -> str:
    """Judge the objects of a page and the rows up to `high`, in as many steps as there are batches of rows."""
    start = 0
    while True:
        read = await pass_.references.read_range(low, high)
        end = cut_page(page, start, read.high)
        found = compare(page, start, end, read, scope_of)
        if found.markers_below:
            await check_below(pass_.executor, pass_.store, found.markers_below)
        pass_.canaries.see(page, start, end, found)
        await _judge(pass_, found, low, read)
        if read.high is None or read.high == high:
            return high or low
        start, low = end, read.high


async def _judge(pass_: Pass, found: Comparison, low: str, read: RangeRead) -> None:
    missing = await _look_for(pass_, sorted(set(found.absent_keys)))
    _count(pass_, found, read)
    observations = await pass_.kin.tied(pass_.references, found.observations + missing)
    if observations:
        async with pass_.executor.begin() as tx:
            findings = await _weigh_all(pass_, tx, observations)
            if findings:
                await tx.run(finding_put_many(pass_.run.bucket, pass_.run.id, findings, now=pass_.now))
            await tx.run(_advance(pass_, low, read.high))
    else:
        await pass_.executor.run(_advance(pass_, low, read.high))
    pass_.tell("scan", read.high or low)


def _advance(pass_: Pass, low: str, high: str | None) -> Query[None]:
    partition = pass_.partition
    return partition_advance(
        pass_.run,
        partition,
        low=low,
        high=high,
        is_owner=not pass_.is_helper,
        live_canaries=sorted(pass_.canaries.seen_live.intersection(partition.canaries)),
        now=pass_.brought_now,
        totals=pass_.run.totals,
    )


def _count(pass_: Pass, found: Comparison, read: RangeRead) -> None:
    totals = pass_.run.totals
    totals.bytes += found.num_bytes
    totals.live += found.live
    totals.objects += found.num_objects
    totals.ready_rows += found.ready_rows
    totals.unclassified += found.unclassified
    for name, count in read.rows_of.items():
        totals.rows_of[name] = totals.rows_of.get(name, 0) + count


async def _look_for(pass_: Pass, keys: list[str]) -> list[Observation]:
    """Look once more for what is not in the listing; keys beyond the limit are only counted."""
    totals = pass_.run.totals
    looked_at = keys[: max(0, MAX_LOOKS // pass_.partition.num_partitions - totals.looks)]
    totals.looks += len(looked_at)
    totals.missing += len(keys) - len(looked_at)
    rows = _ready_rows(await pass_.references.naming(looked_at))
    looks = await gather_all([_look(pass_.store, key) for key in rows])
    return [
        Observation(key=key, object=None, row=row, look=look)
        for (key, row), look in zip(rows.items(), looks, strict=True)
        if look is not None
    ]


def _ready_rows(naming: dict[str, list[ReferenceRow]]) -> dict[str, ReferenceRow]:
    """Keep the keys that a row still calls ready; one row of each."""
    ready = {key: [row for row in rows if row.state == Reference.READY] for key, rows in naming.items()}
    return {key: rows[0] for key, rows in ready.items() if rows}


async def is_there(store: ObjectStore, key: str) -> bool:
    """Look for one object by name. Raises: StoreError."""
    try:
        await store.head(key)
    except (ObjectNotFound, InvalidKey):
        return False
    return True


async def _look(store: ObjectStore, key: str) -> Look | None:
    """Look for one object by name, and if it is there, for its name in a fresh listing; None if it has come since."""
    if not await is_there(store, key):
        return Look.NOT_FOUND
    async for page in store.list_pages(prefix=key):
        if key in page.keys:
            return None
    return Look.FOUND_UNLISTED


async def _weigh_all(pass_: Pass, tx: Executor, observations: list[Observation]) -> list[Finding]:
    keys = sorted({observation.key for observation in observations})
    known = by_identity(await tx.run(finding_get_many(pass_.run.bucket, keys)))
    findings = []
    for observation in each_once(observations):
        rule, finding = weigh(
            observation,
            known.get(observation.identity),
            complete_run_id=pass_.complete_run_id,
            config=pass_.config,
            now=pass_.now,
        )
        if rule.verdict is Verdict.ABORT:
            raise ListingUntrusted(observation.key)
        if finding is not None:
            _count_finding(pass_, rule, finding)
            findings.append(finding)
    return findings


def _count_finding(pass_: Pass, rule: Rule, finding: Finding) -> None:
    totals = pass_.run.totals
    match finding.kind:
        case Kind.ORPHAN:
            totals.orphan_objects += 1
            totals.orphan_bytes += finding.size
        case Kind.ABANDONED:
            totals.abandoned_rows += 1
        case Kind.MISSING:
            totals.missing += 1
        case Kind.SIZE_MISMATCH:
            totals.size_mismatches += 1
        case Kind.SHARED:
            totals.shared += 1
    if rule.verdict in REMOVING and is_removable(pass_.references, finding):
        totals.due += 1
        totals.due_rows += bool(finding.source)
        if finding.is_present:
            totals.due_objects += 1
            totals.due_bytes += finding.size


def is_removable(references: References, finding: Finding) -> bool:
    """Whether we may touch it at all: an object without a row, or a row of a table."""
    return not finding.source or references.source(finding.source).is_deletable


def _no_object(index: int) -> NoReturn:
    raise IndexError(index)
