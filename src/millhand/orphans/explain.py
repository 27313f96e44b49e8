"""What people ask: what was found, what was done, and why one key is what it is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from millhand.driver.protocol import Executor
from millhand.orphans.compare import KeyScope, Observation, weigh
from millhand.orphans.config import OrphansConfig
from millhand.orphans.judge import Look, Rule, Scope, Verdict
from millhand.orphans.ledger import (
    Action,
    Finding,
    Run,
    action_get_by_key,
    database_facts,
    finding_get_many,
    finding_list,
    run_get_scanned,
    run_list,
)
from millhand.orphans.references import open_references
from millhand.orphans.statements import ReferenceRow
from millhand.storage import InvalidKey, ObjectInfo, ObjectNotFound, ObjectStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The story of one key: what is there, what was noted, what was done, and which rule would decide now."""

    actions: tuple[Action, ...]
    findings: tuple[Finding, ...]
    key: str
    object: ObjectInfo | None
    reason: str
    references: tuple[ReferenceRow, ...]
    rule: int
    verdict: Verdict

    def lines(self) -> list[str]:
        """Tell it to a person."""
        told = [f"{self.key}: {self.verdict.value} by rule {self.rule}: {self.reason}"]
        told.append("  object: none" if self.object is None else f"  object: {_describe(self.object)}")
        told += [f"  row: {row.source} {row.row_id or '?'} is {row.state}" for row in self.references]
        if not self.references:
            told.append("  row: none")
        for finding in self.findings:
            seen = f"first seen {finding.first_seen_at:%Y-%m-%d %H:%M} UTC, in {finding.sightings + 1} runs"
            told.append(f"  found: {finding.kind} by rule {finding.rule}, {seen}")
        for action in self.actions:
            when = f"{action.updated_at:%Y-%m-%d %H:%M} UTC" if action.updated_at else "?"
            reason = f": {action.reason}" if action.reason else ""
            told.append(f"  done: {when} run {action.run_id}, rule {action.rule}, {action.state}{reason}")
        return told


async def explain(
    executor: Executor, store: ObjectStore, config: OrphansConfig, key: str, *, now: datetime | None = None
) -> Explanation:
    """
    Say what is known of one key, and what a run would decide about it now.

    Raises: ConfigError; SourceFailed; StoreError; DriverError.
    """
    references = await open_references(executor, config)
    found = await _object(store, key)
    rows = (await references.naming([key])).get(key, [])
    findings = await executor.run(finding_get_many(store.url, [key]))
    actions = await executor.run(action_get_by_key(store.url, [key]))
    instant = now or (await executor.run(database_facts())).now
    scanned = await executor.run(run_get_scanned(store.url, config.fingerprint))
    scope = Scope.LOCKED if found is not None and found.is_locked else KeyScope.of(config)(key)
    known = {finding.identity: finding for finding in findings}
    rules = [
        weigh(
            observation,
            known.get(observation.identity),
            complete_run_id=None if scanned is None else scanned.id,
            config=config,
            now=instant,
        )[0]
        for observation in _observations(key, found, rows, scope)
    ]
    rule = min(rules, key=_weight)
    return Explanation(
        actions=tuple(actions),
        findings=tuple(findings),
        key=key,
        object=found,
        reason=rule.says,
        references=tuple(rows),
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
    """List what is not as it should be, as of the last run. Shape: by id, after `after`, at most `limit`."""
    return await executor.run(finding_list(bucket=bucket, kind=kind, after=after, limit=limit))


async def list_runs(executor: Executor, *, bucket: str | None = None, limit: int = 20) -> list[Run]:
    """List runs. Shape: the newest first, at most `limit`."""
    return await executor.run(run_list(bucket=bucket, limit=limit))


def _observations(
    key: str, found: ObjectInfo | None, rows: list[ReferenceRow], scope: Scope
) -> list[Observation]:
    look = Look.NOT_FOUND if found is None else Look.NOT_TAKEN
    if not rows:
        return [Observation(key=key, object=found, row=None, look=look, scope=scope)]
    is_shared = len(rows) > 1
    return [
        Observation(key=key, object=found, row=row, is_shared=is_shared, look=look, scope=scope)
        for row in rows
    ]


def _weight(rule: Rule) -> int:
    """Of several rows, the one that speaks most for the object's life decides."""
    order = (Verdict.LIVE, Verdict.KEEP, Verdict.IGNORE, Verdict.SKIP, Verdict.REPORT, Verdict.CANDIDATE)
    return order.index(rule.verdict) if rule.verdict in order else len(order)


async def _object(store: ObjectStore, key: str) -> ObjectInfo | None:
    try:
        return await store.head(key)
    except (ObjectNotFound, InvalidKey):
        return None


def _describe(info: ObjectInfo) -> str:
    locked = ", locked" if info.is_locked else ""
    return f"{info.size:,} bytes, etag {info.etag}, modified {info.modified_at:%Y-%m-%d %H:%M:%S} UTC{locked}"
