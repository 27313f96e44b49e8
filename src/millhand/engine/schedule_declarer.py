"""Writes the schedules that the code of a client declares: at its start, and each hour, so that they do not seem removed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from millhand.driver.protocol import Executor
from millhand.errors import ConfigError, DriverError
from millhand.log.logger import logger_of
from millhand.runtime.service import IntervalService, WakeReason
from millhand.schedule import JobSchedule
from millhand.schedule_control import declare_schedules

logger = logger_of(__name__)

_MISSING = frozenset({"42P01", "42703", "3F000"})


class ScheduleDeclarer(IntervalService):
    """Declares the schedules of one client."""

    interval_seconds = 3_600.0

    def __init__(self, pool: Executor, schedules: Sequence[JobSchedule]) -> None:
        super().__init__()
        self._pool = pool
        self._schedules = schedules

    async def run(self, started: Callable[[], None]) -> None:
        """Declare before the start ends. Raises: ConfigError without the table."""
        await self.run_once()
        started()
        while await self.wake_event.wait(self.interval_seconds) is not WakeReason.STOP:
            await self.try_pass()

    async def run_once(self) -> None:
        try:
            changed = await declare_schedules(self._pool, self._schedules)
        except DriverError as error:
            if error.sqlstate not in _MISSING:
                raise
            raise ConfigError(
                "schedules need version 11 of line 'millhand', got a database without it; run: millhand migrate up"
            ) from error
        for id in changed:
            logger.info("schedule declared", extra={"schedule_id": id})
