"""
Keep the log lines of a job in its row: `river:log`, an array of `{"attempt": 1, "log": "…"}`.

    record ──▶ handler ──▶ log of its attempt ──▶ appended to the row with the attempt's outcome

Rule 1: a record belongs to the attempt that logged it: in its coroutines and tasks, in the thread of a plain function, or
        in `asyncio.to_thread`. A record outside an attempt is not kept.
Rule 2: the log of an attempt is cut at a maximum size. If a job's logs are too long together, the oldest are dropped.

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

from millhand.core.args.go_json import encode_string
from millhand.core.checks import check_number
from millhand.core.hooks import Middleware
from millhand.core.job import Json
from millhand.core.log.logger import logger_of
from millhand.core.worker_job import Job, JobInternals
from millhand.engine.store.job_row import sanitized

logger = logger_of(__name__)

LOG_KEY = "river:log"

# River's limits. A fetch reads the whole row, and each attempt rewrites it.
MAX_BYTES = 2 * 1024 * 1024
MAX_TOTAL_BYTES = 8 * 1024 * 1024
MAX_TOTAL_BYTES_MAX = 64 * 1024 * 1024


class JobLog(Middleware):
    """
    Keeps the log lines of an attempt in the row of its job, where River UI shows them.

        Config(middleware=[JobLog(level=logging.INFO)])

    Other handlers still get the records, and the level of each logger applies. By default, `formatter` prints time, level,
    logger, message and traceback. `listens_to` is the logger to keep records of, with its children; by default the root.

    Units: `max_bytes` limits one attempt; `max_total_bytes` limits all attempts of a job. The newest log is always kept.
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
        self._num_attempts = 0
        self._current_log: ContextVar[_AttemptLog | None] = ContextVar("millhand_job_log", default=None)
        self._handler = _AttemptLogHandler(self._current_log)
        self._handler.setLevel(level)
        self._handler.setFormatter(_default_formatter() if formatter is None else formatter)

    async def work(self, job: Job[Json], call_next: Callable[[], Awaitable[None]]) -> None:
        """Run the attempt, and keep its log lines even if it fails."""
        log = _AttemptLog(self._max_bytes)
        with self._lock:  # without running attempts, log lines cost nothing more
            self._num_attempts += 1
            if self._num_attempts == 1:
                self._logger.addHandler(self._handler)
        before = self._current_log.set(log)
        try:
            await call_next()
        finally:
            self._current_log.reset(before)
            with self._lock:
                self._num_attempts -= 1
                if self._num_attempts == 0:
                    self._logger.removeHandler(self._handler)
            if log.num_bytes:
                self._stage(job, log)

    def _stage(self, job: Job[Json], log: _AttemptLog) -> None:
        fields = {"job_id": job.id, "kind": job.kind, "queue": job.queue, "attempt": job.attempt}
        if log.num_bytes > self._max_bytes:
            sizes = {"num_bytes": log.num_bytes, "max_bytes": self._max_bytes}
            logger.warning("job log cut", extra={**fields, **sizes})
        earlier = job.metadata.get(LOG_KEY, [])
        if not isinstance(earlier, list):
            logger.error("job log not kept", extra={**fields, "reason": f"{LOG_KEY} of the row is no array"})
            return
        entry = {"attempt": job.attempt, "log": log.text()}
        num_dropped = num_to_drop(earlier, entry, self._max_total_bytes)
        if num_dropped:
            sizes = {"num_attempts": num_dropped, "max_bytes": self._max_total_bytes}
            logger.warning("job log of earlier attempts dropped", extra={**fields, **sizes})
        cast("JobInternals[Json]", job).stage(LOG_KEY, [*earlier[num_dropped:], entry])


class _AttemptLog:
    """The first `max_bytes` of one attempt's log lines; `num_bytes` counts all of them."""

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


class _AttemptLogHandler(logging.Handler):
    """Writes each record to the log of the attempt that logged it."""

    def __init__(self, current_log: ContextVar[_AttemptLog | None]) -> None:
        super().__init__()
        self._current_log = current_log

    def emit(self, record: logging.LogRecord) -> None:
        log = self._current_log.get()
        if log is None:
            return
        try:
            log.write(self.format(record))
        except Exception:  # noqa: BLE001 - as every handler of `logging`
            self.handleError(record)


def num_to_drop(earlier: list[Json], entry: dict[str, Json], max_total_bytes: int) -> int:
    """
    Return how many of the oldest entries must be dropped to fit the new one.

    Sizes are counted as River does: earlier entries as PostgreSQL prints them, the new one as Go encodes it.
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
    check_number(f"{name} of a job's log", size, MAX_TOTAL_BYTES_MAX)
    return size


def _default_formatter() -> logging.Formatter:
    formatter = logging.Formatter(
        "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    return formatter
