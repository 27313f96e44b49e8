"""
Says of this client that it is there, again and again, in its row of `millhand_client`.

Rule 1: one statement a report, whatever number of jobs; a report that fails is soon followed by the next one, for who
        is silent for long is given up.
Rule 2: a row belongs to a life: the instant of the first report, by the database's clock. A client that ends marks its
        own row only, and one that finds another's life in its row tells that its name is taken.
Rule 3: where the tables are not there, or not for us, the client works all the same. That is told once, and looked after
        as often as a report would have been made: they may be made while we run. Where they are refused to a client that
        has reported before, others may give it up, and nobody tells it: `on_refused` looks after what it is at.

Rule 4: others may have given us up meanwhile, because our process or our way to the database stood still. The report
        that comes after it learns of that, and tells `on_lost`: what was fetched before is not ours any more.

Rule 5: while the client leads, its reports go on errands, and are made a little sooner for that; errands.py has the rules.

    is_known       whether the fleet can see us; whoever needs that hears of each change by `on_known`
    steady_since   since when each of our reports was made in time; who has seen that may judge the silence of others

Concurrency: belongs to one event loop. `on_known`, `on_lost` and `on_time` are called on it, and must not block.
`on_time` is told of each report when it was made by the database's clock, asked and answered by the monotonic one.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from millhand.client_row import DEAD_AFTER_HEARTBEATS, DEAD_GRACE
from millhand.clock import Clock, backoff_seconds
from millhand.driver.protocol import Executor
from millhand.errors import DriverError, MillhandError
from millhand.job import ClientId
from millhand.runtime.errands import BEAT_SECONDS, Errands
from millhand.runtime.outage import level_of
from millhand.runtime.service import Service, WakeReason
from millhand.store.client import (
    FOREIGN_WITHIN,
    ClientHeartbeatParams,
    HeartbeatResult,
    client_get_shape,
    client_heartbeat,
    client_stop,
)
from millhand.store.client_errand import client_report_on_errands
from millhand.version import VERSION

logger = logging.getLogger(__name__)

# So that a report whose answer is lost is followed by another one in good time.
STATEMENT_SECONDS = 3.0
FIRST_BACKOFF_SECONDS = 0.5
# A process that is told to stop must stop; its row is taken for silent then.
STOP_SECONDS = 2.0
MIGRATION_VERSION = 5
# No such table, column or schema; and not for us.
_UNUSABLE = frozenset({"42P01", "42703", "3F000", "42501"})


class QueueUse(msgspec.Struct, frozen=True):
    """How a client uses a queue: how many jobs at once, and when it touched the queue's row, by that row."""

    max_workers: int
    updated_at: datetime | None


