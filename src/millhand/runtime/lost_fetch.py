"""
Finds the jobs of a fetch whose answer was lost: marked running for this client, and nobody here knows of them.

    fetch sent ─ no answer ─▶ look, when the database is there again ─▶ look again, for two minutes ─▶ forget

Without that they would wait for the rescuer, an hour by default. They are known by this client's id, and by having been
fetched after the last fetch that was answered; those that later fetches have brought are known by their ids and by when
they were fetched, for the same job may have come, have failed, and have been marked again by a fetch that was lost.

The later looks are for a server that stood still, and for a network that lost the statement: the kernel goes on sending
what a connection held that was given up, more and more seldom. The server may come to it long after we are connected again.

Concurrency: belongs to one producer, whose fetches come one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from operator import attrgetter

from millhand.clock import rest_seconds
from millhand.errors import ConnectionLost, MillhandError, OperationTimeout
from millhand.job import JobId, JobRow

# A statement is given ten seconds; a server that stood still has mostly got over it, or has lost it, after as many.
LATE_SECONDS = 10.0
# Linux sends again for 102 s, eight times, what nobody has acknowledged on a connection that was closed here.
RESENT_SECONDS = 120.0

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
        self._is_looking = False
        self._last_look_at = 0.0
        self._look_at = 0.0
        self._newest = began_at

    def record_answered(self, jobs: Sequence[JobRow]) -> None:
        """Take note of what a fetch has brought."""
        if jobs:
            self._newest = max(self._newest, *filter(None, map(_ATTEMPTED_AT, jobs)))
        if self._is_looking:
            self._begun.update((job.id, job.attempted_at) for job in jobs)

    def record_failed(self, error: MillhandError, now: float) -> None:
        """Take note of a fetch that failed, and have a look if it may have taken jobs all the same."""
        if not isinstance(error, OperationTimeout | ConnectionLost):
            return
        if not self._is_looking:
            self.after = self._newest
        self._is_looking, self._look_at, self._last_look_at = True, now, now + RESENT_SECONDS

    def is_due(self, now: float) -> bool:
        """Return whether it is time to look."""
        return self._is_looking and self._look_at <= now

    def record_found(self, jobs: Sequence[JobRow], *, asked: float, now: float) -> list[JobRow]:
        """Take note of what a look has brought, and return those jobs that nobody here knows of."""
        unknown = [job for job in jobs if (job.id, job.attempted_at) not in self._begun]
        self._begun.clear()  # what runs no longer does not run again since the same instant
        self.record_answered(jobs)
        self._look_at = min(now + rest_seconds(now - asked, least=LATE_SECONDS), self._last_look_at)
        if asked >= self._last_look_at:
            self._is_looking = False
            self._begun.clear()
        return unknown

    def seconds_left(self, now: float) -> float | None:
        """Return how soon the next look is due; None if there is none."""
        return max(self._look_at - now, 0.0) if self._is_looking else None
