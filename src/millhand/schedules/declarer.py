"""
Writes the schedules that the code of a client declares.

Rule 1: it writes them at the start, after each migration, and each hour, so that they do not seem removed.
Rule 2: a schedule whose row another transaction has locked is declared later. The leader runs the row that is there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from millhand.core.clock import backoff_seconds
from millhand.core.errors import ConfigError, DriverError, MillhandError
from millhand.core.log.logger import logger_of
from millhand.core.schedule import JobSchedule
from millhand.db.driver.protocol import Executor
from millhand.engine.error_text import error_fields
from millhand.engine.lock_wait import AGAIN_SECONDS_MAX, Locked, LockWaits
from millhand.engine.service import IntervalService, WakeReason
from millhand.schedules.control import declare_schedules

logger = logger_of(__name__)

STATEMENTS = ("schedule_lock", "schedule_insert_missing", "schedule_set_declared_at", "schedule_update")


class ScheduleDeclarer(IntervalService):
    """Declares the schedules of one client."""

    interval_seconds = 3_600.0

    def __init__(self, pool: Executor, schedules: Sequence[JobSchedule], *, locks: LockWaits) -> None:
        super().__init__()
        self._locks = locks
        self._logged: set[str] = set()
        self._num_locked = 0
        self._pool = pool
        self._schedules = schedules

    async def run(self, started: Callable[[], None]) -> None:
        """Declare before the start ends, except what is locked. Raises: ConfigError without the table."""
        try:
            await self._declare(self._schedules)
        except Locked:  # the next pass finds which one
            self.wake_event.set()
        started()
        num_failures = 0
        while await self.wake_event.wait(self._pause_seconds(num_failures)) is not WakeReason.STOP:
            num_failures = 0 if await self.try_pass() else num_failures + 1

    def declare_again(self) -> None:
        """Declare soon: a migration may have dropped the schedules."""
        self.wake_event.set()

    async def run_once(self) -> None:
        """Declare one schedule after the other. Log which is locked, or that there is no table."""
        is_locked = False
        for schedule in self._schedules:
            if self.wake_event.is_stopping:
                return
            try:
                await self._declare([schedule])
            except Locked as error:
                is_locked = True
                self._log_undeclared(schedule, error)
            except ConfigError as error:
                self._log_undeclared(schedule, error)
                break  # until a migration, which is followed by `declare_again`
            else:
                self._logged.discard(schedule.id)
        self._num_locked = self._num_locked + 1 if is_locked else 0

    async def _declare(self, schedules: Sequence[JobSchedule]) -> None:
        try:
            changed = await self._locks.unless_locked(
                partial(declare_schedules, self._pool, schedules), STATEMENTS
            )
        except DriverError as error:
            if not error.is_missing:
                raise
            raise ConfigError(
                "schedules need version 11 of line 'millhand', got a database without it; run: millhand migrate up"
            ) from error
        for id in changed:
            logger.info("schedule declared", extra={"schedule_id": id})

    def _pause_seconds(self, num_failures: int) -> float:
        if num_failures:
            return backoff_seconds(num_failures)
        if self._num_locked:
            return backoff_seconds(self._num_locked, first=0.25, ceiling=AGAIN_SECONDS_MAX)
        return self.interval_seconds

    def _log_undeclared(self, schedule: JobSchedule, error: MillhandError) -> None:
        self.probe("undeclared", schedule.id)
        if schedule.id not in self._logged:
            self._logged.add(schedule.id)
            fields = {"schedule_id": schedule.id, **error_fields(error)}
            logger.warning("schedule not declared yet", extra=fields)
