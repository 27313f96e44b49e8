"""How instants and JSON read on the page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, tzinfo

import msgspec
from markupsafe import Markup, escape

from millhand.core.number_text import age, duration, short_number
from millhand.observe.terminal_text import printable

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


def relative(at: datetime | None, now: datetime, zone: tzinfo = UTC) -> Markup:
    """Return how far an instant lies from `now`, as a `time` element. A script keeps it current."""
    if at is None or is_unknown(at):
        return _missing(at)
    away = (now - at).total_seconds()
    text = age(away)
    return _time(at, "age", text if text == "now" else f"{text} ago" if away > 0 else f"in {text}", zone)


def instant(at: datetime | None, *, form: str = "full", zone: tzinfo = UTC) -> Markup:
    """
    Return an instant in a time zone as a `time` element, whose title has it in UTC as well.

    `form` is `full`, `clock` for the time of day alone, or a label of an axis: `minute`, `hour` with its day, or `day`.
    """
    if at is None or is_unknown(at):
        return _missing(at)
    return _time(at, form, _exact(at, zone)[_FORMS[form]], zone)


def number_rows(
    rows: Iterable[tuple[datetime, Sequence[float | None]]],
    *,
    form: str,
    is_seconds: bool,
    zone: tzinfo = UTC,
) -> Markup:
    """Return the rows of a chart's table. A template would take three times as long, and a page has hundreds of them."""
    parts = []
    for at, values in rows:
        parts.append(f"<tr><td>{instant(at, form=form, zone=zone)}</td>")
        for value in values:
            text = (
                "\N{EN DASH}"
                if value is None
                else duration(value)
                if is_seconds
                else short_number(round(value, 2))
            )
            parts.append(f'<td class="n">{text}</td>')
        parts.append("</tr>\n")
    return Markup("".join(parts))  # noqa: S704 - times and numbers have no character of HTML


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


def _missing(at: datetime | None) -> Markup:
    return Markup("") if at is None else Markup('<span class="faint">unknown</span>')


def _time(at: datetime, form: str, text: str, zone: tzinfo) -> Markup:
    utc, title = at.astimezone(UTC).isoformat(timespec="milliseconds"), _exact(at)
    if zone is not UTC:
        title = f"{_exact(at, zone)} ({title})"
    # Not `Markup.format`, which takes ten times as long: these texts have no character of HTML.
    return Markup(f'<time datetime="{utc[:23]}Z" title="{title}" data-time="{form}">{text}</time>')  # noqa: S704


def _exact(at: datetime, zone: tzinfo = UTC) -> str:
    try:
        local = at.astimezone(zone)
    except OverflowError:  # at the ends of the calendar, some zones are beyond them
        local = at.astimezone(UTC)
    return f"{local.isoformat(sep=' ', timespec='seconds')[:19]} {local.tzname()}"
