"""The figures of a run, and their ratios; overlapping ranges make no claim."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from plan import OPEN_TITLE

Line = dict[str, Any]
ByRound = dict[int, float]
NONE = "-"
NOT_APART = "not apart"


class Results:
    """The figures of a run by name, title and round."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self._by: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
        self.failed: list[Line] = []
        for line in lines:
            if "error" in line["figures"]:
                self.failed.append(line)
            else:
                self._by.setdefault((line["name"], line["title"]), {})[line["round"]] = line["figures"]
        self.num_lines = len(lines)
        self.num_rounds = max((line["round"] for line in lines), default=0)
        self.load = max((line["load"] for line in lines), default=0.0)

    def values(self, name: str, title: str, figure: str) -> ByRound:
        """Return one figure by round."""
        found = self._by.get((name, title), {})
        return {number: figures[figure] for number, figures in sorted(found.items()) if figure in figures}

    def latencies(self, name: str, rate: float, share: float) -> ByRound:
        """Return a percentile of the latencies at a rate, by round."""
        return {
            number: percentile(found["latencies_ms"], share) for number, found in self._pickups(name, rate)
        }

    def rates_reached(self, name: str, rate: float) -> ByRound:
        return {number: found["rate_reached"] for number, found in self._pickups(name, rate)}

    def bursts(self, name: str, title: str) -> list[tuple[float, float]]:
        """Return when each burst began, in seconds, and its jobs a second."""
        by_round = self._by.get((name, title), {})
        return [(began, rate) for _, found in sorted(by_round.items()) for began, rate in found["bursts"]]

    def _pickups(self, name: str, rate: float) -> list[tuple[int, dict[str, Any]]]:
        return [
            (number, figures[f"{rate:g}"])
            for (of, title), by_round in self._by.items()
            if of == name and title.startswith("pickup")
            for number, figures in sorted(by_round.items())
            if f"{rate:g}" in figures
        ]


def by_minute(results: Results, name: str) -> dict[int, float]:
    """Return the median rate of the bursts in each minute beside the open transaction."""
    found: dict[int, list[float]] = {}
    for began, rate in results.bursts(name, OPEN_TITLE):
        found.setdefault(int(began // 60) + 1, []).append(rate)
    return {minute: statistics.median(rates) for minute, rates in sorted(found.items())}


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def spread(values: Collection[float], written: str) -> str:
    """Return the median and the range."""
    if not values:
        return NONE
    middle, least, most = (
        written.format(one) for one in (statistics.median(values), min(values), max(values))
    )
    return middle if least == most else f"{middle} ({least} to {most})"


def ratios(mine: Mapping[int, float], theirs: Mapping[int, float]) -> list[float]:
    """Return the ratios of the rounds that both have."""
    return [mine[number] / theirs[number] for number in sorted(mine.keys() & theirs.keys()) if theirs[number]]


def are_apart(mine: Collection[float], theirs: Collection[float]) -> bool:
    """Return whether the two ranges do not overlap."""
    return min(mine) > max(theirs) or max(mine) < min(theirs)


def compared(mine: ByRound, theirs: ByRound) -> str:
    """Return the ratio with its range, marked if the measured ranges overlap."""
    if not (found := ratios(mine, theirs)):
        return NONE
    shown = spread(found, "{:.2f}")
    return shown if are_apart(mine.values(), theirs.values()) else f"{NOT_APART}, {shown}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, others: str = "--:") -> str:
    """Return a Markdown table whose first column is text and whose others are numbers by default."""
    parts = [heads, ["---", *[others] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(part)} |" for part in parts)
