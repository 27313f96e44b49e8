"""
Remembers where the jobs of a queue begin that are not fetched yet.

While a transaction keeps an old snapshot open, PostgreSQL cannot remove the index entries of fetched jobs. A fetch from the
beginning of the queue reads all these dead entries: 300,000 take 25 ms, while a fetch from a later start takes 1 ms.

    from the beginning ──▶ slow? ──no──▶ from the beginning
                             │ twice, or very slow once
                             ▼
             from the starts, which advance with each fetch ──▶ from the beginning again, every second or less often

Rule 1: while fetches from the beginning are fast, every fetch begins there, and no start is used.
Rule 2: a job that is rescued, retried, inserted late or with an old instant may come before a start. It waits for the next
        fetch from the beginning at most.
Rule 3: fetches from the beginning take at most a fiftieth of the time, but one follows every `RECHECK_SECONDS_MAX`.
Rule 4: the start of a priority is its last fetched job or, if the fetch left no due job there, the instant of the fetch.
        A job inserted before that instant may be committed after it. So each fetch also reads the last 50 ms before now,
        wherever the starts are, and four times a second a fetch reads the last two seconds.

Instants are the database's. If a fetch returned no job, its instant is computed from that of the last jobs. Times are
monotonic seconds. Everything here decides and has no effects.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from operator import attrgetter

from millhand.job import JobRow
from millhand.store.job import PRIORITIES, START, FetchStart, Starts

# Longer than one insert waits for locks. At 10,000 jobs a second this reads 500 dead entries, which takes 0.04 ms.
SLACK_SECONDS_SHORT = 0.05
SLACK_SECONDS = 2.0
SLACK_EVERY_SECONDS = 0.25
# As often as a queue is polled: something else may have delayed the fetches, and may be over.
RECHECK_SECONDS_MIN = 1.0
RECHECK_SECONDS_MAX = 30.0
RECHECK_SHARE = 50.0
# A normal fetch takes less. A wrong guess does no harm, because a fetch from the starts is as fast.
SLOW_SECONDS = 0.003
SLOW_SECONDS_PER_JOB = 20e-6
# One slow fetch proves nothing: PostgreSQL plans the first one on a connection, and another one may wait for a lock.
SLOW_TIMES = 2
# Dead entries are nearly always the cause of so slow a fetch, and the next one would be as slow.
VERY_SLOW_SECONDS = 0.01
_ATTEMPTED_AT, _PRIORITY = attrgetter("attempted_at"), attrgetter("priority")
_BEGINNING = datetime.min.replace(tzinfo=UTC)


class FetchStarts:
    """
    The starts of one queue's fetches. At the time `now`, the database's instant was `began_at`.

    Concurrency: belongs to one producer, whose fetches come one after the other.
    """

    def __init__(self, began_at: datetime, now: float) -> None:
        self._last_instant = began_at
        self._instant_time = now
        self._checked_time = now
        self._has_short_slack = False  # whether the last fetch also read the last 50 ms only
        self._num_slow = 0  # slow fetches from the beginning, in a row; a very slow one counts as SLOW_TIMES
        self._slack_time = now  # of the last fetch that also read the last two seconds
        self._slow_seconds = 0.0  # spent since the last check on reading priorities from their beginning
        self._starts = START

    @property
    def recheck_at(self) -> float | None:
        """When to fetch from the beginning or with the long slack, even without a wake-up. None: at the next poll."""
        if self._num_slow < SLOW_TIMES:
            return None
        check_at = self._check_at()
        return min(check_at, self._slack_time + SLACK_EVERY_SECONDS) if self._has_short_slack else check_at

    def _check_at(self) -> float:
        pause = min(max(self._slow_seconds * RECHECK_SHARE, RECHECK_SECONDS_MIN), RECHECK_SECONDS_MAX)
        return self._checked_time + pause

    def next_starts(self, now: float) -> Starts | None:
        """Return the starts of the next fetch, or None if it reads the queue from the beginning."""
        return None if self._num_slow < SLOW_TIMES or now >= self._check_at() else self._starts

    def slack_seconds(self, now: float) -> float:
        """Return how far back the next fetch reads at least, whatever its starts are."""
        return SLACK_SECONDS if self._is_long_slack_due(now) else SLACK_SECONDS_SHORT

    def _is_long_slack_due(self, now: float) -> bool:
        return now >= self._slack_time + SLACK_EVERY_SECONDS

    def record_fetched(
        self, asked: Starts | None, jobs: Sequence[JobRow], *, limit: int, sent: float, answered: float
    ) -> None:
        """Record a fetch from the starts `asked` that was sent and answered at these times."""
        at = self._instant(jobs, sent)
        if jobs:
            self._last_instant, self._instant_time = at, answered
        self._has_short_slack = asked is not None and not self._is_long_slack_due(sent)
        if not self._has_short_slack:
            self._slack_time = sent
        seconds = answered - sent
        if asked is None:
            self._record_checked(seconds - SLOW_SECONDS_PER_JOB * len(jobs), answered)
        if self._num_slow < SLOW_TIMES:
            return
        starts = advanced(asked or START, jobs, is_cut=len(jobs) >= limit, at=at)
        if asked is None or _was_read_from_beginning(asked, starts):
            self._slow_seconds += seconds
        self._starts = starts

    def _record_checked(self, seconds: float, now: float) -> None:
        self._checked_time, self._slow_seconds = now, 0.0
        if seconds > VERY_SLOW_SECONDS:
            self._num_slow = SLOW_TIMES
        else:
            self._num_slow = min(self._num_slow + 1, SLOW_TIMES) if seconds > SLOW_SECONDS else 0

    def _instant(self, jobs: Sequence[JobRow], sent: float) -> datetime:
        """Return an instant of the database that is no later than the fetch."""
        known = [*filter(None, map(_ATTEMPTED_AT, jobs))]
        return min(known) if known else self._last_instant + timedelta(seconds=sent - self._instant_time)


def _was_read_from_beginning(asked: Starts, starts: Starts) -> bool:
    return any(before is None and after is not None for before, after in zip(asked, starts, strict=True))


def advanced(starts: Starts, jobs: Sequence[JobRow], *, is_cut: bool, at: datetime) -> Starts:
    """
    Return the starts after a fetch from `starts` at the instant `at` that returned `jobs`, in this order.

    `is_cut` means that there may be more jobs: the fetch did not reach the priorities after that of its last job.
    """
    last = {  # of each priority
        priority: FetchStart(job.scheduled_at, job.id)
        for priority, job in dict(zip(map(_PRIORITY, jobs), jobs, strict=True)).items()
    }
    cut = (jobs[-1].priority if jobs else 0) if is_cut else len(PRIORITIES) + 1
    first, second, third, fourth = (
        _advanced(starts[priority - 1], last.get(priority), at)
        if priority < cut
        else _within_calendar(last.get(priority, starts[priority - 1]))
        for priority in PRIORITIES
    )
    return first, second, third, fourth


def _advanced(start: FetchStart | None, last: FetchStart | None, at: datetime) -> FetchStart | None:
    """Return the start of a priority in which a fetch at the instant `at` left no due job."""
    return max(place for place in (start, last, FetchStart(at, 0)) if place is not None)


def _within_calendar(place: FetchStart | None) -> FetchStart | None:
    """Return the place, or None if its instant is before Python's calendar, and was read as the first one in it."""
    return place if place is None or place.at > _BEGINNING else None
