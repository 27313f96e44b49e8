"""When a failed job is tried again."""

from __future__ import annotations

import logging
import random
import traceback
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol

from millhand.job import JobRow

log = logging.getLogger(__name__)

# The longest delay of Go's clock, 2^63 - 1 nanoseconds, cut to whole microseconds: about 292 years.
DELAY_MAX = timedelta(microseconds=(2**63 - 1) // 1000)
JITTER_FRACTION = 0.1


class RetryPolicy(Protocol):
    """Decides when a job that failed is due again. Bring one for a client or for one worker."""

    def next_retry_at(self, job: JobRow, *, now: datetime) -> datetime:
        """
        Return the aware instant of the next attempt of `job`, whose `errors` do not hold the failure at hand.

        Concurrency: is called on the event loop and must not block.
        """
        ...


class DefaultRetryPolicy:
    """
    Wait n⁴ seconds ± 10 % after the n-th failure: 1 s, 16 s, 81 s, 4 min, 10 min … three weeks until the 25th.

    n counts stored errors and not attempts, so a snoozed or interrupted attempt does not lengthen the wait.
    `random` returns numbers in [0, 1); bring your own for results that repeat.

    Source: River v0.51.2, internal/retrypolicy/default.go.
    """

    __slots__ = ("_random",)

    def __init__(self, random: Callable[[], float] = random.random) -> None:
        self._random = random

    def next_retry_at(self, job: JobRow, *, now: datetime) -> datetime:
        return later(now, retry_delay(len(job.errors) + 1, self._random()))


class ConstantRetryPolicy:
    """Wait the same `delay` after every failure."""

    __slots__ = ("delay",)

    def __init__(self, delay: timedelta) -> None:
        if delay < timedelta(0):
            raise ValueError(f"retry delay must not be negative, got {delay!r}")
        self.delay = delay

    def next_retry_at(self, job: JobRow, *, now: datetime) -> datetime:
        return later(now, self.delay)


def retry_delay(nth_failure: int, jitter: float) -> timedelta:
    """
    Return the default policy's wait after the n-th failure, counted from 1.

    Units: `jitter` from 0.0 (10 % shorter) to 1.0 (10 % longer). The longest wait has none.
    """
    base = float(nth_failure) ** 4
    longest = DELAY_MAX.total_seconds()
    if base >= longest:
        return DELAY_MAX
    seconds = base * (1.0 - JITTER_FRACTION + 2.0 * JITTER_FRACTION * jitter)
    return DELAY_MAX if seconds >= longest else timedelta(seconds=seconds)


def checked_retry_at(policy: RetryPolicy, job: JobRow, now: datetime) -> datetime:
    """
    Ask `policy`, and fall back to the default one, with a warning, if what it says cannot be used.

    An instant before `now`, one without a zone, something else, or an exception: a policy's mistake must not cost the
    job its attempt's outcome.
    """
    try:
        retry_at = policy.next_retry_at(job, now=now)
        fault = _fault(retry_at, now)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a user's policy may raise what a user's worker may, SystemExit too
        fault = "".join(traceback.format_exception_only(error)).strip()  # which bears a text that raises
    if fault is None:
        return retry_at
    log.warning(
        "retry policy unusable, default used",
        extra={"job_id": job.id, "kind": job.kind, "queue": job.queue, "error": fault},
    )
    return DefaultRetryPolicy().next_retry_at(job, now=now)


def _fault(retry_at: object, now: datetime) -> str | None:
    if not isinstance(retry_at, datetime):
        return f"next retry must be a datetime, got {retry_at!r}"
    if retry_at.tzinfo is None:
        return f"next retry must have a time zone, got {retry_at!r}"
    if retry_at < now:
        return f"next retry must not be before now, got {retry_at!r}"
    return None


def later(now: datetime, delay: timedelta) -> datetime:
    try:
        return now + delay
    except OverflowError:
        return datetime.max.replace(tzinfo=now.tzinfo)
