"""Claims about the report of the peers' benchmark, with invented figures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

sys.path += [str(Path(__file__).parents[2] / place) for place in ("benchmarks", "benchmarks/peers")]

import bench_peers
import charts
import plan
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


def test_each_measured_system_has_a_contract_a_source_and_packages() -> None:
    """A system of the plan has a row in the tables of contracts and of settings, and its versions are shown."""
    systems = {variant.system for variant in (*plan.VARIANTS, *plan.WAITING)}

    contracts = {name.partition(",")[0] for name in plan.CONTRACTS}

    assert (contracts, set(plan.SOURCES), set(plan.PACKAGES)) == (systems, systems, systems)


def test_scenes_and_the_open_transaction_name_variants_of_the_plan() -> None:
    """A scene is compared with its own plain drain, so the same settings are measured without one."""
    names = {(variant.system, variant.kind) for variant in plan.VARIANTS if "drain" in variant.what}

    assert set(plan.IN_SCENES) | set(plan.IN_OPEN) <= names


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--only", "open", "--systems", "pgqueuer"], [("pgqueuer, tuned", plan.OPEN_TITLE)]),
        (["--only", "drain", "--kinds", "no rows kept"], [("millhand, no rows kept", "drain")]),
        (
            ["--only", "scenes", "--systems", "graphile_worker", "awa"],
            [
                ("graphile_worker, tuned further", "one million waiting rows behind"),
                ("graphile_worker, tuned further", "two processes"),
                ("awa, tuned", "two processes"),
                ("graphile_worker, tuned further", "four processes"),
                ("awa, tuned", "four processes"),
            ],
        ),
    ],
)
def test_a_part_of_the_plan_can_be_measured(
    words: list[str], expected: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--only`, `--systems` and `--kinds` leave what matches all of them and what a system can have."""
    monkeypatch.setattr(sys, "argv", ["bench_peers.py", *words])
    options = bench_peers.parsed_options()

    found = [task for together in bench_peers.tasks(options, 1) for task in together]

    due = [task for task in found if bench_peers.is_wanted(options, task.variant)]
    assert [(task.variant.name, task.title) for task in due] == expected


def test_rates_beside_an_open_transaction_are_compared_with_its_first_minute() -> None:
    """Bursts count for the minute in which they began, and a minute without one has no figure."""
    bursts = [[1.0, 10.0], [59.9, 30.0], [60.0, 10.0], [185.0, 5.0]]
    lines = [line("river, tuned", plan.OPEN_TITLE, 1, bursts=bursts)]

    [head, _, row] = report.beside_open(figures.Results(lines)).splitlines()

    assert head.endswith("| jobs/s in the first minute | minute 2 | minute 4 |")
    assert row == "| river, tuned | 20 | 0.50 | 0.25 |"


def test_contracts_are_shown_of_measured_systems() -> None:
    """A reader sees beside a figure that its system deletes rows; our variant has a row of its own."""
    lines = [*drain("millhand, no rows kept", 2.0), *drain("graphile_worker, tuned", 1.0)]

    [_, _, *rows] = report.contracts(figures.Results(lines)).splitlines()

    assert [row.split(" | ")[:2] for row in rows] == [
        ["| millhand", "kept for 24 hours"],
        ["| millhand, no rows kept", "**deleted**"],
        ["| graphile_worker", "**deleted**"],
    ]


def costly(name: str, rate: float, client: float, server: float) -> dict[str, Any]:
    """Return the line of a drain with its CPU a job."""
    return line(name, "drain", 1, jobs_per_second=rate, cpu_us_per_job=client, server_us_per_job=server)


def test_the_chart_of_cost_has_each_system_at_its_fastest() -> None:
    """A peer has one point with the CPU of client and server; each of our variants has its own."""
    lines = [
        costly("millhand, tuned", 300.0, 20.0, 20.0),
        costly("millhand, no rows kept", 400.0, 15.0, 10.0),
        costly("river, tuned", 200.0, 25.0, 30.0),
        costly("river, defaults", 100.0, 1.0, 1.0),
    ]

    found = charts.points(figures.Results(lines))

    assert [(point.title, point.cpu, point.rate) for point in found] == [
        ("millhand, no rows kept", 25.0, 400.0),
        ("millhand, tuned", 40.0, 300.0),
        ("river, tuned", 55.0, 200.0),
    ]
    assert charts.cost_drawn(found).count("<circle") == 3


def test_the_chart_of_growth_compares_each_system_with_itself(tmp_path: Path) -> None:
    """A panel has the plain case as 1 and the median ratio of each scene; a missing scene is left out of the line."""
    lines = [
        *drain("river, tuned", 100.0, 200.0, 400.0),
        *(line("river, tuned", "two processes", number, jobs_per_second=50.0) for number in ROUNDS),
    ]

    [rows, minutes, processes] = charts.panels(figures.Results(lines))
    charts.write_charts(lines, tmp_path)

    assert (rows[2], minutes[2]) == ({}, {})
    assert processes[1:] == (["1", "2", "4"], {"river, tuned": [1.0, 0.25, None]})
    assert [path.name for path in tmp_path.iterdir()] == ["peers_growth.svg"]
