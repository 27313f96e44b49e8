"""
Charts as geometry: numbers in, coordinates of an SVG out. The template `_chart.html` draws them.

A plot is 1,000 wide and 100 high, and CSS stretches it to its box. Its words are HTML beside it, so they keep their size.
Each series is one path, which is a fifth of the bytes of an element for each number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

import msgspec

from millhand.core.number_text import duration, short_number

WIDTH, HEIGHT = 1_000.0, 100.0
SPARK_WIDTH, SPARK_HEIGHT = 84.0, 22.0
_LARGEST = 1e15  # sums of such numbers are still exact enough to draw
_NUM_TICKS = 4
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400)
_SHARE = 0.84  # of a column's place; the rest is the gap to the next one
_ALONE = 2.0  # half of the length of a line for one point
_SEEN = 0.7  # one failure among ten thousand attempts is still drawn
_WHOLE_FROM = 0.01  # seconds; labels of shorter times have fractions of a millisecond
_X_LABELS_MAX = 6
_ONE_DAY_MAX = timedelta(hours=36)

Number = float | None


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """One series of numbers, with a name for readers and a CSS class. None is a point without a number."""

    name: str
    tone: str
    values: tuple[Number, ...]


class Mark(msgspec.Struct, frozen=True):
    """A series as drawn: its name, its CSS class, and the `d` of its path."""

    name: str
    tone: str
    path: str


class Plot(msgspec.Struct, frozen=True, kw_only=True):
    """
    A chart. `text` says what it shows. `rows` are its numbers, for a table; with `is_seconds` they are durations.

    `y_labels` are from the top down, and `grid` are their heights. `instants` label the x axis, evenly spread.
    """

    kind: str
    text: str
    is_seconds: bool
    marks: tuple[Mark, ...]
    grid: tuple[float, ...]
    y_labels: tuple[str, ...]
    instants: tuple[datetime, ...]
    rows: tuple[tuple[datetime, tuple[Number, ...]], ...]

    @property
    def label_form(self) -> str:
        """How the x axis shows its instants: the time of day, or the day if the chart has more than one and a half."""
        if len(self.rows) > 1 and self.rows[-1][0] - self.rows[0][0] > _ONE_DAY_MAX:
            return "day"
        return "minute"

    @property
    def row_form(self) -> str:
        """How the table shows its instants."""
        is_by_day = len(self.rows) > 1 and self.rows[1][0] - self.rows[0][0] >= timedelta(days=1)
        return "hour" if self.label_form == "day" and not is_by_day else self.label_form


def columns(title: str, instants: Sequence[datetime], series: Sequence[Series]) -> Plot:
    """Return stacked columns of counts, the first series at the bottom. What is no positive number is drawn as zero."""
    stacks = [[max(0.0, _finite(value) or 0.0) for value in one.values] for one in series]
    top, ticks = scale(max((sum(point) for point in zip(*stacks, strict=True)), default=0.0), is_whole=True)
    floors, marks = [0.0] * len(instants), []
    for one, heights in zip(series, stacks, strict=True):
        marks.append(Mark(one.name, f"f-{one.tone}", _column_path(floors, heights, top)))
        floors = [floor + height for floor, height in zip(floors, heights, strict=True)]
    return _plot("columns", title, instants, series, marks, ticks)


def lines(
    title: str, instants: Sequence[datetime], series: Sequence[Series], *, is_seconds: bool = False
) -> Plot:
    """Return lines. A point without a number interrupts its line."""
    highest = max((value for one in series for value in map(_finite, one.values) if value), default=0.0)
    top, ticks = scale(highest, is_seconds=is_seconds)
    marks = [
        Mark(one.name, f"line s-{one.tone}", _line_path(one.values, top, WIDTH, HEIGHT)) for one in series
    ]
    return _plot("lines", title, instants, series, marks, ticks, is_seconds=is_seconds)


def sparkline(values: Sequence[Number]) -> tuple[str, str]:
    """Return the paths of a small line and of the area below it, in a box of 84 by 22. Both are empty without numbers."""
    known = [max(0.0, _finite(value) or 0.0) for value in values]
    if not known:
        return "", ""
    place, base, top = SPARK_WIDTH / len(known), SPARK_HEIGHT - 1, max(known) or 1.0
    if len(known) == 1:  # a point without neighbours is a short line, because a line of no length is not seen
        line = _line_path(known, top, SPARK_WIDTH, base - 1.0, above=1.0)
    else:
        points = [
            f"{place * (n + 0.5):.4g} {base - value / top * (base - 1.0):.4g}"
            for n, value in enumerate(known)
        ]
        line = "M" + "L".join(points)
    return line, f"{line}V{_text(SPARK_HEIGHT)}H{_text(place / 2)}z"


def scale(
    maximum: float, *, is_whole: bool = False, is_seconds: bool = False
) -> tuple[float, tuple[float, ...]]:
    """Return the top of an axis that begins at zero, and its ticks from zero to the top, at round numbers."""
    maximum = _finite(maximum) or 0.0
    step = _step(maximum / _NUM_TICKS, is_whole=is_whole, is_seconds=is_seconds)
    num = max(1, math.ceil(maximum / step * (1 - 1e-9)))
    ticks = tuple(step * number for number in range(num + 1))
    return ticks[-1], ticks


def _step(least: float, *, is_whole: bool, is_seconds: bool) -> float:
    """Return a round number that is `least` or somewhat more."""
    if least < 1e-9 or (is_whole and least <= 1):  # noqa: PLR2004 - a nanosecond is nothing
        return 1.0
    if is_seconds and 1 < least <= _SECONDS[-1]:
        return float(next(step for step in _SECONDS if step >= least))
    size = 10.0 ** math.floor(math.log10(least))
    return next((size * factor for factor in _STEPS if size * factor >= least * (1 - 1e-9)), size * 10)


def _plot(
    kind: str,
    title: str,
    instants: Sequence[datetime],
    series: Sequence[Series],
    marks: Sequence[Mark],
    ticks: Sequence[float],
    *,
    is_seconds: bool = False,
) -> Plot:
    points = zip(*(map(_finite, one.values) for one in series), strict=True)
    return Plot(
        kind=kind,
        text=_summary(title, series, is_seconds=is_seconds),
        is_seconds=is_seconds,
        marks=tuple(marks),
        grid=tuple(_rounded(HEIGHT - tick / ticks[-1] * HEIGHT) for tick in reversed(ticks)),
        y_labels=tuple(_label(tick, is_seconds=is_seconds) for tick in reversed(ticks)),
        instants=_spread(instants),
        rows=tuple(zip(instants, points, strict=True)) if series else (),
    )


def _label(value: float, *, is_seconds: bool) -> str:
    if is_seconds and value >= _WHOLE_FROM:
        return duration(value)
    if is_seconds and value:
        return f"{1000 * value:.3g} ms"
    return short_number(value)


def _summary(title: str, series: Sequence[Series], *, is_seconds: bool) -> str:
    """Return the chart in words: of each series the last number and the largest."""
    parts = []
    for one in series:
        known = [value for value in map(_finite, one.values) if value is not None]
        if known:
            last, most = (_label(value, is_seconds=is_seconds) for value in (known[-1], max(known)))
            parts.append(f"{one.name}: last {last}, at most {most}")
    return f"{title}. " + ("; ".join(parts) or "No numbers yet") + "."


def _spread(instants: Sequence[datetime]) -> tuple[datetime, ...]:
    if len(instants) <= _X_LABELS_MAX:
        return tuple(instants)
    last = len(instants) - 1
    return tuple(instants[round(last * number / (_X_LABELS_MAX - 1))] for number in range(_X_LABELS_MAX))


def _column_path(floors: Sequence[float], heights: Sequence[float], top: float) -> str:
    place = WIDTH / max(1, len(heights))
    width = _text(place * _SHARE)
    parts = []
    for number, (floor, height) in enumerate(zip(floors, heights, strict=True)):
        if height > 0:
            lower = _y(floor, top)
            upper = max(0.0, min(_y(floor + height, top), lower - _SEEN))
            x = _text(place * number + place * (1 - _SHARE) / 2)
            parts.append(f"M{x} {_text(upper)}h{width}V{_text(max(lower, upper + _SEEN))}h-{width}z")
    return "".join(parts)


def _line_path(
    values: Iterable[Number], top: float, width: float, height: float, *, above: float = 0.0
) -> str:
    known = [_finite(value) for value in values]
    parts, is_open = [], False
    for number, value in enumerate(known):
        if value is None:
            is_open = False
            continue
        x, y = _x(number, len(known), width), above + _y(value, top, height)
        is_alone = not is_open and (number + 1 == len(known) or known[number + 1] is None)
        if is_alone:  # a point without neighbours is a short line, because a line of no length is not seen
            parts.append(f"M{_text(max(0.0, x - _ALONE))} {_text(y)}H{_text(min(width, x + _ALONE))}")
        else:
            parts.append(f"{'L' if is_open else 'M'}{_text(x)} {_text(y)}")
        is_open = True
    return "".join(parts)


def _x(number: int, num: int, width: float) -> float:
    """Return the middle of the place of a point."""
    return width * (number + 0.5) / num


def _y(value: float, top: float, height: float = HEIGHT) -> float:
    return _rounded(height - min(1.0, max(0.0, value / top)) * height)


def _finite(value: Number) -> Number:
    return max(-_LARGEST, min(value, _LARGEST)) if value is not None and math.isfinite(value) else None


def _rounded(value: float) -> float:
    return round(value, 2) + 0.0  # no minus zero


def _text(value: float) -> str:
    return f"{_rounded(value):g}"
