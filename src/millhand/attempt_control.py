"""
What an attempt writes of its own job inside a transaction of its worker's; `client.attempts`.

Rule: only the attempt that runs writes. One whose job was rescued, and perhaps fetched again, is refused, so that its
      transaction is rolled back and nothing is done twice.
"""

from __future__ import annotations

from collections.abc import Mapping

from millhand.clock import Clock
from millhand.driver.protocol import Driver
from millhand.job import JobRow, Json
from millhand.store.job_attempt import job_complete, job_merge_metadata


class AttemptControl:
    """For `Job.complete` and `Job.checkpoint`, which are how workers say it."""

    def __init__(self, driver: Driver, clock: Clock) -> None:
        self._clock = clock
        self._driver = driver

    async def complete(self, job: JobRow, metadata: Mapping[str, Json], *, tx: object) -> JobRow:
        """Complete a job that runs, and merge `metadata` into its own. Raises: JobNotRunning, NotFound."""
        executor = self._driver.executor(tx)
        return await executor.run(job_complete(job, metadata, now=self._clock.now()))

    async def checkpoint(self, job: JobRow, metadata: Mapping[str, Json], *, tx: object) -> JobRow:
        """Merge `metadata` into that of a job that runs. Raises: JobNotRunning, NotFound."""
        return await self._driver.executor(tx).run(job_merge_metadata(job, metadata))
