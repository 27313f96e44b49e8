"""How an attempt ended, as middleware sees it: what the worker raised, and why the attempt was cancelled."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from millhand.core.transition import Cancelled, Interrupted, Snoozed
from millhand.core.worker_job import Job
from millhand.engine.attempt import Attempt
from millhand.engine.job_executor import signalled

AttemptOutcome: TypeAlias = Literal["completed", "failed", "cancelled", "snoozed", "interrupted"]


def outcome_of(error: BaseException | None, job: Job[Any]) -> AttemptOutcome:
    """Return how an attempt ended that raised `error`; an error handler may still cancel the job of a failed one."""
    if error is None:
        return "completed"
    attempt: Attempt | None = getattr(job, "attempt_cancellation", None)  # a test may pass a plain `Job`
    try:
        signal = signalled(error, None if attempt is None else attempt.reason)
    except Exception:  # noqa: BLE001 - a user's subclass of a signal that lacks its attributes
        return "failed"
    match signal:
        case Snoozed():
            return "snoozed"
        case Interrupted():
            return "interrupted"
        case Cancelled():
            return "cancelled"
        case _:
            return "failed"
