"""
Finds the jobs of a fetch whose answer was lost: marked running for this client, and nobody here knows of them.

    fetch sent ─ no answer ─▶ look, when the database is there again ─▶ look once more, later ─▶ forget

Without that they would wait for the rescuer, an hour by default. They are known by this client's id, and by having been
fetched after the last fetch that was answered; those that later fetches have brought are known by their ids and by when
they were fetched, for the same job may have come, have failed, and have been marked again by a fetch that was lost.

The second look is for a server that stood still: it may come to the statement after the connection is gone.

Concurrency: belongs to one producer, whose fetches come one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from operator import attrgetter

from millhand.errors import ConnectionLost, MillhandError, OperationTimeout
from millhand.job import JobId, JobRow

# A statement is given ten seconds; a server that stood still for that long has got over it, or has lost it.
LATE_SECONDS = 10.0

_ATTEMPTED_AT = attrgetter("attempted_at")


class LostFetches:
    """
    What a producer knows of its fetches, to tell what it does not know of.

    `began_at` is an instant of the database's before the first of them; `after` is that of the last one that was answered
    before one was lost. Units: `now` is the event loop's time.
    """

    def __init__(self, began_at: datetime) -> None:
        self.after = began_at
        self._begun: set[tuple[JobId, datetime | None]] = set()  # since a fetch was lost
        self._looks: list[float] = []
        self._newest = began_at

    def note_answered(self, jobs: Sequence[JobRow]) -> None:
        """Take note of what a fetch has brought."""
        if jobs:
            self._newest = max(self._newest, *filter(None, map(_ATTEMPTED_AT, jobs)))
        if self._looks:
            self._begun.update((job.id, job.attempted_at) for job in jobs)

    def note_failed(self, error: MillhandError, now: float) -> bool:
        """Take note of a fetch that failed, and return whether it may have taken jobs all the same."""
        if not isinstance(error, OperationTimeout | ConnectionLost):
            return False
        if not self._looks:
            self.after = self._newest
        self._looks = [now, now + LATE_SECONDS]
        return True

    def is_due(self, now: float) -> bool:
        """Return whether it is time to look."""
        return bool(self._looks) and self._looks[0] <= now

    def note_found(self, jobs: Sequence[JobRow]) -> list[JobRow]:
        """Take note of what a look has brought, and return those jobs that nobody here knows of."""
        unknown = [job for job in jobs if (job.id, job.attempted_at) not in self._begun]
        self.note_answered(unknown)
        del self._looks[0]
        if not self._looks:
            self._begun.clear()
        return unknown
