"""
Format the log: text on a terminal, one JSON object per line in a pipe.

The library itself logs through Python's `logging` and never configures it. Commands call `configure_logging`, and an
application may, or may use the formatters. A line has a constant phrase and fields.

    10:02:11 info  worker started              client_id=a1 queues=default:100
    {"timestamp":"2026-03-01T10:02:11.000000Z","level":"info","message":"worker started","logger":…,"client_id":…}
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Literal, TextIO

import msgspec

from millhand.core.errors import ConfigError, error_type
from millhand.core.log.context_fields import current_database, database_fields, job_fields, trace_fields
from millhand.core.log.field_text import MOVES, escaped, finite, shown
from millhand.core.log.line_sink import CompletedLine
from millhand.core.log.logger import FieldRecord
from millhand.core.secret import masked, masked_tail
from millhand.observe.completed_lines import PHRASE, CompletedLines, Stamps
from millhand.observe.log_schema import SCHEMAS, Line, LogSchema, instant_text

LogFormat = Literal["auto", "text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

MESSAGE_WIDTH = 27  # "orphan cleanup completed", the longest frequent message, and three
LEVELS = {"debug": "debug", "info": "info", "warning": "warn", "error": "error", "critical": "fatal"}
# At DEBUG these log every request, including headers with signatures.
VERBOSE_LOGGERS = ("asyncio", "botocore", "urllib3")
# It logs a lost database repeatedly, with tracebacks; the engine logs the loss and the recovery once.
REPETITIVE_LOGGERS = ("asyncpg.pool",)

_RECORD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_MOVING = re.compile(f"[{MOVES}]")
EXCEPTION_LENGTH_MAX = 16 * 1024


def configure_logging(
    format: LogFormat = "auto",
    level: LogLevel = "info",
    stream: TextIO | None = None,
    *,
    schema: LogSchema = "millhand",
) -> None:
    """
    Write the process's log to `stream`, standard output by default. A second call replaces the first.

    `auto` means text on a terminal and JSON in a pipe. A terminal gets colours unless NO_COLOR is set. `schema` is that
    of the JSON, see `JsonFormatter`.
    """
    stream = sys.stdout if stream is None else stream
    is_terminal = stream.isatty()
    is_text = format == "text" or (format == "auto" and is_terminal)
    is_coloured = is_terminal and not os.environ.get("NO_COLOR")
    handler = LogHandler(
        stream, TextFormatter(is_coloured=is_coloured) if is_text else JsonFormatter(schema=schema)
    )
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, LogHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in VERBOSE_LOGGERS:
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))
    for name in REPETITIVE_LOGGERS:
        logging.getLogger(name).setLevel(max(root.level, logging.ERROR))


class LogHandler(logging.StreamHandler[TextIO]):
    """
    The handler of `configure_logging`. It ignores a closed pipe.

    It is a `LineSink`: the lines of jobs that completed in one turn of the event loop are one write, in their order among
    other lines.
    """

    def __init__(self, stream: TextIO, formatter: TextFormatter | JsonFormatter) -> None:
        super().__init__(stream)
        self.setFormatter(formatter)
        self._completed = CompletedLines(formatter, Stamps(formatter.stamp))
        self._waiting: list[tuple[str, int, str, CompletedLine]] = []

    def add_completed(self, logger: str, level: int, line: CompletedLine) -> None:
        """Take a line, with the name of the database in whose client the caller runs."""
        self._waiting.append((logger, level, current_database.get(), line))

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, after the lines that were taken before it."""
        self._write_waiting()
        super().emit(record)

    def flush(self) -> None:
        """Write all lines."""
        with self.lock or nullcontext():
            self._write_waiting()
            super().flush()

    def _write_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        try:
            self.stream.write(self._completed.text(waiting))
        except Exception:  # noqa: BLE001 - as a handler does with each record
            self.handleError(logging.makeLogRecord({"msg": PHRASE}))

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exception(), BrokenPipeError):
            super().handleError(record)


