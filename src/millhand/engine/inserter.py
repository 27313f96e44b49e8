"""
Turns args into rows: resolves options, runs hooks and middleware, then inserts and notifies in one statement.

The limiter: a notification wakes a fetch, and one is as good as ten, so each queue is announced at most once per window.
Commits that notify wait for each other, on every connection of the server, so while several inserts are in flight the
window is longer. Unlike River's, this limiter has a trailing edge: a queue that it held back is announced by the next insert
after the window, or, without one for as long again, by a notification of its own. That costs a transaction; a steady
stream of inserts never needs it.

Inside a caller's transaction the limiter is not used: the time of the commit is unknown, PostgreSQL merges equal
notifications of one transaction, and a rollback sends none.

Source: River v0.51.2, client.go `insertMany`; internal/notifylimiter/limiter.go.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Collection, Sequence
from datetime import datetime
from typing import TypeVar

from millhand.core.args.secret_fields import secret_field_names
from millhand.core.clock import Clock
from millhand.core.config import Config
from millhand.core.errors import (
    UNIQUE_CONSTRAINT,
    ConnectionLost,
    DriverError,
    InvalidJob,
    MillhandError,
    OperationTimeout,
    UniqueConflict,
    UnknownKind,
)
from millhand.core.hooks import Hook, Middleware, overrides
from millhand.core.insert_opts import InsertOpts, InsertParams, InsertResult, SecretArgs, insert_params_many
from millhand.core.job import JobState
from millhand.core.log.logger import logger_of
from millhand.core.sqlstate import DEADLOCK_DETECTED
from millhand.db.driver.protocol import Executor
from millhand.engine.client_metrics import ClientMetrics, jobs_of
from millhand.engine.insert_batches import BulkJobs, batched, with_first_ready
from millhand.engine.queue_rules import QueueRules
from millhand.engine.service import Service, WakeReason
from millhand.engine.store.job_copy import job_copy
from millhand.engine.store.job_insert import job_insert_many, job_notify_insert

T = TypeVar("T")

logger = logger_of(__name__)

# PostgreSQL may commit a statement whose answer does not arrive.
UNKNOWN_OUTCOME = (
    "The jobs may have been inserted. Look for them before you insert them again, or make them unique: "
    "then a second insert returns the first one's job."
)

# Applications may create queues at will, one a customer or one a day. Beyond this many, old ones are forgotten.
NUM_QUEUES_KEPT = 1_000
# The window is as many times as long as inserts are in flight, up to this factor.
NUM_INSERTING_MAX = 4
# A deadlock is met so often at most; see PostgreSQL documentation, chapter 13.3.4.
DEADLOCKS_MAX = 3
NO_JOBS = "jobs to insert must be at least one, got none"

Insert = Callable[[Sequence[InsertParams]], Awaitable[Sequence[InsertResult]]]


class InsertLimiter:
    """
    Records which queues were announced when, and which still have to be.

    `window_seconds` applies to one insert after the other; `num_inserting` is how many are in flight.
    Units: times are monotonic seconds.
    """

    def __init__(self, window_seconds: float) -> None:
        self._announced_at: dict[str, float] = {}
        self._held_back: set[str] = set()
        self._window_seconds_min = window_seconds
        self.num_inserting = 0

    @property
    def _window_seconds(self) -> float:
        return self._window_seconds_min * min(max(self.num_inserting, 1), NUM_INSERTING_MAX)

    def admit(self, queues: Collection[str], at: float) -> list[str]:
        """Return those of `queues` to announce now, and record them as announced."""
        admitted = [queue for queue in queues if self._announced(queue) + self._window_seconds <= at]
        self._announced_at.update(dict.fromkeys(admitted, at))
        if len(self._announced_at) > NUM_QUEUES_KEPT:
            self._forget_old(at)
        self._held_back.difference_update(admitted)
        return admitted

    def hold_back(self, queues: Collection[str]) -> None:
        """Record queues to be announced later; call it after the commit of the insert."""
        self._held_back.update(queues)

    def due(self, at: float) -> list[str]:
        """Return the held back queues that no insert announced in time, and record them as announced."""
        return self.admit([queue for queue in self._held_back if self._due_at(queue) <= at], at)

    def flush(self) -> list[str]:
        """Return all held back queues, whatever their window, and forget them."""
        held_back, self._held_back = self._held_back, set()
        return list(held_back)

    def next_due_seconds(self, at: float) -> float | None:
        """Return how long until a held back queue is due; None if there is none."""
        return min((max(self._due_at(queue) - at, 0.0) for queue in self._held_back), default=None)

    def _forget_old(self, at: float) -> None:
        """Forget queues announced more than two of the longest windows ago: they count as never announced."""
        horizon = at - 2 * self._window_seconds_min * NUM_INSERTING_MAX
        self._announced_at = {queue: then for queue, then in self._announced_at.items() if then > horizon}

    def _announced(self, queue: str) -> float:
        return self._announced_at.get(queue, -math.inf)

    def _due_at(self, queue: str) -> float:
        return self._announced(queue) + 2 * self._window_seconds


class Inserter(Service):
    """
    Inserts for one client. As a service it announces the queues that the limiter held back.

    `built_in_kinds` have workers that `config` does not register.
    Concurrency: any number of inserts at once.
    """

    def __init__(
        self,
        pool: Executor,
        config: Config,
        *,
        built_in_kinds: Collection[str] = (),
        metrics: ClientMetrics | None = None,
    ) -> None:
        super().__init__()
        self._begin_hooks = _begin_hooks(config.hooks)
        self._built_in_kinds = built_in_kinds
        self._clock: Clock = config.clock
        self._config = config
        self._kind_begin_hooks = {
            worker.kind: hooks for worker in config.workers if (hooks := _begin_hooks(worker.hooks))
        }
        self._has_hooks = bool(self._begin_hooks or self._kind_begin_hooks)
        self._limiter = InsertLimiter(config.fetch_cooldown.total_seconds())
        self._metrics = ClientMetrics() if metrics is None else metrics
        self._middleware = [m for m in config.middleware if overrides(m, "insert")]
        self._pool = pool
        self._rules = QueueRules()
        self._secrets = SecretArgs(
            config.secret_keys,
            {
                kind: names
                for worker in config.workers
                if (names := secret_field_names(worker.args_type))
                for kind in worker.kinds
            },
        )
        self._workers = config.workers.by_kind

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
        """Insert resolved rows: run middleware and hooks, then the statement, and notify."""
        if not self._middleware:
            return await self._insert(params, executor)

        async def innermost(params: Sequence[InsertParams]) -> Sequence[InsertResult]:
            return await self._insert(params, executor)

        return list(await self._through_middleware(innermost)(params))

    async def insert_many_fast(self, jobs: BulkJobs, executor: Executor | None = None) -> int:
        """
        Insert jobs by COPY, all or none, in constant memory, and return how many there were.

        Shape: middleware gets batches of up to `BATCH_SIZE`, and no results of them.
        Raises: as `insert_many`; UniqueConflict; any exception of `jobs`. Errors of the first batch are raised before the
        database is used.
        """
        queues: set[str] = set()
        found: Counter[tuple[str, str]] = Counter()
        async with contextlib.aclosing(self._prepared(jobs, queues, found)) as prepared:
            batches = await with_first_ready(prepared)
            if batches is None:
                raise InvalidJob(NO_JOBS)
            began = self._clock.monotonic()
            try:
                num_jobs = await self._copy(batches, queues, executor)
            except DriverError as error:
                if error.constraint == UNIQUE_CONSTRAINT:
                    raise UniqueConflict(None) from error
                raise
        self._metrics.add_jobs(found, self._clock.monotonic() - began)
        return num_jobs

    def resolve(
        self, args: object, opts: InsertOpts | None = None, *, now: datetime | None = None
    ) -> InsertParams:
        """
        Return the row that `args` and `opts` would give, without inserting it.

        `now` decides the period of a unique job; None for the machine's clock.

        Raises: InvalidJob; UnknownKind if this client has workers and none for the kind.
        """
        return self._resolved([(args, opts)], self._clock.now() if now is None else now)[0]

    def resolve_many(self, jobs: Sequence[tuple[object, InsertOpts | None]]) -> list[InsertParams]:
        """Return the rows that jobs would give, without inserting them. Raises: as `resolve`."""
        return self._resolved(jobs, self._clock.now())

    def announce(self, queues: Collection[str]) -> None:
        """Announce queues soon, through the limiter; never waits. Does nothing unless the service runs."""
        if queues:
            self._limiter.hold_back(queues)
            self.wake_event.set()

    def use_rules(self, rules: QueueRules) -> None:
        """Insert by these rules from now on."""
        self._rules = rules

    def _resolved(
        self, jobs: Sequence[tuple[object, InsertOpts | None]], now: datetime
    ) -> list[InsertParams]:
        params = insert_params_many(
            jobs, now=now, default_max_attempts=self._config.max_attempts, secrets=self._secrets
        )
        workers = self._workers
        if workers and not self._config.skip_unknown_job_check:
            for kind in dict.fromkeys([one.kind for one in params]):
                if kind not in workers and kind not in self._built_in_kinds:
                    raise UnknownKind(kind, self._config.workers.kinds)
        return params

    async def _insert(self, params: Sequence[InsertParams], executor: Executor | None) -> list[InsertResult]:
        if self._has_hooks:
            params = [await self._begin(one) for one in params]
        queues, began = _available_queues(params), self._clock.monotonic()
        if executor is not None:
            results = await executor.run(self._rules.insert_query(params, notify_queues=sorted(queues)))
            self._metrics.add_inserted(params, results, self._clock.monotonic() - began)
            return results
        self._limiter.num_inserting += 1
        try:
            announced = self._limiter.admit(queues, self._clock.monotonic())
            results = await self._insert_alone(params, notify_queues=sorted(announced))
        except (ConnectionLost, OperationTimeout) as error:
            _note_unknown(error)
            raise
        finally:
            self._limiter.num_inserting -= 1
        self._metrics.add_inserted(params, results, self._clock.monotonic() - began)
        self.announce(queues.difference(announced))
        return results

    async def _insert_alone(
        self, params: Sequence[InsertParams], *, notify_queues: Collection[str]
    ) -> list[InsertResult]:
        """
        Insert in a transaction of its own, again if PostgreSQL ends it because of a deadlock: nothing was written.

        An insert locks the jobs that its unique jobs duplicate, in the order of their keys. Other clients may write outcomes
        of the same jobs in another order.
        If the tables of the rules are gone, insert as without rules: if they come again, the next fetch obeys them.
        """
        query_of = self._rules.insert_query
        for _ in range(DEADLOCKS_MAX):
            try:
                return await self._pool.run(query_of(params, notify_queues=notify_queues))
            except DriverError as error:
                if error.is_missing and query_of is not job_insert_many:
                    query_of = job_insert_many
                elif error.sqlstate != DEADLOCK_DETECTED:
                    raise
        return await self._pool.run(query_of(params, notify_queues=notify_queues))

    async def _copy(
        self,
        batches: AsyncIterable[Sequence[InsertParams]],
        queues: Collection[str],
        executor: Executor | None,
    ) -> int:
        if executor is not None:
            num_jobs = await self._copy_within(executor, batches)
            await executor.run(job_notify_insert(sorted(queues)))
            return num_jobs
        try:
            async with self._pool.begin() as transaction:
                num_jobs = await self._copy_within(transaction, batches)
                announced = self._limiter.admit(queues, self._clock.monotonic())
                await transaction.run(job_notify_insert(sorted(announced)))
        except (ConnectionLost, OperationTimeout) as error:
            _note_unknown(error)
            raise
        self.announce(set(queues).difference(announced))
        return num_jobs

    async def _copy_within(self, executor: Executor, batches: AsyncIterable[Sequence[InsertParams]]) -> int:
        """
        Insert by COPY within a transaction.

        The jobs are then available, also in a queue with rules: its next fetch obeys these. If a worker that knows no
        rules might fetch them first, they are inserted by the rules.
        """
        if self._rules.can_copy:
            return await executor.copy(job_copy(batches))
        num_jobs = 0
        # All or none: a caller that catches the conflict may commit its transaction, which no error of PostgreSQL has ended.
        async with executor.begin() as savepoint:
            async for batch in batches:
                results = await savepoint.run(self._rules.insert_query(batch, notify_queues=()))
                if any(result.unique_skipped_as_duplicate for result in results):
                    raise UniqueConflict(None)
                num_jobs += len(results)
        return num_jobs

    async def _prepared(
        self, jobs: BulkJobs, queues: set[str], found: Counter[tuple[str, str]]
    ) -> AsyncGenerator[Sequence[InsertParams], None]:
        """Yield the rows of `jobs` batch by batch; add the queues of available ones to `queues`, and all to `found`."""
        now = self._clock.now()
        async for batch in batched(jobs):
            params = await self._amended(self._resolved(batch, now))
            queues.update(_available_queues(params))
            found.update(jobs_of(params))
            yield params

    async def _amended(self, params: Sequence[InsertParams]) -> Sequence[InsertParams]:
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

    async def _begin(self, params: InsertParams) -> InsertParams:
        for hook in (*self._begin_hooks, *self._kind_begin_hooks.get(params.kind, ())):
            begun = await hook.insert_begin(params)
            if not isinstance(begun, InsertParams):  # None, from a hook that forgot to return them
                raise TypeError(
                    f"insert_begin of {type(hook).__name__} must return the params of the insert, got {begun!r}"
                )
            params = begun
        return params

    async def _notify(self, queues: Sequence[str]) -> None:
        try:
            await self._pool.run(job_notify_insert(queues=sorted(queues)))
        except MillhandError as error:  # polls find jobs that were not announced
            logger.debug("insert not announced", extra={"num_queues": len(queues), "error": str(error)})
        self.probe("announced", queues)


def _available_queues(params: Sequence[InsertParams]) -> set[str]:
    available = JobState.AVAILABLE  # the lookup of an enum's member is slow
    return {one.queue for one in params if one.state is available}


def _begin_hooks(hooks: Sequence[Hook]) -> tuple[Hook, ...]:
    return tuple(hook for hook in hooks if overrides(hook, "insert_begin"))


def _around(middleware: Middleware, call_next: Insert) -> Insert:
    async def call(params: Sequence[InsertParams]) -> Sequence[InsertResult]:
        return await middleware.insert(params, call_next)

    return call


def _note_unknown(error: ConnectionLost | OperationTimeout) -> None:
    if not (isinstance(error, ConnectionLost) and error.is_read_only):
        error.add_note(UNKNOWN_OUTCOME)
