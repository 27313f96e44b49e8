"""
Finds the handler that writes the lines of completed jobs by itself, many at once.

A record of `logging` costs more than most jobs. So the engine gives what a line says to a handler of Millhand's, if no other
code would see the record: no other handler, filter or record factory, and no trace whose ids a line would have.
"""

from __future__ import annotations

import logging
import sys
from typing import NamedTuple, Protocol, cast

from millhand.core.log.logger import is_own_filter


class CompletedLine(NamedTuple):
    """What the line of a completed job says; `created` is seconds since 1970."""

    created: float
    job_id: int
    kind: str
    queue: str
    attempt: int
    max_attempts: int
    queue_wait_seconds: float
    run_seconds: float


class LineSink(Protocol):
    """A handler that takes such lines, and writes them at the next `flush` or before its next record."""

    def add_completed(self, logger: str, level: int, line: CompletedLine) -> None:
        """Take a line. Concurrency: any thread."""

    def flush(self) -> None:
        """Write all lines."""


def line_sink_of(logger: logging.Logger, level: int) -> LineSink | None:
    """Return the handler that alone gets the records of a logger, if it takes lines and nothing else sees them."""
    if "opentelemetry.trace" in sys.modules or logging.getLogRecordFactory() is not logging.LogRecord:
        return None
    handler = _only_handler(logger, level)
    if handler is None or handler.filters or not hasattr(handler, "add_completed"):
        return None
    return cast("LineSink", handler) if all(map(is_own_filter, logger.filters)) else None


def _only_handler(logger: logging.Logger, level: int) -> logging.Handler | None:
    """Return the only handler that gets records of a level from a logger."""
    found: list[logging.Handler] = []
    one: logging.Logger | None = logger
    while one is not None:
        found += [handler for handler in one.handlers if handler.level <= level]
        one = one.parent if one.propagate else None
    return found[0] if len(found) == 1 else None
