"""How durations, numbers and shares read, on the web page and on a terminal."""

from __future__ import annotations

from datetime import timedelta

_UNITS = (("y", 31_536_000), ("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
_MILLISECONDS = 1_000  # in a second
_ONE_DECIMAL_BELOW = 9.95  # from here on, one decimal would show `10.0 s`
_EVERY_DIGIT_BELOW = 9_999.5


def duration(value: timedelta | float | None) -> str:
    """Return a duration in its two largest units: `850 ms`, `4.2 s`, `3 min 20 s`, `2 d 4 h`."""
    if value is None:
        return ""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < 1 and (milliseconds := round(seconds * _MILLISECONDS)) < _MILLISECONDS:
        return f"{milliseconds} ms"
    if seconds < _ONE_DECIMAL_BELOW:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for (unit, size), (smaller, small_size) in zip(_UNITS, (*_UNITS[1:], ("", 0)), strict=True):
        if whole >= size:
            rest = (whole % size) // small_size if small_size else 0
            return f"{whole // size:,} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def age(value: timedelta | float) -> str:
    """Return a duration in its largest unit only: `now`, `4 s`, `3 min`, `2 d`. It never says more than has passed."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    for unit, size in _UNITS:
        if abs(seconds) >= size:
            return f"{int(abs(seconds) // size):,} {unit}"
    return "now"


def number(value: float) -> str:
    """Return a number with separators, as exact as it is known."""
    return f"{value:,}"


def short_number(value: float) -> str:
    """Return a number in four characters or a few more: `9,999`, `12.3 k`, `4.1 M`."""
    if abs(value) < _EVERY_DIGIT_BELOW:
        return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 100 else f"{value:,.3g}"  # noqa: PLR2004 - three digits
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 0.99995:
            return f"{value / size:,.1f}".removesuffix(".0") + f" {unit}"
    return f"{value:,.0f}"


def counted(value: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: `1 job`, `2 jobs`, `3 queries` with the plural given."""
    return f"{value:,} {noun if value == 1 else plural or noun + 's'}"


def percent(share: float) -> str:
    """Return a share as a percentage; only nothing is `0 %`, and only all is `100 %`."""
    value = share * 100
    if 0 < value < 0.1:  # noqa: PLR2004 - less than its last digit shows
        return "< 0.1 %"
    if 99.9 < value < 100:  # noqa: PLR2004 - as above
        return "> 99.9 %"
    return f"{value:.1f}".removesuffix(".0") + " %"
