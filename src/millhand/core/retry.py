"""Retry policies: when a failed job is attempted again."""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol

from millhand.core.job import JobRow
from millhand.core.log.logger import logger_of

logger = logger_of(__name__)

# The longest duration in Go, 2^63 - 1 nanoseconds, cut to whole microseconds: about 292 years.
DELAY_MAX = timedelta(microseconds=(2**63 - 1) // 1000)
JITTER_FRACTION = 0.1


class RetryPolicy(Protocol):
    """Decides when a failed job is due again; for all workers of a client, or for one worker."""

    def next_retry_at(self, job: JobRow, *, now: datetime) -> datetime:
        """
        Return the aware instant of the next attempt of `job`. Its `errors` do not contain the current failure yet.

        Concurrency: called on the event loop; must not block.
        """
        ...


class DefaultRetryPolicy:
    """
    Waits n⁴ seconds ± 10 % after the n-th failure: 1 s, 16 s, 81 s, 4 min, 10 min … three weeks in all until the 25th.

    n counts stored errors and not attempts, so a snoozed or interrupted attempt does not lengthen the wait.

    Args:
        random: Returns numbers in [0, 1) for the jitter. Pass your own for repeatable results.

    Source: River v0.51.2, internal/retrypolicy/default.go.
    """

    __slots__ = ("_random",)

    def __init__(self, random: Callable[[], float] = random.random) -> None:
        self._random = random

    def next_retry_at(self, job: JobRow, *, now: datetime) -> datetime:
        return add_delay(now, retry_delay(len(job.errors) + 1, self._random()))


class ConstantRetryPolicy:
    """Waits the same `delay` after every failure. Raises: ValueError if `delay` is negative."""

    __slots__ = ("delay",)

    def __init__(self, delay: timedelta) -> None:
        if delay < timedelta(0):
            raise ValueError(f"retry delay must not be negative, got {delay!r}")
        self.delay = delay

    def next_retry_at(self, job: JobRow, *, now: datetime) -> datetime:
        return add_delay(now, self.delay)


def retry_delay(nth_failure: int, jitter: float) -> timedelta:
    """Return the default policy's wait after the n-th failure, from 1; a `jitter` of 0 to 1 is -10 % to +10 %."""
    base = float(nth_failure) ** 4
    longest = DELAY_MAX.total_seconds()
    if base >= longest:
        return DELAY_MAX
    seconds = base * (1.0 - JITTER_FRACTION + 2.0 * JITTER_FRACTION * jitter)
    return DELAY_MAX if seconds >= longest else timedelta(seconds=seconds)


def checked_retry_at(policy: RetryPolicy, job: JobRow, now: datetime) -> datetime:
    """
    Return when `policy` retries `job`; log a warning and use the default policy if its answer is unusable.

    Unusable are an instant before `now`, one without a time zone, another type, and an exception. The outcome of the
    attempt must be stored whatever the policy does.
    """
    try:
        retry_at = policy.next_retry_at(job, now=now)
        problem = _problem(retry_at, now)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a user's policy may raise what a user's worker may, SystemExit too
        problem = "".join(traceback.format_exception_only(error)).strip()  # works even if `str(error)` raises
    if problem is None:
        return retry_at
    logger.warning(
        "retry policy unusable, default used",
        extra={"job_id": job.id, "kind": job.kind, "queue": job.queue, "error": problem},
    )
    return DefaultRetryPolicy().next_retry_at(job, now=now)


def _problem(retry_at: object, now: datetime) -> str | None:
    if not isinstance(retry_at, datetime):
        return f"next retry must be a datetime, got {retry_at!r}"
    if retry_at.tzinfo is None:
        return f"next retry must have a time zone, got {retry_at!r}"
    if retry_at < now:
        return f"next retry must not be before now, got {retry_at!r}"
    return None


def add_delay(now: datetime, delay: timedelta) -> datetime:
    """Return `now + delay`, or the last instant that a datetime can hold."""
    try:
        return now + delay
    except OverflowError:
        return datetime.max.replace(tzinfo=now.tzinfo)
