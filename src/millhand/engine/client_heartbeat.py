"""
Writes this client's row in `millhand_client` at an interval, so that others can see that it lives.

Rule 1: one statement a heartbeat, whatever the number of jobs. After a failure the next heartbeat follows soon, because
        others declare a client dead that misses its heartbeats.
Rule 2: a row belongs to one life of a client, which begins at the instant of its first heartbeat by the database's clock.
        A client that stops marks its own row only. A client that finds another life in its row logs that its id is used
        twice.
Rule 3: a client works without the tables of line millhand, or without rights on them. It logs that once, and looks for the
        tables at each interval. A client that loses the rights later may be declared dead without learning of it, so
        `on_refused` then looks for jobs that others took.
        The start of a client waits for no lock on its row. Then the engine lets it fetch no job before the row is written.
Rule 4: others may declare this client dead while its process or its connection stands still. Its next heartbeat learns of
        that and calls `on_lost`: every job that was fetched before belongs to others, even one whose answer comes later.
Rule 5: each heartbeat returns a text of the migrations. If it has changed, tables may have come or gone, with their rows.

Model: models/rescue.tla, `BeatBegin` to `LateBeatCommit`.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

import msgspec

from millhand.core.client_row import DEAD_AFTER_HEARTBEATS, DEAD_GRACE
from millhand.core.clock import Clock, backoff_seconds
from millhand.core.errors import DriverError, MillhandError
from millhand.core.job import ClientId
from millhand.core.log.logger import logger_of
from millhand.core.sqlstate import UNUSABLE
from millhand.db.driver.protocol import Executor
from millhand.db.query import Query
from millhand.engine.error_text import error_fields
from millhand.engine.lock_wait import Locked, LockWaits
from millhand.engine.outage import level_of
from millhand.engine.registration import Registration
from millhand.engine.service import Service, WakeReason
from millhand.engine.store.client import (
    UNREGISTERED_WITHIN,
    ClientHeartbeatParams,
    HeartbeatResult,
    client_get_shape,
    client_heartbeat,
    client_stop,
)
from millhand.version import VERSION

T = TypeVar("T")

logger = logger_of(__name__)

# Shorter than the interval: a heartbeat whose answer is lost is followed by another one before the client counts as dead.
# The first one has the time of any statement: no leader declares a client dead that has no row, and a start that gets no
# answer fails.
STATEMENT_SECONDS = 3.0
FIRST_BACKOFF_SECONDS = 0.5
# A stop must not wait longer. Without the mark the row shows missed heartbeats instead.
STOP_SECONDS = 2.0
# With a longer interval another client could start and die before the next heartbeat of this one.
ALONE_INTERVAL_MAX = timedelta(seconds=5)
MIGRATION_VERSION = 5
# PostgreSQL's codes for: no such table, no such column, no such schema, no privilege.


class QueueUse(msgspec.Struct, frozen=True):
    """How a client uses a queue: its number of slots, and the `updated_at` that it last gave to the queue's row."""

    max_workers: int
    updated_at: datetime | None


