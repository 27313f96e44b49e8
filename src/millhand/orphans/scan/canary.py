"""
Canaries: objects whose verdict is known before the run, and a key that nobody can have named.

Some rows are taken as the table has them, their objects looked up by HEAD: what is there and ready must come out of the
scan as live. The scan reads by ranges from an index and from a listing, so that an error in either shows: an index that a
new collation has broken, a server that lists less than it has. A key that was made up on the spot must
be named by no row, or the sources say yes to everything.
"""

from __future__ import annotations

import random
import uuid
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from millhand.orphans.config import OrphansConfig
from millhand.orphans.rules import Reference, Scope
from millhand.orphans.scan.compare import Comparison, KeyScope
from millhand.orphans.scan.lookup import is_there
from millhand.orphans.sources.references import References
from millhand.storage import ObjectPage, ObjectStore

NUM_PER_SOURCE = 3
NUM_ROWS = 1_000  # as they lie in the table; the canaries are drawn from them
NUM_PLACES = 3  # in the order of keys, where there are some too
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@dataclass(slots=True, kw_only=True)
class Canaries:
    """The keys that must be judged live, and those that were, here or by another worker of the run."""

    keys: list[str] = field(default_factory=list)
    seen_live: set[str] = field(default_factory=set)

    def see(self, page: ObjectPage, start: int, end: int, found: Comparison) -> None:
        """Note which of them a stretch of a page, which is in order, found to be there and to have a row."""
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
    """Choose keys that are live at this moment, from all sources, of those after `after`. Shape: in order."""
    scope_of = KeyScope.of(config)
    keys = set(config.canaries)
    for name in references.names:
        rows = await references.sample_keys(name, prefix=config.prefix, limit=NUM_ROWS)
        keys |= set(rows if len(rows) < NUM_PER_SOURCE else random.sample(rows, NUM_PER_SOURCE))
        for low in _places(config.prefix):
            read = await references.read_range(low, None, limit=NUM_PER_SOURCE, only=name)
            keys |= set(read.ready_keys[:NUM_PER_SOURCE]) | {one.key for one in read.sized[:NUM_PER_SOURCE]}
    judged = [key for key in sorted(keys) if scope_of(key) is Scope.JUDGED and key > after]
    return [key for key in await _live(references, judged) if await is_there(store, key)]


async def find_dead(
    references: References, store: ObjectStore, config: OrphansConfig, canaries: Canaries
) -> tuple[str, ...]:
    """Return why the run cannot be trusted, if a canary says so: whole sentences."""
    unseen = [key for key in canaries.keys if key not in canaries.seen_live]
    # Whatever was deleted meanwhile by its owner is excused.
    dead = [key for key in await _live(references, unseen) if await is_there(store, key)]
    dead_sentences = [
        f"an object that is there and has its row must be judged live, got {key!r} judged otherwise; "
        "nothing of what this run saw counts; see whether the listing and the sources spell keys alike"
        for key in dead[:1]
    ]
    return (
        *dead_sentences,
        *await _find_lost(references, store, config),
        *await _find_gullible(references, config),
    )


async def _find_lost(references: References, store: ObjectStore, config: OrphansConfig) -> list[str]:
    """Look for the canaries that were declared."""
    rule, remedy = (
        "a canary of orphans.canaries must be live",
        "see what became of it, or take it off the list",
    )
    live = set(await _live(references, config.canaries))
    lost = [
        f"{rule}, got no ready row that names {key!r}; {remedy}" for key in config.canaries if key not in live
    ]
    gone = [key for key in config.canaries if key in live and not await is_there(store, key)]
    return lost + [f"{rule}, got no object {key!r}; {remedy}" for key in gone]


async def _find_gullible(references: References, config: OrphansConfig) -> list[str]:
    """Ask for a key that was made up on the spot."""
    key = f"{config.prefix}millhand-canary-{uuid.uuid4().hex}"
    return [
        f"a key that was made up must be an orphan, got a row of source {row.source!r} that names it; "
        "see whether the source's SELECT or view answers what it is asked"
        for row in (await references.rows_by_key([key])).get(key, ())[:1]
    ]


async def _live(references: References, keys: Sequence[str]) -> list[str]:
    naming = await references.rows_by_key(keys)
    return [key for key in keys if any(row.reference is Reference.READY for row in naming.get(key, ()))]


def _places(prefix: str) -> list[str]:
    """Return some places in the order of keys, by chance: no run looks at the same few canaries as the last one."""
    return [
        prefix + "".join(random.choices(ALPHABET, k=2))  # noqa: S311 - a sample, not a secret
        for _ in range(NUM_PLACES)
    ]
