"""Progress, speed and remaining time of a run, for a progress bar or for the log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from millhand.core.log.logger import logger_of
from millhand.db.driver.protocol import Executor
from millhand.orphans.ledger import run_list
from millhand.orphans.scan.context import Progress

LOG_EVERY = timedelta(seconds=60)
MAX_RUNS = 20  # newest runs that are searched for one that scanned the whole bucket

logger = logger_of(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The speed of a run, and the remaining time if the bucket is about as large as in the last run."""

    objects_per_second: float
    remaining_seconds: float | None

    @classmethod
    def of(cls, progress: Progress, expected: int | None) -> Pace:
        """Return the pace. The remaining time is None if `expected` is unknown or already exceeded."""
        rate = progress.objects / progress.seconds if progress.seconds > 0 else 0.0
        is_known = (
            expected is not None and rate > 0 and progress.objects <= expected and progress.phase == "scan"
        )
        left = (expected - progress.objects) / rate if is_known and expected is not None else None
        return cls(objects_per_second=rate, remaining_seconds=left)


class ProgressLog:
    """Logs the progress of a run at intervals. Pass it to `reconcile` as `progress`."""

    def __init__(
        self,
        expected: int | None,
        *,
        every: timedelta = LOG_EVERY,
        write: Callable[[Progress, Pace], None] | None = None,
    ) -> None:
        self._every_seconds = every.total_seconds()
        self._expected = expected
        self._next_seconds = self._every_seconds
        self._write = write or _log

    def __call__(self, progress: Progress) -> None:
        if progress.seconds >= self._next_seconds:
            self._next_seconds = progress.seconds + self._every_seconds
            self._write(progress, Pace.of(progress, self._expected))


async def expected_objects(executor: Executor, bucket: str) -> int | None:
    """Return the number of objects in the last complete run; None if there was none."""
    runs = await executor.run(run_list(bucket=bucket, limit=MAX_RUNS))
    return next((run.totals.objects for run in runs if run.scanned_at is not None), None)


def _log(progress: Progress, pace: Pace) -> None:
    extra: dict[str, object] = {
        "objects": progress.objects,
        "objects_per_second": round(pace.objects_per_second),
        "rows": progress.rows,
        "seconds": round(progress.seconds, 1),
    }
    if pace.remaining_seconds is not None:
        extra["remaining_seconds"] = round(pace.remaining_seconds)
    logger.info("orphan cleanup in progress", extra=extra)
