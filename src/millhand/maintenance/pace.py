"""
How often, and from where on, services look for rows: while an old snapshot is open, they read dead index entries, too.

What keeps that from costing more than it finds out:

Rule 1: no job is fetched before it is due, so who looks for what was fetched before an instant reads only entries of
        jobs that were due before it. Rows that somebody changed by hand may be otherwise; one look an hour is for them.
Rule 2: a look that reads everything, and takes long, is followed by fifty times as long without one (`rest_seconds`).
Rule 3: who has left nothing behind before an instant begins there, a little earlier, until it is time for such a look.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from millhand.clock import REST_SHARE, Clock

WHOLE_SECONDS = 3600.0


class WholeLooks:
    """Says of each pass whether it is to look everywhere: the first one, and then one an hour."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next_at: float | None = None

    def restart(self) -> None:
        """Have the next pass look everywhere: others may have swept before."""
        self._next_at = None

    def is_due(self) -> bool:
        """Return whether a pass that begins now is to look everywhere; if so, the next one is not."""
        now = self._clock.monotonic()
        if self._next_at is not None and now < self._next_at:
            return False
        self._next_at = now + WHOLE_SECONDS
        return True


class Behind:
    """
    Says of each pass from which instant on it is to look, after passes that left nothing before theirs; None: everywhere.

    `slack` is how much older rows may come to be that were not there yet, and `most_seconds` when to look everywhere
    again at the latest. Where that is quick, every pass does.
    """

    def __init__(self, clock: Clock, *, slack: timedelta, most_seconds: float) -> None:
        self._clock = clock
        self._began_at = clock.now()
        self._floor: datetime | None = None
        self._is_whole = True
        self._most_seconds = most_seconds
        self._slack = slack
        self._whole_at: float | None = None

    def restart(self) -> None:
        """Have the next pass look everywhere: others may have swept before."""
        self._whole_at = None

    def begin(self) -> datetime | None:
        """Return where the pass that begins is to look from."""
        self._began_at = self._clock.now()
        self._is_whole = self._whole_at is None or self._clock.monotonic() >= self._whole_at
        return None if self._is_whole else self._floor

    def end(self, took_seconds: float) -> None:
        """Take note that the pass left nothing older than its beginning, and how long its last look took."""
        self._floor = self._began_at - self._slack
        if self._is_whole:
            self._whole_at = self._clock.monotonic() + min(took_seconds * REST_SHARE, self._most_seconds)
