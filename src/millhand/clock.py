"""Time, as a value that is brought: instants for dates, monotonic seconds for waits."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


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


def jittered(seconds: float, fraction: float = 0.1) -> float:
    """
    Return `seconds` lengthened by up to `fraction`, so that a fleet does not move in step.

    Units: seconds in, seconds out; never shorter than asked.
    """
    return seconds + random.uniform(0.0, seconds * fraction)  # noqa: S311 - spreads load, guards nothing


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
