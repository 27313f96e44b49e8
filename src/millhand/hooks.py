"""
The biography of a job, one method per moment, for those who want to be there.

A `Hook` looks (and may refuse or amend); a `Middleware` goes around. Subclass, and override the moments you want:
those that are not overridden cost nothing.

    insert:  Middleware.insert( Hook.insert_begin(params) … the INSERT )
    work:    Middleware.work( Hook.work_begin(job) … decode … worker … Hook.work_end(job, error) )
    failure: ErrorHandler.handle_error(failure)

Source: River v0.51.2, rivertype `Hook*`, `Middleware*`, error_handler.go; the order is River's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from millhand.insert_opts import InsertParams, InsertResult
from millhand.job import Job, JobRow, JobState, Json


class Hook:
    """What is called at the moments of a job's life, global hooks in the order of the configuration."""

    async def insert_begin(self, params: InsertParams) -> InsertParams:
        """
        Return what is to be inserted, amended or not; raise to refuse the whole insert.

        The unique key was computed before and is not computed again.
        """
        return params

    async def work_begin(self, job: Job[Json]) -> None:
        """Is called before the args are decoded (`job.args` is None); what it raises fails the attempt."""

    async def work_end(self, job: Job[Json], error: BaseException | None) -> BaseException | None:
        """Return how the attempt ended: `error` as it is, another one, or None to make it a success."""
        return error

    async def periodic_jobs_start(self) -> None:
        """Is called when this client becomes leader, before it inserts periodic jobs."""

    def metric_emit(self, metric: FetchMetric) -> None:
        """Is called on the event loop after each fetch, before its jobs begin; must not block. What it raises is logged."""


class Middleware:
    """What goes around an insert or an attempt; the first configured is the outermost."""

    async def insert(
        self,
        params: Sequence[InsertParams],
        call_next: Callable[[Sequence[InsertParams]], Awaitable[Sequence[InsertResult]]],
    ) -> Sequence[InsertResult]:
        """
        Call `call_next` once, with the same params or others, and return its results or others.

        Of `insert_many_fast` it is called for each batch of up to 500, before they are copied, and results are none.
        """
        return await call_next(params)

    async def work(self, job: Job[Json], call_next: Callable[[], Awaitable[None]]) -> None:
        """Call `call_next` once; what it raises is how the attempt ended, unless it is kept from going on."""
        await call_next()


class FetchMetric(msgspec.Struct, frozen=True, kw_only=True):
    """
    A fetch that succeeded: how many jobs of a queue it took, none very often, and how long it took.

    Units: `seconds` are those of the statement, and of waiting for a connection.
    """

    num_jobs: int
    queue: str
    seconds: float


class AttemptFailure(msgspec.Struct, frozen=True, kw_only=True):
    """
    One failed attempt, as an error handler sees it.

    `state` is what becomes of the job if nobody cancels it: available or retryable (then `next_attempt_at` is when it
    is tried again), or discarded (then that is None). Units: `run_seconds` are seconds; instants are aware.
    """

    job: JobRow
    error: BaseException
    trace: str
    state: JobState
    next_attempt_at: datetime | None
    run_seconds: float


class ErrorHandler(Protocol):
    """Who is told of every failed attempt: not of snoozes, cancels and interruptions."""

    async def handle_error(self, failure: AttemptFailure) -> bool | None:
        """Return True to cancel the job; anything else leaves it to be retried. What it raises is logged."""
        ...


def overrides(thing: Hook | Middleware, moment: str) -> bool:
    """Return whether `thing` has something to say at `moment`, the name of one of its methods."""
    base = Hook if isinstance(thing, Hook) else Middleware
    return getattr(type(thing), moment) is not getattr(base, moment)