class ClientHeartbeat(Service):
    """
    Reports for one client every `interval`, and when rung; `queues` is asked each time.

    The first report is made before `start` returns, which fails with it: who works and is known to nobody would not be
    missed. `has_session` says that no pooler stands between, so that the database sees the end of this process.
    """

    def __init__(
        self,
        pool: Executor,
        client_id: ClientId,
        *,
        clock: Clock,
        has_session: bool = True,
        interval: timedelta,
        kinds: Sequence[str],
        on_known: Callable[[], None],
        queues: Callable[[], Mapping[str, QueueUse]],
        on_lost: Callable[[datetime], None] = lambda _: None,
        on_refused: Callable[[], Awaitable[None]] | None = None,
        on_time: Callable[[datetime, float, float], None] = lambda *_: None,
    ) -> None:
        super().__init__()
        self._began = 0.0
        self._client_id = client_id
        self._clock = clock
        self._has_session = has_session
        self._has_told = False
        self._interval = interval
        self._is_taken = False
        self._kinds = kinds
        self._lost_at: datetime | None = None
        self._num_failures = 0
        self._on_known = on_known
        self._on_lost = on_lost
        self._on_refused = on_refused
        self._on_time = on_time
        self._patience = DEAD_AFTER_HEARTBEATS * interval + DEAD_GRACE
        self._pool = pool
        self._queue_updates: dict[str, datetime] = {}
        self._queues = queues
        self._seen_at: datetime | None = None
        self._started_at: datetime | None = None
        self.errands: Errands | None = None  # of a client that may lead
        self.is_known = False
        self.steady_since: datetime | None = None

    async def run(self, started: Callable[[], None]) -> None:
        self._began = self._clock.monotonic()
        self._started_at = None
        await self._look_or_report()
        started()
        while await self.wake_event.wait(self._pause_seconds()) is not WakeReason.STOP:
            await self.run_once()
        await self._mark_stopped()

    def _pause_seconds(self) -> float:
        interval = self._interval.total_seconds()
        if not self._num_failures:
            has_errands = self.errands is not None and self.errands.wanted() is not None
            return min(interval, BEAT_SECONDS) if has_errands else interval
        return backoff_seconds(self._num_failures, first=FIRST_BACKOFF_SECONDS, ceiling=interval)

    async def run_once(self) -> None:
        """Make one report, or look whether one could be made; what fails is tried again."""
        try:
            await self._look_or_report()
        except MillhandError as error:
            self._failed(error)

    async def _look_or_report(self) -> None:
        try:
            if self.is_known or await self._pool.run(client_get_shape().within(STATEMENT_SECONDS)):
                await self._report()
            else:
                self._set_unknown("the tables are not there")
        except DriverError as error:
            if error.sqlstate not in _UNUSABLE:
                raise
            self._set_unknown(error.reason)
            if self._started_at is not None and self._on_refused is not None:
                await self._on_refused()

    async def _report(self) -> None:
        uses = self._queues()
        self._record_updates(uses)
        report = ClientHeartbeatParams(
            id=self._client_id,
            has_session=self._has_session,
            hostname=socket.gethostname(),
            kinds=self._kinds,
            pid=os.getpid(),
            queue_updates=self._queue_updates,
            queues={name: use.max_workers for name, use in uses.items()},
            heartbeat_interval=self._interval,
            version=VERSION,
        )
        asked = self._clock.monotonic()
        reported = await self._say(report, asked)
        self._on_time(reported.seen_at, asked, self._clock.monotonic())
        self._look_for_twin(reported.before_at)
        self._record_lost(reported.lost_at, reported.seen_at)
        self._record_seen(reported.seen_at)
        self._started_at = reported.started_at
        self._queue_updates = reported.queue_updates
        self._num_failures = 0
        self._set_known()
        self.probe("reported", reported)

    async def _say(self, report: ClientHeartbeatParams, asked: float) -> HeartbeatResult:
        """Report, with an errand if there is one."""
        # Not younger than it is: the tables may have been made while it ran.
        age = timedelta(seconds=asked - self._began)
        errand = None if self.errands is None else self.errands.wanted()
        if self.errands is None or errand is None:
            query = client_heartbeat(report, started_at=self._started_at, age=age)
            return await self._pool.run(query.within(STATEMENT_SECONDS))
        combined = client_report_on_errands(report, errand, started_at=self._started_at, age=age)
        try:
            reported, done = await self._pool.run(combined.within(STATEMENT_SECONDS))
        except MillhandError:
            self.errands.rest()
            raise
        self.errands.hear(errand, done, asked)
        return reported

    def _record_lost(self, lost_at: datetime | None, seen_at: datetime) -> None:
        """
        Tell if we were given up since the last report; what a life before ours lost is none of our business.

        While we were still silent, others gave back what we had fetched since, too, but for the last of it.
        """
        is_news = lost_at is not None and lost_at != self._lost_at and self._started_at is not None
        self._lost_at = lost_at
        if is_news and lost_at is not None:
            logger.warning("client was declared dead", extra={"client_id": self._client_id})
            self._on_lost(max(lost_at, seen_at - self._patience))

    def _record_seen(self, seen_at: datetime) -> None:
        """Keep since when reports were made in time; one that failed, was late or went back in time begins anew."""
        gap = timedelta(0) if self._seen_at is None else seen_at - self._seen_at
        is_in_time = timedelta(0) <= gap <= self._patience
        if self.steady_since is None or not is_in_time:
            self.steady_since = seen_at
        self._seen_at = seen_at

    def _record_updates(self, uses: Mapping[str, QueueUse]) -> None:
        """Own up to what was touched, and for a while to what is worked no longer."""
        horizon = self._clock.now() - 2 * FOREIGN_WITHIN
        kept = {name: at for name, at in self._queue_updates.items() if at > horizon or name in uses}
        touched = {name: use.updated_at for name, use in uses.items() if use.updated_at is not None}
        self._queue_updates = kept | touched

    def _look_for_twin(self, before_at: datetime | None) -> None:
        """Tell, once, if somebody else reports under our name: the row is then not ours alone."""
        is_taken = self._started_at is not None and before_at not in (None, self._started_at)
        if is_taken and not self._is_taken:
            logger.warning("client id used twice", extra={"client_id": self._client_id})
            self.probe("taken")
        self._is_taken |= is_taken

    async def _mark_stopped(self) -> None:
        if self._started_at is None or not self.is_known:
            return
        query = client_stop(id=self._client_id, started_at=self._started_at)
        try:
            await self._pool.run(query.within(STOP_SECONDS))
        except MillhandError as error:
            logger.debug("client heartbeat failed", extra=self._fault(error))

    def _set_known(self) -> None:
        if not self.is_known:
            self.is_known = True
            if self._has_told:
                self._has_told = False
                logger.info("client heartbeat recovered", extra={"client_id": self._client_id})
            self._on_known()

    def _set_unknown(self, reason: str) -> None:
        # Not the end of a life: if the row is still there, others may give us up meanwhile, and we are to learn of that.
        was_known, self.is_known = self.is_known, False
        self.steady_since = None
        if not self._has_told:
            self._has_told = True
            logger.warning(
                "periodic jobs depend on who leads",
                extra={
                    "client_id": self._client_id,
                    "line": "millhand",
                    "expected": MIGRATION_VERSION,
                    "reason": reason,
                    "remedy": "run millhand migrate up, and grant its tables to this role",
                },
            )
        if was_known:
            self._on_known()
        self.probe("unknown", reason)

    def _failed(self, error: MillhandError) -> None:
        self._num_failures += 1
        self.steady_since = None
        level = level_of(error) if self._num_failures == 1 else logging.DEBUG
        logger.log(level, "client heartbeat failed", extra=self._fault(error))
        self.probe("failed", error)

    def _fault(self, error: MillhandError) -> dict[str, object]:
        return {"client_id": self._client_id, "error": str(error), "error_type": type(error).__name__}
