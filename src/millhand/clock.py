"""Time, as a value that is brought: instants for dates, monotonic seconds for waits."""

from __future__ import annotations

import logging
import random
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

logger = logging.getLogger(__name__)

# Whoever looks after a machine wants to know of that; less, one that is set by the network does not notice either.
TELL_SECONDS = 60.0
# More than two right clocks drift apart between two answers.
DRIFT = timedelta(seconds=1)
REST_SHARE = 50.0
REST_SECONDS_MAX = 300.0


class Clock(Protocol):
    """What tells the time; `ManualClock` of millhand.testing stands still until it is moved."""

    def now(self) -> datetime:
        """The instant, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back; only differences mean something."""
        ...


class SystemClock:
    """The machine's own clocks."""

    __slots__ = ()

    def now(self) -> datetime:
        return datetime.now(UTC)

    monotonic = staticmethod(time.monotonic)  # without a call in between: each attempt asks three times


class ServerClock:
    """
    The database's clock, as far as its answers tell; until the first one it is `clock`.

    When jobs are due is decided by the database. A machine whose clock is an hour ahead would have them tried again an
    hour late, and one that leads would take every job of an hour for a stuck one. Between the answers the monotonic clock
    goes on, so a date that is set meanwhile changes nothing.

    Concurrency: belongs to one event loop; may be read from any thread.
    """

    __slots__ = ("_began", "_clock", "_is_off", "monotonic")

    def __init__(self, clock: Clock) -> None:
        # The instant, in seconds since 1970, at which the monotonic clock began. A float tells a quarter of a
        # microsecond, and each attempt asks twice: an instant plus a timedelta takes half as long again.
        self._began: float | None = None
        self._clock = clock
        self._is_off = False
        self.monotonic = clock.monotonic

    def now(self) -> datetime:
        if self._began is None:
            return self._clock.now()
        return datetime.fromtimestamp(self._began + self.monotonic(), UTC)

    def record_sample(self, at: datetime, asked: float, answered: float) -> None:
        """
        Take note that it was `at` by the database's clock, at some time between a question and its answer.

        What this clock says is left as it is if that may be so, and else moved by as little as makes it so: a way that is
        slow makes it no worse. One that is ahead by more than drift is set to the least that is possible, as if the answer
        had taken no time: what comes a little late has come in time, and what comes early has not. Units: monotonic seconds.
        """
        now, seconds = self.now(), self.monotonic()
        least = at + timedelta(seconds=seconds - answered)
        most = at + timedelta(seconds=seconds - asked)
        known = least if now - most > DRIFT else min(max(now, least), most)
        self._began = known.timestamp() - seconds
        self._look((self._clock.now() - known).total_seconds())

    def _look(self, seconds: float) -> None:
        """Tell, once, if the machine's clock is far off."""
        is_off = abs(seconds) > TELL_SECONDS
        if is_off and not self._is_off:
            logger.warning("clock differs from the database's", extra={"seconds": round(seconds, 3)})
        self._is_off = is_off


def jittered(seconds: float, fraction: float = 0.1) -> float:
    """
    Return `seconds` lengthened by up to `fraction`, so that a fleet does not move in step.

    Units: seconds in, seconds out; never shorter than asked.
    """
    return seconds + random.uniform(0.0, seconds * fraction)  # noqa: S311 - spreads load, guards nothing


def rest_seconds(took_seconds: float, *, least: float = 0.0) -> float:
    """
    Return how long to leave between a look that took so long and the next one, which would be `least` otherwise.

    For looks that read everything, dead index entries as well: they cost a fiftieth of the time at most, as long as the
    next one is not put off for `REST_SECONDS_MAX`.
    """
    return max(least, min(took_seconds * REST_SHARE, REST_SECONDS_MAX))


def backoff_seconds(num_failures: int, *, first: float = 1.0, ceiling: float = 64.0) -> float:
    """
    Return how long to wait after the n-th failure in a row: `first` doubled each time, ± 10 %.

    Units: seconds. `num_failures` counts from 1; the wait never exceeds `ceiling` by more than the jitter.
    """
    base = min(first * 2.0 ** (min(num_failures, 32) - 1), ceiling)
    return base * random.uniform(0.9, 1.1)  # noqa: S311 - spreads load, guards nothing


def seconds(duration: timedelta) -> float:
    """Return a duration in seconds."""
    return duration.total_seconds()
