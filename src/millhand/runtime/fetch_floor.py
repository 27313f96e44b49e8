"""
Remembers where the jobs of a queue begin that nobody has fetched yet.

While a transaction keeps an old snapshot open, the index entries of fetched jobs cannot be taken away, and a fetch from
the start of the queue reads them all: 300,000 of them take 25 ms, where a fetch above a floor takes 1 ms.

    from the start ──▶ slow? ──no──▶ from the start
                         │twice
                         ▼
             above the floors, which rise with what is fetched ──▶ from the start again, every few seconds

Rule 1: where a fetch from the start is quick, it is made from the start: nothing is remembered that is not needed.
Rule 2: a job may come to stand below a floor: given back, retried, inserted late or with an old instant. No floor is older
        than the last fetch from the start, so such a job waits no longer than until the next one.
Rule 3: looking again costs a fiftieth of the time at most, as long as it is not due for `RECHECK_SECONDS_MAX`.
Rule 4: a floor is the last job that was fetched of a priority or, if the fetch left nothing due there, the instant of the
        fetch. What is inserted meanwhile is kept above it by the statement, which leaves room for two seconds.

Instants are the database's; of a fetch that brought nothing it is reckoned from those of the last jobs that came. Times
are monotonic seconds. Everything here decides and does nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from millhand.job import JobRow
from millhand.store.job_fetch import PRIORITIES, START, Floor, Floors

RECHECK_SECONDS_MIN = 2.0
RECHECK_SECONDS_MAX = 30.0
RECHECK_SHARE = 50.0
# More than a fetch takes where nothing is in its way; to be wrong with it does no harm, above floors it is as quick.
SLOW_SECONDS = 0.003
SLOW_SECONDS_PER_JOB = 20e-6
# The first one on a connection is, for it has to be planned, and so is one that others held up.
SLOW_TIMES = 2
_BEGINNING = datetime.min.replace(tzinfo=UTC)


class FetchFloors:
    """
    What a producer knows of the order of its queue; `began_at` was the database's instant at the time `now`.

    Concurrency: belongs to one producer, whose fetches come one after the other.
    """

    def __init__(self, began_at: datetime, now: float) -> None:
        self._at = began_at
        self._at_time = now
        self._floors = START
        self._checked_time = now
        self._num_slow = 0  # fetches from the start, in a row
        self._slow_seconds = 0.0  # what it took since then to look at priorities from their start

    @property
    def recheck_at(self) -> float | None:
        """When to fetch from the start again, whoever rings; None while every fetch is made so."""
        if self._num_slow < SLOW_TIMES:
            return None
        pause = min(max(self._slow_seconds * RECHECK_SHARE, RECHECK_SECONDS_MIN), RECHECK_SECONDS_MAX)
        return self._checked_time + pause

    def asked(self, now: float) -> Floors | None:
        """Return what the next fetch is to look above; None: it is to begin at the start."""
        recheck_at = self.recheck_at
        return None if recheck_at is None or now >= recheck_at else self._floors

    def note_fetched(
        self, asked: Floors | None, jobs: Sequence[JobRow], *, limit: int, sent: float, answered: float
    ) -> None:
        """Take note of what a fetch has brought that looked above `asked`; it was sent and answered at these times."""
        at = self._instant(jobs, sent)
        if jobs:
            self._at, self._at_time = at, answered
        seconds = answered - sent
        if asked is None:
            self._checked_time, self._slow_seconds = answered, 0.0
            is_slow = seconds > SLOW_SECONDS + SLOW_SECONDS_PER_JOB * len(jobs)
            self._num_slow = min(self._num_slow + 1, SLOW_TIMES) if is_slow else 0
        if self._num_slow < SLOW_TIMES:
            return
        floors = risen(asked or START, jobs, is_cut=len(jobs) >= limit, at=at)
        if asked is None or _has_begun(asked, floors):
            self._slow_seconds += seconds
        self._floors = floors

    def _instant(self, jobs: Sequence[JobRow], sent: float) -> datetime:
        """Return an instant of the database's no later than that of the fetch."""
        known = [job.attempted_at for job in jobs if job.attempted_at is not None]
        return min(known) if known else self._at + timedelta(seconds=sent - self._at_time)


def _has_begun(asked: Floors, floors: Floors) -> bool:
    """Return whether a priority was looked at from its start."""
    return any(before is None and after is not None for before, after in zip(asked, floors, strict=True))


def risen(floors: Floors, jobs: Sequence[JobRow], *, is_cut: bool, at: datetime) -> Floors:
    """
    Return the floors after a fetch above `floors` that brought `jobs`, in their order, at an instant.

    `is_cut` says that there may be more: then priorities after that of the last job were not looked at.
    """
    last = {job.priority: Floor(job.scheduled_at, job.id) for job in jobs}  # the last of each counts
    cut = (jobs[-1].priority if jobs else 0) if is_cut else len(PRIORITIES) + 1
    first, second, third, fourth = (
        _risen(
            floors[priority - 1],
            last.get(priority),
            is_seen=priority <= cut,
            at=at if priority != cut else None,
        )
        for priority in PRIORITIES
    )
    return first, second, third, fourth


def _risen(floor: Floor | None, last: Floor | None, *, is_seen: bool, at: datetime | None) -> Floor | None:
    """Return the floor of one priority; `at` is that of a fetch that left nothing due in it."""
    if not is_seen:
        return floor
    emptied = None if at is None else Floor(at, 0)
    places = [place for place in (floor, last, emptied) if place is not None]
    # An instant before the calendar's beginning is read as that: nothing is known of what stands there.
    return max((place for place in places if place.at > _BEGINNING), default=None)
