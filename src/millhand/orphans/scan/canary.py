"""
Canaries: objects whose outcome is known before the run, and one key that no row can name.

Millhand takes some rows as they lie in the table and looks up their objects by HEAD. Those that exist must come out of the
scan as live. The scan reads ranges of an index and a listing, so this shows errors in either: an index that a new
collation has broken, or a server that lists less than it has. A key that is made up on the spot must be named by no
row; otherwise a source matches everything.
"""

from __future__ import annotations

import random
import uuid
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from millhand.core.orphans import OrphansConfig
from millhand.orphans.rules import Reference, Scope
from millhand.orphans.scan.compare import Comparison, KeyScope
from millhand.orphans.scan.lookup import is_alias, is_there
from millhand.orphans.sources.references import References
from millhand.storage import ObjectPage, ObjectStore

NUM_PER_SOURCE = 3
NUM_ROWS = 1_000  # rows as they lie in the table, from which the canaries are drawn
NUM_PLACES = 3  # random places in the order of keys, with more canaries
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@dataclass(slots=True, kw_only=True)
class Canaries:
    """The keys that the scan must find live, and those that it has found live."""

    keys: list[str] = field(default_factory=list)
    seen_live: set[str] = field(default_factory=set)

    def record(self, page: ObjectPage, start: int, end: int, found: Comparison) -> None:
        """Record the canaries of one range that exist and have a row. Shape: the page is in order."""
        if start == end or not self.keys:
            return
        first, last = page.keys[start], page.keys[end - 1]
        for key in self.keys[bisect_left(self.keys, first) :]:
            if key > last:
                return
            at = bisect_left(page.keys, key, start, end)
            is_there = at < end and page.keys[at] == key
            if is_there and not any(one.key == key and one.row is None for one in found.observations):
                self.seen_live.add(key)


async def choose_canaries(
    references: References, store: ObjectStore, config: OrphansConfig, *, after: str
) -> list[str]:
    """Return keys after `after` that are live at this moment, from all sources. Shape: in order."""
    scope_of = KeyScope.of(config)
    keys = set(config.canaries)
    for name in references.names:
        rows = await references.sample_keys(name, prefix=config.prefix, limit=NUM_ROWS)
        keys |= set(rows if len(rows) < NUM_PER_SOURCE else random.sample(rows, NUM_PER_SOURCE))
        for low in random_places(config.prefix, NUM_PLACES):
            read = await references.read_range(low, None, limit=NUM_PER_SOURCE, only=name)
            keys |= set(read.ready_keys[:NUM_PER_SOURCE]) | {one.key for one in read.sized[:NUM_PER_SOURCE]}
    in_scope = [key for key in sorted(keys) if scope_of(key) is Scope.IN_SCOPE and key > after]
    there = [key for key in await _live(references, in_scope) if await is_there(store, key)]
    return [key for key in there if not await is_alias(store, key)]


async def find_dead(
    references: References, store: ObjectStore, config: OrphansConfig, canaries: Canaries
) -> tuple[str, ...]:
    """Return why the scan cannot be trusted, a sentence for each canary that is not live; empty if it can."""
    unseen = [key for key in canaries.keys if key not in canaries.seen_live]
    # The application may have deleted some of them meanwhile.
    dead = [key for key in await _live(references, unseen) if await is_there(store, key)]
    dead_sentences = [
        f"an object that exists and has a row must be live, got another result for {key!r}; "
        "nothing that this run saw counts; check that the listing and the sources write keys alike"
        for key in dead[:1]
    ]
    return (
        *dead_sentences,
        *await _find_lost(references, store, config),
        *await _find_matching_all(references, config),
    )


async def _find_lost(references: References, store: ObjectStore, config: OrphansConfig) -> list[str]:
    rule, remedy = (
        "a canary of orphans.canaries must be live",
        "check what happened to it, or remove it from the list",
    )
    live = set(await _live(references, config.canaries))
    lost = [
        f"{rule}, got no ready row that names {key!r}; {remedy}" for key in config.canaries if key not in live
    ]
    gone = [key for key in config.canaries if key in live and not await is_there(store, key)]
    return lost + [f"{rule}, got no object {key!r}; {remedy}" for key in gone]


async def _find_matching_all(references: References, config: OrphansConfig) -> list[str]:
    key = f"{config.prefix}millhand-canary-{uuid.uuid4().hex}"
    return [
        f"a made-up key must have no row, got a row of source {row.source!r} that names it; "
        "check that the source's SELECT or view filters by key"
        for row in (await references.rows_by_key([key])).get(key, ())[:1]
    ]


async def _live(references: References, keys: Sequence[str]) -> list[str]:
    naming = await references.rows_by_key(keys)
    return [key for key in keys if any(row.reference is Reference.READY for row in naming.get(key, ()))]


def random_places(prefix: str, number: int) -> list[str]:
    """Return places in the order of keys, other ones in each run."""
    return [prefix + "".join(random.choices(ALPHABET, k=2)) for _ in range(number)]  # noqa: S311 - a sample
