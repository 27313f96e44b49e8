"""Clocks: instants for dates, monotonic seconds for durations; and the lengths of pauses."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Protocol

from millhand.core.log.logger import logger_of

logger = logger_of(__name__)

# A difference of the machine's clock worth a warning; one that the network sets stays far below.
WARN_SECONDS = 60.0
# More than two good clocks drift apart between two answers.
DRIFT = timedelta(seconds=1)
REST_SHARE = 50.0
REST_SECONDS_MAX = 300.0


class Clock(Protocol):
    """A source of time; `ManualClock` of millhand.testing stands still until a test moves it."""

    def now(self) -> datetime:
        """Return the instant, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go back; only differences have a meaning."""
        ...


class SystemClock:
    """The clocks of the machine."""

    __slots__ = ()

    # No call of Python in between: each insert reads the first, and each attempt the second three times.
    now = staticmethod(partial(datetime.now, UTC))
    monotonic = staticmethod(time.monotonic)


class ServerClock:
    """
    The database's clock, estimated from its answers; `clock` before the first one.

    The database decides when jobs are due. A machine whose clock is an hour ahead would retry its jobs an hour late, and as
    leader it would rescue every job of the last hour. Between answers the monotonic clock counts, so setting the machine's
    date has no effect.

    Concurrency: belongs to one event loop; any thread may read it.
    """

    __slots__ = ("_began", "_clock", "_is_off", "monotonic", "offset_seconds")

    def __init__(self, clock: Clock) -> None:
        # The instant at which the monotonic clock began, in seconds since 1970. A float is exact to a quarter of a
        # microsecond, and faster than an instant plus a timedelta: each attempt reads the clock twice.
        self._began: float | None = None
        self._clock = clock
        self._is_off = False
        self.monotonic = clock.monotonic
        self.offset_seconds: float | None = (
            None  # of the machine's clock, ahead of the database's; None until an answer
        )

    def now(self) -> datetime:
        if self._began is None:
            return self._clock.now()
        return datetime.fromtimestamp(self._began + self.monotonic(), UTC)

    def record_sample(self, at: datetime, asked: float, answered: float) -> None:
        """
        Correct this clock: the database's was `at` at some time between the question and the answer of a statement.

        The clock stays as it is if that is possible, and else moves by as little as needed, so a slow network makes it no
        worse. A clock that is ahead by more than drift is set to the earliest possible time: acting a little late is safe,
        acting early is not. Units: `asked` and `answered` are monotonic seconds.
        """
        now, seconds = self.now(), self.monotonic()
        earliest = at + timedelta(seconds=seconds - answered)
        latest = at + timedelta(seconds=seconds - asked)
        known = earliest if now - latest > DRIFT else min(max(now, earliest), latest)
        self._began = known.timestamp() - seconds
        self.offset_seconds = (self._clock.now() - known).total_seconds()
        is_off = abs(self.offset_seconds) > WARN_SECONDS
        if is_off and not self._is_off:
            logger.warning(
                "clock differs from the database's", extra={"seconds": round(self.offset_seconds, 3)}
            )
        self._is_off = is_off


def jittered(seconds: float, fraction: float = 0.1) -> float:
    """Return `seconds` lengthened by up to `fraction`, so that the clients of a fleet do not act in step."""
    return seconds + random.uniform(0.0, seconds * fraction)  # noqa: S311 - spreads load, guards nothing


def rest_seconds(took_seconds: float, *, least: float = 0.0) -> float:
    """
    Return the pause after a statement that took so long: `least`, or fifty times as long, up to `REST_SECONDS_MAX`.

    Statements that may read dead index entries then take a fiftieth of the time at most.
    """
    return max(least, min(took_seconds * REST_SHARE, REST_SECONDS_MAX))


def backoff_seconds(num_failures: int, *, first: float = 1.0, ceiling: float = 64.0) -> float:
    """Return the pause after the n-th failure in a row, from 1: `first` doubled each time, ± 10 %, up to `ceiling`."""
    base = min(first * 2.0 ** (min(num_failures, 32) - 1), ceiling)
    return base * random.uniform(0.9, 1.1)  # noqa: S311 - spreads load, guards nothing
