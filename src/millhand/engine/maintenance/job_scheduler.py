"""
Makes scheduled and retryable jobs available when they are due.

Rule 1: a pass looks one interval ahead, so that no job waits for the next pass. A job made available early keeps its
        `scheduled_at`, and fetches leave it alone until then.
Rule 2: of jobs with one unique key one becomes available and the others are discarded. The statement decides that, because
        only the database knows which job holds a key.
Rule 3: a row that cannot be written (a user's trigger raises, its page is damaged) must not block all other jobs. The
        scheduler finds it, logs it and leaves it out for a while. A statement that fails without rows too leaves none out.
Rule 4: where dead index entries make a statement slow, passes scan from the beginning of the last one. A job that becomes
        due before that, set by hand or by a slow clock, waits half a minute at most.

Source: River v0.51.2, internal/maintenance/job_scheduler.go; rules 3 and 4 are Millhand's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from millhand.core.clock import Clock
from millhand.core.errors import DriverError
from millhand.core.job import JobId
from millhand.core.log.logger import logger_of
from millhand.db.driver.protocol import Executor
from millhand.engine.error_text import error_fields
from millhand.engine.inserter import Inserter
from millhand.engine.maintenance.batch import STATEMENT_SECONDS, BatchService, BatchSize
from millhand.engine.maintenance.scan_scope import ScanStart
from millhand.engine.store.job import ScheduledJob, job_get_schedulable, job_schedule

logger = logger_of(__name__)

INTERVAL_SECONDS = 5.0
ISOLATION_SECONDS = 300.0
# A job may be committed this much later than it is due, and the next pass still finds it.
LATE = timedelta(seconds=10)
FULL_SCAN_SECONDS_MAX = 30.0

# A job due this soon is announced already: the fetch takes as long.
DUE_MARGIN = timedelta(milliseconds=5)


class JobScheduler(BatchService):
    """Schedules for all clients; `inserter` announces the queues in which jobs became due."""

    # Workers wait for these jobs, and a batch by ranges costs the database little more than its rows.
    _pause_seconds = (0.0, 0.0)

    def __init__(
        self,
        pool: Executor,
        inserter: Inserter,
        *,
        clock: Clock,
        batch_size: BatchSize | None = None,
        interval_seconds: float = INTERVAL_SECONDS,
    ) -> None:
        super().__init__(pool, clock, batch_size)
        self.interval_seconds = interval_seconds
        self._due_after: datetime | None = None
        self._has_backlog = False
        self._inserter = inserter
        self._isolated_until: dict[JobId, float] = {}
        self._pass_began = 0.0
        self._scan_start = ScanStart(clock, slack=LATE, max_seconds=FULL_SCAN_SECONDS_MAX)
        self._took_seconds = 0.0

    async def run(self, started: Callable[[], None]) -> None:
        self._scan_start.restart()
        await super().run(started)

    async def run_once(self) -> None:
        self._pass_began = self._clock.monotonic()
        self._isolated_until = {
            id: until for id, until in self._isolated_until.items() if until > self._pass_began
        }
        self._due_after = self._scan_start.begin()
        self._has_backlog = False
        await super().run_once()
        self._scan_start.end(self._took_seconds)

    def next_pause_seconds(self) -> float:
        """Return the pause that begins passes `interval_seconds` apart, as rule 1 needs."""
        return max(self.interval_seconds - (self._clock.monotonic() - self._pass_began), 0.0)

    async def run_batch(self, num_rows: int) -> int:
        by_range, self._has_backlog = self._has_backlog, False
        try:
            num_scheduled = await self._schedule(num_rows, by_range=by_range)
        except DriverError as error:
            if error.retryable or num_rows == 1:
                raise
            # This raises if the failure is no row's fault, such as a right that is missing.
            await self._schedule(0)
            logger.warning("batch not scheduled", extra={"num_jobs": num_rows, "error": str(error)})
            await self._isolate(num_rows)
            return num_rows
        self._has_backlog = num_scheduled == num_rows
        return num_rows if by_range else num_scheduled

    async def _isolate(self, num_rows: int) -> None:
        """
        Schedule the jobs before the one that cannot be written, among the next `num_rows`, and leave that one out.

        Bisection: a batch that fails contains it, a batch that succeeds lies before it. If the failure was a race that is
        over by now, no job is left out.
        """
        num_left = num_rows
        while num_left and not self.wake_event.is_stopping:
            size = max(num_left // 2, 1)
            try:
                num_scheduled = await self._schedule(size)
            except DriverError as error:
                if error.retryable:
                    raise
                if size == 1:
                    await self._leave_out_next(error)
                    return
                num_left = size
            else:
                num_left = num_left - size if num_scheduled == size else 0

    async def _leave_out_next(self, error: DriverError) -> None:
        query = job_get_schedulable(limit=1, **self._scope())
        for id in await self._pool.run(query.within(STATEMENT_SECONDS)):
            self._isolated_until[id] = self._clock.monotonic() + ISOLATION_SECONDS
            fields = {"job_id": id, "sleep_seconds": ISOLATION_SECONDS, **error_fields(error)}
            logger.error("job not schedulable", extra=fields)
            self.probe("isolated", id)

    async def _schedule(self, num_rows: int, *, by_range: bool = False) -> int:
        query = job_schedule(limit=num_rows, by_range=by_range, **self._scope())
        began = self._clock.monotonic()
        jobs = await self._pool.run(query.within(STATEMENT_SECONDS))
        self._took_seconds = self._clock.monotonic() - began
        self._announce(jobs)
        return len(jobs)

    def _announce(self, jobs: Sequence[ScheduledJob]) -> None:
        if not jobs:
            return
        due = self._clock.now() + DUE_MARGIN
        self._inserter.announce({job.queue for job in jobs if job.scheduled_at <= due})
        num_discarded = sum(job.is_discarded for job in jobs)
        logger.debug("jobs scheduled", extra={"num_jobs": len(jobs) - num_discarded})
        if num_discarded:
            logger.info("jobs discarded as duplicates", extra={"num_jobs": num_discarded})

    def _scope(self) -> dict[str, Any]:
        """Return the parameters with which both statements see the same jobs."""
        return {
            "due_after": self._due_after,
            "excluded_ids": tuple(self._isolated_until),
            "now": self._clock.now() + timedelta(seconds=self.interval_seconds),
        }
