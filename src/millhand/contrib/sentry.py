"""
Errors and check-ins of jobs in Sentry; needs `millhand[sentry]`.

    sentry_sdk.init(…)
    sentry = SentryHandler()
    config = Config(error_handlers=[sentry], middleware=[sentry])

As an error handler it reports failures. As middleware it gives each attempt a scope of its own, and checks in for runs of
periodic jobs.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from datetime import UTC, timedelta
from typing import Any

import sentry_sdk
from sentry_sdk.crons import capture_checkin
from sentry_sdk.integrations.logging import ignore_logger
from sentry_sdk.scope import Scope, use_isolation_scope
from sentry_sdk.utils import event_from_exception

from millhand.core.crontab import CronSchedule, EverySchedule
from millhand.core.hooks import AttemptFailure, Middleware
from millhand.core.job import JobRow, Json
from millhand.core.periodic import IntervalSchedule, PeriodicJob
from millhand.core.worker_job import Job
from millhand.engine.attempt_outcome import AttemptOutcome, outcome_of

# Its lines say what this handler reports, and Sentry's logging integration would report them again.
LOGGER = "millhand.engine.error_handler"
PERIODIC_JOB_ID = "river:periodic_job_id"
SLUG_LENGTH_MAX = 50

_UNITS = (("day", 86_400), ("hour", 3_600), ("minute", 60))
_scope: ContextVar[Scope | None] = ContextVar("millhand_sentry_scope", default=None)


class SentryHandler(Middleware):
    """
    Reports failed jobs to Sentry, and checks in for runs of periodic jobs that have an `id`.

    An event has the kind as transaction, and kind, queue and attempt as tags; errors of different kinds are different
    issues. Args, metadata and outputs are not sent.

    Args:
        every_attempt: Report each failed attempt, not only the one after which the job is not attempted again.
        include_local_variables: Send the local variables of the worker's frames, which may hold args.

    Concurrency: one instance may serve any number of clients.
    """

    def __init__(self, *, every_attempt: bool = False, include_local_variables: bool = False) -> None:
        self._every_attempt = every_attempt
        self._includes_variables = include_local_variables
        ignore_logger(LOGGER)

    async def handle_error(self, failure: AttemptFailure) -> None:
        """Report a failure, in the scope of its attempt."""
        if not self._every_attempt and failure.next_attempt_at is not None:
            return
        scope = _scope.get() or Scope.get_isolation_scope().fork()
        with use_isolation_scope(scope):
            _name_job(scope, failure.job)
            options = sentry_sdk.get_client().options | {"include_local_variables": self._includes_variables}
            mechanism = {"type": "millhand", "handled": False}
            event, hint = event_from_exception(failure.error, client_options=options, mechanism=mechanism)
            event["fingerprint"] = ["{{ default }}", failure.job.kind]
            sentry_sdk.capture_event(event, hint=hint)

    async def work(self, job: Job[Json], call_next: Callable[[], Awaitable[None]]) -> None:
        """Run the attempt in a scope of its own, and check in if it is the run of a periodic job."""
        if not sentry_sdk.get_client().is_active():
            await call_next()
            return
        with sentry_sdk.isolation_scope() as scope:
            scope.clear_breadcrumbs()
            _name_job(scope, job.row)
            _scope.set(scope)
            id = job.row.metadata.get(PERIODIC_JOB_ID)
            if isinstance(id, str) and (slug := monitor_slug(id)):
                await _work_checked_in(slug, id, job, call_next)
            else:
                await call_next()


def monitor_slug(id: str) -> str:
    """Return the monitor's name for the id of a periodic job; empty if the id has nothing that Sentry allows."""
    return re.sub(r"[^a-z0-9_-]+", "-", id.lower()).strip("-_")[:SLUG_LENGTH_MAX]


def monitor_schedule(schedule: object) -> dict[str, Any] | None:
    """Return a schedule as Sentry knows it; None for one that it cannot express, such as an interval of seconds."""
    match schedule:
        case CronSchedule(fields=fields, zone=zone):
            name = "UTC" if zone is UTC else getattr(zone, "key", None)
            cron = {"schedule": {"type": "crontab", "value": fields}, "timezone": name}
            return None if name is None else cron
        case IntervalSchedule(interval=interval) | EverySchedule(interval=interval):
            for unit, seconds in _UNITS:
                number, rest = divmod(interval, timedelta(seconds=seconds))
                if number and not rest:
                    return {"schedule": {"type": "interval", "value": number, "unit": unit}}
    return None


async def _work_checked_in(
    slug: str, id: str, job: Job[Any], call_next: Callable[[], Awaitable[None]]
) -> None:
    """Run an attempt of a periodic job. One check-in is for all attempts of the run, and ends with the last."""
    row = job.row
    check_in_id = uuid.uuid5(uuid.NAMESPACE_OID, f"{slug} {row.id} {row.created_at.isoformat()}").hex
    config = monitor_schedule(_schedule(job, id))
    if row.attempt == 1:
        capture_checkin(slug, check_in_id, "in_progress", monitor_config=config)  # type: ignore[arg-type]
    raised: BaseException | None = None
    try:
        await call_next()
    except BaseException as error:
        raised = error
        raise
    finally:
        status = _status(outcome_of(raised, job), row)
        if status is not None:
            capture_checkin(slug, check_in_id, status, monitor_config=config)  # type: ignore[arg-type]


def _status(outcome: AttemptOutcome, row: JobRow) -> str | None:
    """Return the status with which a run ends; None if another attempt follows."""
    if outcome == "completed":
        return "ok"
    is_last = outcome == "failed" and row.attempt >= row.max_attempts
    return "error" if is_last or outcome == "cancelled" else None


def _schedule(job: Job[Any], id: str) -> object:
    config = getattr(job.client, "config", None)
    periodic_jobs: Sequence[PeriodicJob] = getattr(config, "periodic_jobs", ())
    return next((one.schedule for one in periodic_jobs if one.id == id), None)


def _name_job(scope: Scope, row: JobRow) -> None:
    scope.set_transaction_name(row.kind, source="task")
    for name, value in (("kind", row.kind), ("queue", row.queue), ("attempt", row.attempt)):
        scope.set_tag(f"job.{name}", value)
    about: dict[str, Any] = {"id": row.id, "max_attempts": row.max_attempts, "tags": list(row.tags)}
    scope.set_context("job", about)
