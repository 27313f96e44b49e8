"""
Remembers where the jobs of a queue begin that nobody has fetched yet.

While a transaction keeps an old snapshot open, the index entries of fetched jobs cannot be taken away, and a fetch from
the start of the queue reads them all: 300,000 of them take 25 ms, where a fetch above a floor takes 1 ms.

    from the start ──▶ slow? ──no──▶ from the start
                         │twice, or very
                         ▼
             above the floors, which rise with what is fetched ──▶ from the start again, every second or more seldom

Rule 1: where a fetch from the start is quick, it is made from the start: nothing is remembered that is not needed. One
        that was slow enough to matter is enough to know better, so that a worker pays for it once.
Rule 2: a job may come to stand below a floor: given back, retried, inserted late or with an old instant. No floor is older
        than the last fetch from the start, so such a job waits no longer than until the next one.
Rule 3: looking again costs a fiftieth of the time at most, as long as it is not due for `RECHECK_SECONDS_MAX`.
Rule 4: a floor is the last job that was fetched of a priority or, if the fetch left nothing due there, the instant of the
        fetch. What is inserted meanwhile may be committed later, and below: each fetch looks at the last 50 ms again,
        wherever the floors are, and four times a second one looks at the last two seconds.

Instants are the database's; of a fetch that brought nothing it is reckoned from those of the last jobs that came. Times
are monotonic seconds. Everything here decides and does nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from operator import attrgetter

from millhand.job import JobRow
from millhand.store.job_fetch import PRIORITIES, START, FetchStart, Floors

# What a single insert takes that others hold up. At 10,000 jobs a second these are 500 dead jobs, which take 0.04 ms.
SLACK_SECONDS_SHORT = 0.05
SLACK_SECONDS = 2.0
SLACK_EVERY_SECONDS = 0.25
# As often as a queue is polled: whatever held up two fetches in a row need not be dead rows, and may be over.
RECHECK_SECONDS_MIN = 1.0
RECHECK_SECONDS_MAX = 30.0
RECHECK_SHARE = 50.0
# More than a fetch takes where nothing is in its way; to be wrong with it does no harm, above floors it is as quick.
SLOW_SECONDS = 0.003
SLOW_SECONDS_PER_JOB = 20e-6
# The first one on a connection is, for it has to be planned, and so is one that others held up.
SLOW_TIMES = 2
# Hardly ever of itself: what was in the way once will be there again, and cost as much.
VERY_SLOW_SECONDS = 0.01
_ATTEMPTED_AT, _PRIORITY = attrgetter("attempted_at"), attrgetter("priority")
_BEGINNING = datetime.min.replace(tzinfo=UTC)


class FetchStarts:
    """
    What a producer knows of the order of its queue; `began_at` was the database's instant at the time `now`.

    Concurrency: belongs to one producer, whose fetches come one after the other.
    """

    def __init__(self, began_at: datetime, now: float) -> None:
        self._at = began_at
        self._at_time = now
        self._floors = START
        self._checked_time = now
        self._num_slow = 0  # fetches from the start, in a row; one that was very slow counts for all
        self._slack_time = now  # when a fetch has last looked at what may be late
        self._has_looked_shortly = False  # whether the last one has looked at the last 50 ms only
        self._slow_seconds = 0.0  # what it took since then to look at priorities from their start

    @property
    def recheck_at(self) -> float | None:
        """When to look at the start, or below the floors, again, whoever rings; None while a poll is soon enough."""
        if self._num_slow < SLOW_TIMES:
            return None
        start_at = self._start_at()
        return min(start_at, self._slack_time + SLACK_EVERY_SECONDS) if self._has_looked_shortly else start_at

    def _start_at(self) -> float:
        pause = min(max(self._slow_seconds * RECHECK_SHARE, RECHECK_SECONDS_MIN), RECHECK_SECONDS_MAX)
        return self._checked_time + pause

    def asked(self, now: float) -> Floors | None:
        """Return what the next fetch is to look above; None: it is to begin at the start."""
        return None if self._num_slow < SLOW_TIMES or now >= self._start_at() else self._floors

    def slack_seconds(self, now: float) -> float:
        """Return how far before the next fetch its floors are to lie at least."""
        return SLACK_SECONDS if self._is_long_look_due(now) else SLACK_SECONDS_SHORT

    def _is_long_look_due(self, now: float) -> bool:
        return now >= self._slack_time + SLACK_EVERY_SECONDS

    def record_fetched(
        self, asked: Floors | None, jobs: Sequence[JobRow], *, limit: int, sent: float, answered: float
    ) -> None:
        """Take note of what a fetch has brought that looked above `asked`; it was sent and answered at these times."""
        at = self._instant(jobs, sent)
        if jobs:
            self._at, self._at_time = at, answered
        self._has_looked_shortly = asked is not None and not self._is_long_look_due(sent)
        if not self._has_looked_shortly:
            self._slack_time = sent
        seconds = answered - sent
        if asked is None:
            self._checked_time, self._slow_seconds = answered, 0.0
            over_seconds = seconds - SLOW_SECONDS_PER_JOB * len(jobs)
            if over_seconds > VERY_SLOW_SECONDS:
                self._num_slow = SLOW_TIMES
            else:
                self._num_slow = min(self._num_slow + 1, SLOW_TIMES) if over_seconds > SLOW_SECONDS else 0
        if self._num_slow < SLOW_TIMES:
            return
        floors = risen(asked or START, jobs, is_cut=len(jobs) >= limit, at=at)
        if asked is None or _has_begun(asked, floors):
            self._slow_seconds += seconds
        self._floors = floors

    def _instant(self, jobs: Sequence[JobRow], sent: float) -> datetime:
        """Return an instant of the database's no later than that of the fetch."""
        known = [*filter(None, map(_ATTEMPTED_AT, jobs))]
        return min(known) if known else self._at + timedelta(seconds=sent - self._at_time)


def _has_begun(asked: Floors, floors: Floors) -> bool:
    """Return whether a priority was looked at from its start."""
    return any(before is None and after is not None for before, after in zip(asked, floors, strict=True))


def risen(floors: Floors, jobs: Sequence[JobRow], *, is_cut: bool, at: datetime) -> Floors:
    """
    Return the floors after a fetch above `floors` that brought `jobs`, in their order, at an instant.

    `is_cut` says that there may be more: then priorities after that of the last job were not looked at.
    """
    last = {  # the last of each counts
        priority: FetchStart(job.scheduled_at, job.id)
        for priority, job in dict(zip(map(_PRIORITY, jobs), jobs, strict=True)).items()
    }
    cut = (jobs[-1].priority if jobs else 0) if is_cut else len(PRIORITIES) + 1
    first, second, third, fourth = (
        _risen(floors[priority - 1], last.get(priority), at)
        if priority < cut
        else _known(last.get(priority, floors[priority - 1]))
        for priority in PRIORITIES
    )
    return first, second, third, fourth


def _risen(floor: FetchStart | None, last: FetchStart | None, at: datetime) -> FetchStart | None:
    """Return the floor of a priority in which a fetch at the instant `at` has left nothing due."""
    return max(place for place in (floor, last, FetchStart(at, 0)) if place is not None)


def _known(place: FetchStart | None) -> FetchStart | None:
    """Return a place, or None if it is only known to lie before the calendar's beginning, as which it was read."""
    return place if place is None or place.at > _BEGINNING else None
