"""
What a run knows, and what it has counted.

`RunContext` never changes while a step uses it. `RunState` changes all the time: it has one writer, the task that runs the
steps of its run one after the other, or the one task that scans its partition. All changes are methods of `RunState`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from millhand.core.orphans import Mode, OrphansConfig
from millhand.db.driver.protocol import Executor
from millhand.orphans.event import OnEvent, OrphanEvent, OrphanEventKind
from millhand.orphans.inventory.differences import Differences
from millhand.orphans.ledger import Action, ActionState, Finding, Run, Totals, finding_put_many, run_beat
from millhand.orphans.rules import BY_NUMBER, REMOVING, Kind, Reference, Verdict
from millhand.orphans.scan.canary import Canaries
from millhand.orphans.scan.compare import Comparison
from millhand.orphans.scan.derived import DerivedFrom
from millhand.orphans.sources.references import RangeRead, References
from millhand.orphans.sources.statements import ReferenceRow
from millhand.storage import Capabilities, ObjectPage, ObjectStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run has come. `key` is the last key that was evaluated."""

    bytes: int
    key: str
    objects: int
    phase: str
    rows: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """
    Everything that the steps of one run need to know.

    `now` is the instant that ages are measured from. `ledger_now` is the caller's `now`, or None: then the ledger's times
    come from the database's clock. `differences` are the keys to evaluate in place of a listing; None lists the store.
    `previous` is the last complete run over the prefix, None if it evaluated other sources.
    """

    capabilities: Capabilities
    config: OrphansConfig
    derived: DerivedFrom
    differences: Differences | None = None
    executor: Executor
    ledger_now: datetime | None
    now: datetime
    on_event: OnEvent | None
    previous: Run | None
    progress: Callable[[Progress], None] | None
    references: References
    run: Run
    started: float
    store: ObjectStore

    @property
    def is_first(self) -> bool:
        """Whether the last complete run over the prefix had other sources, or there was none."""
        return self.previous is None

    @property
    def complete_run_id(self) -> int | None:
        """The run whose sightings count."""
        return None if self.previous is None else self.previous.id

    @property
    def mode(self) -> Mode:
        """The mode of this run: a first run only reports."""
        return Mode.REPORT if self.is_first else self.config.mode

    @property
    def may_act(self) -> bool:
        """Whether this run may remove anything, as far as its mode goes."""
        return self.mode is not Mode.REPORT

    async def beat(self, executor: Executor | None = None) -> None:
        """Write the run's heartbeat, inside the transaction of `executor` if it is given. Raises: RunLost."""
        await (executor or self.executor).run(run_beat(self.run, now=self.ledger_now))

    async def put_findings(self, findings: Sequence[Finding], executor: Executor | None = None) -> None:
        """Write findings of this run, inside the transaction of `executor` if it is given."""
        if findings:
            run = self.run
            query = finding_put_many(run.bucket, run.id, findings, now=self.now)
            await (executor or self.executor).run(query)

    async def rows_keeping(self, keys: Sequence[str]) -> dict[str, list[ReferenceRow]]:
        """Return the rows that keep the object of any of `keys` alive at this moment, by key."""
        return await self.derived.rows_keeping(self.references, keys)

    def is_removable(self, finding: Finding) -> bool:
        """Return whether Millhand may remove it: an object without a row, or a row of a table."""
        return not finding.source or self.references.source(finding.source).is_deletable

    def emit(
        self, kind: OrphanEventKind, reason: str, figures: Mapping[str, str | int | float] | None = None
    ) -> None:
        if self.on_event is not None:
            run = self.run
            self.on_event(
                OrphanEvent(bucket=run.bucket, figures=figures, kind=kind, reason=reason, run_id=run.id)
            )

    def report_progress(self, phase: str, key: str, totals: Totals) -> None:
        if self.progress is not None:
            counts = {"bytes": totals.bytes, "objects": totals.objects, "rows": totals.rows}
            self.progress(Progress(key=key, phase=phase, seconds=time.monotonic() - self.started, **counts))


