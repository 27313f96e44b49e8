"""
Rehearse the runs of some days: what they would remove from today's rows and objects, by which rule, and why.

It reads rows and listing once, and evaluates them again for each day with findings in memory. It writes nothing, to the
database or to the store.

    listing + rows ─▶ observations ─▶ near matches ─▶ day 0, 1, … : evaluate ─▶ removed, or left for the next day
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from millhand.core.errors import ConfigError
from millhand.core.orphans import Mode, OrphansConfig
from millhand.db.driver.protocol import Executor
from millhand.orphans.binding import read_binding
from millhand.orphans.evaluate import Observation, evaluate
from millhand.orphans.ledger import Finding, Totals, database_facts, finding_get_many, run_get_scanned
from millhand.orphans.removal.guard import GuardFacts, abort_reasons
from millhand.orphans.report.report import duration_text
from millhand.orphans.rules import REMOVING, Kind, Reference, Rule, Tie
from millhand.orphans.run import check_database
from millhand.orphans.scan.compare import KeyScope, compare, cut_page
from millhand.orphans.scan.context import RunState
from millhand.orphans.scan.derived import DerivedFrom
from millhand.orphans.scan.listing import sorted_pages, without_unstorable
from millhand.orphans.scan.near_match import BATCH, NearMatchFinder
from millhand.orphans.scan.partition_scan import NO_OBJECTS
from millhand.orphans.scan.partitions import total_of
from millhand.orphans.sources.blobs import with_blobs
from millhand.orphans.sources.references import References, open_references
from millhand.storage import ObjectPage, ObjectStore

DAY = timedelta(days=1)
MAX_EXAMPLES = 3
# Why each rule removes something.
REASONS = {
    4: "a row is pending, unchanged for {grace}",
    7: "a row is soft-deleted, unchanged for {retention}",
    9: "nothing has referred to a row for {grace}",
    12: "no row has named an object for {grace}",
    15: "no row has named an object or its parent for {grace}",
    20: "a row is pending, unchanged and without an object for {grace}",
}

Identity = tuple[str, str, str]


@dataclass(slots=True, kw_only=True)
class Removal:
    """What one rule would remove because of one source: `source` is empty for objects without a row."""

    bytes: int = 0
    examples: list[str] = field(default_factory=list)
    first_day: int
    last_day: int
    objects: int = 0
    reason: str
    rows: int = 0
    rule: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """
    What the runs of some days would do, one run a day.

    `obstacles` are the reasons for which runs would abort instead, until you override them. `kept` counts by kind
    what is found on the last day and stays.
    """

    days: int
    kept: Mapping[str, int]
    live: int
    objects: int
    obstacles: tuple[str, ...]
    removals: tuple[Removal, ...]
    rows: int


async def rehearse(
    executor: Executor,
    store: ObjectStore,
    config: OrphansConfig,
    *,
    days: int = 30,
    now: datetime | None = None,
) -> Rehearsal:
    """
    Return what the runs of `days` days would remove if no row and no object changed, and no guard aborted them.

    Findings of earlier runs over the same sources count. The search for undeclared references and multipart uploads are
    not rehearsed. Raises: ConfigError; SourceFailed; StoreError; DriverError.
    """
    config = await with_blobs(executor, store, config)
    references = await open_references(executor, replace(config, mode=Mode.REPORT))
    facts = await executor.run(database_facts())
    check_database(facts)
    instant = now or facts.now
    seen = await _Reader(references, store, config).read()
    scanned = await executor.run(run_get_scanned(store.url, config.fingerprint))
    priors = {} if scanned is None else await _priors(executor, store.url, list(seen.observations.values()))
    stage = _Stage(
        complete_run_id=None if scanned is None else scanned.id,
        config=config,
        findings=priors,
        left=await _with_near_matches(executor, references, store, config, seen.observations),
        now=instant,
        references=references,
        totals=seen.totals,
    )
    stage.obstacles += [*await _obstacles(executor, store, config)]
    for day in range(days + 1):
        await stage.play(day)
    return Rehearsal(
        days=days,
        kept=stage.kept(),
        live=seen.totals.live,
        objects=seen.totals.objects,
        obstacles=tuple(dict.fromkeys(stage.obstacles)),
        removals=tuple(removal for _, removal in sorted(stage.removals.items())),
        rows=seen.totals.rows,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    observations: dict[Identity, Observation]
    totals: Totals


class _Reader:
    """Reads the listing and all rows once, side by side in the order of keys, as a run does."""

    def __init__(self, references: References, store: ObjectStore, config: OrphansConfig) -> None:
        self._references = references
        self._store = store
        self._config = config
        self._derived = DerivedFrom.of(config)
        self._scope_of = KeyScope.of(config)
        self._state = RunState(totals=Totals())
        self._observations: dict[Identity, Observation] = {}

    async def read(self) -> _Seen:
        low, high = self._config.key_range
        # Sorted here, because only a probe, which writes, shows whether the store lists in order.
        listing = sorted_pages(
            self._store,
            prefix=self._config.prefix,
            start_after=low,
            page_size=self._config.page_size,
            beat=_no_beat,
        )
        async with aclosing(listing) as pages:
            async for listed in pages:
                page = without_unstorable(listed)
                if page.keys:
                    low = await self._read_range(page, low, page.keys[-1])
        await self._read_range(NO_OBJECTS, low, high)
        return _Seen(observations=self._observations, totals=self._state.totals)

    async def _read_range(self, page: ObjectPage, low: str, high: str | None) -> str:
        start = 0
        while True:
            read = await self._references.read_range(low, high)
            end = cut_page(page, start, read.high)
            found = compare(page, start, end, read, self._scope_of)
            self._state.count_range(found, read)
            self._state.add(missing=len(set(found.absent_keys)))
            for one in await self._derived.with_ties(self._references, found.observations):
                self._observations.setdefault(one.identity, one)
            if read.high is None or read.high == high:
                return high or low
            start, low = end, read.high


@dataclass(slots=True, kw_only=True)
class _Stage:
    """The rows, objects and findings of one day, in memory."""

    complete_run_id: int | None
    config: OrphansConfig
    findings: dict[Identity, Finding]
    left: dict[Identity, Observation]
    now: datetime
    obstacles: list[str] = field(default_factory=list)
    references: References
    removals: dict[tuple[int, str], Removal] = field(default_factory=dict)
    totals: Totals

    async def play(self, day: int) -> None:
        """Evaluate everything that is left on one day, and remove what is due."""
        run_id, due = -1 - day, Totals()
        gone: list[Observation] = []
        for identity, one in self.left.items():
            rule, finding = evaluate(
                one,
                self.findings.pop(identity, None),
                complete_run_id=self.complete_run_id,
                config=self.config,
                now=self.now + day * DAY,
            )
            if finding is not None:
                self.findings[identity] = replace(finding, run_id=run_id)
            # A first run only reports.
            if rule.verdict in REMOVING and self._is_removable(one) and self.complete_run_id is not None:
                self._remove(one, rule, day, due)
                gone.append(one)
        for one in gone:
            del self.left[one.identity]
            del self.findings[one.identity]
        self.complete_run_id = run_id
        self.obstacles += [f"day {day}: {reason}" for reason in self._abort_reasons(due)]
        await self._leave_variants({one.key for one in gone if one.row is not None})

    def kept(self) -> dict[str, int]:
        """Return the number of findings that are left, by kind, and of missing objects."""
        kinds = [str(finding.kind) for finding in self.findings.values()]
        kinds += [str(Kind.MISSING)] * self.totals.missing
        return {kind: kinds.count(kind) for kind in sorted(set(kinds))}

    def _is_removable(self, one: Observation) -> bool:
        return one.row is None or self.references.source(one.row.source).is_deletable

    def _remove(self, one: Observation, rule: Rule, day: int, due: Totals) -> None:
        source, size = one.identity[1], 0 if one.object is None else one.object.size
        grace, retention = duration_text(self.config.grace), duration_text(self.config.retention)
        reason = REASONS[rule.number].format(grace=grace, retention=retention)
        blank = Removal(first_day=day, last_day=day, reason=reason, rule=rule.number, source=source)
        removal = self.removals.setdefault((rule.number, source), blank)
        removal.last_day = day
        removal.rows += one.row is not None
        removal.objects += one.object is not None
        removal.bytes += size
        removal.examples += [one.key] if len(removal.examples) < MAX_EXAMPLES else []
        due.due += 1
        due.due_rows += one.row is not None
        due.due_objects += one.object is not None
        due.due_bytes += size

    def _abort_reasons(self, due: Totals) -> tuple[str, ...]:
        if not due.due:
            return ()
        return abort_reasons(
            GuardFacts(
                config=self.config,
                database_now=self.now,
                hiding_error="",
                is_writable=True,
                most_rows=self.totals.rows_of,
                previous=self.totals,
                process_now=self.now,
                store_now=self.now,
                totals=total_of(self.totals, [due]),
            )
        )

    async def _leave_variants(self, keys: set[str]) -> None:
        """Let variants lose their parent if the last row that named it is gone."""
        derived = DerivedFrom.of(self.config)
        kept = [
            one
            for one in self.left.values()
            if one.tie is Tie.PARENT and keys & set(derived.parents(one.key))
        ]
        rows = await self.references.rows_by_key(
            sorted({key for one in kept for key in derived.parents(one.key)})
        )
        for one in kept:
            named = [row for key in derived.parents(one.key) for row in rows.get(key, ())]
            is_named = any(
                row.reference is Reference.READY or (row.key, row.source, row.row_id) in self.left
                for row in named
            )
            if not is_named:
                self.left[one.identity] = replace(one, tie=Tie.PARENT_GONE)


async def _no_beat() -> None:
    """Do nothing: no ledger waits for a heartbeat."""


async def _priors(
    executor: Executor, bucket: str, observations: Sequence[Observation]
) -> dict[Identity, Finding]:
    """Return what earlier runs recorded. Near matches are looked for again, so they are left out."""
    keys = sorted({one.key for one in observations})
    found: list[Finding] = []
    for start in range(0, len(keys), BATCH):
        query = finding_get_many(bucket, keys[start : start + BATCH])
        batch = await executor.run(query)
        found += batch
    return {finding.identity: finding for finding in found if finding.kind != Kind.NEAR_MATCH}


async def _with_near_matches(
    executor: Executor,
    references: References,
    store: ObjectStore,
    config: OrphansConfig,
    observations: Mapping[Identity, Observation],
) -> dict[Identity, Observation]:
    """Return the observations, with near matches as ties or as shared, as a run would find them."""
    finder = NearMatchFinder.of(executor, references, config, store)
    asked = sorted({one.key for one in observations.values() if one.object is not None and _may_go(one)})
    near: set[str] = set()
    for start in range(0, len(asked), BATCH):
        near |= set(await finder.find(asked[start : start + BATCH]))
    return {
        identity: one
        if one.key not in near or not _may_go(one)
        else (replace(one, tie=Tie.NEAR_MATCH) if one.row is None else replace(one, is_shared=True))
        for identity, one in observations.items()
    }


def _may_go(one: Observation) -> bool:
    return one.tie is not Tie.PARENT if one.row is None else one.reference is not Reference.READY


async def _obstacles(executor: Executor, store: ObjectStore, config: OrphansConfig) -> tuple[str, ...]:
    """Return why a run that may remove would not even begin."""
    try:
        await open_references(executor, replace(config, mode=Mode.DELETE))
    except ConfigError as error:
        return (str(error),)
    return (await read_binding(executor, store)).abort_reasons()
