"""
Writes the history that the web page reads: attempts, errors and queue depths by minute, hour and day.

Rule 1: a minute is counted as a whole and written over, and its numbers never decrease. A pass that was killed, or two
        writers at once, do no harm.
Rule 2: a minute is counted ten seconds after its end. For three more minutes each pass checks whether more jobs finished in
        it, as commits may be late, and then counts it again.
Rule 3: what a pass reads has a bound: ten minutes, a sample of the jobs above 2,000 a second, 2,000 errors. After a timeout,
        a pass counts half as many minutes.
Rule 4: one writer at a time, by a claim in `millhand_history` that expires. It is the leader of role `periodic`, which takes
        the claim over; where no Millhand client leads, it is `millhand web`.
Rule 5: jobs are only read. Elections, deaths and rescues are read too, so no other service does anything for the history.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

from millhand.core.clock import Clock
from millhand.core.errors import DriverError, OperationTimeout
from millhand.core.job import ClientId, JobId
from millhand.core.sqlstate import UNUSABLE
from millhand.db.driver.protocol import Executor
from millhand.db.query import Query
from millhand.engine.maintenance.batch import STATEMENT_SECONDS
from millhand.engine.maintenance.unworked_queues import UnworkedQueues
from millhand.engine.registration import Registration
from millhand.engine.service import IntervalService
from millhand.history.error_group import ErrorCount, error_group_put_many, error_stats_count_longer
from millhand.history.fingerprint import ErrorGroupKey, group_of
from millhand.history.fleet_event import FleetEvent, FleetEventName, fleet_event_put_many
from millhand.history.job_stats import (
    LONG_ATTEMPT,
    ErrorRange,
    ErrorRow,
    Step,
    job_stats_count_failed,
    job_stats_count_longer,
    job_stats_count_minutes,
    job_stats_get_uncounted,
    stride_of,
)
from millhand.history.queue_depth import queue_depth_count_longer, queue_depth_record
from millhand.history.store import (
    COUNT_AGAIN,
    COUNT_DELAY,
    TABLES,
    HistoryClaim,
    history_begin,
    history_delete_intervals,
    history_delete_records,
    history_end,
    history_get_shape,
)

T = TypeVar("T")

MINUTE = Step.MINUTE.length
MINUTES_PER_PASS = 10
# The current hour and day are added up this often.
LONGER_PERIOD = timedelta(minutes=5)
# Without jobs, and without the tables.
IDLE_SECONDS = 120.0
# A writer that is behind rests this many times as long as its pass took.
BEHIND_SHARE = 20.0
# A job that failed may have finished this much later than the last minute of the pass.
FINISHED_LATER = timedelta(minutes=5)
DELETE_MAX = 20_000
# More groups of errors than this in one pass become one group.
GROUPS_PER_PASS = 100
OTHER_ERRORS = group_of("(other errors)")
# The loop runs between so many errors.
ERRORS_AT_ONCE = 100
JOB_IDS_MAX = 100
# The rescuers of both languages.
_RESCUE = re.compile(r"Stuck job rescued by |Job rescued by ClientRescuer: client '(?P<client>.*)' [a-z ]+\Z")


class HistoryWriter(IntervalService):
    """
    Counts each minute that ended, and records the depth of queues, as `holder`.

    A leader gives its `registration`; while that is not active, a pass does nothing. A writer without one writes only while
    no leader does. Without the tables of migrations 7 and 9, a pass does nothing.
    `on_discarded` is called in each pass with the instant of the last discard. It must not block.
    """

    interval_seconds = 60.0

    def __init__(
        self,
        pool: Executor,
        *,
        clock: Clock,
        holder: str,
        on_discarded: Callable[[datetime | None], None] | None = None,
        registration: Registration | None = None,
    ) -> None:
        super().__init__()
        self._clock = clock
        self._deleted_at: datetime | None = None
        self._holder = holder
        self._is_there = False
        self._minutes_at_once = MINUTES_PER_PASS
        self._on_discarded = on_discarded
        self._pause_seconds = IDLE_SECONDS
        self._pool = pool
        self._registration = registration
        self._unworked_queues = UnworkedQueues(pool)

    async def run(self, started: Callable[[], None]) -> None:
        self._is_there = False
        await super().run(started)

    def next_pause_seconds(self) -> float:
        return self._pause_seconds

    async def run_once(self) -> None:
        self._pause_seconds = IDLE_SECONDS
        if self._registration is not None and not self._registration.is_active:
            return
        try:
            if not self._is_there:
                self._is_there = await self._run(history_get_shape())
            if self._is_there:
                await self._claim_and_count()
                self._minutes_at_once = min(2 * self._minutes_at_once, MINUTES_PER_PASS)
        except OperationTimeout:
            self._minutes_at_once = max(1, self._minutes_at_once // 2)
            raise
        except DriverError as error:
            if error.sqlstate not in UNUSABLE:
                raise
            self._is_there = False

    async def _claim_and_count(self) -> None:
        began = self._clock.monotonic()
        claim = await self._run(history_begin(holder=self._holder, takes_over=self._registration is not None))
        if claim is None:
            self.probe("unclaimed")
            return
        if self._on_discarded is not None:
            self._on_discarded(claim.discarded_at)
        counts_to = min(claim.counts_to, claim.counted_to + self._minutes_at_once * MINUTE)
        waits = None
        if claim.has_jobs and claim.counted_to < counts_to:
            waits = await self._count(claim, counts_to)
            await self._add_up(claim.counted_to, counts_to)
        await self._delete(claim.at)
        if waits is not None and self._registration is not None:
            await self._unworked_queues.check(waits, claim.at)
        took = self._clock.monotonic() - began
        self._pause_seconds = _pause_seconds(claim, counts_to, took)
        self.probe("written", claim)

    async def _count(self, claim: HistoryClaim, counts_to: datetime) -> Mapping[str, timedelta]:
        """Count up to an instant; return how long the oldest due job of each queue has waited."""
        uncounted = await self._run(
            job_stats_get_uncounted(
                since=claim.counted_to - COUNT_AGAIN, until=counts_to, counted_to=claim.counted_to
            )
        )
        minutes = [minute.began_at for minute in uncounted]
        stride = stride_of(uncounted)
        await self._run(job_stats_count_minutes(minutes, stride=stride))
        errors = ErrorRange(
            since=min(minutes),
            until=min(claim.at, counts_to + FINISHED_LATER),
            counts_to=counts_to,
            stride=stride,
        )
        failed = await self._run(job_stats_count_failed(errors))
        if failed:
            await self._count_errors(failed)
        waits = await self._run(queue_depth_record())
        await self._run(history_end(holder=self._holder, counted_to=counts_to))
        return waits

    async def _count_errors(self, errors: list[ErrorRow]) -> None:
        groups: list[ErrorGroupKey] = []
        for place in range(0, len(errors), ERRORS_AT_ONCE):
            groups += [group_of(error.error or "") for error in errors[place : place + ERRORS_AT_ONCE]]
            await asyncio.sleep(0)
        await self._run(error_group_put_many(counted(errors, groups)))
        rescues = rescues_of(errors)
        if rescues:
            await self._run(fleet_event_put_many(rescues))

    async def _add_up(self, counted_to: datetime, counts_to: datetime) -> None:
        """Add up the longer intervals to which minutes were added; from time to time, also those of long attempts."""
        if not _has_passed(counted_to, counts_to, LONGER_PERIOD):
            await self._add_up_step(Step.TEN_MINUTES, counted_to - COUNT_AGAIN, counts_to)
            return
        for step in (Step.TEN_MINUTES, Step.HOUR, Step.DAY):
            await self._add_up_step(step, counted_to - LONG_ATTEMPT - LONGER_PERIOD, counts_to)

    async def _add_up_step(self, step: Step, since: datetime, until: datetime) -> None:
        began_ats = step.range(since, until)
        for query in (job_stats_count_longer, queue_depth_count_longer, error_stats_count_longer):
            await self._run(query(step, began_ats))

    async def _delete(self, at: datetime) -> None:
        """Delete old rows, once an hour."""
        if self._deleted_at is None or _has_passed(self._deleted_at, at, Step.HOUR.length):
            for table in TABLES:
                await self._run(history_delete_intervals(table, at=at, limit=DELETE_MAX))
            await self._run(history_delete_records(at=at, limit=DELETE_MAX))
            self._deleted_at = at

    async def _run(self, query: Query[T]) -> T:
        return await self._pool.run(query.within(STATEMENT_SECONDS))


def counted(errors: Sequence[ErrorRow], groups: Sequence[ErrorGroupKey]) -> list[ErrorCount]:
    """
    Return the errors of each group, kind and minute; `groups` has the group of each error.

    Where only a sample of a minute was read, the numbers are scaled. The smallest groups become one.
    """
    ranked = Counter(groups).most_common(GROUPS_PER_PASS)
    kept = {group for group, _ in ranked}
    members: defaultdict[tuple[ErrorGroupKey, str, datetime], list[ErrorRow]] = defaultdict(list)
    for error, group in zip(errors, groups, strict=True):
        members[group if group in kept else OTHER_ERRORS, error.kind, error.began_at].append(error)
    num_read = Counter(error.began_at for error in errors)
    return [
        ErrorCount(
            fingerprint=group.fingerprint,
            kind=kind,
            title=group.title,
            sample_job_id=max(row.job_id for row in rows),
            began_at=began_at,
            num_errors=max(1, round(len(rows) * rows[0].num_errors / num_read[began_at])),
        )
        for (group, kind, began_at), rows in members.items()
    ]


def rescues_of(errors: Iterable[ErrorRow]) -> list[FleetEvent]:
    """Return an event for each client and minute of which jobs were rescued, by the errors that rescuers write."""
    job_ids: defaultdict[tuple[datetime, ClientId], set[JobId]] = defaultdict(set)
    for error in errors:
        if match := _RESCUE.match(error.error or ""):
            job_ids[error.began_at, ClientId(match["client"] or "")].add(error.job_id)
    return [
        FleetEvent(
            at,
            FleetEventName.JOBS_RESCUED,
            client_id,
            {"num_jobs": len(ids), "job_ids": sorted(ids)[:JOB_IDS_MAX]},
        )
        for (at, client_id), ids in job_ids.items()
    ]


def _has_passed(counted_to: datetime, counts_to: datetime, period: timedelta) -> bool:
    """Return whether a multiple of `period` lies between the instants."""
    seconds = period.total_seconds()
    return counted_to.timestamp() // seconds != counts_to.timestamp() // seconds


def _pause_seconds(claim: HistoryClaim, counts_to: datetime, took_seconds: float) -> float:
    """Return the pause until the next minute may be counted, or while the writer is behind, a part of it."""
    until_next = (claim.counts_to + MINUTE + COUNT_DELAY - claim.at).total_seconds() - took_seconds
    if claim.has_jobs and counts_to < claim.counts_to:
        return max(0.0, min(took_seconds * BEHIND_SHARE, until_next))
    return max(0.0, until_next) if claim.has_jobs else IDLE_SECONDS
