"""How instants, durations, numbers and JSON read on the page."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import msgspec
from markupsafe import Markup, escape

from millhand.observe.terminal_text import printable

_UNITS = (("y", 31_536_000), ("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
_MILLISECONDS = 1_000  # in a second
_ONE_DECIMAL_BELOW = 9.95  # from here on, one decimal would show `10.0 s`
_EVERY_DIGIT_BELOW = 9_999.5
_INDENTS_MAX = 4_096
# The parts of `2026-11-27 14:32:10 UTC`.
_FORMS = {
    "full": slice(0, None),
    "clock": slice(11, None),
    "minute": slice(11, 16),
    "hour": slice(5, 16),
    "day": slice(5, 10),
}
# A value of JSON as `msgspec.json.format` prints it: a string, perhaps a key, or a literal.
_JSON_TOKEN = re.compile(r'("(?:[^"\\]|\\.)*")(:)?|-?\d[\d.eE+-]*|true|false|null')


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
    return _in_units(round(seconds))


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


def relative(at: datetime | None, now: datetime) -> Markup:
    """Return how far an instant lies from `now`, as a `time` element. A script keeps it current."""
    if at is None:
        return Markup("")
    if is_unknown(at):
        return Markup('<span class="faint">unknown</span>')
    away = (now - at).total_seconds()
    text = age(away)
    text = text if text == "now" else f"{text} ago" if away > 0 else f"in {text}"
    return Markup('<time datetime="{}" title="{}" data-time="age">{}</time>').format(
        _iso(at), _exact(at), escape(text)
    )


def instant(at: datetime | None, *, form: str = "full") -> Markup:
    """
    Return an instant in UTC as a `time` element. A script shows it in the browser's time zone.

    `form` is `full`, `clock` for the time of day alone, or a label of an axis: `minute`, `hour` with its day, or `day`.
    """
    if at is None:
        return Markup("")
    if is_unknown(at):
        return Markup('<span class="faint">unknown</span>')
    text = _exact(at)[_FORMS[form]]
    return Markup('<time datetime="{}" title="{}" data-time="{}">{}</time>').format(
        _iso(at), _exact(at), form, text
    )


def is_unknown(at: datetime) -> bool:
    """Return whether an instant stands for none: Go's zero time, and times that Python cannot express."""
    return at.year <= 1 or at.tzinfo is None


def json_text(text: str) -> Markup:
    """
    Return JSON, indented and with marks for its parts.

    A text that is no JSON, as after a cut, and one so deep that indents would be most of it, stay as they are.
    """
    try:
        indented = msgspec.json.format(text, indent=2)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return escape(printable(text))
    if len(indented) > _INDENTS_MAX + 4 * len(text):
        return escape(printable(text))
    parts, end = [], 0
    for token in _JSON_TOKEN.finditer(indented):
        parts.append(indented[end : token.start()])
        mark = "jk" if token[2] else "js" if token[1] else "jn"
        parts.append(f'<span class="{mark}">{escape(printable(token[1] or token[0]))}</span>{token[2] or ""}')
        end = token.end()
    return Markup("".join((*parts, indented[end:])))  # noqa: S704 - between the tokens are only brackets, commas and spaces


def safe_text(value: object) -> object:
    """Return a value for a template. Control and direction characters of a text are spelt out."""
    if type(value) is str and not value.isprintable():
        return printable(value)
    return value


def _in_units(seconds: int) -> str:
    for (unit, size), (smaller, small_size) in zip(_UNITS, (*_UNITS[1:], ("", 0)), strict=True):
        if seconds >= size:
            rest = (seconds % size) // small_size if small_size else 0
            return f"{seconds // size:,} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{seconds} s"


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _exact(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(sep=" ", timespec="seconds").replace("+00:00", " UTC")
