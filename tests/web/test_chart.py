from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from millhand.web.chart import HEIGHT, WIDTH, Series, columns, lines, scale, sparkline

NOW = datetime(2026, 11, 27, 14, 32, tzinfo=UTC)
NUMBERS = st.none() | st.floats() | st.integers(min_value=-(10**18), max_value=10**18)


def minutes(num: int) -> list[datetime]:
    return [NOW + timedelta(minutes=number) for number in range(num)]


def series(*values: float | None, name: str = "completed", tone: str = "completed") -> Series:
    return Series(name=name, tone=tone, values=values)


def points(path: str) -> list[tuple[float, float]]:
    """Return every point of a path."""
    x = y = 0.0
    found = []
    for command, text in re.findall(r"([MLHVhvz])([^MLHVhvz]*)", path):
        given_numbers = [float(number) for number in text.split()]
        match command:
            case "M" | "L":
                x, y = given_numbers
            case "H":
                x = given_numbers[0]
            case "V":
                y = given_numbers[0]
            case "h":
                x += given_numbers[0]
        found.append((x, y))
    return found


def test_columns_are_stacked_to_the_scale() -> None:
    """Two counts of one minute stand on each other, and their heights are their share of the axis."""
    plot = columns("Attempts", minutes(2), [series(3, 1), series(1, 0, name="failed", tone="discarded")])

    assert [mark.path for mark in plot.marks] == [
        "M40 25h420V100h-420zM540 75h420V100h-420z",
        "M40 0h420V25h-420z",
    ]
    assert plot.y_labels == ("4", "3", "2", "1", "0")
    assert plot.grid == (0, 25, 50, 75, 100)


def test_chart_says_in_words_what_it_shows() -> None:
    """The text for a screen reader has each series with its last and its largest number, and the table has all."""
    plot = lines("Wait", minutes(3), [series(0.2, 90, 4, name="95th percentile", tone="1")], is_seconds=True)

    assert plot.text == "Wait. 95th percentile: last 4.0 s, at most 1 min 30 s."
    assert plot.rows == tuple(zip(minutes(3), [(0.2,), (90,), (4,)], strict=True))
    assert lines("Wait", [], [series()]).text == "Wait. No numbers yet."


def test_axis_below_a_millisecond_has_no_equal_labels() -> None:
    """Waits of a fraction of a millisecond have fractions on the axis."""
    plot = lines("Wait", minutes(2), [series(0.0005, 0.001)], is_seconds=True)

    assert plot.y_labels == ("1 ms", "0.75 ms", "0.5 ms", "0.25 ms", "0")


def test_line_is_interrupted_where_there_is_no_number() -> None:
    """A minute without attempts has no percentile, and the line has a gap there."""
    [mark] = lines("Wait", minutes(5), [series(1, 1, None, 2, float("nan"))]).marks

    assert mark.path == "M100 50L300 50M698 0H702"


def test_one_failure_of_a_million_is_drawn() -> None:
    """A count that is small beside the others still has a height."""
    _, failed = columns("Attempts", minutes(1), [series(1_000_000), series(1)]).marks

    (_, upper), *_, (_, lower) = points(failed.path)[:3]
    assert lower - upper >= 0.5


@example(values=[(None, -1.8e305)], is_seconds=True)  # in milliseconds it is infinite
@example(values=[(5e-324, None), (0.0, None)], is_seconds=False)  # what one over it is, is infinite
@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=20), st.booleans())
def test_no_number_leaves_the_box(values: list[tuple[float | None, float | None]], is_seconds: bool) -> None:
    """Whatever the numbers are, every coordinate is a number inside of the box, and so is every tick."""
    drawn = [series(*(value[0] for value in values)), series(*(value[1] for value in values))]
    for plot in (
        columns("c", minutes(len(values)), drawn),
        lines("l", minutes(len(values)), drawn, is_seconds=is_seconds),
    ):
        for mark in plot.marks:
            for x, y in points(mark.path):
                assert 0 <= x <= WIDTH
                assert 0 <= y <= HEIGHT
        assert all(0 <= tick <= HEIGHT for tick in plot.grid)
        assert not re.search("nan|inf", " ".join((plot.text, *plot.y_labels)))
    for path in sparkline([value[0] for value in values]):
        assert all(0 <= x <= 84 and 0 <= y <= 22 for x, y in points(path))


@given(st.floats(min_value=0, max_value=1e300), st.booleans(), st.booleans())
def test_axis_holds_its_maximum_in_few_round_steps(maximum: float, is_whole: bool, is_seconds: bool) -> None:
    """An axis reaches at least its largest number, with at most five ticks."""
    top, ticks = scale(maximum, is_whole=is_whole, is_seconds=is_seconds)

    assert top >= min(maximum, 1e15) * (1 - 1e-6)
    assert 2 <= len(ticks) <= 5
    assert ticks[0] == 0
    assert list(ticks) == sorted(set(ticks))


@pytest.mark.parametrize(
    ("maximum", "flags", "ticks"),
    [
        (0, {}, (0, 1)),
        (0.4, {"is_whole": True}, (0, 1)),
        (8_421, {"is_whole": True}, (0, 2_500, 5_000, 7_500, 10_000)),
        (250, {"is_seconds": True}, (0, 120, 240, 360)),
        (7_000, {"is_seconds": True}, (0, 1_800, 3_600, 5_400, 7_200)),
    ],
)
def test_ticks_are_round_numbers(maximum: float, flags: dict[str, bool], ticks: tuple[float, ...]) -> None:
    """Counts have whole ticks, and seconds have those of a clock."""
    assert scale(maximum, **flags) == (ticks[-1], ticks)


@pytest.mark.parametrize(
    ("step", "num", "forms"),
    [
        (timedelta(minutes=1), 60, ("minute", "minute")),
        (timedelta(hours=1), 24, ("minute", "minute")),
        (timedelta(hours=1), 168, ("day", "hour")),
        (timedelta(days=1), 30, ("day", "day")),
        (timedelta(days=1), 1, ("minute", "minute")),
    ],
)
def test_axis_of_many_days_shows_days(step: timedelta, num: int, forms: tuple[str, str]) -> None:
    """A chart of a week labels its axis with days, and its table with days and hours."""
    instants = [NOW + step * number for number in range(num)]
    plot = columns("Attempts", instants, [series(*[1] * num)])

    assert (plot.label_form, plot.row_form) == forms
