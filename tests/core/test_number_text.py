"""How durations, numbers and shares read."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millhand.core.number_text import age, counted, duration, percent, short_number


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.0004, "0 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (3_599.6, "1 h"),
        (3_661, "1 h 1 min"),
        (86_399.9, "1 d"),
        (90_000, "1 d 1 h"),
        (31_536_000 * 7_973, "7,973 y"),
        (-4.2, "-4.2 s"),
        (None, ""),
    ],
)
def test_duration_rounds_into_the_next_unit(seconds: float | None, text: str) -> None:
    """A duration that rounds to 60 s is a minute, and so on for every unit."""
    assert duration(seconds) == text


@given(st.floats(min_value=0, max_value=1e12))
def test_duration_shows_no_part_that_is_a_whole_of_the_next_unit(seconds: float) -> None:
    """No duration shows 60 s, 60 min, 24 h, 1000 ms or 10.0 s."""
    text = duration(timedelta(seconds=seconds) if seconds < 1e9 else seconds)

    assert not {"60 s", "60 min", "24 h", "1000 ms", "10.0 s", "365 d"} & {
        " ".join(pair) for pair in zip(text.split(), text.split()[1:], strict=False)
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.9, "now"), (1, "1 s"), (59.9, "59 s"), (60, "1 min"), (7_199, "1 h"), (-90, "1 min"), (1e9, "31 y")],
)
def test_age_never_says_more_than_has_passed(seconds: float, text: str) -> None:
    """An age is the number of whole units, so it grows only when a unit is over."""
    assert age(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (9_999, "9,999"),
        (10_000, "10 k"),
        (12_345, "12.3 k"),
        (999_949, "999.9 k"),
        (999_960, "1 M"),
        (9_990_000, "10 M"),
        (1.25, "1.25"),
        (2_500_000_000, "2.5 G"),
    ],
)
def test_short_number_keeps_its_size(value: float, text: str) -> None:
    """A short number has every digit below 10,000, and one decimal of its unit above."""
    assert short_number(value) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (1, "100 %"), (0.0001, "< 0.1 %"), (0.9999, "> 99.9 %"), (0.5, "50 %"), (0.0944, "9.4 %")],
)
def test_percentage_is_zero_or_hundred_only_if_exact(share: float, text: str) -> None:
    """One failure of a million is not shown as none."""
    assert percent(share) == text


def test_one_is_singular() -> None:
    """A count of one has the noun's singular."""
    assert [counted(1, "job"), counted(0, "job"), counted(1_200, "query", "queries")] == [
        "1 job",
        "0 jobs",
        "1,200 queries",
    ]
