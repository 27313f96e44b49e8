"""List and sum up findings, list runs, and explain one key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from millhand.core.orphans import OrphansConfig
from millhand.db.driver.protocol import Executor
from millhand.db.query import Query, Row
from millhand.orphans.evaluate import Observation, evaluate
from millhand.orphans.ledger import (
    Action,
    ActionState,
    Finding,
    Run,
    action_get_by_key,
    database_facts,
    finding_get_many,
    finding_list,
    run_get_scanned,
    run_list,
)
from millhand.orphans.report.meanings import meaning, meaning_of_absence
from millhand.orphans.rules import BY_NUMBER, Kind, Look, Reference, Rule, Scope, Tie, Verdict
from millhand.orphans.scan.compare import KeyScope
from millhand.orphans.scan.derived import DerivedFrom
from millhand.orphans.scan.lookup import find_listed
from millhand.orphans.scan.near_match import NearMatchFinder
from millhand.orphans.sources.blobs import with_blobs
from millhand.orphans.sources.cascades import num_other_rows
from millhand.orphans.sources.references import References, open_references
from millhand.orphans.sources.statements import ReferenceRow
from millhand.storage import ObjectInfo, ObjectStore

# Kinds that a run may remove. The other kinds need a decision of yours.
FREEABLE = frozenset((Kind.ORPHAN, Kind.ABANDONED))


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """All that is known about one key: object, rows, findings, actions, and the rule that would apply now."""

    actions: tuple[Action, ...]
    findings: tuple[Finding, ...]
    key: str
    notes: tuple[str, ...] = ()
    object: ObjectInfo | None
    reason: str
    references: tuple[ReferenceRow, ...]
    rule: int
    verdict: Verdict

    def lines(self) -> list[str]:
        """Return the explanation as lines of text."""
        lines = [f"{self.key}: {self.reason}"]
        lines.append("  object: none" if self.object is None else f"  object: {_describe(self.object)}")
        lines += [
            f"  row: {' '.join(filter(None, (one.source, one.row_id)))} is {one.state}"
            for one in self.references
        ]
        if not self.references:
            lines.append("  row: none")
        lines += [f"  near: {note}" for note in self.notes]
        lines += [_found(finding) for finding in self.findings]
        for action in self.actions:
            lines += _done(action)
        return lines

    @property
    def is_unknown(self) -> bool:
        """Whether nothing has this key, and no run has found or removed it."""
        return not (self.object or self.references or self.findings or self.actions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One kind of finding. `examples` are keys, largest objects first."""

    bytes: int
    examples: tuple[str, ...]
    kind: str
    number: int

    @property
    def is_freeable(self) -> bool:
        """Whether removing it frees its bytes."""
        return self.kind in FREEABLE


async def explain(
    executor: Executor, store: ObjectStore, config: OrphansConfig, key: str, *, now: datetime | None = None
) -> Explanation:
    """
    Explain one key: what is known about it, and which rule would apply to it now.

    Raises: ConfigError; SourceFailed; StoreError; DriverError.
    """
    config = await with_blobs(executor, store, config)
    references = await open_references(executor, config)
    found = await find_listed(store, key)
    rows = (await references.rows_by_key([key])).get(key, [])
    findings = await executor.run(finding_get_many(store.url, [key]))
    actions = await executor.run(action_get_by_key(store.url, [key]))
    scope = Scope.LOCKED if found is not None and found.is_locked else KeyScope.of(config)(key)
    observations = await DerivedFrom.of(config).with_ties(references, _observations(key, found, rows, scope))
    observations, notes = await _near_matches(executor, references, store, config, observations)
    instant = now or (await executor.run(database_facts())).now
    scanned = await executor.run(run_get_scanned(store.url, config.fingerprint))
    complete_run_id = None if scanned is None else scanned.id
    rule = _strongest_rule(observations, findings, complete_run_id, config, instant)
    is_absent = found is None and not rows
    return Explanation(
        actions=tuple(actions),
        findings=tuple(findings),
        key=key,
        notes=notes,
        object=found,
        reason=meaning_of_absence(key, actions) if is_absent else meaning(rule.number, config),
        references=tuple((await references.rows_by_key([key], with_id=True)).get(key, ())),
        rule=rule.number,
        verdict=rule.verdict,
    )


async def list_findings(
    executor: Executor,
    *,
    bucket: str | None = None,
    kind: str | None = None,
    limit: int = 100,
    after: int = 0,
) -> list[Finding]:
    """Return findings of the last run. Shape: by id, after `after`, at most `limit`."""
    return await executor.run(finding_list(bucket=bucket, kind=kind, after=after, limit=limit))


async def list_runs(executor: Executor, *, bucket: str | None = None, limit: int = 20) -> list[Run]:
    """Return runs. Shape: newest first, at most `limit`."""
    return await executor.run(run_list(bucket=bucket, limit=limit))


