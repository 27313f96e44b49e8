"""
From args to rows: options are resolved, hooks and middleware have their say, one statement inserts and notifies.

The limiter: a notification wakes a fetch, and one wakes as well as ten, so each queue is announced at most once per
window. Commits that announce wait for each other, on whatever connection of the server's, so with several inserts on
their way the window is longer, and the next insert all the sooner there. Unlike River's, this limiter has a trailing
edge: what it swallowed is announced with the next insert after the window, or, if there is none for as long again, by
itself. (A notification is a transaction of its own unless an insert takes it along; a steady stream of inserts always
does.)
Inside a caller's transaction it is not asked at all: nobody knows when that will commit, PostgreSQL folds equal
notifications of a transaction into one anyway, and none is sent if it rolls back.

Source: River v0.51.2, client.go `insertMany`; internal/notifylimiter/limiter.go.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from datetime import datetime

from millhand.clock import Clock
from millhand.config import Config
from millhand.driver.protocol import Executor
from millhand.errors import (
    UNIQUE_CONSTRAINT,
    DriverError,
    InvalidJob,
    MillhandError,
    UniqueConflict,
    UnknownKind,
)
from millhand.hooks import Hook, Middleware, overrides
from millhand.insert_opts import InsertOpts, InsertParams, InsertResult, insert_params_many
from millhand.job import JobState
from millhand.runtime.bulk import BulkJobs, batched, begun
from millhand.runtime.service import Service, WakeReason
from millhand.store.job_copy import job_copy
from millhand.store.job_insert import job_insert_many, job_notify_insert
from millhand.store.query import Copy

logger = logging.getLogger(__name__)

# Names of queues may be made as they are needed, one a customer or one a day; this many are kept without looking.
NUM_QUEUES_KEPT = 1_000
# So many times as long is the window while as many inserts, or more, are on their way.
NUM_INSERTING_MAX = 4
NO_JOBS = "jobs to insert must be at least one, got none"

Insert = Callable[[Sequence[InsertParams]], Awaitable[Sequence[InsertResult]]]


class InsertLimiter:
    """
    Who was announced when, and who still has to be. Plain bookkeeping: time is brought, in monotonic seconds.

    `window_seconds` is for one insert after the other; `num_inserting` says how many are on their way.
    """

    def __init__(self, window_seconds: float) -> None:
        self._announced_at: dict[str, float] = {}
        self._least_window_seconds = window_seconds
        self._swallowed: set[str] = set()
        self.num_inserting = 0

    @property
    def _window_seconds(self) -> float:
        return self._least_window_seconds * min(max(self.num_inserting, 1), NUM_INSERTING_MAX)

    def admit(self, queues: Collection[str], at: float) -> list[str]:
        """Return those of `queues` to announce now, and take them as announced."""
        admitted = [queue for queue in queues if self._announced(queue) + self._window_seconds <= at]
        self._announced_at.update(dict.fromkeys(admitted, at))
        if len(self._announced_at) > NUM_QUEUES_KEPT:
            self._forget_old(at)
        self._swallowed.difference_update(admitted)
        return admitted

    def remember(self, queues: Collection[str]) -> None:
        """Take note of queues that were not announced; not before what was inserted there can be seen."""
        self._swallowed.update(queues)

    def due(self, at: float) -> list[str]:
        """Return the remembered queues that nobody took along, and take them as announced."""
        return self.admit([queue for queue in self._swallowed if self._due_at(queue) <= at], at)

    def flush(self) -> list[str]:
        """Return all remembered queues, whatever their window, and forget them."""
        swallowed, self._swallowed = self._swallowed, set()
        return list(swallowed)

    def next_due_seconds(self, at: float) -> float | None:
        """Return how long until something is due; None if nothing is remembered."""
        return min((max(self._due_at(queue) - at, 0.0) for queue in self._swallowed), default=None)

    def _forget_old(self, at: float) -> None:
        """Forget what no answer depends on: after two of the longest windows a queue is as good as never announced."""
        horizon = at - 2 * self._least_window_seconds * NUM_INSERTING_MAX
        self._announced_at = {queue: then for queue, then in self._announced_at.items() if then > horizon}

    def _announced(self, queue: str) -> float:
        return self._announced_at.get(queue, -math.inf)

    def _due_at(self, queue: str) -> float:
        return self._announced(queue) + 2 * self._window_seconds


class Inserter(Service):
    """
    Inserts for one client. As a service it runs only to announce what the limiter swallowed.

    Concurrency: any number of inserts at once.
    """

    def __init__(self, pool: Executor, config: Config) -> None:
        super().__init__()
        self._begin_hooks = _begin_hooks(config.hooks)
        self._clock: Clock = config.clock
        self._config = config
        self._kind_begin_hooks = {
            worker.kind: hooks for worker in config.workers if (hooks := _begin_hooks(worker.hooks))
        }
        self._limiter = InsertLimiter(config.fetch_cooldown.total_seconds())
        self._middleware = [m for m in config.middleware if overrides(m, "insert")]
        self._pool = pool

    def speak_by(self, pool: Executor) -> None:
        """Say everything through another pool of the same database from now on."""
        self._pool = pool

    async def run(self, started: Callable[[], None]) -> None:
        started()
        wake = WakeReason.SET
        while wake is not WakeReason.STOP:
            wake = await self.wake_event.wait(self._limiter.next_due_seconds(self._clock.monotonic()))
            due = (
                self._limiter.flush()
                if wake is WakeReason.STOP
                else self._limiter.due(self._clock.monotonic())
            )
            if due:
                await self._notify(due)

    async def insert_many(
        self, jobs: Sequence[tuple[object, InsertOpts | None]], executor: Executor | None = None
    ) -> list[InsertResult]:
        """
        Insert jobs in one statement, all or none; `executor` is the caller's own transaction, None the pool.

        Shape: one result per job, in order. Raises: InvalidJob, UnknownKind, and what the driver raises.
        """
        if not jobs:
            raise InvalidJob(NO_JOBS)
        return await self.insert_params(self._resolved(jobs, self._clock.now()), executor)

    async def insert_params(
        self, params: Sequence[InsertParams], executor: Executor | None = None
    ) -> list[InsertResult]:
        """Insert rows that are resolved already: middleware, hooks, the statement, the notification."""
        if not self._middleware:
            return await self._insert(params, executor)

        async def innermost(params: Sequence[InsertParams]) -> Sequence[InsertResult]:
            return await self._insert(params, executor)

        return list(await self._through_middleware(innermost)(params))

    async def insert_many_fast(self, jobs: BulkJobs, executor: Executor | None = None) -> int:
        """
        Insert jobs by COPY as they come, all or none, and return how many there were; constant memory.

        Shape: middleware gets batches of up to `BATCH_SIZE`, and no results of them.
        Raises: as `insert_many`; UniqueConflict; whatever `jobs` raises. What is wrong with the first batch is found
        before anything is said to the database.
        """
        queues: set[str] = set()
        async with contextlib.aclosing(self._prepared(jobs, queues)) as prepared:
            batches = await begun(prepared)
            if batches is None:
                raise InvalidJob(NO_JOBS)
            try:
                return await self._copy(job_copy(batches), queues, executor)
            except DriverError as error:
                if error.constraint == UNIQUE_CONSTRAINT:
                    raise UniqueConflict(None) from error
                raise

    def resolve(self, args: object, opts: InsertOpts | None = None) -> InsertParams:
        """
        Return the row that `args` and `opts` would give, without inserting it.

        Raises: InvalidJob; UnknownKind if this client has workers and none for the kind.
        """
        return self._resolved([(args, opts)], self._clock.now())[0]

    def announce(self, queues: Collection[str]) -> None:
        """Have queues announced, soon and through the limiter; never waits. Lost if the service does not run."""
        if queues:
            self._limiter.remember(queues)
            self.wake_event.set()

    def _resolved(
        self, jobs: Sequence[tuple[object, InsertOpts | None]], now: datetime
    ) -> list[InsertParams]:
        params = insert_params_many(jobs, now=now, default_max_attempts=self._config.max_attempts)
        workers = self._config.workers
        if len(workers) and not self._config.skip_unknown_job_check:
            for kind in dict.fromkeys([one.kind for one in params]):
                if workers.get(kind) is None:
                    raise UnknownKind(kind, workers.kinds)
        return params

    async def _insert(self, params: Sequence[InsertParams], executor: Executor | None) -> list[InsertResult]:
        if self._has_hooks:
            params = [await self._begin(one) for one in params]
        queues = _available_queues(params)
        if executor is not None:
            return await executor.run(job_insert_many(params, notify_queues=sorted(queues)))
        self._limiter.num_inserting += 1
        try:
            announced = self._limiter.admit(queues, self._clock.monotonic())
            results = await self._pool.run(job_insert_many(params, notify_queues=sorted(announced)))
        finally:
            self._limiter.num_inserting -= 1
        self.announce(queues.difference(announced))
        return results

    async def _copy(self, copy: Copy, queues: Collection[str], executor: Executor | None) -> int:
        if executor is not None:
            num_jobs = await executor.copy(copy)
            await executor.run(job_notify_insert(sorted(queues)))
            return num_jobs
        async with self._pool.begin() as transaction:
            num_jobs = await transaction.copy(copy)
            announced = self._limiter.admit(queues, self._clock.monotonic())
            await transaction.run(job_notify_insert(sorted(announced)))
        self.announce(set(queues).difference(announced))
        return num_jobs

    async def _prepared(
        self, jobs: BulkJobs, queues: set[str]
    ) -> AsyncGenerator[Sequence[InsertParams], None]:
        """Give the rows of `jobs`, batch by batch, and add to `queues` those in which they are available."""
        now = self._clock.now()
        async for batch in batched(jobs):
            params = await self._amended(self._resolved(batch, now))
            queues.update(_available_queues(params))
            yield params

    async def _amended(self, params: Sequence[InsertParams]) -> Sequence[InsertParams]:
        """Return rows as middleware and hooks leave them."""
        amended: list[InsertParams] = []

        async def innermost(params: Sequence[InsertParams]) -> Sequence[InsertResult]:
            amended.extend([await self._begin(one) for one in params] if self._has_hooks else params)
            return ()

        await self._through_middleware(innermost)(params)
        return amended

    def _through_middleware(self, innermost: Insert) -> Insert:
        call = innermost
        for middleware in reversed(self._middleware):
            call = _around(middleware, call)
        return call

    @property
    def _has_hooks(self) -> bool:
        return bool(self._begin_hooks or self._kind_begin_hooks)

    async def _begin(self, params: InsertParams) -> InsertParams:
        for hook in (*self._begin_hooks, *self._kind_begin_hooks.get(params.kind, ())):
            begun = await hook.insert_begin(params)
            if not isinstance(begun, InsertParams):  # as of one that only looks, and returns nothing
                raise TypeError(
                    f"insert_begin of {type(hook).__name__} must return the params of the insert, got {begun!r}"
                )
            params = begun
        return params

    async def _notify(self, queues: Sequence[str]) -> None:
        try:
            await self._pool.run(job_notify_insert(queues=sorted(queues)))
        except MillhandError as error:  # the poll finds what was not announced
            logger.debug("insert not announced", extra={"num_queues": len(queues), "error": str(error)})
        self.probe("announced", queues)


def _available_queues(params: Sequence[InsertParams]) -> set[str]:
    available = JobState.AVAILABLE  # a member of an enum is looked up at length
    return {one.queue for one in params if one.state is available}


def _begin_hooks(hooks: Sequence[Hook]) -> tuple[Hook, ...]:
    return tuple(hook for hook in hooks if overrides(hook, "insert_begin"))


def _around(middleware: Middleware, call_next: Insert) -> Insert:
    async def call(params: Sequence[InsertParams]) -> Sequence[InsertResult]:
        return await middleware.insert(params, call_next)

    return call
