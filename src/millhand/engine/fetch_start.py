"""
Remembers where the jobs of a queue begin that are not fetched yet.

While a transaction keeps an old snapshot open, PostgreSQL cannot remove the index entries of fetched jobs. A fetch from the
beginning of the queue reads all these dead entries: 300,000 take 25 ms, while a fetch from a later start takes 1 ms.

    from the beginning ──▶ slow, twice or very slow once? ──no──▶ from the beginning
                             │
                             ▼
             from the beginning, counted ──▶ read much? ──no──▶ from the beginning; counted again a second later at most
                             │
                             ▼
             from the starts, which advance with each fetch ──▶ counted again, every second or less often

Rule 1: a start is used only if the last counted fetch read many blocks or entries of the index. Time alone proves nothing:
        a fetch is also slow on a busy machine, over a slow network, or while it waits for a lock.
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
from math import inf
from operator import attrgetter

from millhand.core.job import JobRow
from millhand.engine.store.job import PRIORITIES, START, CountedFetch, FetchStart, Starts

# Longer than one insert waits for locks. At 10,000 jobs a second this reads 500 dead entries, which takes 0.04 ms.
SLACK_SECONDS_SHORT = 0.05
SLACK_SECONDS = 2.0
SLACK_EVERY_SECONDS = 0.25
# As often as a queue is polled: something else may have delayed the fetches, and may be over.
RECHECK_SECONDS_MIN = 1.0
RECHECK_SECONDS_MAX = 30.0
RECHECK_SHARE = 50.0
# A normal fetch takes less. A wrong guess only has the next fetch counted.
SLOW_SECONDS = 0.003
SLOW_SECONDS_PER_JOB = 20e-6
SLOW_TIMES = 2
VERY_SLOW_SECONDS = 0.01
# As much as 3 ms of the server's CPU. A normal fetch of 1,000 jobs reads 10 blocks and 1,000 entries.
MANY_BLOCKS = 800
ENTRIES_PER_BLOCK = 20  # whose rows cost as much as a block of the index whose entries are known to be dead
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
        self._counted_time = -inf
        self._has_short_slack = False  # whether the last fetch also read the last 50 ms only
        self._is_used = False
        self._num_slow = 0  # slow fetches from the beginning, in a row; a very slow one counts as SLOW_TIMES
        self._slack_time = now  # of the last fetch that also read the last two seconds
        self._slow_seconds = 0.0  # spent since the last check on reading priorities from their beginning
        self._starts = START

    @property
    def recheck_at(self) -> float | None:
        """When to fetch from the beginning or with the long slack, even without a wake-up. None: at the next poll."""
        if not self._is_used:
            return None
        check_at = self._check_at()
        return min(check_at, self._slack_time + SLACK_EVERY_SECONDS) if self._has_short_slack else check_at

    def _check_at(self) -> float:
        pause = min(max(self._slow_seconds * RECHECK_SHARE, RECHECK_SECONDS_MIN), RECHECK_SECONDS_MAX)
        return self._checked_time + pause

    def next_starts(self, now: float) -> Starts | None:
        """Return the starts of the next fetch, or None if it reads the queue from the beginning."""
        return self._starts if self._is_used and now < self._check_at() else None

    def is_count_due(self, now: float) -> bool:
        """Return whether a fetch from the beginning must count what it reads."""
        is_suspected = self._num_slow >= SLOW_TIMES and now >= self._counted_time + RECHECK_SECONDS_MIN
        return self._is_used or is_suspected

    def slack_seconds(self, now: float) -> float:
        """Return how far back the next fetch reads at least, whatever its starts are."""
        return SLACK_SECONDS if self._is_long_slack_due(now) else SLACK_SECONDS_SHORT

    def _is_long_slack_due(self, now: float) -> bool:
        return now >= self._slack_time + SLACK_EVERY_SECONDS

    def record_counted(self, fetch: CountedFetch, *, limit: int, sent: float, answered: float) -> None:
        """Record a fetch from the beginning that counted what it read."""
        self._counted_time = answered
        self._is_used = has_read_much(fetch.num_blocks, fetch.num_entries)
        self._num_slow = 0
        self._record(None, fetch.jobs, limit=limit, sent=sent, answered=answered)

    def record_fetched(
        self, asked: Starts | None, jobs: Sequence[JobRow], *, limit: int, sent: float, answered: float
    ) -> None:
        """Record a fetch from the starts `asked` that was sent and answered at these times."""
        if asked is None:
            self._record_seconds(answered - sent - SLOW_SECONDS_PER_JOB * len(jobs))
        self._record(asked, jobs, limit=limit, sent=sent, answered=answered)

    def _record(
        self, asked: Starts | None, jobs: Sequence[JobRow], *, limit: int, sent: float, answered: float
    ) -> None:
        at = self._instant(jobs, sent)
        if jobs:
            self._last_instant, self._instant_time = at, answered
        self._has_short_slack = asked is not None and not self._is_long_slack_due(sent)
        if not self._has_short_slack:
            self._slack_time = sent
        if asked is None:
            self._checked_time, self._slow_seconds = answered, 0.0
        if not self._is_used:
            return
        starts = advanced(asked or START, jobs, is_cut=len(jobs) >= limit, at=at)
        if asked is None or _was_read_from_beginning(asked, starts):
            self._slow_seconds += answered - sent
        self._starts = starts

    def _record_seconds(self, seconds: float) -> None:
        if seconds > VERY_SLOW_SECONDS:
            self._num_slow = SLOW_TIMES
        else:
            self._num_slow = min(self._num_slow + 1, SLOW_TIMES) if seconds > SLOW_SECONDS else 0

    def _instant(self, jobs: Sequence[JobRow], sent: float) -> datetime:
        """Return an instant of the database that is no later than the fetch."""
        known = [*filter(None, map(_ATTEMPTED_AT, jobs))]
        return min(known) if known else self._last_instant + timedelta(seconds=sent - self._instant_time)


def has_read_much(num_blocks: int, num_entries: int) -> bool:
    """Return whether a fetch is slow because of what it read from its index, on any machine."""
    return num_blocks + num_entries / ENTRIES_PER_BLOCK > MANY_BLOCKS


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
