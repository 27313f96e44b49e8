"""
What the keys of one stretch say, objects on one side and rows on the other. Pure; the sets do the work.

Most objects have one row that is ready, and most rows an object: of these only the number is kept. What is left is
weighed one by one, with what the ledger knows of it.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from millhand.orphans.config import OrphansConfig
from millhand.orphans.ledger import Finding, Kind
from millhand.orphans.rules import (
    NEAR_MATCH,
    ORPHAN_NUMBERS,
    Look,
    Reference,
    Rule,
    Scope,
    Situation,
    Tie,
    judge,
)
from millhand.orphans.sources.references import RangeRead
from millhand.orphans.sources.statements import ReferenceRow
from millhand.storage import ObjectInfo, ObjectPage
from millhand.storage.protocol import RESERVED_PREFIX

MARKER_BELOW = f"/{RESERVED_PREFIX}binding.json"
KINDS = {
    2: Kind.SIZE_MISMATCH,
    4: Kind.ABANDONED,
    5: Kind.SHARED,
    7: Kind.ABANDONED,
    8: Kind.ABANDONED,
    9: Kind.ABANDONED,
    11: Kind.ORPHAN,
    12: Kind.ORPHAN,
    13: Kind.ORPHAN,
    15: Kind.ORPHAN,
    18: Kind.MISSING,
    20: Kind.ABANDONED,
    22: Kind.UPLOAD,
    24: Kind.NEAR_MATCH,
    25: Kind.UPLOAD,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One object, one row, or a row and its object, that is more than a number."""

    key: str
    object: ObjectInfo | None
    row: ReferenceRow | None
    is_shared: bool = False
    look: Look = Look.NOT_TAKEN
    scope: Scope = Scope.JUDGED
    tie: Tie = Tie.NONE

    @property
    def identity(self) -> tuple[str, str, str]:
        """What makes it the same finding in the next run."""
        return (self.key, "", "") if self.row is None else (self.key, self.row.source, self.row.row_id)


@dataclass(slots=True, kw_only=True)
class Comparison:
    """The numbers of one stretch, what is to be weighed, and the ready keys that have no object."""

    absent_keys: list[str] = field(default_factory=list)
    live: int = 0
    markers_below: list[str] = field(default_factory=list)
    num_bytes: int = 0
    num_objects: int = 0
    observations: list[Observation] = field(default_factory=list)
    ready_rows: int = 0
    unclassified: int = 0


@dataclass(frozen=True, slots=True)
class KeyScope:
    """Which keys are ours to judge."""

    prefix: str
    excluded: tuple[str, ...]
    patterns: tuple[re.Pattern[str], ...]

    @classmethod
    def of(cls, config: OrphansConfig) -> KeyScope:
        return cls(
            config.prefix, config.exclude, tuple(re.compile(pattern) for pattern in config.key_patterns)
        )

    @property
    def is_all(self) -> bool:
        """Whether any key that is listed is ours to judge."""
        return not (self.prefix or self.excluded or self.patterns)

    def is_marker_below(self, key: str) -> bool:
        """Whether a key is the marker of a store that is rooted within what is ours to judge."""
        return (
            key.endswith(MARKER_BELOW)
            and key.startswith(self.prefix)
            and not key.startswith(self.excluded)
            and not key.startswith(RESERVED_PREFIX)
        )

    def __call__(self, key: str) -> Scope:
        if not key.startswith(self.prefix) or _is_ours(key) or key.startswith(self.excluded):
            return Scope.OUTSIDE
        if self.patterns and not any(pattern.fullmatch(key) for pattern in self.patterns):
            return Scope.UNDECLARED
        return Scope.JUDGED


def _is_ours(key: str) -> bool:
    # Below another prefix too: what a store that is rooted there has in quarantine.
    return key.startswith(RESERVED_PREFIX) or f"/{RESERVED_PREFIX}" in key


