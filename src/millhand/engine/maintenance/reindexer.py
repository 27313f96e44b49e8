"""
Rebuilds the indexes of the job table, which grow with every job inserted and deleted, while the table is in use.

Rule 1: an index is rebuilt only if no artifact of an earlier rebuild is left: another rebuild may be running.
Rule 2: a rebuild that is stopped or times out leaves an invalid index behind, and every write would pay for it. The
        reindexer drops the artifacts of its own rebuilds. (River leaves them after a timeout, and then skips that index
        until an operator drops them.)
Rule 3: a role that does not own the indexes logs that once, and does not try again until it leads again.
Rule 4: a search index that is missing is off, and no fault: see `millhand migrate tune`. (River logs a warning each time.)
Rule 5: a stop cancels this statement, unlike all others of the engine: it may take minutes.

Source: River v0.51.2, internal/maintenance/reindexer.go; PostgreSQL, "REINDEX", Rebuilding Indexes Concurrently.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from millhand.core.clock import Clock
from millhand.core.errors import DriverError, OperationTimeout
from millhand.core.log.logger import logger_of
from millhand.core.periodic import Schedule
from millhand.core.sqlstate import INSUFFICIENT_PRIVILEGE
from millhand.db.driver.protocol import Executor
from millhand.db.index import (
    SEARCH_INDEXES,
    artifact_names,
    checked_index_name,
    index_drop,
    index_get_names,
    index_reindex,
)
from millhand.engine.service import IntervalService, WakeReason

logger = logger_of(__name__)

DROP_SECONDS = 15.0
NO_TIMEOUT_SECONDS = 7 * 86_400.0
REFUSED = "; no index is rebuilt by this leader: see `millhand migrate sql --grants`, or set reindexer_index_names to []"

# A timer does not notice that the date was set or that the machine slept.
PAUSE_SECONDS_MAX = 60.0


class Reindexer(IntervalService):
    """
    Rebuilds `index_names`, one after the other, at the times of `schedule`; a negative `timeout` means none.

    Raises: ConfigError in the constructor for an invalid index name.
    """

    interval_seconds = PAUSE_SECONDS_MAX

    def __init__(
        self,
        pool: Executor,
        *,
        clock: Clock,
        index_names: Sequence[str],
        schedule: Schedule,
        timeout: timedelta,
    ) -> None:
        super().__init__()
        self._clock = clock
        self._due_at: datetime | None = None
        self._index_names = tuple(map(checked_index_name, index_names))
        self._is_refused = False
        self._pool = pool
        self._schedule = schedule
        self._timeout_seconds = NO_TIMEOUT_SECONDS if timeout < timedelta(0) else timeout.total_seconds()

    async def run(self, started: Callable[[], None]) -> None:
        self._due_at = self._schedule.next(self._clock.now())
        started()
        while await self.wake_event.wait(self.next_pause_seconds()) is not WakeReason.STOP:
            if self._due_at is not None and self._due_at <= self._clock.now():
                self._due_at = self._schedule.next(max(self._due_at, self._clock.now()))
                await self.try_pass()

    def next_pause_seconds(self) -> float:
        if self._due_at is None:
            return PAUSE_SECONDS_MAX
        return min((self._due_at - self._clock.now()).total_seconds(), PAUSE_SECONDS_MAX)

    async def run_once(self) -> None:
        for name in self._index_names:
            if self.wake_event.is_stopping or self._is_refused:
                break
            names = await self._pool.run(index_get_names(name))
            if artifacts := artifact_names(name, names):
                left = ", ".join(artifacts)
                _log_skipped(name, f"{left} is left over from another rebuild; drop it if none is running")
            elif name not in names:
                if name not in SEARCH_INDEXES:
                    _log_skipped(name, "index does not exist")
            else:
                await self._reindex(name)
        self.probe("passed")

    async def _reindex(self, name: str) -> None:
        began = self._clock.monotonic()
        if await self._rebuild_unless_stopped(name):
            seconds = round(self._clock.monotonic() - began, 3)
            logger.info("index rebuilt", extra={"index": name, "seconds": seconds})
        elif not self._is_refused:
            await self._drop_artifacts(name)

    async def _rebuild_unless_stopped(self, name: str) -> bool:
        """Return whether the index was rebuilt."""
        async with asyncio.TaskGroup() as group:
            rebuild = group.create_task(self._rebuild(name))
            watch = group.create_task(self._cancel_when_stopped(rebuild))
            rebuild.add_done_callback(lambda _: watch.cancel())
        return not rebuild.cancelled() and rebuild.result()

    async def _rebuild(self, name: str) -> bool:
        self.probe("rebuilding", name)
        try:
            await self._pool.run(index_reindex(name).within(self._timeout_seconds))
        except (DriverError, OperationTimeout) as error:
            self._is_refused = getattr(error, "sqlstate", None) == INSUFFICIENT_PRIVILEGE
            _log_skipped(name, f"{error}{REFUSED if self._is_refused else ''}")
            return False
        return True

    async def _cancel_when_stopped(self, rebuild: asyncio.Task[bool]) -> None:
        while await self.wake_event.wait() is not WakeReason.STOP:
            pass
        rebuild.cancel()

    async def _drop_artifacts(self, name: str) -> None:
        try:
            names = await self._pool.run(index_get_names(name))
            for artifact in artifact_names(name, names):
                await self._pool.run(index_drop(artifact).within(DROP_SECONDS))
                logger.info("index left over dropped", extra={"index": artifact})
        except (DriverError, OperationTimeout) as error:
            _log_skipped(name, str(error))


def _log_skipped(name: str, reason: str) -> None:
    logger.warning("index not rebuilt", extra={"index": name, "reason": reason})
