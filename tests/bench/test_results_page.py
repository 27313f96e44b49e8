"""The page of benchmark results is what its program makes of the results."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import results_page


def test_page_has_the_figures_of_the_results() -> None:
    """docs/reference/benchmark_results.md is written from benchmarks/results.md: `python benchmarks/results_page.py`."""
    assert results_page.page(results_page.RESULTS.read_text()) == results_page.PAGE.read_text()


def test_missed_target_is_named_in_full_and_a_met_one_left_out() -> None:
    """The page lists the targets that are not met, each with the subject that "the same" stands for."""
    text = (
        "| target | wanted | found | verdict |\n| --- | --- | --- | --- |\n"
        "| drain ÷ a peer (its settings) | ≥ 1 | 1.1 | met |\n| the same, twice | ≥ 1 | 0.9 | **not met** |\n"
    )

    [_, _, *rows] = results_page.missed(text).splitlines()

    assert rows == ["| drain ÷ a peer, twice | ≥ 1 | 0.9 |"]
