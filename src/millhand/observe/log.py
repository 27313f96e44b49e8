"""
Format the log of the command line: text on a terminal, one JSON object per line in a pipe.

The library itself logs through Python's `logging` and never configures it; only commands call this module. A line has
a constant phrase and fields.

    10:02:11 info  worker started              client_id=a1 queues=default:100
    {"timestamp":"2026-03-01T10:02:11.000000Z","level":"info","message":"worker started","logger":…,"client_id":…}
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Literal, TextIO

import msgspec

from millhand.secret import masked

LogFormat = Literal["auto", "text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

MESSAGE_WIDTH = 27  # "orphan cleanup completed", the longest frequent message, and three
LEVELS = {"debug": "debug", "info": "info", "warning": "warn", "error": "error", "critical": "fatal"}
# At DEBUG these log every request, including headers with signatures.
VERBOSE_LOGGERS = ("asyncio", "botocore", "urllib3")
# It logs a lost database repeatedly, with tracebacks; the engine logs the loss and the recovery once.
REPETITIVE_LOGGERS = ("asyncpg.pool",)

_RECORD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_JSON_KEYS = frozenset({"timestamp", "level", "message", "logger", "exception"})
# Characters that move the cursor, end a line or change the direction of writing, and so could disguise a text.
_MOVES = "\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
_NEEDS_QUOTES = re.compile(rf'[\s"=\x00-\x1f{_MOVES}]|^$')
_MOVING = re.compile(f"[{_MOVES}]")
EXCEPTION_LENGTH_MAX = 16 * 1024
_CONTROL = re.compile(rf"[\x00-\x09\x0b-\x1f{_MOVES}]")

Line = Mapping[str, Any]


def configure_logging(
    format: LogFormat = "auto", level: LogLevel = "info", stream: TextIO | None = None
) -> None:
    """
    Write the process's log to `stream`, standard output by default. A second call replaces the first.

    `auto` means text on a terminal and JSON in a pipe. A terminal gets colours unless NO_COLOR is set.
    """
    stream = sys.stdout if stream is None else stream
    is_terminal = stream.isatty()
    is_text = format == "text" or (format == "auto" and is_terminal)
    handler = _LogHandler(stream)
    is_coloured = is_terminal and not os.environ.get("NO_COLOR")
    handler.setFormatter(_Formatter(TextRenderer(is_coloured=is_coloured) if is_text else JsonRenderer()))
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _LogHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in VERBOSE_LOGGERS:
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))
    for name in REPETITIVE_LOGGERS:
        logging.getLogger(name).setLevel(max(root.level, logging.ERROR))


class _LogHandler(logging.StreamHandler[TextIO]):
    """A handler that `configure_logging` can find and replace; it ignores a closed pipe."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exception(), BrokenPipeError):
            super().handleError(record)


class _Formatter(logging.Formatter):
    """Formats a record with a renderer."""

    def __init__(self, render: Callable[[Line], str]) -> None:
        super().__init__()
        self._render = render

    def format(self, record: logging.LogRecord) -> str:
        return self._render(_line(record))


class TextRenderer:
    """Renders one line for people: local time, level, phrase, `key=value`; a traceback is indented below it."""

    def __init__(self, *, is_coloured: bool = False) -> None:
        self._is_coloured = is_coloured

    def __call__(self, line: Line) -> str:
        at = line["timestamp"].astimezone().strftime("%H:%M:%S")
        level = line["level"]
        fields = dict(line["fields"])
        if not line["logger"].startswith("millhand"):
            fields["logger"] = line["logger"]
        message = _CONTROL.sub(_escaped, line["message"]).replace("\n", "\n    ")
        text = " ".join(
            [
                self._styled(at, "2"),
                self._styled(f"{LEVELS.get(level, level):<5}", _LEVEL_STYLES.get(level, "0")),
                self._styled(f"{message:<{MESSAGE_WIDTH}}", "1"),
                *(f"{self._styled(shown(key), '36')}={shown(value)}" for key, value in fields.items()),
            ]
        ).rstrip()
        if line["exception"]:
            text += "\n    " + _CONTROL.sub(_escaped, line["exception"]).replace("\n", "\n    ")
        return text

    def _styled(self, text: str, style: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self._is_coloured else text


_LEVEL_STYLES = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "1;31"}


class JsonRenderer:
    """Renders one JSON object per line, a traceback as `exception`; a field with a reserved name gets a `_`."""

    def __call__(self, line: Line) -> str:
        entry = {
            "timestamp": line["timestamp"].isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "level": line["level"],
            "message": line["message"],
            "logger": line["logger"],
            **{f"{key}_" if key in _JSON_KEYS else key: value for key, value in line["fields"].items()},
        }
        if line["exception"]:
            entry["exception"] = line["exception"]
        try:
            return _MOVING.sub(_json_escape, msgspec.json.encode(entry, enc_hook=str).decode())
        except Exception:  # noqa: BLE001 - no value of another library may lose a line
            return json.dumps({str(key): _plain(value) for key, value in entry.items()})


def shown(value: object) -> str:
    """Return a field's value for the text log: quoted if it has spaces, `a:1,b:2` for a mapping."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case Enum():
            return shown(value.value)
        case str():
            return (
                _CONTROL.sub(_escaped, json.dumps(value, ensure_ascii=False))
                if _NEEDS_QUOTES.search(value)
                else value
            )
        case datetime():
            return value.isoformat()
        case timedelta():
            return f"{value.total_seconds():g}"
        case Mapping():
            return ",".join(f"{shown(key)}:{shown(part)}" for key, part in value.items()) or '""'
        case list() | tuple() | set() | frozenset():
            return ",".join(shown(part) for part in value) or '""'
        case _:
            return shown(_repr(value)) if not isinstance(value, int | float) else str(value)


def _line(record: logging.LogRecord) -> Line:
    fields = {key: value for key, value in vars(record).items() if key not in _RECORD_ATTRIBUTES}
    return {
        "timestamp": datetime.fromtimestamp(record.created, UTC),
        "level": record.levelname.lower(),
        "message": masked(record.getMessage()),
        "logger": record.name,
        "fields": {key: _finite(value) for key, value in fields.items()},
        "exception": masked(_innermost(_exception(record))),
    }


def _exception(record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info and record.exc_info[0] is not None:
        parts.append(logging.Formatter().formatException(record.exc_info))
    if record.stack_info:
        parts.append(record.stack_info)
    return "\n".join(parts)


def _innermost(trace: str) -> str:
    """Return the end of a traceback, because a user's error may contain megabytes."""
    return trace if len(trace) <= EXCEPTION_LENGTH_MAX else f"…{trace[-EXCEPTION_LENGTH_MAX:]}"


def _finite(value: object) -> object:
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


def _escaped(match: re.Match[str]) -> str:
    if match[0] == "\t":
        return "    "
    return f"\\x{ord(match[0]):02x}" if match[0] <= "\xff" else _json_escape(match)


def _json_escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def _plain(value: object) -> str | int:
    return value if isinstance(value, str | int) else shown(value)


def _repr(value: object) -> str:
    try:
        return masked(repr(value))
    except Exception:  # noqa: BLE001 - a user's __repr__
        return f"<{type(value).__name__}>"
