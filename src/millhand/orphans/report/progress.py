"""How far a run is, how fast, and how long it will still take: for a bar on a terminal, and for the log elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from millhand.driver.protocol import Executor
from millhand.orphans.ledger import run_list
from millhand.orphans.scan.context import Progress

LOG_EVERY = timedelta(seconds=60)
MAX_RUNS = 20  # back to which a run that saw the whole bucket is looked for

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The speed of a run, and what is left if the bucket is about as large as the last time."""

    objects_per_second: float
    remaining_seconds: float | None

    @classmethod
    def of(cls, progress: Progress, expected: int | None) -> Pace:
        """Reckon it; None is left unknown where nothing was expected, or more has come than was."""
        rate = progress.objects / progress.seconds if progress.seconds > 0 else 0.0
        is_known = (
            expected is not None and rate > 0 and progress.objects <= expected and progress.phase == "scan"
        )
        left = (expected - progress.objects) / rate if is_known and expected is not None else None
        return cls(objects_per_second=rate, remaining_seconds=left)


class ProgressLog:
    """Tells now and then how far a run is; give it to `reconcile` as `progress`."""

    def __init__(
        self,
        expected: int | None,
        *,
        every: timedelta = LOG_EVERY,
        tell: Callable[[Progress, Pace], None] | None = None,
    ) -> None:
        self._every_seconds = every.total_seconds()
        self._expected = expected
        self._next_seconds = self._every_seconds
        self._tell = tell or _log

    def __call__(self, progress: Progress) -> None:
        if progress.seconds >= self._next_seconds:
            self._next_seconds = progress.seconds + self._every_seconds
            self._tell(progress, Pace.of(progress, self._expected))


async def expected_objects(executor: Executor, bucket: str) -> int | None:
    """Return how many objects the last run saw that saw the whole bucket; None if there was none."""
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
