"""
Makes jobs available whose time has come.

Rule 1: a pass looks one interval ahead, so that no job waits for the next one. A job made available early keeps its
        instant, and the fetch holds it until then.
Rule 2: of jobs with one unique key one goes on and the others are discarded; the statement decides, for only the
        database knows who holds a key.
Rule 3: a row that cannot be written (a trigger of the user's refuses it, its page is damaged) must not keep all others
        from being scheduled. It is searched for, logged, and left out for a while.
Rule 4: where a look is slow, for dead entries of the index that an old snapshot keeps, passes look from the beginning of
        the last one on. What comes to be due before that, by a hand or a clock that is slow, waits half a minute at most.
Rule 5: a pass that would find nothing is left out. Others look ahead for it, as often as it would pass: what they have
        not said, that nothing will be due in the time of a pass, it finds out itself, and so it does once a minute.

Source: River v0.51.2, internal/maintenance/job_scheduler.go; rules 3 to 5 are ours.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from millhand.clock import Clock
from millhand.driver.protocol import Executor
from millhand.errors import DriverError
from millhand.job import JobId
from millhand.maintenance.batch import STATEMENT_SECONDS, BatchService, BatchSize
from millhand.maintenance.pace import Behind
from millhand.runtime.inserter import Inserter
from millhand.store.job import ScheduledJob, job_get_schedulable, job_schedule

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 5.0
ISOLATION_SECONDS = 300.0
# A job that was written, or committed, so much later than it was due is seen at once all the same.
LATE = timedelta(seconds=10)
WHOLE_SECONDS_MAX = 30.0

# How far others look ahead: beyond what a pass does, by the time between two of their looks, and by what these may take.
AHEAD_SECONDS = INTERVAL_SECONDS + 6.0
# They must not be held up by it.
QUICK_SECONDS = 0.05
LEFT_OUT_SECONDS_MAX = 60.0

# A job that is due in a moment is worth announcing: the fetch takes as long.
DUE = timedelta(milliseconds=5)


class JobScheduler(BatchService):
    """Schedules for all clients; `inserter` announces the queues in which jobs became due."""

    def __init__(
        self,
        pool: Executor,
        inserter: Inserter,
        *,
        clock: Clock,
        batch_size: BatchSize | None = None,
        interval_seconds: float = INTERVAL_SECONDS,
        isolation_seconds: float = ISOLATION_SECONDS,
    ) -> None:
        super().__init__(batch_size or BatchSize(clock))
        self.interval_seconds = interval_seconds
        self._behind = Behind(clock, slack=LATE, most_seconds=WHOLE_SECONDS_MAX)
        self._clear_until: datetime | None = None
        self._clock = clock
        self._due_after: datetime | None = None
        self._inserter = inserter
        self._isolated_until: dict[JobId, float] = {}
        self._isolation_seconds = isolation_seconds
        self._pass_began = 0.0
        self._pool = pool
        self._took_seconds = 0.0

    async def run(self, started: Callable[[], None]) -> None:
        self._behind.restart()
        self._clear_until = None
        await super().run(started)

    def look_ahead(self) -> datetime | None:
        """Return by when a job would have to be due for others to look for it; None where that is not quick."""
        if self._due_after is not None or self._took_seconds > QUICK_SECONDS:
            return None
        return self._clock.now() + timedelta(seconds=AHEAD_SECONDS)

    def on_looked(self, due_before: datetime, is_anything_due: bool) -> None:
        """Hear from somebody who has looked; pass at once if there is anything."""
        self._clear_until = None if is_anything_due else due_before
        if is_anything_due:
            self.wake_event.set()

    def _clear_seconds(self) -> float:
        """Return for how long no pass would find anything, as far as others have looked."""
        if self._clear_until is None:
            return 0.0
        seconds = (self._clear_until - self._horizon()).total_seconds()
        return min(seconds, self._pass_began + LEFT_OUT_SECONDS_MAX - self._clock.monotonic())

    async def run_once(self) -> None:
        if self._clear_seconds() > 0:
            self.probe("left out")
            return
        self._pass_began = self._clock.monotonic()
        self._isolated_until = {
            id: until for id, until in self._isolated_until.items() if until > self._pass_began
        }
        self._due_after = self._behind.begin()
        await super().run_once()
        self._behind.end(self._took_seconds)

    def next_pause_seconds(self) -> float:
        """Keep the beat: rule 1 holds from the beginning of one pass to the beginning of the next."""
        left = self.interval_seconds - (self._clock.monotonic() - self._pass_began)
        return max(left, self._clear_seconds(), 0.0)

    async def run_batch(self, num_rows: int) -> int:
        try:
            return await self._schedule(num_rows)
        except DriverError as error:
            if error.retryable or num_rows == 1:
                raise
            logger.warning("batch not scheduled", extra={"num_jobs": num_rows, "error": str(error)})
            await self._isolate(num_rows)
            return num_rows

    async def _isolate(self, num_rows: int) -> None:
        """
        Schedule the rows before the one that cannot be written, among the next `num_rows`, and leave that one out.

        Halving: whatever succeeds lies before it, whatever fails has it inside. Rows change meanwhile, and what failed
        may have been a race that is over by now; then nothing is found, and nothing is lost.
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
        query = job_get_schedulable(
            now=self._horizon(), limit=1, excluded_ids=self._excluded_ids, due_after=self._due_after
        )
        for id in await self._pool.run(query.within(STATEMENT_SECONDS)):
            self._isolated_until[id] = self._clock.monotonic() + self._isolation_seconds
            logger.error(
                "job not schedulable",
                extra={
                    "error": str(error),
                    "error_type": type(error).__name__,
                    "job_id": id,
                    "sleep_seconds": self._isolation_seconds,
                },
            )
            self.probe("isolated", id)

    async def _schedule(self, num_rows: int) -> int:
        query = job_schedule(
            now=self._horizon(), limit=num_rows, excluded_ids=self._excluded_ids, due_after=self._due_after
        )
        began = self._clock.monotonic()
        jobs = await self._pool.run(query.within(STATEMENT_SECONDS))
        self._took_seconds = self._clock.monotonic() - began
        self._announce(jobs)
        return len(jobs)

    def _announce(self, jobs: Sequence[ScheduledJob]) -> None:
        if not jobs:
            return
        due = self._clock.now() + DUE
        self._inserter.announce({job.queue for job in jobs if job.scheduled_at <= due})
        num_discarded = sum(job.is_discarded for job in jobs)
        logger.debug("jobs scheduled", extra={"num_jobs": len(jobs) - num_discarded})
        if num_discarded:
            logger.info("jobs discarded as duplicates", extra={"num_jobs": num_discarded})

    @property
    def _excluded_ids(self) -> Sequence[JobId]:
        return tuple(self._isolated_until)

    def _horizon(self) -> datetime:
        return self._clock.now() + timedelta(seconds=self.interval_seconds)
