"""Format the values of a row for the admin: states, JSON and errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from django.utils.dateparse import parse_datetime
from django.utils.html import format_html, format_html_join
from django.utils.timezone import template_localtime

from millhand.job import Json

SUBJECT_LENGTH_MAX = 80

_ERROR_ROW = '<tr><td>{}</td><td style="white-space:nowrap">{}</td><td>{}</td></tr>'

# The admin's own colours where it has one; the others are legible on white and on black.
_COLOURS = {
    "available": "#2f7db0",
    "cancelled": "#888",
    "completed": "#3a9a3a",
    "discarded": "#d04545",
    "pending": "#888",
    "retryable": "#c98500",
    "running": "#7b5bd6",
    "scheduled": "#2f7db0",
}


def label(state: str) -> str:
    html: str = format_html('<b style="color:{}">{}</b>', _COLOURS.get(state, "inherit"), state)
    return html


def subject(args: Json) -> str:
    """Return the args in one line: `to=a@example.com subject=hello`; for a Django task, its call."""
    if not isinstance(args, Mapping):
        return _short(_encoded(args))
    if {"task", "args", "kwargs"} <= args.keys():
        called = [
            *map(_encoded, args["args"]),
            *(f"{key}={_encoded(one)}" for key, one in args["kwargs"].items()),
        ]
        return _short(f"{args['task']}({', '.join(called)})")
    return _short(" ".join(f"{key}={_encoded(value)}" for key, value in args.items()))


def indented_json(value: Json) -> str:
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    html: str = format_html('<pre style="margin:0;white-space:pre-wrap">{}</pre>', text)
    return html


def errors_table(errors: Iterable[Mapping[str, Json]]) -> str:
    """Return the errors of a job as a table, last attempt first, with foldable tracebacks."""
    rows = [(one.get("attempt"), _when(one.get("at")), _error(one)) for one in reversed(list(errors))]
    if not rows:
        return ""
    lines = format_html_join("", _ERROR_ROW, rows)
    html: str = format_html(
        "<table><thead><tr><th>attempt</th><th>at</th><th>error</th></tr></thead><tbody>{}</tbody></table>",
        lines,
    )
    return html


def _error(error: Mapping[str, Json]) -> str:
    text = error.get("error") or ""
    if not error.get("trace"):
        return str(text)
    html: str = format_html(
        '<details><summary>{}</summary><pre style="overflow-x:auto">{}</pre></details>', text, error["trace"]
    )
    return html


def _when(at: Json) -> str:
    """Return a time in the user's time zone, without the nanoseconds of River's clients."""
    moment = parse_datetime(str(at))
    return str(at) if moment is None else f"{template_localtime(moment):%Y-%m-%d %H:%M:%S}"


def _encoded(value: Json) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _short(text: str) -> str:
    return text if len(text) <= SUBJECT_LENGTH_MAX else f"{text[: SUBJECT_LENGTH_MAX - 1]}…"
