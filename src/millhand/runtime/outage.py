"""
Whether the database is there: one line in the log when it is gone, one when it is back, whatever number of parts notice.

    a statement finds no database ──▶ "database unreachable" ──▶ answers again, calm, and heard again ──▶ "database back"

Rule 1: gone is what cannot be connected to, breaks a connection, or takes no writes; and what is silent to a statement for
        the whole of its deadline, if nothing else was answered in the latter half of that: in the former the way may
        still have been there. A statement that others hold up is no outage.
Rule 2: what was told so is marked on the error, `is_away`; whoever catches it has its own to do, and nothing to tell.
Rule 3: it is back when a statement is answered that was sent after the last failure, and none has failed in a while.
        Where a client listens, it must be able to do that again, too. A database that comes and goes is told of more seldom.

Concurrency: belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from millhand.errors import ConnectionLost, MillhandError, OperationTimeout

logger = logging.getLogger(__name__)

CALM_SECONDS = 1.0
CALM_SECONDS_MAX = 30.0
# One that begins so soon after another has to be over for twice as long before that is told.
AGAIN_SECONDS = 60.0


def is_away(error: BaseException) -> bool:
    """Return whether an error says that the database is gone, which was told already."""
    return isinstance(error, ConnectionLost | OperationTimeout) and error.is_away


def level_of(error: BaseException) -> int:
    """Return at what level a failure is to be logged by whoever suffers from it."""
    return logging.DEBUG if is_away(error) else logging.WARNING


class Outage:
    """
    Knows of one client whether its database is there; `num_kept` says how many outcomes wait to be written.

    Units: times are the event loop's.
    """

    def __init__(self, num_kept: Callable[[], int]) -> None:
        self._answered_at = float("-inf")
        self._began_at: float | None = None
        self._calm: asyncio.TimerHandle | None = None
        self._calm_at = float("-inf")  # when the first answer came after an outage
        self._calm_seconds = CALM_SECONDS
        self._ended_at = float("-inf")
        self._failed_at = 0.0
        self._is_deaf = False
        self._num_kept = 0
        self._now = asyncio.get_running_loop().time
        self._count_kept = num_kept

    @property
    def is_on(self) -> bool:
        """Whether the database is gone, or was until just now."""
        return self._began_at is not None

    def now(self) -> float:
        """Return the time that statements are sent at."""
        return self._now()

    def record_answered(self, sent: float) -> None:
        """Take note that a statement was answered; a refusal is an answer."""
        self._answered_at = self._now()
        if self._began_at is None:
            return
        self._num_kept = max(self._num_kept, self._count_kept())  # of what has just been written, too
        if self._calm is None and sent > self._failed_at and not self._is_deaf:
            self._calm_down()

    def record_failed(self, error: MillhandError, sent: float) -> None:
        """Take note of what became of a statement; mark the error if it says that the database is gone."""
        if not isinstance(error, ConnectionLost | OperationTimeout):
            self.record_answered(sent)
            return
        is_gone = isinstance(error, ConnectionLost) or self._answered_at < (sent + self._now()) / 2
        is_late = (
            sent < self._calm_at
        )  # it was sent before an answer came again: of the outage that this ended
        error.is_away = is_gone or is_late or self.is_on
        if is_gone and not is_late:
            self._record_gone(error)

    def record_listener_lost(self, error: MillhandError | None = None) -> None:
        """Take note that the connection that listens is lost."""
        self._is_deaf = True
        self._record_gone(error or ConnectionLost("listen", "the end of its connection"))

    def record_listener_connected(self) -> None:
        """Take note that notifications are heard again."""
        self._is_deaf = False
        self._answered_at = self._now()
        if self._began_at is not None and self._calm is None:
            self._calm_down()

    def close(self) -> None:
        """End it: what is over by now is told, and nothing later."""
        if self._calm is not None:
            self._end()

    def _record_gone(self, error: MillhandError) -> None:
        now = self._failed_at = self._now()
        if self._calm is not None:
            self._calm.cancel()
            self._calm = None
        self._num_kept = max(self._num_kept, self._count_kept())
        if self._began_at is not None:
            return
        is_again = now - self._ended_at < AGAIN_SECONDS
        self._calm_seconds = min(self._calm_seconds * 2, CALM_SECONDS_MAX) if is_again else CALM_SECONDS
        self._began_at = now
        logger.warning(
            "database unreachable", extra={"error_type": type(error).__name__, "error": str(error)}
        )

    def _calm_down(self) -> None:
        self._calm_at = self._now()
        self._num_kept = max(self._num_kept, self._count_kept())
        self._calm = asyncio.get_running_loop().call_later(self._calm_seconds, self._end)

    def _end(self) -> None:
        if self._calm is not None:
            self._calm.cancel()
        seconds = self._calm_at - (self._began_at or self._calm_at)
        logger.info("database back", extra={"seconds": round(seconds, 3), "num_kept": self._num_kept})
        self._began_at, self._calm, self._num_kept = None, None, 0
        self._ended_at = self._now()
