"""Claims about the report of the peers' benchmark, with invented figures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

sys.path += [str(Path(__file__).parents[2] / place) for place in ("benchmarks", "benchmarks/peers")]

import plot
import report
import results as figures
import targets

ROUNDS = (1, 2, 3)


def drain(name: str, *values: float) -> list[dict[str, Any]]:
    """Return the lines of a drain with these rates by round."""
    return [line(name, "drain", number, jobs_per_second=one) for number, one in enumerate(values, 1)]


def line(name: str, title: str, number: int, **found: Any) -> dict[str, Any]:
    return {"name": name, "title": title, "round": number, "figures": found, "load": 1.0}


def test_ratios_are_taken_round_by_round() -> None:
    """A ratio compares figures of the same round, and a round of only one system gives none."""
    assert figures.ratios({1: 10.0, 2: 30.0, 3: 5.0}, {2: 10.0, 1: 20.0, 4: 1.0}) == [0.5, 3.0]


@pytest.mark.parametrize(
    ("mine", "shown"),
    [
        ((20.0, 30.0, 40.0), "3.00 (2.00 to 4.00)"),
        ((5.0, 6.0, 9.9), "0.60 (0.50 to 0.99)"),
        ((20.0, 30.0, 10.0), "not apart, 2.00 (1.00 to 3.00)"),
        ((10.0, 10.0, 10.0), "not apart, 1.00"),
    ],
)
def test_nothing_is_claimed_where_ranges_overlap(mine: Sequence[float], shown: str) -> None:
    """A ratio is a claim only if the two ranges do not overlap."""
    theirs = dict.fromkeys(ROUNDS, 10.0)

    assert figures.compared(dict(zip(ROUNDS, mine, strict=True)), theirs) == shown


def test_a_percentile_is_a_value_that_was_measured() -> None:
    """A high percentile of few samples is the greatest, whatever their order."""
    found = [figures.percentile([3.0, 1.0, 2.0, 4.0], share) for share in (0.0, 0.5, 0.99, 1.0)]

    assert found == [1.0, 3.0, 4.0, 4.0]


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ((1.0, 1.2), "met"),
        ((0.9, 1.2, 1.1), "met by the median, not in each round"),
        ((0.8, 0.9, 1.1), "**not met** by the median"),
        ((0.8, 0.9), "**not met**"),
    ],
)
def test_a_target_is_met_by_all_rounds_or_by_the_median(found: Sequence[float], verdict: str) -> None:
    """A target is plainly met only if each round meets it."""
    assert targets.Target("a ratio", found, least=1.0).verdict() == verdict
    assert targets.Target("a time", [-one for one in found], most=-1.0).verdict() == verdict


def test_targets_compare_with_river_at_its_fastest() -> None:
    """River's fastest settings count, and a target without figures has no row."""
    lines = [*drain("millhand, tuned", 30.0, 33.0), *drain("river, tuned", 20.0, 50.0)]
    lines += drain("river, tuned further", 40.0, 41.0)

    [_, _, *rows] = targets.targets(figures.Results(lines)).splitlines()

    assert rows == [
        "| drain, tuned, ÷ River in Go at its fastest (river, tuned further) | ≥ 1 | 0.78 (0.75 to 0.80) | **not met** |"
    ]


@pytest.mark.parametrize(
    ("beside", "verdict"),
    [((9.0, 12.0), "met: not apart"), ((13.0, 14.0), "met"), ((8.0, 9.0), "**not met**")],
)
def test_a_million_rows_may_cost_no_more_than_noise(beside: Sequence[float], verdict: str) -> None:
    """A drain is slower only if it is below each plain drain."""
    mine, plain = dict(enumerate(beside)), dict(enumerate((10.0, 11.0)))

    assert targets.no_slower(mine, plain) == verdict


def test_failures_are_listed_without_figures() -> None:
    """A failed measurement is a line of the report with the last line of its error."""
    lines = [*drain("millhand, tuned", 30.0), line("river, tuned", "drain", 1, error="Traceback\nit broke")]

    text = report.write_report(
        lines, {"versions": {}, "missing": {"oban": "no Python 3.12"}, "servers": {}}, None
    )

    assert "1 of 2 measurements have figures" in text
    assert "- failed: river, tuned, drain, round 1: it broke\n" in text
    assert "- oban was not measured: no Python 3.12." in text
    assert "| river, tuned |" not in text


def test_latencies_are_of_the_rounds_that_had_the_rate() -> None:
    """Percentiles are taken in each round, in whichever measurement the rate occurs."""
    lines = [
        line(
            "millhand, defaults",
            "pickup",
            1,
            **{"50": {"latencies_ms": [1.0, 2.0, 3.0], "rate_reached": 49.0}},
        ),
        line(
            "millhand, defaults",
            "pickup at more rates",
            1,
            **{"10": {"latencies_ms": [9.0], "rate_reached": 9.9}},
        ),
    ]

    found = figures.Results(lines)

    assert found.latencies("millhand, defaults", 50.0, 0.5) == {1: 2.0}
    assert found.latencies("millhand, defaults", 10.0, 0.5) == {1: 9.0}
    assert found.latencies("millhand, defaults", 500.0, 0.5) == {}
    assert report.pickup(found, 10.0).splitlines()[-1] == "| millhand, defaults | 10 | 9.00 | 9.00 | 9.00 |"


def test_the_plot_shows_the_fastest_first(tmp_path: Path) -> None:
    """Each system has a bar in the order of the medians, with its number."""
    lines = [
        *drain("river, tuned", 10.0, 30.0, 20.0),
        *drain("millhand, tuned", 40.0),
        *drain("arq, tuned", 1.0),
    ]

    plot.write_plot(lines, tmp_path / "peers.svg")

    words = [part.partition("<")[0] for part in (tmp_path / "peers.svg").read_text().split(">")]
    assert [word for word in words if word.strip()][2:] == [
        "millhand, tuned", "40", "river, tuned", "20", "arq, tuned ¹", "1",
    ]  # fmt: skip
