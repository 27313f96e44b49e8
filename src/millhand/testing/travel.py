"""
Time travel: moves a client's clock, and does what clients would have done meanwhile, without waiting.

The clock stops at each instant at which a periodic job or a schedule is due and, if jobs are worked, at which any job is due
or a partition of a limit opens. At each stop, the leader's maintenance runs: it deletes old jobs, makes due jobs available,
runs schedules, goes on with flows and limits, and inserts periodic jobs.

Other maintenance does not run: no client is declared dead, no job is rescued, no index is rebuilt.

Source: Rails, ActiveSupport::Testing::TimeHelpers `travel, travel_to`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypedDict, TypeVar, Unpack

from millhand.capabilities import CAPABILITIES
from millhand.client import Client
from millhand.core.errors import DriverError
from millhand.db.query import Query
from millhand.engine.maintenance.cleaners import JobCleaner
from millhand.engine.maintenance.periodic_job_enqueuer import PeriodicJobEnqueuer
from millhand.engine.services import keepers_of
from millhand.schedules.store import schedule_get_next_seconds
from millhand.testing.client_override import override_client
from millhand.testing.clock import ManualClock
from millhand.testing.drain import Drained, drain
from millhand.testing.kit_engine import KitEngine
from millhand.testing.store import job_next_instant, limit_next_instant

if TYPE_CHECKING:
    from millhand.core.tx_types import Tx

T = TypeVar("T")


class TimeUnits(TypedDict, total=False):
    """The parts of a duration, as `timedelta` takes them."""

    weeks: float
    days: float
    hours: float
    minutes: float
    seconds: float


class TimeTravel:
    """
    Moves the clock of one client; made by `time_travel`.

    The client does the leader's work. The first move inserts periodic jobs that run on start.
    """

    def __init__(self, client: Client, clock: ManualClock) -> None:
        self._client = client
        self._enqueuer: PeriodicJobEnqueuer | None = None
        self.clock = clock

    def now(self) -> datetime:
        """Return the time of the client's clock, in UTC."""
        return self.clock.now()

    async def advance(self, duration: timedelta = timedelta(0), /, **units: Unpack[TimeUnits]) -> None:
        """
        Let time pass without working jobs. Maintenance runs: jobs become available, and periodic jobs are inserted.

        The duration is the sum of the parameters: `advance(days=1, hours=2)`. A day is 24 hours.

        Raises: ValueError if it is negative.
        """
        await self._advance_until(_add_duration(self.now(), duration + timedelta(**units)))

    async def advance_to(self, instant: datetime) -> None:
        """Let time pass until an instant, as `advance` does. Raises: ValueError for a past or naive one."""
        await self._advance_until(_checked_instant(self.now(), instant))

    async def work_for(
        self,
        duration: timedelta = timedelta(0),
        /,
        *queues: str,
        raise_failures: bool = False,
        **units: Unpack[TimeUnits],
    ) -> Drained:
        """
        Let time pass, and work each job and each retry when it is due. Return the attempts.

        The clock stands still during an attempt.

        Args:
            queues: The queues to work; all by default.
            raise_failures: Raise the first error of a worker, after its job's state is written.

        Raises: as `advance` and `drain`.
        """
        return await self._work_until(
            _add_duration(self.now(), duration + timedelta(**units)), queues, raise_failures
        )

    async def work_until(self, instant: datetime, /, *queues: str, raise_failures: bool = False) -> Drained:
        """Let time pass until an instant, as `work_for` does. Raises: as `advance_to` and `drain`."""
        return await self._work_until(_checked_instant(self.now(), instant), queues, raise_failures)

    async def _advance_until(self, end: datetime) -> None:
        enqueuer = await self._started_enqueuer()
        await self._run_maintenance(enqueuer)
        while (due_at := await self._next_periodic(enqueuer)) is not None and due_at <= end:
            await self._move_to(due_at, enqueuer)
        await self._move_to(end, enqueuer)

    async def _work_until(self, end: datetime, queues: tuple[str, ...], raise_failures: bool) -> Drained:
        enqueuer = await self._started_enqueuer()
        await self._run_maintenance(enqueuer)
        drained = await drain(self._client, *queues, raise_failures=raise_failures)
        while (instant := await self._next_instant(enqueuer, end)) is not None:
            await self._move_to(instant, enqueuer)
            drained += await drain(self._client, *queues, raise_failures=raise_failures)
        await self._move_to(end, enqueuer)
        return drained

    async def _next_instant(self, enqueuer: PeriodicJobEnqueuer, end: datetime) -> datetime | None:
        pool = self._client._driver.pool  # noqa: SLF001 - as the client itself
        due = [
            await pool.run(job_next_instant(after=self.now(), until=end)),
            await self._unless_missing(limit_next_instant(after=self.now(), until=end)),
            await self._next_periodic(enqueuer),
        ]
        return min((instant for instant in due if instant is not None and instant <= end), default=None)

    async def _next_periodic(self, enqueuer: PeriodicJobEnqueuer) -> datetime | None:
        seconds = await self._unless_missing(schedule_get_next_seconds(now=self.now()))
        due = [enqueuer.next_due_at()]
        if seconds is not None and seconds > 0:
            due.append(self.now() + timedelta(seconds=seconds))
        return min((instant for instant in due if instant is not None), default=None)

    async def _unless_missing(self, query: Query[T]) -> T | None:
        """Return what a statement returns, or None on River's tables alone."""
        try:
            return await self._client._driver.pool.run(query)  # noqa: SLF001 - as above
        except DriverError as error:
            if not error.is_missing:
                raise
            return None

    async def _move_to(self, instant: datetime, enqueuer: PeriodicJobEnqueuer) -> None:
        self.clock.advance(max(instant - self.now(), timedelta(0)))
        await self._run_maintenance(enqueuer)

    async def _run_maintenance(self, enqueuer: PeriodicJobEnqueuer) -> None:
        """Run the leader's maintenance. It deletes old jobs before it inserts the next periodic ones."""
        config = self._client.config
        pool = self._client._driver.pool  # noqa: SLF001 - as above
        cleaner = JobCleaner(
            pool,
            clock=self.clock,
            cancelled_retention=config.cancelled_job_retention,
            completed_retention=config.completed_job_retention,
            discarded_retention=config.discarded_job_retention,
            keepers=keepers_of(CAPABILITIES, config),
        )
        await cleaner.run_once()
        await KitEngine(self._client).run_leader_pass()
        await enqueuer.run_once()
        due_at = enqueuer.next_due_at()
        if due_at is not None and due_at <= self.now():
            raise AssertionError(
                f"periodic jobs must be inserted when they are due, got one that the database refused, of {due_at!r}; "
                "see the log"
            )

    async def _started_enqueuer(self) -> PeriodicJobEnqueuer:
        if self._enqueuer is None:
            config = self._client.config
            inserter = self._client._inserter  # noqa: SLF001 - as above
            self._enqueuer = PeriodicJobEnqueuer(
                inserter, config.periodic_jobs, clock=self.clock, hooks=config.hooks
            )
            await self._enqueuer.begin()
        return self._enqueuer


