"""Clocks for tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from millhand.core.clock import Clock

START = datetime(2024, 5, 1, 10, 34, 56, 789_000, UTC)  # arbitrary, but the same in every run


class ManualClock:
    """
    A `Clock` that stands still until the test moves it.

    Args:
        now: The aware instant at which it begins.
    """

    def __init__(self, now: datetime = START) -> None:
        self._now = _checked(now)
        self._monotonic = 0.0

    def now(self) -> datetime:
        """Return the instant in UTC."""
        return self._now

    def monotonic(self) -> float:
        """Return the sum of all advances, in seconds."""
        return self._monotonic

    def advance(self, duration: timedelta | float) -> None:
        """Move both the date and the monotonic clock by a duration or seconds. Raises: ValueError if it is negative."""
        step = duration if isinstance(duration, timedelta) else timedelta(seconds=duration)
        if step < timedelta(0):
            raise ValueError(f"time must not go back, got an advance of {step.total_seconds():g} s; use set")
        self._now += step
        self._monotonic += step.total_seconds()

    def set(self, now: datetime) -> None:
        """Set the date, forwards or backwards, as an administrator may. The monotonic clock stays."""
        self._now = _checked(now)


class NotBeforeClock:
    """
    A clock that never returns an instant before `earliest`, such as the database's time at the beginning.

    Without it, a row that the database has dated would not be due by a clock that is a little behind.
    """

    def __init__(self, clock: Clock, earliest: datetime) -> None:
        self._clock = clock
        self._earliest = earliest

    def now(self) -> datetime:
        return max(self._clock.now(), self._earliest)

    def monotonic(self) -> float:
        return self._clock.monotonic()


def _checked(now: datetime) -> datetime:
    if now.tzinfo is None:
        raise ValueError(f"instant must be aware, got {now!r}")
    return now.astimezone(UTC)
