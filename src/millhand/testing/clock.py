"""Time that stands still until a test moves it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from millhand.clock import Clock

START = datetime(2024, 5, 1, 10, 34, 56, 789_000, UTC)  # as good an instant as any; the same in every run


class ManualClock:
    """
    A `Clock` moved by hand; give it to whatever takes a clock.

    Units: `now` is aware; both of its clocks are moved together by `advance`.
    """

    def __init__(self, now: datetime = START) -> None:
        self._now = _checked(now)
        self._monotonic = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, duration: timedelta | float) -> None:
        """Let time pass: a duration, or seconds. Time does not go back."""
        step = duration if isinstance(duration, timedelta) else timedelta(seconds=duration)
        if step < timedelta(0):
            raise ValueError(f"time must not go back, got an advance of {step.total_seconds():g} s; use set")
        self._now += step
        self._monotonic += step.total_seconds()

    def set(self, now: datetime) -> None:
        """Set the date alone, back or forth, as an administrator does; the monotonic clock does not notice."""
        self._now = _checked(now)


class NotBeforeClock:
    """
    A clock that is never behind an instant, such as that of the database at the beginning.

    A row that the database has dated would not be due yet by a clock that is a little behind.
    """

    def __init__(self, clock: Clock, floor: datetime) -> None:
        self._clock = clock
        self._floor = floor

    def now(self) -> datetime:
        return max(self._clock.now(), self._floor)

    def monotonic(self) -> float:
        return self._clock.monotonic()


def _checked(now: datetime) -> datetime:
    if now.tzinfo is None:
        raise ValueError(f"instant must be aware, got {now!r}")
    return now.astimezone(UTC)
