"""
Evaluate one object or row against the rules, with what earlier runs recorded about it.

A sighting counts only if the run that made it saw the whole bucket.

    observation + prior finding ─▶ situation ─▶ rule ─▶ finding, if the rule records one
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from millhand.core.orphans import OrphansConfig
from millhand.orphans.ledger import Finding
from millhand.orphans.rules import (
    NEAR_MATCH,
    ORPHAN_NUMBERS,
    Kind,
    Look,
    Reference,
    Rule,
    Scope,
    Situation,
    Tie,
    find_rule,
)
from millhand.orphans.sources.statements import ReferenceRow
from millhand.storage import ObjectInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One object without a row, one row without an object, or a row and its object."""

    key: str
    object: ObjectInfo | None
    row: ReferenceRow | None
    is_shared: bool = False
    look: Look = Look.NOT_TAKEN
    scope: Scope = Scope.IN_SCOPE
    tie: Tie = Tie.NONE

    @property
    def identity(self) -> tuple[str, str, str]:
        """Key, source and row id. They identify the same finding in the next run."""
        return (self.key, "", "") if self.row is None else (self.key, self.row.source, self.row.row_id)

    @property
    def is_rowless(self) -> bool:
        """Whether it is an object in scope that no row names."""
        return self.object is not None and self.scope is Scope.IN_SCOPE and self.row is None

    @property
    def reference(self) -> Reference:
        return Reference.NONE if self.row is None else self.row.reference


class _History(NamedTuple):
    """Since when an object or row has been as it is, and how many complete runs saw it so."""

    first_seen_at: datetime
    sightings: int


def evaluate(
    observation: Observation,
    prior: Finding | None,
    *,
    complete_run_id: int | None,
    config: OrphansConfig,
    now: datetime,
) -> tuple[Rule, Finding | None]:
    """
    Return the rule that fits an observation, and the finding to record; None if the rule records nothing.

    `prior` is what the ledger has about the same object or row. `complete_run_id` is the last run that saw the whole bucket.
    """
    history = _History(now, 0)
    is_same = _is_same(observation, prior)
    if prior is not None and is_same and prior.reference == observation.reference:
        history = _History(prior.first_seen_at, prior.sightings + (prior.run_id == complete_run_id))
    rule = find_rule(_situation(observation, history, config, now, is_same=is_same))
    if prior is not None and prior.kind == Kind.NEAR_MATCH and rule.number in ORPHAN_NUMBERS:
        # It stays a near match until `near_match.find_near_matches` has asked the sources again.
        rule = NEAR_MATCH
    if rule.kind is None:
        return rule, None
    return rule, _finding(observation, rule, rule.kind, history, now)


def agrees(row: ReferenceRow, info: ObjectInfo) -> bool:
    """Return whether size and etag of an object are those of its row. A row without either agrees."""
    return (row.size is None or row.size == info.size) and (not row.etag or row.etag.strip('"') == info.etag)


def is_same_object(prior: Finding, info: ObjectInfo) -> bool:
    """Return whether an object is the one of a finding. Equal bytes that are put again differ in their time."""
    return (prior.etag, prior.size, prior.modified_at) == (info.etag, info.size, info.modified_at)


def _situation(
    observation: Observation, history: _History, config: OrphansConfig, now: datetime, *, is_same: bool
) -> Situation:
    info, row = observation.object, observation.row
    # Whatever the row's state: the object was just put, and its row may still be on its way.
    is_young = info is not None and now - info.modified_at < config.min_object_age
    return Situation(
        agrees=info is None or row is None or agrees(row, info),
        is_due=not is_young and now - _since(row, history.first_seen_at) >= _limit(row, config),
        is_present=info is not None,
        is_same=is_same,
        is_seen_twice=history.sightings >= 1,
        is_shared=observation.is_shared,
        is_young=is_young,
        look=observation.look,
        reference=observation.reference,
        scope=observation.scope,
        tie=observation.tie,
    )


def _is_same(observation: Observation, prior: Finding | None) -> bool:
    """Return whether nothing touched an object, or a row that is not ready and its object, since the last run."""
    info, row = observation.object, observation.row
    if prior is None or (row is not None and row.reference is Reference.READY):
        return True
    if row is not None and row.version != prior.row_version:
        return False
    return not prior.is_present if info is None else is_same_object(prior, info)


def _since(row: ReferenceRow | None, first_seen_at: datetime) -> datetime:
    if row is None or row.reference is Reference.UNATTACHED or row.left_at is None:
        return first_seen_at
    return max(row.left_at, first_seen_at)


def _limit(row: ReferenceRow | None, config: OrphansConfig) -> timedelta:
    is_soft_deleted = row is not None and row.reference is Reference.SOFT_DELETED
    return config.retention if is_soft_deleted else config.grace


def _finding(observation: Observation, rule: Rule, kind: Kind, history: _History, now: datetime) -> Finding:
    key, source, row_id = observation.identity
    info = observation.object
    return Finding(
        key=key,
        source=source,
        row_id=row_id,
        kind=kind,
        reference=observation.reference,
        rule=rule.number,
        is_present=info is not None,
        size=0 if info is None else info.size,
        etag="" if info is None else info.etag,
        modified_at=None if info is None else info.modified_at,
        first_seen_at=history.first_seen_at,
        last_seen_at=now,
        sightings=history.sightings,
        row_version="" if observation.row is None else observation.row.version,
    )
