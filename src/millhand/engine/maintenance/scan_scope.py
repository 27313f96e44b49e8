"""
Limits how much of an index the maintenance services scan.

While an old snapshot is open, a scan also reads the entries of rows that were deleted or changed since. Three rules bound
that cost:

Rule 1: no job is fetched before it is due. A search for jobs fetched before an instant therefore reads only entries of jobs
        that were due before it. A row changed by hand may break that; one full scan an hour finds it.
Rule 2: after a full scan that took long, the next one waits fifty times as long (`rest_seconds`).
Rule 3: a service that has left nothing behind before an instant starts there, a little earlier, until the next full scan.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from millhand.core.clock import REST_SHARE, Clock

FULL_SCAN_SECONDS = 3600.0


class FullScanTimer:
    """Decides which passes scan everything: the first one, and then one an hour."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next_at: float | None = None

    def restart(self) -> None:
        """Make the next pass a full scan: another client may have led meanwhile."""
        self._next_at = None

    def take_due(self) -> bool:
        """Return whether the pass that begins now scans everything; the next one is due in an hour then."""
        now = self._clock.monotonic()
        if self._next_at is not None and now < self._next_at:
            return False
        self._next_at = now + FULL_SCAN_SECONDS
        return True


class ScanStart:
    """
    Remembers from which instant the next pass scans, after passes that left nothing behind; None for a full scan.

    Rows may appear up to `slack` late. A full scan follows after `max_seconds` at the latest, and at once where it is fast.
    """

    def __init__(self, clock: Clock, *, slack: timedelta, max_seconds: float) -> None:
        self._clock = clock
        self._began_at = clock.now()
        self._full_scan_at: float | None = None
        self._is_full = True
        self._max_seconds = max_seconds
        self._slack = slack
        self._start: datetime | None = None

    def restart(self) -> None:
        """Make the next pass a full scan: another client may have led meanwhile."""
        self._full_scan_at = None

    def begin(self) -> datetime | None:
        """Return the instant from which the pass that begins now scans."""
        self._began_at = self._clock.now()
        self._is_full = self._full_scan_at is None or self._clock.monotonic() >= self._full_scan_at
        return None if self._is_full else self._start

    def end(self, took_seconds: float) -> None:
        """Record that the pass left nothing older than its beginning, and how long its last statement took."""
        self._start = self._began_at - self._slack
        if self._is_full:
            self._full_scan_at = self._clock.monotonic() + min(took_seconds * REST_SHARE, self._max_seconds)