@dataclass(slots=True, kw_only=True)
class RunState:
    """What a run, or one of its partitions, has counted, and what its steps leave for later steps."""

    canaries: Canaries = field(default_factory=Canaries)
    recalled: list[Action] = field(default_factory=list)
    totals: Totals

    def count_range(self, found: Comparison, read: RangeRead) -> None:
        totals = self.totals
        totals.bytes += found.num_bytes
        totals.live += found.live
        totals.objects += found.num_objects
        totals.ready_rows += found.ready_rows
        totals.unclassified += found.unclassified
        for name, count in read.rows_of.items():
            totals.rows_of[name] = totals.rows_of.get(name, 0) + count

    def count_equal(self, differences: Differences, *, sources: Sequence[str]) -> None:
        """Count the objects that an inventory and the rows agree on, and all rows."""
        self.add(
            bytes=differences.bytes,
            live=differences.objects,
            objects=differences.objects,
            ready_rows=differences.ready_rows,
        )
        self.totals.rows_of = {name: differences.rows_of.get(name, 0) for name in sources}

    def add(self, **numbers: int) -> None:
        for name, number in numbers.items():
            setattr(self.totals, name, getattr(self.totals, name) + number)

    def count_finding(self, finding: Finding, *, is_removable: bool) -> None:
        """Add a finding to the number of its kind and, if it is due, to what is due."""
        self._count_kind(finding, 1)
        if BY_NUMBER[finding.rule].verdict in REMOVING and is_removable:
            self._count_due(finding, 1)

    def count_young(self) -> None:
        """Count an object that is too young for a finding."""
        self.totals.young_objects += 1

    def count_near_match(self, finding: Finding) -> None:
        """Count an orphan as a near match instead."""
        self.totals.near_matches += 1
        if finding.kind == Kind.NEAR_MATCH:
            return
        self._count_kind(finding, -1)
        if BY_NUMBER[finding.rule].verdict is Verdict.REMOVE_OBJECT:
            self._count_due(finding, -1)

    def count_shared(self, finding: Finding, *, is_removable: bool) -> None:
        """Count an abandoned row as shared instead."""
        self.totals.shared += 1
        self.totals.abandoned_rows -= 1
        if is_removable:
            self._count_due(finding, -1)

    def count_uploads(self, *, found: int, due: int) -> None:
        """Set the number of incomplete multipart uploads that no row waits for."""
        self.totals.uploads, self.totals.due_uploads = found, due

    def count_search(self, *, searched: int, unsearched: Sequence[str]) -> None:
        """Set the number of keys that were searched, and the names of the tables and columns that could not be."""
        self.totals.searched, self.totals.unsearched = searched, list(unsearched)

    def count_moves(self, states: Iterable[ActionState]) -> None:
        """Add objects that were moved to quarantine, restored, or left in place."""
        for state in states:
            self.totals.removed += state is ActionState.QUARANTINED
            self.totals.restored += state is ActionState.RESTORED
            self.totals.kept += state in (ActionState.KEPT, ActionState.ROW_DELETED)

    def remember_recalled(self, actions: Sequence[Action]) -> None:
        """Keep actions whose objects this run restored; their findings are written after the scan."""
        self.recalled.extend(actions)

    def expect_canaries(self, keys: Sequence[str]) -> None:
        self.canaries.keys = list(keys)

    def record_canaries(self, page: ObjectPage, start: int, end: int, found: Comparison) -> None:
        self.canaries.record(page, start, end, found)

    def add_live_canaries(self, keys: Iterable[str]) -> None:
        self.canaries.seen_live.update(keys)

    def restart(self) -> None:
        """Forget what the scan counted. What was done to objects before the scan stays counted."""
        before = self.totals
        self.totals = Totals(kept=before.kept, removed=before.removed, restored=before.restored)

    def replace_totals(self, totals: Totals) -> None:
        """Take the sum of all partitions."""
        self.totals = totals

    def _count_kind(self, finding: Finding, number: int) -> None:
        totals = self.totals
        if BY_NUMBER[finding.rule].verdict is Verdict.CANDIDATE:
            totals.candidates += number
        match finding.kind:
            case Kind.ORPHAN:
                totals.orphan_objects += number
                totals.orphan_bytes += number * finding.size
            case Kind.ABANDONED:
                totals.abandoned_rows += number
            case Kind.MISSING:
                totals.missing += number
            case Kind.SIZE_MISMATCH:
                totals.size_mismatches += number
            case Kind.SHARED:
                totals.shared += number
            case Kind.WAITING if finding.reference == Reference.PENDING:
                totals.pending_rows += number
            case Kind.WAITING:
                totals.soft_deleted_rows += number

    def _count_due(self, finding: Finding, number: int) -> None:
        totals = self.totals
        totals.due += number
        totals.due_rows += number * bool(finding.source)
        if finding.is_present:
            totals.due_objects += number
            totals.due_bytes += number * finding.size
