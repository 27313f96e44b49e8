"""What a load test says in the end: figures by name, and whatever is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MAX_TOLD = 60


@dataclass(kw_only=True)
class Report:
    """What happened, and what is wrong with it."""

    figures: Mapping[str, str]
    violations: Sequence[str]

    def __str__(self) -> str:
        width = max(map(len, self.figures))
        told = [f"{name:<{width}}  {value}" for name, value in self.figures.items()]
        return "\n".join(
            [*told, f"{'violations':<{width}}  {len(self.violations)}", *self.violations[:MAX_TOLD]]
        )


def counts(counter: Counter[str]) -> str:
    """Return how many there are of each, the most first."""
    return ", ".join(f"{number:,} {name}" for name, number in counter.most_common()) or "none"
