"""
Time travel: a test's clock is moved, and what the fleet would have done meanwhile is done, without any waiting.

Time goes from instant to instant, as many as something happens at: a periodic run is due, or, where the jobs are worked
as well, a job. At each of them the leader's passes are made, the same ones, by the test's clock: old jobs are deleted,
what is due becomes available, periodic jobs are inserted.

Left out is what concerns other processes: nobody dies or is rescued, queues are known as they were, no index is rebuilt.

Source: Rails, ActiveSupport::Testing::TimeHelpers `travel, travel_to`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from millhand.client import Client
from millhand.maintenance.job_cleaner import JobCleaner
from millhand.maintenance.job_scheduler import JobScheduler
from millhand.maintenance.periodic_job_enqueuer import PeriodicJobEnqueuer
from millhand.store.job_testing import job_next_instant
from millhand.testing.client_override import override_client
from millhand.testing.clock import ManualClock
from millhand.testing.drain import Drained, drain


class TimeTravel:
    """
    A journey through time of one client; made by `time_travel`.

    The journey begins with the client as leader, so periodic jobs that run on start are inserted by its first move.
    """

    def __init__(self, client: Client, clock: ManualClock) -> None:
        self._client = client
        self._enqueuer: PeriodicJobEnqueuer | None = None
        self.clock = clock

    def now(self) -> datetime:
        """The instant at which the journey is, aware, in UTC."""
        return self.clock.now()

    async def advance(
        self,
        duration: timedelta = timedelta(0),
        /,
        *,
        weeks: float = 0,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
    ) -> None:
        """
        Let time pass while nobody works: jobs become available, periodic ones are inserted, old ones are deleted.

        Units: 24 hours are a day; clocks that are put forward or back at night are of no concern to it.
        Raises: ValueError for less than nothing.
        """
        more = timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)
        await self._pass_until(_later(self.now(), duration + more))

    async def advance_to(self, instant: datetime) -> None:
        """Let time pass, as `advance`, until an instant. Raises: ValueError for one that is past, or without a zone."""
        await self._pass_until(_ahead(self.now(), instant))

    async def work_for(
        self,
        duration: timedelta = timedelta(0),
        /,
        *queues: str,
        weeks: float = 0,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
        raise_failures: bool = False,
    ) -> Drained:
        """
        Let time pass while the client works: each job at its instant, its retries at theirs; return how they ended.

        Work takes no time here. `queues` are those that are worked, all if none is named. Raises: as `advance`; `drain`.
        """
        more = timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)
        return await self._work_until(_later(self.now(), duration + more), queues, raise_failures)

    async def work_until(self, instant: datetime, /, *queues: str, raise_failures: bool = False) -> Drained:
        """Let time pass, as `live`, until an instant. Raises: as `advance_to`; `drain`."""
        return await self._work_until(_ahead(self.now(), instant), queues, raise_failures)

    async def _pass_until(self, end: datetime) -> None:
        enqueuer = await self._begun()
        await self._sweep(enqueuer)
        while (due_at := enqueuer.next_due_at()) is not None and due_at <= end:
            await self._move(due_at, enqueuer)
        await self._move(end, enqueuer)

    async def _work_until(self, end: datetime, queues: tuple[str, ...], raise_failures: bool) -> Drained:
        enqueuer = await self._begun()
        await self._sweep(enqueuer)
        drained = await drain(self._client, *queues, raise_failures=raise_failures)
        while (instant := await self._next_instant(enqueuer, end)) is not None:
            await self._move(instant, enqueuer)
            drained += await drain(self._client, *queues, raise_failures=raise_failures)
        await self._move(end, enqueuer)
        return drained

    async def _next_instant(self, enqueuer: PeriodicJobEnqueuer, end: datetime) -> datetime | None:
        query = job_next_instant(after=self.now(), until=end)
        due = [await self._client._driver.pool.run(query), enqueuer.next_due_at()]  # noqa: SLF001 - as the client itself
        return min((instant for instant in due if instant is not None and instant <= end), default=None)

    async def _move(self, instant: datetime, enqueuer: PeriodicJobEnqueuer) -> None:
        self.clock.advance(max(instant - self.now(), timedelta(0)))
        await self._sweep(enqueuer)

    async def _sweep(self, enqueuer: PeriodicJobEnqueuer) -> None:
        """Do a leader's passes; what is old is gone before its successor is inserted."""
        config = self._client.config
        pool = self._client._driver.pool  # noqa: SLF001 - as above
        inserter = self._client._inserter  # noqa: SLF001 - as above
        cleaner = JobCleaner(
            pool,
            clock=self.clock,
            cancelled_retention=config.cancelled_job_retention,
            completed_retention=config.completed_job_retention,
            discarded_retention=config.discarded_job_retention,
        )
        await cleaner.run_once()
        await JobScheduler(pool, inserter, clock=self.clock, interval_seconds=0.0).run_once()
        await enqueuer.run_once()
        due_at = enqueuer.next_due_at()
        if due_at is not None and due_at <= self.now():
            raise AssertionError(
                f"periodic jobs must be inserted when they are due, got one that the database refused, of {due_at!r}; "
                "see the log"
            )

    async def _begun(self) -> PeriodicJobEnqueuer:
        """Return the enqueuer, which has the instants of the runs to come; begun with the journey's first move."""
        if self._enqueuer is None:
            config = self._client.config
            inserter = self._client._inserter  # noqa: SLF001 - as above
            self._enqueuer = PeriodicJobEnqueuer(
                inserter, config.periodic_jobs, clock=self.clock, hooks=config.hooks
            )
            await self._enqueuer.begin()
        return self._enqueuer


@contextlib.contextmanager
def time_travel(
    client: Client, *, tx: object | None = None, now: datetime | None = None
) -> Iterator[TimeTravel]:
    """
    Give a client a clock that stands still until it is moved, and have all that it says dated by that clock.

    It begins at `now`; None is the instant that it is by the client's own clock. With `tx`, everything that the client
    says without one of its own is part of that transaction, so a test that rolls it back leaves nothing; the client need
    not be started then. Without `tx`, what is committed is committed.

    Raises: ConfigError for a client that works jobs by itself at the moment; ValueError for an instant without a zone.
    Concurrency: one journey of a client at a time.
    """
    clock = ManualClock(client.config.clock.now() if now is None else now)
    with override_client(client, clock, tx):
        yield TimeTravel(client, clock)


def _later(now: datetime, duration: timedelta) -> datetime:
    if duration < timedelta(0):
        raise ValueError(f"time must not go back, got an advance of {duration.total_seconds():g} s")
    return now + duration


def _ahead(now: datetime, instant: datetime) -> datetime:
    if instant.tzinfo is None:
        raise ValueError(f"instant must be aware, got {instant!r}; write datetime(…, tzinfo=UTC)")
    if instant < now:
        raise ValueError(
            f"instant must not lie before {now!r}, got {instant!r}; begin there, with time_travel(now=…)"
        )
    return instant.astimezone(UTC)