class ClientHeartbeat(Service):
    """
    Sends the heartbeats of one client, every `interval` and whenever it is woken.

    The first heartbeat is written before `start` returns, unless its row is locked, and `start` raises if it fails: jobs of
    a client without a row would not be rescued by its death. `has_session` is False behind a connection pooler, where the
    database cannot see the end of this process. `queues` is called for each heartbeat.

    Callbacks run on the event loop and must not block: `on_registration` after `registration.is_active` changed or
    `is_waiting` ended, `on_migrated` after a migration, `on_lost` with the instant before which this client's jobs were
    given to others, `on_time` with the database's time of a heartbeat and the monotonic times of question and answer.
    `on_refused` is awaited at each interval once the role lost its rights.
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
        locks: LockWaits | None = None,
        on_registration: Callable[[], None],
        queues: Callable[[], Mapping[str, QueueUse]],
        registration: Registration,
        on_lost: Callable[[datetime], None] | None = None,
        on_migrated: Callable[[], None] | None = None,
        on_refused: Callable[[], Awaitable[None]] | None = None,
        on_time: Callable[[datetime, float, float], None] | None = None,
    ) -> None:
        super().__init__()
        self._began = 0.0
        self._client_id = client_id
        self._clock = clock
        self._dead_after = DEAD_AFTER_HEARTBEATS * interval + DEAD_GRACE
        self._has_logged_unusable = False
        self._has_session = has_session
        self._interval = interval
        self._is_id_taken = False
        self._kinds = kinds
        self._locks = LockWaits(pool) if locks is None else locks
        self._lost_at: datetime | None = None
        self._migrations: str | None = None  # as the last heartbeat returned it
        self._num_failures = 0
        self._on_lost = on_lost
        self._on_migrated = on_migrated
        self._on_refused = on_refused
        self._on_registration = on_registration
        self._on_time = on_time
        self._pool = pool
        self._queue_updates: dict[str, datetime] = {}
        self._queues = queues
        self._registration = registration
        self._seen_at: datetime | None = None
        self._started_at: datetime | None = None
        self.is_waiting = (
            False  # whether another session holds the lock of the row that this life of the client needs
        )

    async def run(self, started: Callable[[], None]) -> None:
        self._began = self._clock.monotonic()
        self._started_at = None
        try:
            await self._beat_if_possible()
        except Locked as error:
            self.is_waiting = True
            self._record_failed(error)
        started()
        while await self.wake_event.wait(self._pause_seconds()) is not WakeReason.STOP:
            await self.run_once()
        await self._mark_stopped()

    def _pause_seconds(self) -> float:
        interval = self._interval.total_seconds()
        if not self._num_failures:
            return interval
        return backoff_seconds(self._num_failures, first=FIRST_BACKOFF_SECONDS, ceiling=interval)

    async def run_once(self) -> None:
        """Write one heartbeat, or check whether the tables are there by now; log a failure."""
        try:
            await self._beat_if_possible()
        except MillhandError as error:
            self._record_failed(error)

    async def _beat_if_possible(self) -> None:
        try:
            if self._registration.is_active or await self._pool.run(
                self._within_deadline(client_get_shape())
            ):
                await self._beat()
            else:
                self._deactivate("the tables are not there")
        except DriverError as error:
            if error.sqlstate not in UNUSABLE:
                raise
            self._deactivate(error.reason)
            if self._started_at is not None and self._on_refused is not None:
                await self._on_refused()

    async def _beat(self) -> None:
        params = self._params()
        asked = self._clock.monotonic()
        # The age at the first heartbeat: the tables may have been created while this client ran.
        age = timedelta(seconds=asked - self._began)
        query = client_heartbeat(params, started_at=self._started_at, age=age)
        run = self._pool.run if self._started_at else self._locks.run
        result = await run(self._within_deadline(query))
        answered = self._clock.monotonic()
        if self._on_time is not None:
            self._on_time(result.seen_at, asked, answered)
        self._check_id(result.previous_started_at)
        self._check_lost(result, took=timedelta(seconds=answered - asked))
        self._record_seen(result.seen_at)
        self._started_at = result.started_at
        self._queue_updates = result.queue_updates
        self._num_failures = 0
        self._registration.is_alone = result.is_alone and self._interval <= ALONE_INTERVAL_MAX
        self._activate()
        self._record_migrations(result.migrations)
        self.probe("heartbeat", result)

    def _within_deadline(self, query: Query[T]) -> Query[T]:
        return query if self._started_at is None else query.within(STATEMENT_SECONDS)

    def _params(self) -> ClientHeartbeatParams:
        uses = self._queues()
        self._record_updates(uses)
        return ClientHeartbeatParams(
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

    def _check_lost(self, result: HeartbeatResult, took: timedelta) -> None:
        """Call `on_lost` if others declared this life of the client dead since the last heartbeat."""
        lost_at, seen_at = result.lost_at, result.seen_at
        is_news = lost_at is not None and lost_at != self._lost_at and self._started_at is not None
        self._lost_at = lost_at
        if is_news and lost_at is not None:
            logger.warning("client was declared dead", extra={"client_id": self._client_id})
            # Jobs fetched after `lost_at`, while no heartbeat came, were given to others as well; the newest were not.
            # Others gave them until the heartbeat was committed, which is up to `took` after `seen_at`.
            if self._on_lost is not None:
                self._on_lost(max(lost_at, seen_at + took - self._dead_after))

    def _record_seen(self, seen_at: datetime) -> None:
        """Restart `steady_since` at this heartbeat if the one before it failed, came late or lies in the future."""
        gap = timedelta(0) if self._seen_at is None else seen_at - self._seen_at
        is_in_time = timedelta(0) <= gap <= self._dead_after
        if self._registration.steady_since is None or not is_in_time:
            self._registration.steady_since = seen_at
        self._seen_at = seen_at

    def _record_updates(self, uses: Mapping[str, QueueUse]) -> None:
        """Remember the queue rows this client updated, including recently removed queues."""
        horizon = self._clock.now() - 2 * UNREGISTERED_WITHIN
        kept = {name: at for name, at in self._queue_updates.items() if at > horizon or name in uses}
        updated = {name: use.updated_at for name, use in uses.items() if use.updated_at is not None}
        self._queue_updates = kept | updated

    def _check_id(self, previous_started_at: datetime | None) -> None:
        is_taken = self._started_at is not None and previous_started_at not in (None, self._started_at)
        if is_taken and not self._is_id_taken:
            logger.warning("client id used twice", extra={"client_id": self._client_id})
            self.probe("id taken")
        self._is_id_taken |= is_taken

    async def _mark_stopped(self) -> None:
        if self._started_at is None or not self._registration.is_active:
            return
        query = client_stop(id=self._client_id, started_at=self._started_at)
        try:
            await self._pool.run(query.within(STOP_SECONDS))
        except MillhandError as error:
            fields = {"client_id": self._client_id, **error_fields(error)}
            logger.debug("client heartbeat failed", extra=fields)

    def _record_migrations(self, migrations: str) -> None:
        is_news = self._migrations not in (None, migrations)
        self._migrations = migrations
        if is_news and self._on_migrated is not None:
            self._on_migrated()

    def _activate(self) -> None:
        self.is_waiting = False
        if self._registration.is_active:
            return
        self._registration.is_active = True
        if self._has_logged_unusable:
            self._has_logged_unusable = False
            logger.info("client heartbeat recovered", extra={"client_id": self._client_id})
        self._on_registration()

    def _deactivate(self, reason: str) -> None:
        # `_started_at` stays: others may declare this life dead if the row is still there, and a heartbeat must see that.
        was_active, self._registration.is_active = self._registration.is_active, False
        was_waiting, self.is_waiting = self.is_waiting, False
        self._clear_observations()
        if not self._has_logged_unusable:
            self._has_logged_unusable = True
            logger.warning(
                "client not registered",
                extra={
                    "client_id": self._client_id,
                    "line": "millhand",
                    "expected": MIGRATION_VERSION,
                    "reason": reason,
                    "remedy": "run millhand migrate up, and grant its tables to this role",
                },
            )
        if was_active or was_waiting:
            self._on_registration()
        if was_active and self._on_migrated is not None:
            self._on_migrated()
        self.probe("inactive", reason)

    def _record_failed(self, error: MillhandError) -> None:
        self._num_failures += 1
        self._clear_observations()
        level = level_of(error) if self._num_failures == 1 else logging.DEBUG
        fields = {"client_id": self._client_id, **error_fields(error)}
        logger.log(level, "client heartbeat failed", extra=fields)
        self.probe("failed", error)

    def _clear_observations(self) -> None:
        self._registration.is_alone = False
        self._registration.steady_since = None