async def summarize_findings(executor: Executor, bucket: str, *, examples: int = 3) -> list[Summary]:
    """Return a summary of the last run's findings. Shape: one per kind that occurs, by kind."""
    params = {"bucket": bucket, "examples": examples}
    query = Query("orphan_finding_summarize", params, _parse_summaries, 60.0)
    return await executor.run(query)


async def _near_matches(
    executor: Executor,
    references: References,
    store: ObjectStore,
    config: OrphansConfig,
    observations: list[Observation],
) -> tuple[list[Observation], tuple[str, ...]]:
    """Return the observations with their near matches as ties, and notes on near matches and parents."""
    tied = []
    notes: list[str] = []
    finder = NearMatchFinder.of(executor, references, config, store)
    for one in observations:
        is_asked = (
            one.tie is not Tie.PARENT if one.is_rowless else one.object is not None and _is_leaving(one)
        )
        near = await finder.find([one.key]) if is_asked else {}
        notes += near.values()
        if near:
            tied.append(replace(one, tie=Tie.NEAR_MATCH) if one.row is None else replace(one, is_shared=True))
        else:
            tied.append(one)
        if one.tie is not Tie.NONE:
            parents = ", ".join(repr(parent) for parent in DerivedFrom.of(config).parents(one.key))
            notes.append(
                f"derived from {parents}, which {'a row' if one.tie is Tie.PARENT else 'no row'} names"
            )
    return tied, tuple(notes)


def _is_leaving(observation: Observation) -> bool:
    return observation.row is not None and observation.row.reference is not Reference.READY


def _observations(
    key: str, found: ObjectInfo | None, rows: list[ReferenceRow], scope: Scope
) -> list[Observation]:
    look = Look.NOT_FOUND if found is None else Look.NOT_TAKEN
    is_shared = len(rows) > 1
    return [
        Observation(key=key, object=found, row=row, is_shared=is_shared, look=look, scope=scope)
        for row in rows or (None,)
    ]


def _strongest_rule(
    observations: Sequence[Observation],
    findings: Sequence[Finding],
    complete_run_id: int | None,
    config: OrphansConfig,
    now: datetime,
) -> Rule:
    """Return the rule that decides. Of several rows, the one that keeps the object most certainly decides."""
    known = {finding.identity: finding for finding in findings}
    rules = [
        evaluate(one, known.get(one.identity), complete_run_id=complete_run_id, config=config, now=now)[0]
        for one in observations
    ]
    return min(rules, key=_caution)


def _caution(rule: Rule) -> int:
    order = (Verdict.LIVE, Verdict.KEEP, Verdict.IGNORE, Verdict.SKIP, Verdict.REPORT, Verdict.CANDIDATE)
    return order.index(rule.verdict) if rule.verdict in order else len(order)


def _found(finding: Finding) -> str:
    runs = f"{finding.num_runs} run{'' if finding.num_runs == 1 else 's'}"
    seen = f"first seen {finding.first_seen_at:%Y-%m-%d %H:%M} UTC, in {runs}"
    note = f"; {finding.note}" if finding.note else ""
    return f"  found: {finding.kind} by rule {finding.rule}, {seen}{note}"


def _done(action: Action) -> list[str]:
    reason = f": {action.reason}" if action.reason else ""
    what = f"run {action.run_id}, rule {action.rule} ({_outcome(action.rule)}), {action.state}{reason}"
    lines = [f"  done: {_when(action.updated_at)} {what}"]
    if action.state == ActionState.QUARANTINED:
        lines.append(f"  kept: {action.quarantine_key}; millhand orphans restore --key restores it")
    if action.row_json is not None and action.state != ActionState.RESTORED:
        num_others = num_other_rows(action.cascaded_json)
        others = f", and {num_others:,} rows of other tables changed" if num_others else ""
        lines.append(
            f"  row: {action.source} {action.row_id} was deleted with it{others}; the ledger has a copy"
        )
    if action.alert is not None:
        lines.append(f"  alert: {_when(action.alerted_at)} {action.alert}")
    return lines


def _outcome(number: int) -> str:
    # An action may come from an older or newer release.
    return BY_NUMBER[number].outcome if number in BY_NUMBER else "a rule of another release"


def _when(instant: datetime | None) -> str:
    return f"{instant:%Y-%m-%d %H:%M} UTC" if instant is not None else "?"


def _describe(info: ObjectInfo) -> str:
    locked = ", locked" if info.is_locked else ""
    return f"{info.size:,} bytes, etag {info.etag}, modified {info.modified_at:%Y-%m-%d %H:%M:%S} UTC{locked}"


def _parse_summaries(rows: Sequence[Row]) -> list[Summary]:
    return [Summary(bytes=int(row[2]), examples=tuple(row[3]), kind=row[0], number=row[1]) for row in rows]
