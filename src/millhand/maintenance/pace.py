"""
How often rows are looked for that run: while an old snapshot is open, dead entries of the index are read with them.

Two things keep that from costing what it finds out:

Rule 1: no job is fetched before it is due, so who looks for what was fetched before an instant reads only entries of
        jobs that were due before it. Rows that somebody changed by hand may be otherwise; one look an hour is for them.
Rule 2: a look that reads everything, and takes long, is followed by fifty times as long without one.
"""

from __future__ import annotations

from millhand.clock import Clock

REST_SHARE = 50.0
REST_SECONDS_MAX = 300.0
WHOLE_SECONDS = 3600.0


def rest_seconds(took_seconds: float, *, least: float = 0.0) -> float:
    """Return how long to leave between a look that took so long and the next one, which would be `least` otherwise."""
    return max(least, min(took_seconds * REST_SHARE, REST_SECONDS_MAX))


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
