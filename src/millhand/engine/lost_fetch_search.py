"""
Finds the jobs of a fetch whose answer was lost: their rows are marked running for this client, but it has no attempt.

    fetch sent ─ no answer ─▶ search when the database answers again ─▶ search again for two minutes ─▶ end

Without a search, these jobs would wait for the job rescuer, an hour by default. A search finds jobs that were fetched for
this client after its last answered fetch. It omits the jobs that later fetches returned. These are known by id and time of
fetch, because a lost fetch may have fetched the next attempt of the same job.

The server may run the fetch long after this client reconnected, if the server was stalled or the network lost packets: the
kernel resends the data of a closed connection, at growing intervals. So the searches go on for two minutes.

Concurrency: belongs to one producer, whose fetches come one after the other.
Model: models/rescue.tla, `FetchLost`, `LateFetch`, `SearchRead`, `SearchAnswer`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from operator import attrgetter

from millhand.core.clock import rest_seconds
from millhand.core.errors import ConnectionLost, MillhandError, OperationTimeout
from millhand.core.job import JobId, JobRow
from millhand.engine.attempt import Attempt, CancelReason

# A statement's timeout. After as long again, a stalled server has mostly recovered, or dropped the statement.
LATE_SECONDS = 10.0
# Linux resends the unacknowledged data of a closed connection eight times, for 102 s.
RESENT_SECONDS = 120.0

_ATTEMPTED_AT = attrgetter("attempted_at")


class LostFetchSearch:
    """
    Decides when a producer searches for the jobs of lost fetches, and which of the jobs found are unknown.

    `began_at` is the database's time before the first fetch. `after` is the time of the last answered fetch before a lost
    one. Units: `now` is the event loop's time.
    """

    def __init__(self, began_at: datetime) -> None:
        self.after = began_at
        self._is_searching = False
        self._known: set[tuple[JobId, datetime | None]] = set()  # the jobs fetched since a fetch was lost
        self._last_search_at = 0.0
        self._newest = began_at
        self._search_at = 0.0

    def record_answered(self, jobs: Sequence[JobRow]) -> None:
        if jobs:
            self._newest = max(self._newest, *filter(None, map(_ATTEMPTED_AT, jobs)))
        if self._is_searching:
            self._known.update((job.id, job.attempted_at) for job in jobs)

    def record_failed(self, error: MillhandError, now: float) -> None:
        """Record a failed fetch, and begin to search if it may have marked jobs."""
        if not isinstance(error, OperationTimeout | ConnectionLost):
            return
        if not self._is_searching:
            self.after = self._newest
        self._is_searching, self._search_at, self._last_search_at = True, now, now + RESENT_SECONDS

    def is_due(self, now: float) -> bool:
        return self._is_searching and self._search_at <= now

    def record_found(self, jobs: Sequence[JobRow], *, asked: float, now: float) -> list[JobRow]:
        """Record the jobs that a search found, and return the unknown ones, which the producer must work."""
        unknown = [job for job in jobs if (job.id, job.attempted_at) not in self._known]
        self._known.clear()  # a job that ended cannot run again with the same time of fetch
        self.record_answered(jobs)
        self._search_at = min(now + rest_seconds(now - asked, least=LATE_SECONDS), self._last_search_at)
        if asked >= self._last_search_at:
            self._is_searching = False
            self._known.clear()
        return unknown

    def seconds_left(self, now: float) -> float | None:
        """Return how soon the next search is due, or None if there is none."""
        return max(self._search_at - now, 0.0) if self._is_searching else None


def cancel_fetched_before(lost_at: datetime, attempts: Iterable[Attempt]) -> int:
    """Cancel the attempts of jobs that were given to others at `lost_at`, and return how many there were."""
    lost = [one for one in attempts if one.row.attempted_at is None or one.row.attempted_at < lost_at]
    for attempt in lost:
        attempt.cancel(CancelReason.LOST)
    return len(lost)
