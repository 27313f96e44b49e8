"""
How the command line shows its log: text for people on a terminal, a JSON object a line for programs in a pipe.

The library itself only speaks to the standard `logging`; this module is for whoever owns the process. A line has a
constant phrase and fields, and whoever logs through structlog is shown the same way.

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

from millhand.observe.secret import masked
from millhand.observe.strangers_log import fields_of, route_structlog

LogFormat = Literal["auto", "text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

MESSAGE_WIDTH = 27  # "orphan cleanup completed", the longest that people see often, and three
LEVELS = {"debug": "debug", "info": "info", "warning": "warn", "error": "error", "critical": "fatal"}
# At DEBUG these tell of every request, headers with signatures included.
TALKATIVE_LOGGERS = ("asyncio", "botocore", "urllib3")
# It tells again and again, with a stack, of a database that is away; the engine tells once, and of its return.
REPETITIVE_LOGGERS = ("asyncpg.pool",)

_RECORD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_JSON_KEYS = frozenset({"timestamp", "level", "message", "logger", "exception"})
_STRUCTLOG_KEYS = frozenset({"event", "exc_info", "stack_info", "timestamp", "level", "logger"})
# What moves the cursor, ends a line, or turns the direction of writing, so that what is read is not what stands there.
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
    Show the process's log on `stream`, standard output by default; called again, it replaces what it did before.

    `auto` is text on a terminal and JSON in a pipe. Colours are for terminals without NO_COLOR in the environment.
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
    for name in TALKATIVE_LOGGERS:
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))
    for name in REPETITIVE_LOGGERS:
        logging.getLogger(name).setLevel(max(root.level, logging.ERROR))
    route_structlog()


class _LogHandler(logging.StreamHandler[TextIO]):
    """Known by its type, to be replaced; and silent when whoever read the pipe has gone."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exception(), BrokenPipeError):
            super().handleError(record)


class _Formatter(logging.Formatter):
    """Brings a record into the shape that is rendered, and has it rendered."""

    def __init__(self, render: Callable[[Line], str]) -> None:
        super().__init__()
        self._render = render

    def format(self, record: logging.LogRecord) -> str:
        return self._render(_line(record))


class TextRenderer:
    """One line for a person: local time, level, phrase, `key=value`; a traceback indented below it."""

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
    """One JSON object a line; a traceback is the field `exception`; a field called as one of the line's gets a `_`."""

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
            return _MOVING.sub(_spelt, msgspec.json.encode(entry, enc_hook=str).decode())
        except Exception:  # noqa: BLE001 - a stranger's value; a line is never lost for it
            return json.dumps({str(key): _plain(value) for key, value in entry.items()})


def shown(value: object) -> str:
    """Return a field's value as the text log shows it: quoted if it has spaces, `a:1,b:2` for what has several parts."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case Enum():
            return shown(value.value)
        case str():
            return _quoted(value) if _NEEDS_QUOTES.search(value) else value
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


def _quoted(value: str) -> str:
    return _CONTROL.sub(_escaped, json.dumps(value, ensure_ascii=False))


def _line(record: logging.LogRecord) -> Line:
    """Return a record of either kind, of `logging` or of structlog, in the one shape that is rendered."""
    said = fields_of(record)
    if said is None:
        message = record.getMessage()
        fields = {key: value for key, value in vars(record).items() if key not in _RECORD_ATTRIBUTES}
        error, stack = record.exc_info, record.stack_info
    else:
        message = str(said.get("event", ""))
        fields = {key: value for key, value in said.items() if key not in _STRUCTLOG_KEYS}
        error, stack = said.get("exc_info"), said.get("stack_info")
    return {
        "timestamp": datetime.fromtimestamp(record.created, UTC),
        "level": record.levelname.lower(),
        "message": masked(message),
        "logger": record.name,
        "fields": {key: _shallow_enough(value) for key, value in fields.items()},
        "exception": masked(_innermost(_exception(error, stack))),
    }


def _exception(error: object, stack: object) -> str:
    if error is True:
        error = sys.exc_info()
    elif isinstance(error, BaseException):
        error = (type(error), error, error.__traceback__)
    parts = []
    if isinstance(error, tuple) and error[0] is not None:
        parts.append(logging.Formatter().formatException(error))
    if stack:
        parts.append(str(stack))
    return "\n".join(parts)


def _innermost(trace: str) -> str:
    """Return the end of a trace: a line of the log is to be read, and a user's error may hold megabytes."""
    return trace if len(trace) <= EXCEPTION_LENGTH_MAX else f"…{trace[-EXCEPTION_LENGTH_MAX:]}"


def _shallow_enough(value: object) -> object:
    """Return a stranger's value without its passwords; as a text if it holds itself, or no end of others."""
    try:
        return _masked(value)
    except RecursionError:  # which `logging` lets through, into the code that said something
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
    return f"\\x{ord(match[0]):02x}" if match[0] <= "\xff" else _spelt(match)


def _spelt(match: re.Match[str]) -> str:
    """Return a character as JSON spells it."""
    return f"\\u{ord(match[0]):04x}"


def _plain(value: object) -> str | int:
    return value if isinstance(value, str | int) else shown(value)


def _repr(value: object) -> str:
    try:
        return masked(repr(value))
    except Exception:  # noqa: BLE001 - a stranger's __repr__
        return f"<{type(value).__name__}>"