@contextlib.contextmanager
def time_travel(client: Client, *, tx: Tx | None = None, now: datetime | None = None) -> Iterator[TimeTravel]:
    """
    Within the block, give a client a clock that only the test moves.

    Args:
        client: It must not work jobs itself. With `tx`, it need not be started.
        tx: The test's transaction, for each statement that names no other. Without it, the client's statements commit.
        now: The aware instant at which the clock begins; by default the time of the client's own clock.

    Raises:
        ConfigError: If the client works jobs itself.
        ValueError: If `now` has no time zone.

    Concurrency: a client can have one such block at a time.
    """
    clock = ManualClock(client.config.clock.now() if now is None else now)
    with override_client(client, clock, tx):
        yield TimeTravel(client, clock)


def _add_duration(now: datetime, duration: timedelta) -> datetime:
    if duration < timedelta(0):
        raise ValueError(f"time must not go back, got an advance of {duration.total_seconds():g} s")
    return now + duration


def _checked_instant(now: datetime, instant: datetime) -> datetime:
    if instant.tzinfo is None:
        raise ValueError(f"instant must be aware, got {instant!r}; write datetime(…, tzinfo=UTC)")
    if instant < now:
        raise ValueError(
            f"instant must not be before {now!r}, got {instant!r}; begin there, with time_travel(now=…)"
        )
    return instant.astimezone(UTC)