def cut_page(page: ObjectPage, start: int, high: str | None) -> int:
    """Return where the keys of a page, which is in order, go beyond `high`."""
    return len(page.keys) if high is None else bisect_right(page.keys, high, start)


def compare(page: ObjectPage, start: int, end: int, read: RangeRead, scope_of: KeyScope) -> Comparison:
    """Compare the objects `start` … `end` of a page with all rows that name a key of the same stretch."""
    keys = page.keys[start:end]
    sizes = dict(zip(keys, page.sizes[start:end], strict=True)) if read.sized else {}
    ready_keys, by_key = _by_key(read, sizes)
    is_all, found = scope_of.is_all, Comparison()
    if is_all and not by_key and ready_keys == keys:
        # As most pages are: every object has its row, every row its object, and there is no more to know of either.
        return _all_live(found, page, start, end)
    ready = set(ready_keys)
    if is_all and not by_key and ready.issuperset(keys):
        # As the next most: some rows, or rows of several sources, that are in no order together.
        _all_live(found, page, start, end).ready_rows = len(ready_keys)
        found.absent_keys = sorted(ready.difference(keys))
        return found
    for index, key in enumerate(keys, start):
        if key in ready and key not in by_key and (is_all or scope_of(key) is Scope.JUDGED):
            found.live += 1
            found.num_objects += 1
            found.num_bytes += page.sizes[index]
        else:
            _look_closer(found, page, index, by_key.pop(key, []), key in ready, scope_of)
    found.ready_rows += sum(is_all or scope_of(key) is Scope.JUDGED for key in ready_keys)
    found.absent_keys += [key for key in sorted(ready.difference(keys)) if scope_of(key) is Scope.JUDGED]
    for key, rows in by_key.items():
        _look_at_rows(found, key, None, rows, key in ready, scope_of(key))
    return found


def _all_live(found: Comparison, page: ObjectPage, start: int, end: int) -> Comparison:
    found.live = found.num_objects = found.ready_rows = end - start
    found.num_bytes = sum(page.sizes[start:end])
    return found


def _by_key(read: RangeRead, sizes: Mapping[str, int]) -> tuple[list[str], dict[str, list[ReferenceRow]]]:
    """Return the key of each ready row whose object, if there is one, is as it says, and all other rows by key."""
    ready_keys = list(read.ready_keys)
    by_key: dict[str, list[ReferenceRow]] = {}
    for row in read.rows:
        by_key.setdefault(row.key, []).append(row)
    for sized in read.sized:
        if sizes.get(sized.key, sized.size) == sized.size:
            ready_keys.append(sized.key)
        else:
            by_key.setdefault(sized.key, []).append(sized.row())
    return ready_keys, by_key


def _look_closer(
    found: Comparison,
    page: ObjectPage,
    index: int,
    rows: list[ReferenceRow],
    is_ready: bool,
    scope_of: KeyScope,
) -> None:
    key = page.keys[index]
    scope = scope_of(key)
    if scope is Scope.OUTSIDE:
        if scope_of.is_marker_below(key):
            found.markers_below.append(key)
        return
    found.num_objects += 1
    found.num_bytes += page.sizes[index]
    if scope is Scope.UNDECLARED:
        found.unclassified += 1
    elif rows or is_ready:
        _look_at_rows(found, key, page.describe(index), rows, is_ready, scope)
    else:
        found.observations.append(Observation(key=key, object=page.describe(index), row=None))


def _look_at_rows(
    found: Comparison,
    key: str,
    info: ObjectInfo | None,
    rows: list[ReferenceRow],
    is_ready: bool,
    scope: Scope,
) -> None:
    if scope is not Scope.JUDGED:
        return
    is_alive = is_ready
    for row in rows:
        is_row_ready = row.reference is Reference.READY
        found.ready_rows += is_row_ready
        if is_row_ready and info is None:
            if row.state == Reference.READY:
                found.absent_keys.append(key)
            continue
        is_alive = is_alive or is_row_ready
        if is_row_ready and info is not None and agrees(row, info):
            continue
        is_shared = is_ready or len(rows) > 1
        found.observations.append(Observation(key=key, object=info, row=row, is_shared=is_shared))
    found.live += is_alive and info is not None


