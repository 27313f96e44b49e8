"""
Counts the jobs that a client deletes when they complete, so that the history has them.

Rule 1: the numbers of a minute are written as a whole, over the ones before. A pass that is repeated counts nothing twice.
Rule 2: they are written soon enough for the history's writer, which counts a minute again until three minutes after its end.
Rule 3: a client that is killed loses the numbers since its last pass. They are numbers of a chart: jobs are never counted
        from them.
Rule 4: without the table of migration 9, nothing is counted.
"""

from __future__ import annotations

import secrets
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING

from millhand.core.errors import DriverError
from millhand.db.driver.protocol import Executor
from millhand.engine.attempt import Attempt
from millhand.engine.capability import DeletionCounter
from millhand.engine.client_metrics import by_job
from millhand.engine.pending_change import Pending
from millhand.engine.service import IntervalService
from millhand.history.histogram import BOUNDS_MS

if TYPE_CHECKING:
    from millhand.history.job_stats import JobStats

# A minute that is older than this gets no more jobs: their outcomes were kept during an outage for at most as long.
KEPT_FOR = timedelta(minutes=10)
STATEMENT_SECONDS = 2.0  # a stop waits for one statement
# PostgreSQL's codes for: no such table, no such schema, no privilege.
_UNUSABLE = frozenset({"42P01", "3F000", "42501"})

_BOUNDS = [bound / 1000 for bound in BOUNDS_MS]
_bucket = partial(bisect_right, _BOUNDS)
_ATTEMPT = attrgetter("attempt")
_FINALIZED_AT = attrgetter("change.finalized_at")
_QUEUE_WAIT_SECONDS = attrgetter("queue_wait_seconds")
_RUN_SECONDS = attrgetter("run_seconds")

_Key = tuple[datetime, str, str]  # minute, kind, queue


class DeletedJobCounter(IntervalService, DeletionCounter):
    """Counts what `add` is given, and writes it every ten seconds and when it stops."""

    interval_seconds = 10.0

    def __init__(self, pool: Executor) -> None:
        super().__init__()
        self._changed: set[_Key] = set()
        self._durations: dict[_Key, _Durations] = {}
        self._id = secrets.token_hex(8)
        self._pool = pool

    def add(self, deleted: Sequence[Pending]) -> None:
        """Add a batch. Without an instruction of Python for each job, if all are of one kind and one minute."""
        ends = [*map(_FINALIZED_AT, deleted)]
        minutes = {_minute(min(ends)), _minute(max(ends))} if ends else set()
        for minute in minutes:
            batch = (
                deleted
                if len(minutes) == 1
                else [one for one, at in zip(deleted, ends, strict=True) if _minute(at) == minute]
            )
            for (queue, kind), attempts in by_job([*map(_ATTEMPT, batch)]).items():
                key = (minute, kind, queue)
                self._durations.setdefault(key, _Durations()).add(attempts)
                self._changed.add(key)

    async def run(self, started: Callable[[], None]) -> None:
        await super().run(started)
        await self.try_pass()

    async def run_once(self) -> None:
        if not self._changed:
            return
        # Most clients delete nothing and need no import of it.
        from millhand.history.deleted_job_stats import deleted_job_stats_put_many  # noqa: PLC0415

        written = {key: self._durations[key].num for key in self._changed}
        stats = [self._durations[key].stats(*key) for key in written]
        try:
            await self._pool.run(
                deleted_job_stats_put_many(stats, counter_id=self._id).within(STATEMENT_SECONDS)
            )
        except DriverError as error:
            if error.sqlstate not in _UNUSABLE:
                raise
        self._changed = {key for key in self._changed if self._durations[key].num != written.get(key)}
        newest = max(minute for minute, _, _ in written)
        for key in [
            key for key in self._durations if key[0] < newest - KEPT_FOR and key not in self._changed
        ]:
            del self._durations[key]
        self.probe("written", stats)


class _Durations:
    """How many jobs there were, and how long they waited and ran."""

    __slots__ = ("_run_seconds", "_runs", "_wait_seconds", "_waits", "num")

    def __init__(self) -> None:
        self._run_seconds = 0.0
        self._runs = Counter[int]()
        self._wait_seconds = 0.0
        self._waits = Counter[int]()
        self.num = 0

    def add(self, attempts: Sequence[Attempt]) -> None:
        runs, waits = [*map(_RUN_SECONDS, attempts)], [*map(_QUEUE_WAIT_SECONDS, attempts)]
        self.num += len(attempts)
        self._run_seconds += sum(runs)
        self._runs.update(map(_bucket, runs))
        self._wait_seconds += sum(waits)
        self._waits.update(map(_bucket, waits))

    def stats(self, minute: datetime, kind: str, queue: str) -> JobStats:
        from millhand.history.job_stats import JobStats  # noqa: PLC0415 - as above

        return JobStats(
            began_at=minute,
            kind=kind,
            queue=queue,
            completed=self.num,
            wait_ms=round(1000 * self._wait_seconds),
            run_ms=round(1000 * self._run_seconds),
            waits=_filled(self._waits),
            runs=_filled(self._runs),
        )


def _minute(at: datetime) -> datetime:
    return at.replace(second=0, microsecond=0)


def _filled(counts: Counter[int]) -> tuple[int, ...]:
    return tuple(counts[number] for number in range(max(counts, default=-1) + 1))
