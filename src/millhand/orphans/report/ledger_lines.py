"""Lines of the ledger with what they mean: rules, findings, runs and the quarantine, for a person who lists them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from millhand.core.orphans import OrphansConfig
from millhand.orphans.ledger import ActionState, Finding, Run
from millhand.orphans.report.ledger_report import COUNTED_MAX, LedgerRemoval, QuarantineSum, RuleCount
from millhand.orphans.report.meanings import due_at, meaning
from millhand.orphans.report.quarantined import deleted_at
from millhand.orphans.rules import BY_NUMBER, REMOVING, Kind, Verdict

# A process that holds a run writes its heartbeat every 20 seconds, and loses the run after a minute.
LEASE = timedelta(minutes=1)


class OrphanRule(msgspec.Struct, frozen=True, kw_only=True):
    """The findings by one rule. `is_due` is whether the next run may remove them; `number` is at most `COUNTED_MAX`."""

    rule: int
    kind: str
    meaning: str
    is_due: bool
    number: int


class OrphanFinding(msgspec.Struct, frozen=True, kw_only=True):
    """
    A finding. `source` and `row_id` are empty for an object without a row.

    It can be due at `due_at` at the earliest; None if it is due already, or never will be.
    """

    id: int
    key: str
    kind: str
    rule: int
    meaning: str
    is_due: bool
    source: str
    row_id: str
    size: int
    first_seen_at: datetime
    last_seen_at: datetime
    num_runs: int
    run_id: int
    due_at: datetime | None
    note: str


class OrphanRun(msgspec.Struct, frozen=True, kw_only=True):
    """
    A run. `abort_reasons` are the guards that aborted it, and `error` is why it failed.

    `is_silent` is whether its process died: another one continues it.
    """

    id: int
    mode: str
    state: str
    started_at: datetime
    finished_at: datetime | None
    is_silent: bool
    objects: int
    rows: int
    due: int
    removed: int
    restored: int
    purged: int
    kept: int
    alerts: int
    abort_reasons: tuple[str, ...]
    error: str | None


class QuarantinedObject(msgspec.Struct, frozen=True, kw_only=True):
    """An object in quarantine. A run deletes it at `deleted_at` or soon after; None if that is unknown, or never."""

    key: str
    rule: int
    meaning: str
    run_id: int
    size: int
    quarantined_at: datetime
    deleted_at: datetime | None
    has_row: bool
    alert: str | None


class OrphanPeriods(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of the cleanup as this page knows them; those of the worker decide."""

    mode: str
    grace: timedelta
    retention: timedelta
    quarantine_for: timedelta


class Quarantine(msgspec.Struct, frozen=True, kw_only=True):
    """The objects in quarantine, oldest first. `number` and `bytes` are of at most `COUNTED_MAX` objects."""

    objects: tuple[QuarantinedObject, ...] = ()
    number: int = 0
    bytes: int = 0
    after: int | None = None


class OrphanKey(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the ledger has about a key. Without findings and removals the key is live, out of scope, or does not exist.

    `quarantined` is its object in quarantine, which `millhand orphans restore` restores.
    """

    key: str
    findings: tuple[OrphanFinding, ...]
    quarantined: QuarantinedObject | None
    removals: tuple[LedgerRemoval, ...]


def periods_of(config: OrphansConfig | None) -> OrphanPeriods | None:
    if config is None:
        return None
    return OrphanPeriods(
        mode=config.mode, grace=config.grace, retention=config.retention, quarantine_for=config.quarantine_for
    )


def rule_lines(counts: Sequence[RuleCount], config: OrphansConfig | None) -> tuple[OrphanRule, ...]:
    """Return the rules that have findings, of the last run and those that an aborted run left. Shape: what is due first."""
    numbers: dict[int, int] = {}
    for one in counts:
        numbers[one.rule] = min(COUNTED_MAX, numbers.get(one.rule, 0) + one.number)
    rules = [
        OrphanRule(
            rule=rule, kind=_kind(rule), meaning=meaning(rule, config), is_due=is_due(rule), number=number
        )
        for rule, number in numbers.items()
    ]
    return tuple(sorted(rules, key=lambda one: (not one.is_due, one.kind == Kind.WAITING, one.rule)))


def is_due(rule: int) -> bool:
    """Return whether a run that may remove something acts on a finding by this rule."""
    known = BY_NUMBER.get(rule)
    return known is not None and known.verdict in {*REMOVING, Verdict.ABORT_UPLOAD}


def finding_line(found: Finding, config: OrphansConfig | None) -> OrphanFinding:
    return OrphanFinding(
        id=found.id,
        key=found.key,
        kind=found.kind,
        rule=found.rule,
        meaning=meaning(found.rule, config),
        is_due=is_due(found.rule),
        source=found.source,
        row_id=found.row_id,
        size=found.size,
        first_seen_at=found.first_seen_at,
        last_seen_at=found.last_seen_at,
        num_runs=found.num_runs,
        run_id=found.run_id,
        due_at=due_at(found.rule, found.first_seen_at, config),
        note=found.note,
    )


def run_line(run: Run, now: datetime) -> OrphanRun:
    totals = run.totals
    return OrphanRun(
        id=run.id,
        mode=run.mode,
        state=run.state,
        started_at=run.started_at,
        finished_at=run.finished_at,
        is_silent=run.finished_at is None and now - run.heartbeat_at > LEASE,
        objects=totals.objects,
        rows=totals.rows,
        due=totals.due,
        removed=totals.removed,
        restored=totals.restored,
        purged=totals.purged,
        kept=totals.kept,
        alerts=totals.alerts,
        abort_reasons=run.abort_reasons,
        error=run.error,
    )


def quarantined_line(held: LedgerRemoval, config: OrphansConfig | None) -> QuarantinedObject:
    return QuarantinedObject(
        key=held.key,
        rule=held.rule,
        meaning=meaning(held.rule, config),
        run_id=held.run_id,
        size=held.size,
        quarantined_at=held.updated_at,
        deleted_at=None if config is None else deleted_at(held.updated_at, config),
        has_row=held.has_row,
        alert=held.alert,
    )


def quarantine_lines(
    held: Sequence[LedgerRemoval], total: QuarantineSum, config: OrphansConfig | None, *, limit: int
) -> Quarantine:
    """Return the first `limit` objects. One more of them says that there is another page."""
    return Quarantine(
        objects=tuple(quarantined_line(one, config) for one in held[:limit]),
        number=total.number,
        bytes=total.bytes,
        after=held[limit - 1].id if len(held) > limit else None,
    )


def key_lines(
    key: str, found: Sequence[Finding], removals: Sequence[LedgerRemoval], config: OrphansConfig | None
) -> OrphanKey:
    held = next((one for one in removals if one.state == ActionState.QUARANTINED), None)
    return OrphanKey(
        key=key,
        findings=tuple(finding_line(one, config) for one in found),
        quarantined=None if held is None else quarantined_line(held, config),
        removals=tuple(removals),
    )


def _kind(rule: int) -> str:
    known = BY_NUMBER.get(rule)
    return known.kind if known is not None and known.kind is not None else ""
