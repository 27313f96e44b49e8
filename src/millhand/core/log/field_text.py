"""Fields of a log line as text: one word each, without passwords and characters that could disguise it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import Enum

from millhand.core.secret import masked

# Characters that move the cursor, end a line or change the direction of writing, and so could disguise a text.
MOVES = "\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
_NEEDS_QUOTES = re.compile(rf'[\s"=\x00-\x1f{MOVES}]|^$')
_CONTROL = re.compile(rf"[\x00-\x09\x0b-\x1f{MOVES}]")

# What a person looks for first.
_FIRST_FIELDS = ("kind", "job_id", "attempt")


def message_with(phrase: str, fields: Mapping[str, object]) -> str:
    """Return a phrase and its fields in one line: `job errored kind=pay_invoice job_id=2 attempt=1/3 …`."""
    left = dict(fields)
    if "attempt" in left and "max_attempts" in left:
        left["attempt"] = f"{left['attempt']}/{left.pop('max_attempts')}"
    ordered = {name: left.pop(name) for name in _FIRST_FIELDS if name in left} | left
    return " ".join([phrase, *(f"{shown(name)}={shown(finite(value))}" for name, value in ordered.items())])


def shown(value: object) -> str:
    """Return a field's value as one word: quoted if it has spaces, `a:1,b:2` for a mapping."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case Enum():
            return shown(value.value)
        case int() | float():
            return str(value)
        case str():
            return escaped(json.dumps(value, ensure_ascii=False)) if _NEEDS_QUOTES.search(value) else value
        case datetime():
            return value.isoformat()
        case timedelta():
            return f"{value.total_seconds():g}"
        case Mapping():
            return ",".join(f"{shown(key)}:{shown(part)}" for key, part in value.items()) or '""'
        case list() | tuple() | set() | frozenset():
            return ",".join(shown(part) for part in value) or '""'
        case _:
            return shown(_repr(value))


def escaped(text: str) -> str:
    """Return a text of one or more lines with its control characters escaped."""
    return _CONTROL.sub(_escape, text)


def finite(value: object) -> object:
    """Return a value without its passwords; as text if it contains itself or is nested too deeply."""
    try:
        return _masked(value)
    except RecursionError:  # `logging` would raise it in the code that logs
        return _repr(value)


def _masked(value: object) -> object:
    match value:
        case str() if type(value) is str:
            return masked(value)
        case list() | tuple() | set() | frozenset():
            return [_masked(part) for part in value]
        case dict():
            return {key: _masked(part) for key, part in value.items()}
        case _:
            return value


def _escape(match: re.Match[str]) -> str:
    if match[0] == "\t":
        return "    "
    return f"\\x{ord(match[0]):02x}" if match[0] <= "\xff" else f"\\u{ord(match[0]):04x}"


def _repr(value: object) -> str:
    try:
        return masked(repr(value))
    except Exception:  # noqa: BLE001 - a user's __repr__
        return f"<{type(value).__name__}>"
