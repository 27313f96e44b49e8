"""
Derived keys: an object without a row of its own may be derived from an object that has one, such as a thumbnail.

Rule 1: a derived object lives as long as any row names any of the keys that it may be derived from.
Rule 2: before something is removed, its parents are looked up together with its own key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from millhand.core.orphans import Derived, OrphansConfig
from millhand.db.driver.protocol import Executor
from millhand.orphans.evaluate import Observation
from millhand.orphans.rules import Tie
from millhand.orphans.sources.references import References
from millhand.orphans.sources.statements import ReferenceRow


@dataclass(frozen=True, slots=True)
class DerivedFrom:
    """The declared patterns of derived keys."""

    patterns: tuple[Derived, ...]

    @classmethod
    def of(cls, config: OrphansConfig) -> DerivedFrom:
        return cls(tuple(Derived.of(pattern) for pattern in config.derived))

    def parents(self, key: str) -> list[str]:
        """Return the keys that `key` may be derived from; empty if it is not a derived key."""
        found = [parent for pattern in self.patterns for parent in pattern.parents(key)]
        return list(dict.fromkeys(found))

    async def rows_keeping(
        self, references: References, keys: Sequence[str], *, executor: Executor | None = None
    ) -> dict[str, list[ReferenceRow]]:
        """Return the rows that keep the object of any of `keys` alive, by key: rows that name it or a parent."""
        parents = {key: found for key in keys if (found := self.parents(key))}
        asked = dict.fromkeys([*keys, *(parent for found in parents.values() for parent in found)])
        found_rows = await references.rows_by_key(list(asked), executor=executor)
        held = {
            key: [row for one in (key, *parents.get(key, ())) for row in found_rows.get(one, ())]
            for key in keys
        }
        return {key: rows for key, rows in held.items() if rows}

    async def with_ties(self, references: References, observations: list[Observation]) -> list[Observation]:
        """Return the observations, with `tie` set for derived objects that have no row of their own."""
        parents = {
            one.key: found
            for one in observations
            if self.patterns and one.is_rowless and (found := self.parents(one.key))
        }
        if not parents:
            return observations
        asked = dict.fromkeys(parent for found in parents.values() for parent in found)
        found_rows = await references.rows_by_key(list(asked))
        ties = {
            key: Tie.PARENT if any(parent in found_rows for parent in found) else Tie.PARENT_GONE
            for key, found in parents.items()
        }
        return [
            replace(one, tie=ties[one.key]) if one.key in ties and one.is_rowless else one
            for one in observations
        ]
