"""
Compare the objects and the rows of one range of keys. Pure functions.

Most objects have one ready row, and most rows have an object: these are only counted. The rest becomes observations,
which `evaluate` decides one by one.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field

from millhand.core.blob import BLOB_PREFIX
from millhand.core.orphans import OrphansConfig
from millhand.orphans.evaluate import Observation, agrees
from millhand.orphans.rules import Reference, Scope
from millhand.orphans.sources.references import RangeRead
from millhand.orphans.sources.statements import ReferenceRow
from millhand.storage import ObjectInfo, ObjectPage
from millhand.storage.protocol import RESERVED_PREFIX

RESERVED_BELOW = f"/{RESERVED_PREFIX}"
BLOBS_BELOW = f"/{BLOB_PREFIX}"
MARKER_BELOW = f"{RESERVED_BELOW}binding.json"


@dataclass(slots=True, kw_only=True)
class Comparison:
    """The counts of one range, the observations to evaluate, and the ready keys that have no object."""

    absent_keys: list[str] = field(default_factory=list)
    live: int = 0
    nested_markers: list[str] = field(default_factory=list)
    num_bytes: int = 0
    num_objects: int = 0
    observations: list[Observation] = field(default_factory=list)
    ready_rows: int = 0
    unclassified: int = 0


@dataclass(frozen=True, slots=True)
class KeyScope:
    """The keys that a run may act on. Call it for the `Scope` of a key."""

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
        return not (self.prefix or self.excluded or self.patterns)

    def is_marker_below(self, key: str) -> bool:
        """Return whether a key is the marker of a store whose root is in scope."""
        return (
            key.endswith(MARKER_BELOW)
            and key.startswith(self.prefix)
            and not key.startswith(self.excluded)
            and not key.startswith(RESERVED_PREFIX)
        )

    def __call__(self, key: str) -> Scope:
        # Below another prefix too: a store with its root there has its own quarantine and its own blobs, and rows name those
        # blobs without the prefix.
        is_ours = key.startswith(RESERVED_PREFIX) or RESERVED_BELOW in key or BLOBS_BELOW in key
        if not key.startswith(self.prefix) or is_ours or key.startswith(self.excluded):
            return Scope.OUTSIDE
        if self.patterns and not any(pattern.fullmatch(key) for pattern in self.patterns):
            return Scope.UNDECLARED
        return Scope.IN_SCOPE


def cut_page(page: ObjectPage, start: int, high: str | None) -> int:
    """Return the index of the first key of an ordered page that comes after `high`."""
    return len(page.keys) if high is None else bisect_right(page.keys, high, start)


def compare(page: ObjectPage, start: int, end: int, read: RangeRead, scope_of: KeyScope) -> Comparison:
    """Compare the objects `start` to `end` of a page with all rows that name a key of the same range."""
    keys = page.keys[start:end]
    sizes = dict(zip(keys, page.sizes[start:end], strict=True)) if read.sized else {}
    ready_keys, by_key = _by_key(read, sizes)
    is_all, found = scope_of.is_all, Comparison()
    if is_all and not by_key and ready_keys == keys:
        # The most frequent page: every object has its row, every row its object, and no row says more.
        return _all_live(found, page, start, end)
    ready = set(ready_keys)
    if is_all and not by_key and ready.issuperset(keys):
        # The next most frequent: every object has a row, and rows of several sources are in no common order.
        _all_live(found, page, start, end).ready_rows = len(ready_keys)
        found.absent_keys = sorted(ready.difference(keys))
        return found
    for index, key in enumerate(keys, start):
        if key in ready and key not in by_key and (is_all or scope_of(key) is Scope.IN_SCOPE):
            found.live += 1
            found.num_objects += 1
            found.num_bytes += page.sizes[index]
        else:
            _compare_object(found, page, index, by_key.pop(key, []), key in ready, scope_of)
    found.ready_rows += sum(is_all or scope_of(key) is Scope.IN_SCOPE for key in ready_keys)
    found.absent_keys += [key for key in sorted(ready.difference(keys)) if scope_of(key) is Scope.IN_SCOPE]
    for key, rows in by_key.items():
        _compare_rows(found, key, None, rows, key in ready, scope_of(key))
    return found


def _all_live(found: Comparison, page: ObjectPage, start: int, end: int) -> Comparison:
    found.live = found.num_objects = found.ready_rows = end - start
    found.num_bytes = sum(page.sizes[start:end])
    return found


def _by_key(read: RangeRead, sizes: Mapping[str, int]) -> tuple[list[str], dict[str, list[ReferenceRow]]]:
    """Return the keys of ready rows that agree with their object, and all other rows by key."""
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


def _compare_object(
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
            found.nested_markers.append(key)
        return
    found.num_objects += 1
    found.num_bytes += page.sizes[index]
    if scope is Scope.UNDECLARED:
        found.unclassified += 1
    elif rows or is_ready:
        _compare_rows(found, key, page.describe(index), rows, is_ready, scope)
    else:
        found.observations.append(Observation(key=key, object=page.describe(index), row=None))


def _compare_rows(
    found: Comparison,
    key: str,
    info: ObjectInfo | None,
    rows: list[ReferenceRow],
    is_ready: bool,
    scope: Scope,
) -> None:
    if scope is not Scope.IN_SCOPE:
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
