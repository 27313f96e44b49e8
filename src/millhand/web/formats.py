"""How instants and JSON read on the page."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import msgspec
from markupsafe import Markup, escape

from millhand.number_text import age
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


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _exact(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(sep=" ", timespec="seconds").replace("+00:00", " UTC")
