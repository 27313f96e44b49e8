"""The benchmark of limits beside peers: its plain functions, Millhand's lines in a small run, and the page they are on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path += [str(Path(__file__).parents[2] / place) for place in ("benchmarks", "benchmarks/peers")]

import harness
import journal
import limited
import limits_peers as program
from benchmark_page import PROJECT, rows, section, section_of_a_small_run
from journal import NEVER, Ran

PROGRAM = "limits_peers.py"
PAGE = PROJECT / "benchmarks/peers.md"
SMALL = ("--systems", "millhand", "--rounds", "1", "--seconds", "2")
RAN = (Ran(10, 30, 1, 0), Ran(20, 40, 2, 1), Ran(30, 50, 1, 0), Ran(45, NEVER, 2, 0))


def line(way: program.Limited, number: int, **figures: Any) -> dict[str, Any]:
    return {"name": way.name, "title": program.QUEUE.title, "round": number, "figures": figures}


@pytest.mark.parametrize(
    ("since", "until", "most"),
    [(0, 60, 2), (0, 20, 1), (20, 21, 2), (40, 45, 1), (45, 50, 2), (50, 60, 1), (0, 10, 0)],
)
def test_a_job_that_begins_as_another_ends_is_not_beside_it(since: int, until: int, most: int) -> None:
    """The most jobs at once are those of an instant, also of one in the window's first and not in its last."""
    assert journal.most_at_once(RAN, since, until) == most


def test_jobs_of_one_key_are_counted_apart() -> None:
    """The most of a key are jobs that ran beside each other with this key, not beside others."""
    assert [journal.most_of_a_key(RAN, 0, until) for until in (45, 60)] == [1, 2]
    assert journal.most_of_a_key([], 0, 60) == 0


def test_the_mean_counts_the_parts_of_jobs_in_the_window() -> None:
    """A job that began before the window or has not ended counts with its part."""
    assert journal.mean_at_once(RAN, 25, 35) == pytest.approx((5 + 10 + 5) / 10)
    assert journal.mean_at_once(RAN, 50, 60) == pytest.approx(1.0)
    assert journal.num_ended(RAN, 30, 50) == 2


def test_the_journal_has_the_begun_jobs_with_their_keys() -> None:
    """A job without a begin is left out, and one without an end has not ended."""
    slots = [2, 9, 7, 0, 0, 0, 4, 0, 8]

    assert journal.journal(slots, 3, 2) == [Ran(2, 9, 7, 0), Ran(4, NEVER, 8, 0)]


def test_a_job_that_began_again_is_an_error() -> None:
    """The board has only the last begin of a job, so the figures would be wrong."""
    with pytest.raises(harness.Failed) as caught:
        journal.journal([3, 9, 7], 1, 1)

    assert str(caught.value) == "each job must be begun once, got 1 that were begun again"


def test_figures_are_those_of_the_window_and_the_most_also_of_the_time_after_it() -> None:
    """Rates and cost are of the window; the most are of all that came before its end, and of what came after."""
    assert limited.figures(RAN, (20, 45, 60), 4e-6) == {
        "mean_at_once": 45 / 25,
        "jobs_per_second": 2 / 25 * 1e9,
        "most": 2,
        "most_joined": 2,
        "most_of_a_key": 1,
        "most_of_a_key_joined": 2,
        "cpu_us_per_job": 2.0,
    }


def test_a_table_has_ratios_of_each_round_and_the_worst_of_all() -> None:
    """The first line has its own figures; another has ratios to it, and by how much it was over the limit at worst."""
    first, second = program.QUEUE.ways[:2]
    figures = {
        "most": 40,
        "most_joined": 40,
        "mean_at_once": 30.0,
        "jobs_per_second": 300.0,
        "cpu_us_per_job": 1e3,
        "processes": 5,
    }
    lines = [line(first, number, **figures) for number in (1, 2)]
    lines += [
        line(second, number, **{**figures, "jobs_per_second": rate, "most_joined": most})
        for number, rate, most in ((1, 150.0, 47), (2, 600.0, 44))
    ]

    table = program.figures_table(program.Found(program.QUEUE, lines))

    assert list(rows(table).items())[2:] == [
        ("Millhand, `Limit(at_once=40)`", ["all processes", "75%", "300", "1,000 µs", "40", "40", "5"]),
        (
            "Millhand, `max_workers=10`, no limit",
            ["each process", "75%", "1.25 (0.50 to 2.00)", "1.00", "40", "**47**, 7 over", "5"],
        ),
    ]


def test_a_system_that_failed_is_named_with_its_reason() -> None:
    """A failure is in the report, and a system without figures in no table."""
    [way] = (way for way in program.QUEUE.ways if way.system == "chancy")

    text = program.report([line(way, 1, error="no\n queue")], {"about": ["- A machine."]})

    assert f"{way.name} failed: no queue" in text.splitlines()
    assert way.name not in rows(text)


def test_the_page_has_what_the_program_says() -> None:
    """The contracts of the page are those of the program, each way that it measures has a line, and none failed."""
    text = section(PAGE, PROGRAM)
    names = {way.name for task in program.TASKS for way in task.ways}

    assert text.rstrip().endswith(program.contracts_table())
    assert names <= rows(text).keys()
    assert " failed: " not in text
    assert {way.shown for task in program.TASKS for way in task.ways} == program.CONTRACTS.keys()


@pytest.mark.slow
async def test_millhand_exceeds_no_limit_of_the_page(tmp_path: Path) -> None:
    """A small run of Millhand's lines is never over a limit, also with a fifth process, and the page says so."""
    for text in (
        await section_of_a_small_run(PROGRAM, tmp_path, *SMALL, "--keep", str(tmp_path)),
        section(PAGE, PROGRAM),
    ):
        of = rows(text)
        for task in program.TASKS:
            counts_in, *_, most, joined, _ = of[task.ways[0].name]
            assert counts_in == "all processes"
            assert 0 < int(most) <= task.allowed
            assert 0 < int(joined) <= task.allowed
