"""
Keep the log lines of a job in its row: `river:log`, an array of `{"attempt": 1, "log": "…"}`.

    record ──▶ handler ──▶ the page of its attempt ──▶ appended to the row with the attempt's outcome

Rule 1: a record belongs to the attempt in whose context it was logged: in its coroutines and tasks, in the thread of a
        plain function, in `asyncio.to_thread`. A record without an attempt is not kept.
Rule 2: a page and all pages of a job have a maximum size: a long page is cut, then the oldest pages are dropped.

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

# River's limits. A fetch reads the whole row, and a new page rewrites it.
MAX_BYTES = 2 * 1024 * 1024
MAX_TOTAL_BYTES = 8 * 1024 * 1024
MAX_TOTAL_BYTES_MAX = 64 * 1024 * 1024


class JobLog(Middleware):
    """
    Keeps the log lines of an attempt in the row of its job, where River UI shows them.

        Config(middleware=[JobLog(level=logging.INFO)])

    The records also reach the other handlers, and the level of each logger applies. `formatter` renders a record; by
    default with time, level, logger, message and traceback. `listens_to` is the logger whose records are kept, including
    its children's; by default the root logger.

    Units: `max_bytes` limits one attempt; `max_total_bytes` limits all pages of a job. The newest page is always kept.
    Raises: ConfigError. Concurrency: one instance may serve any number of clients.
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
        """Run the attempt and keep its log lines, also if it fails."""
        page = _Page(self._max_bytes)
        self._listen()
        before = self._page.set(page)
        try:
            await call_next()
        finally:
            self._page.reset(before)
            self._stop_listening()
            if page.num_bytes:
                self._keep(job, page)

    def _listen(self) -> None:
        """Add the handler while attempts run, so that a process without attempts pays nothing per log line."""
        with self._lock:
            self._num_open += 1
            if self._num_open == 1:
                self._logger.addHandler(self._handler)

    def _stop_listening(self) -> None:
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
    """The log lines of one attempt, up to `max_bytes`; `num_bytes` counts all of them."""

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
        # The cut may split a character.
        return b"".join(self._lines).decode(errors="ignore")


class _PageHandler(logging.Handler):
    """Writes each record on the page of its context."""

    def __init__(self, page: ContextVar[_Page | None]) -> None:
        super().__init__()
        self._current = page

    def emit(self, record: logging.LogRecord) -> None:
        page = self._current.get()
        if page is None:
            return
        try:
            page.write(self.format(record))
        except Exception:  # noqa: BLE001 - reported as `logging` reports a record that cannot be formatted
            self.handleError(record)


def num_to_drop(earlier: list[Json], entry: dict[str, Json], max_total_bytes: int) -> int:
    """
    Return how many of the oldest entries must be dropped to fit the new one.

    Sizes are River's: earlier entries as PostgreSQL prints them, the new one as Go's encoder writes it.
    """
    new = len(f'[{{"attempt":{entry["attempt"]},"log":{encode_string(entry["log"])}}}]'.encode())
    if new > max_total_bytes:
        return len(earlier)
    bytes_left = max_total_bytes - new - len(",")
    for num_kept, one in enumerate(reversed(earlier)):
        bytes_left -= len(json.dumps(one, ensure_ascii=False).encode(errors="replace")) + (
            len(", ") if num_kept else 0
        )
        if bytes_left < 0:
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