class TextFormatter(logging.Formatter):
    """
    Formats a line for people: local time, level, phrase, fields as `key=value`; a traceback is indented below it.

    `is_coloured` adds the colours of a terminal.
    """

    def __init__(self, *, is_coloured: bool = False) -> None:
        super().__init__()
        self._is_coloured = is_coloured

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        at = self.stamp(record.created)
        level = record.levelname.lower()
        fields = _fields(record)
        if not record.name.startswith("millhand"):
            fields["logger"] = record.name
        message = escaped(_phrase(record)).replace("\n", "\n    ")
        text = " ".join(
            [
                self._styled(at, "2"),
                self._styled(f"{LEVELS.get(level, level):<5}", _LEVEL_STYLES.get(level, "0")),
                self._styled(f"{message:<{MESSAGE_WIDTH}}", "1"),
                *(f"{self._styled(shown(key), '36')}={shown(value)}" for key, value in fields.items()),
            ]
        ).rstrip()
        if trace := _exception(record):
            text += "\n    " + escaped(trace).replace("\n", "\n    ")
        return text

    @staticmethod
    def stamp(seconds: float) -> str:
        """Return how a line shows an instant."""
        return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%H:%M:%S")

    def _styled(self, text: str, style: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self._is_coloured else text


_LEVEL_STYLES = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "1;31"}


class JsonFormatter(logging.Formatter):
    """
    Formats one JSON object a line, a traceback as a field; a field with a reserved name gets a `_`.

    `schema` is that of your log system: `millhand`, `ecs` (Elastic), `otel` (OpenTelemetry) or `gcp` (Google Cloud).
    """

    def __init__(self, *, schema: LogSchema = "millhand") -> None:
        super().__init__()
        if schema not in SCHEMAS:
            raise ConfigError(
                f"schema of a log must be one of {', '.join(map(repr, SCHEMAS))}, got {schema!r}"
            )
        self._entry = SCHEMAS[schema]

    @staticmethod
    def stamp(seconds: float) -> str:
        """Return how a line shows an instant."""
        return instant_text(seconds)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        entry = self._entry(_line(record))
        try:
            return _MOVING.sub(
                lambda match: f"\\u{ord(match[0]):04x}", msgspec.json.encode(entry, enc_hook=str).decode()
            )
        except Exception:  # noqa: BLE001 - no value of another library may lose a line
            return json.dumps(_plain(entry))


def _line(record: logging.LogRecord) -> Line:
    error = record.exc_info[1] if record.exc_info else None
    return Line(
        error_type="" if error is None else error_type(error),
        exception=_exception(record),
        fields=_fields(record),
        level=record.levelno,
        level_name=record.levelname,
        logger=record.name,
        phrase=_phrase(record),
        seconds=record.created,
    )


def _phrase(record: logging.LogRecord) -> str:
    return masked(record.event if isinstance(record, FieldRecord) else record.getMessage())


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """Return what was logged with `extra`, what the application adds to its records, and the fields of the context."""
    is_ours = isinstance(record, FieldRecord)
    others = _RECORD_ATTRIBUTES | {"event"} if is_ours else _RECORD_ATTRIBUTES
    own = {key: finite(value) for key, value in vars(record).items() if key not in others}
    # A line of Millhand names the job that it is about. Another job may have been running when it was logged.
    context = database_fields() | ({} if is_ours else job_fields()) | trace_fields()
    return own | {key: value for key, value in context.items() if key not in own}


def _exception(record: logging.LogRecord) -> str:
    """Return the end of the traceback, because a user's error may contain megabytes."""
    parts = []
    if record.exc_info and record.exc_info[0] is not None:
        parts.append(logging.Formatter().formatException(record.exc_info))
    if record.stack_info:
        parts.append(record.stack_info)
    if isinstance(record, FieldRecord) and record.queued_trace:
        parts.append(record.queued_trace)
    trace = "\n".join(parts)
    is_cut = len(trace) > EXCEPTION_LENGTH_MAX
    return f"{'…' if is_cut else ''}{masked_tail(trace, EXCEPTION_LENGTH_MAX)}"


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    return value if isinstance(value, str | int) else shown(value)
