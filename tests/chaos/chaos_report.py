"""The report of a load test: figures by name, and violations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MAX_SHOWN = 60


@dataclass(kw_only=True)
class Report:
    """The figures of a run and its violations."""

    figures: Mapping[str, str]
    violations: Sequence[str]

    def __str__(self) -> str:
        width = max(map(len, self.figures))
        lines = [f"{name:<{width}}  {value}" for name, value in self.figures.items()]
        return "\n".join(
            [*lines, f"{'violations':<{width}}  {len(self.violations)}", *self.violations[:MAX_SHOWN]]
        )


def counts(counter: Counter[str]) -> str:
    """Return the counts of each name, the largest first."""
    return ", ".join(f"{number:,} {name}" for name, number in counter.most_common()) or "none"
