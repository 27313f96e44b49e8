"""
What a job says while it is worked, kept in its row: `river:log`, an array of `{"attempt": 1, "log": "…"}`.

    record ──▶ handler ──▶ the page of the attempt that made it ──▶ appended to the row with the attempt's outcome

Rule 1: a record belongs to the attempt in whose context it was made: in its coroutines and tasks, in the thread of a
        plain function, in `asyncio.to_thread`. Whatever has no attempt is nobody's.
Rule 2: a page has an end, and so have the pages of a job together: what is too long is cut, then the oldest go.

Source: River v0.51.2, riverlog/river_log.go `Middleware.Work, appendLogDataWithCap`.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import cast

from millhand.args.go_json import encode_string
from millhand.errors import ConfigError
from millhand.hooks import Middleware
from millhand.job import Job, JobInternals, Json
from millhand.store.job_row import sanitized

logger = logging.getLogger(__name__)

LOG_KEY = "river:log"

# River's. A row is read whole at each fetch, and rewritten whole when its logs grow.
MAX_BYTES = 2 * 1024 * 1024
MAX_TOTAL_BYTES = 8 * 1024 * 1024
MAX_TOTAL_BYTES_MAX = 64 * 1024 * 1024


class JobLog(Middleware):
    """
    Keeps what is logged in an attempt in the row of its job, where River UI shows it.

        Config(middleware=[JobLog(level=logging.INFO)])

    What is logged goes its usual ways too, and only what the loggers let through is kept: a logger's own level counts.
    `formatter` makes a line of a record; by default time, level, logger and message, and the stack of an exception.
    `listens_to` is the logger whose records are kept, its children's included; by default the root's.

    Units: `max_bytes` is for one attempt, cut there; `max_total_bytes` for all of a job's, the oldest dropped first and
    the newest always kept.
    Raises: ConfigError. Concurrency: one may serve any number of clients.
    """

    def __init__(
        self,
        *,
        formatter: logging.Formatter | None = None,
        level: int = logging.NOTSET,
        listens_to: logging.Logger | None = None,
        max_bytes: int = MAX_BYTES,
        max_total_bytes: int = MAX_TOTAL_BYTES,
    ) -> None:
        self._max_bytes = _checked_size("max_bytes", max_bytes)
        self._max_total_bytes = _checked_size("max_total_bytes", max_total_bytes)
        self._lock = threading.Lock()
        self._logger = logging.getLogger() if listens_to is None else listens_to
        self._num_open = 0
        self._page: ContextVar[_Page | None] = ContextVar("millhand_job_log", default=None)
        self._handler = _PageHandler(self._page)
        self._handler.setLevel(level)
        self._handler.setFormatter(_default_formatter() if formatter is None else formatter)

    async def work(self, job: Job[Json], call_next: Callable[[], Awaitable[None]]) -> None:
        """Keep what is logged meanwhile, however it ends."""
        page = _Page(self._max_bytes)
        self._listen()
        before = self._page.set(page)
        try:
            await call_next()
        finally:
            self._page.reset(before)
            self._listen_no_more()
            if page.num_bytes:
                self._keep(job, page)

    def _listen(self) -> None:
        """Be there while attempts run, and only then: who does not work jobs pays nothing for each line of its log."""
        with self._lock:
            self._num_open += 1
            if self._num_open == 1:
                self._logger.addHandler(self._handler)

    def _listen_no_more(self) -> None:
        with self._lock:
            self._num_open -= 1
            if self._num_open == 0:
                self._logger.removeHandler(self._handler)

    def _keep(self, job: Job[Json], page: _Page) -> None:
        fields = {"job_id": job.id, "kind": job.kind, "queue": job.queue, "attempt": job.attempt}
        if page.num_bytes > self._max_bytes:
            sizes = {"num_bytes": page.num_bytes, "max_bytes": self._max_bytes}
            logger.warning("job log cut", extra={**fields, **sizes})
        earlier = job.metadata.get(LOG_KEY, [])
        if not isinstance(earlier, list):
            logger.error("job log not kept", extra={**fields, "reason": f"{LOG_KEY} of the row is no array"})
            return
        entry = {"attempt": job.attempt, "log": page.text()}
        num_dropped = num_to_drop(earlier, entry, self._max_total_bytes)
        if num_dropped:
            sizes = {"num_attempts": num_dropped, "max_bytes": self._max_total_bytes}
            logger.warning("job log of earlier attempts dropped", extra={**fields, **sizes})
        cast("JobInternals[Json]", job).stage(LOG_KEY, [*earlier[num_dropped:], entry])


class _Page:
    """What one attempt has said, up to `max_bytes`. `num_bytes` counts all of it."""

    __slots__ = ("_lines", "_max_bytes", "num_bytes")

    def __init__(self, max_bytes: int) -> None:
        self._lines: list[bytes] = []
        self._max_bytes = max_bytes
        self.num_bytes = 0

    def write(self, line: str) -> None:
        encoded = f"{sanitized(line)}\n".encode()
        left = self._max_bytes - self.num_bytes
        if left > 0:
            self._lines.append(encoded[:left])
        self.num_bytes += len(encoded)

    def text(self) -> str:
        # What is cut may be cut within a character.
        return b"".join(self._lines).decode(errors="ignore")


class _PageHandler(logging.Handler):
    """Writes each record on the page of the context that it was made in."""

    def __init__(self, page: ContextVar[_Page | None]) -> None:
        super().__init__()
        self._current = page

    def emit(self, record: logging.LogRecord) -> None:
        page = self._current.get()
        if page is None:
            return
        try:
            page.write(self.format(record))
        except Exception:  # noqa: BLE001 - a record whose parts do not fit; told of as logging does
            self.handleError(record)


def num_to_drop(earlier: list[Json], entry: dict[str, Json], max_total_bytes: int) -> int:
    """
    Return how many of the oldest entries must go, so that the others and the new one fit.

    Counted as River does: earlier entries as PostgreSQL prints them, the new one as Go's encoder writes it.
    """
    new = len(f'[{{"attempt":{entry["attempt"]},"log":{encode_string(entry["log"])}}}]'.encode())
    if new > max_total_bytes:
        return len(earlier)
    room = max_total_bytes - new - len(",")
    for num_kept, one in enumerate(reversed(earlier)):
        room -= len(json.dumps(one, ensure_ascii=False).encode(errors="replace")) + (
            len(", ") if num_kept else 0
        )
        if room < 0:
            return len(earlier) - num_kept
    return 0


def _checked_size(name: str, size: int) -> int:
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= MAX_TOTAL_BYTES_MAX:
        raise ConfigError(
            f"{name} of a job's log must be between 1 and {MAX_TOTAL_BYTES_MAX:,}, got {size!r}"
        )
    return size


def _default_formatter() -> logging.Formatter:
    formatter = logging.Formatter(
        "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    return formatter
