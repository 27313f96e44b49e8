"""
Hooks, middleware and error handlers.

A `Hook` is called before or after a step of a job's life. A `Middleware` is called around it. Subclass them and
override the methods that you need; those that are not overridden cost nothing.

    insert:  Middleware.insert( Hook.insert_begin(params) … the INSERT )
    work:    Middleware.work( Hook.work_begin(job) … decode … worker … Hook.work_end(job, error) )
    failure: ErrorHandler.handle_error(failure)

Source: River v0.51.2, rivertype `Hook*`, `Middleware*`, error_handler.go. The order is River's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from millhand.core.insert_opts import InsertParams, InsertResult
from millhand.core.job import JobRow, JobState, Json
from millhand.core.worker_job import Job


class Hook:
    """
    Is called before and after steps of a job's life, for all jobs of a client or for one worker.

    Hooks of a client are called in the order of its configuration.
    """

    async def insert_begin(self, params: InsertParams) -> InsertParams:
        """
        Return the params to insert, changed or not. Raise to reject the whole insert.

        The unique key is computed before this call and not again.
        """
        return params

    async def work_begin(self, job: Job[Json]) -> None:
        """Run before the args are decoded, while `job.args` is None. Raise to fail the attempt."""

    async def work_end(self, job: Job[Json], error: BaseException | None) -> BaseException | None:
        """Return how the attempt ended: the same `error`, another one, or None for a success."""
        return error

    async def periodic_jobs_start(self) -> None:
        """Run when this client becomes the leader of periodic jobs, before it inserts them."""

    def metric_emit(self, metric: FetchMetric) -> None:
        """
        Receive the figures of a fetch, before its jobs begin. An error is logged.

        Concurrency: called on the event loop; must not block.
        """


class Middleware:
    """Is called around an insert or an attempt. The first configured is the outermost."""

    async def insert(
        self,
        params: Sequence[InsertParams],
        call_next: Callable[[Sequence[InsertParams]], Awaitable[Sequence[InsertResult]]],
    ) -> Sequence[InsertResult]:
        """
        Call `call_next` once with the params to insert, and return the results.

        `insert_many_fast` calls it for each batch of up to 500 params, before they are copied, with empty results.
        """
        return await call_next(params)

    async def work(self, job: Job[Json], call_next: Callable[[], Awaitable[None]]) -> None:
        """Call `call_next` once. What it raises fails the attempt, unless you catch it."""
        await call_next()


class FetchMetric(msgspec.Struct, frozen=True, kw_only=True):
    """
    The figures of a successful fetch.

    Attributes:
        num_jobs: How many jobs were fetched; often 0.
        seconds: How long the statement took, with the wait for a connection.
    """

    num_jobs: int
    queue: str
    seconds: float


class AttemptFailure(msgspec.Struct, frozen=True, kw_only=True):
    """
    One failed attempt.

    Attributes:
        job: The row as fetched.
        trace: The stack of `error`; empty where it shows nothing of the worker.
        state: The job's next state unless a handler cancels it: available, retryable or discarded.
        next_attempt_at: The aware instant of the next attempt; None for a discarded job.
        run_seconds: How long the attempt ran, in seconds.
    """

    job: JobRow
    error: BaseException
    trace: str
    state: JobState
    next_attempt_at: datetime | None
    run_seconds: float


class ErrorHandler(Protocol):
    """Is called for every failed attempt, and not for snoozes, cancels and interruptions."""

    async def handle_error(self, failure: AttemptFailure) -> bool | None:
        """Return True to cancel the job; anything else retries it. An error is logged."""
        ...


def overrides(part: Hook | Middleware, method: str) -> bool:
    """Return whether the class of `part` overrides `method`."""
    base = Hook if isinstance(part, Hook) else Middleware
    return getattr(type(part), method) is not getattr(base, method)