def agrees(row: ReferenceRow, info: ObjectInfo) -> bool:
    """Whether an object is what its row says; a row that says nothing agrees."""
    return (row.size is None or row.size == info.size) and (not row.etag or row.etag.strip('"') == info.etag)


def weigh(
    observation: Observation,
    prior: Finding | None,
    *,
    complete_run_id: int | None,
    config: OrphansConfig,
    now: datetime,
) -> tuple[Rule, Finding | None]:
    """
    Judge one observation with what is remembered of it, and return what is to be remembered now; None if nothing is.

    A sighting counts when the run that made it saw the whole bucket: `complete_run_id` is the last that did.
    """
    info, row = observation.object, observation.row
    reference = Reference.NONE if row is None else row.reference
    is_same = prior is None or info is None or row is not None or is_same_object(prior, info)
    # Whatever its row says: somebody has just put it, and may be about to say so.
    is_young = info is not None and now - info.modified_at < config.min_object_age
    first_seen_at, sightings = now, 0
    if prior is not None and is_same and prior.reference == reference:
        first_seen_at = prior.first_seen_at
        sightings = prior.sightings + (prior.run_id == complete_run_id)
    rule = judge(
        Situation(
            agrees=info is None or row is None or agrees(row, info),
            is_due=not is_young and now - _since(row, first_seen_at) >= _limit(row, config),
            is_present=info is not None,
            is_same=is_same,
            is_seen_twice=sightings >= 1,
            is_shared=observation.is_shared,
            is_young=is_young,
            look=observation.look,
            reference=reference,
            scope=observation.scope,
            tie=observation.tie,
        )
    )
    if prior is not None and prior.kind == Kind.NEAR_MATCH and rule.number in ORPHAN_NUMBERS:
        rule = (
            NEAR_MATCH  # until it is known that no row writes anything like it any more; see `spelling.vet`
        )
    if rule.number not in KINDS:
        return rule, None
    return rule, Finding(
        key=observation.key,
        source=observation.identity[1],
        row_id=observation.identity[2],
        kind=KINDS[rule.number],
        reference=reference,
        rule=rule.number,
        is_present=info is not None,
        size=0 if info is None else info.size,
        etag="" if info is None else info.etag,
        modified_at=None if info is None else info.modified_at,
        first_seen_at=first_seen_at,
        last_seen_at=now,
        sightings=sightings,
    )


def is_same_object(prior: Finding, info: ObjectInfo) -> bool:
    """Whether an object is the one that was seen; equal bytes put again have the same etag, but not the same time."""
    return (prior.etag, prior.size, prior.modified_at) == (info.etag, info.size, info.modified_at)


def by_identity(findings: list[Finding]) -> Mapping[tuple[str, str, str], Finding]:
    """Return findings by what makes them the same in the next run."""
    return {finding.identity: finding for finding in findings}


def each_once(observations: list[Observation]) -> Iterator[Observation]:
    """Yield observations, of several with one identity the first; a SELECT may name a key in many rows without id."""
    seen: set[tuple[str, str, str]] = set()
    for observation in observations:
        if observation.identity not in seen:
            seen.add(observation.identity)
            yield observation


def _since(row: ReferenceRow | None, first_seen_at: datetime) -> datetime:
    if row is None or row.reference is Reference.UNATTACHED or row.left_at is None:
        return first_seen_at
    return row.left_at


def _limit(row: ReferenceRow | None, config: OrphansConfig) -> timedelta:
    is_soft_deleted = row is not None and row.reference is Reference.SOFT_DELETED
    return config.retention if is_soft_deleted else config.grace
