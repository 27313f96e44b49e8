"""
Executes one attempt: middleware, hooks, decoding, the worker; then determines the outcome.

    Middleware.work( Hook.work_begin → decode args → [ worker → Hook.work_end ] )
                                                       the timeout covers this part
    outcome:  returned → Completed · cancelled from outside → Cancelled · JobSnooze → Snoozed
              cancelled because the client stops, or lost its jobs → Interrupted · JobCancel → Cancelled
              anything else → Failed

Rule 1: a plain function runs in a thread, and Python cannot interrupt threads: the attempt lasts until the function
        returns, however often it was cancelled. The function may check `job.is_cancel_requested`.
Rule 2: once its outcome is known, an attempt cannot be cancelled any more.

Source: River v0.51.2, internal/jobexecutor/job_executor.go.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any, NamedTuple, assert_never, cast

from millhand.core.clock import Clock
from millhand.core.config import Config
from millhand.core.errors import AttemptCancelled, JobCancel, JobSnooze, JobTimeout, UnknownKind
from millhand.core.hooks import AttemptFailure, Hook, Middleware, overrides
from millhand.core.job import Json
from millhand.core.log.context_fields import current_attempt
from millhand.core.log.line_sink import CompletedLine, LineSink, line_sink_of
from millhand.core.log.logger import logger_of
from millhand.core.retry import RetryPolicy, checked_retry_at
from millhand.core.transition import (
    Cancelled,
    Completed,
    Failed,
    Interrupted,
    Outcome,
    Snoozed,
    StateChange,
    settle,
)
from millhand.core.worker import Worker
from millhand.core.worker_job import Job, JobInternals
from millhand.engine.attempt import Attempt, CancelReason, Deadlines
from millhand.engine.error_text import error_text, is_own, trace_of, without_own_frames

logger = logger_of(__name__)

CANCELLED_REMOTELY = "JobCancelError: job cancelled remotely"

# What a cancelled coroutine raises, and what a cancelled plain function may raise.
_CANCELLATIONS = (asyncio.CancelledError, AttemptCancelled)

_COMPLETED = Completed()


class JobExecutor:
    """
    Executes attempts for one client; the producer keeps the list of them.

    `hand_over` takes each state change with its attempt. `handle_failure` returns whether a failure cancels the job.
    `on_stuck` is called for an attempt that still runs long after its timeout. Plain functions run in `threads`, or in
    threads of its own.
    """

    def __init__(
        self,
        config: Config,
        *,
        client: object,
        hand_over: Callable[[StateChange, Attempt], Awaitable[object] | None],
        handle_failure: Callable[[AttemptFailure], Awaitable[bool]],
        on_stuck: Callable[[Attempt], None],
        threads: Executor | None = None,
    ) -> None:
        self._client = client
        clock: Clock = config.clock
        self._completed_level = logging.INFO if config.log_completed_jobs else logging.DEBUG
        self._config = config
        self._hand_over = hand_over
        self._is_closed = False
        self._handle_failure = handle_failure
        self._monotonic = clock.monotonic
        self._now = clock.now
        self._plans = {
            kind: _Plan(worker, kind, config) for worker in config.workers for kind in worker.kinds
        }
        self._stuck_deadlines: Deadlines[Attempt] = Deadlines(on_stuck)
        self._stuck_seconds = config.job_stuck_threshold.total_seconds()
        self._lent_threads = threads
        self._line_sink: LineSink | None = None  # of this turn of the event loop
        self._threads: ThreadPoolExecutor | None = None
        self.num_plain_calls = 0  # of plain functions, which run in a thread or wait for one
        self._timeouts: Deadlines[Attempt] = Deadlines(self._expired)

    def close(self) -> None:
        """End the timers and the idle threads; a thread that still runs ends by itself."""
        self._is_closed = True
        self._timeouts.close()
        self._stuck_deadlines.close()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None

    async def execute(self, attempt: Attempt) -> None:
        """Work one attempt and hand over the change of its job. Never raises."""
        row = attempt.row
        current_attempt.set((row.id, row.kind, row.queue, row.attempt))
        started = attempt.started = self._monotonic()
        job: JobInternals[Any] = JobInternals(row, None, self._client, attempt)
        plan = self._plans.get(row.kind)
        error: BaseException | None = None
        try:
            if plan is None or attempt.reason is not None:
                raise self._reason_not_to_work(attempt)
            if plan.middleware:
                await self._work_in_middleware(attempt, plan, job)
            else:
                await self._work(attempt, plan, job)
        except BaseException as raised:  # a worker may raise anything, SystemExit too
            if isinstance(raised, GeneratorExit) and not _is_loop_running():
                raise  # the event loop closed the task; no outcome can be written
            error = raised
        if row.metadata or job.steps is not None:  # nearly always neither
            error = job.end_steps(error)
        attempt.is_settled = True
        if self._is_closed:  # abandoned by a stop, which logged it: the row stays running, to be rescued
            return
        if attempt.reason is not None:
            self._end_cancellation(attempt)
        # The instant of the beginning follows from that of the end, because a clock's instant takes half a microsecond.
        ended_at, run_seconds = self._now(), self._monotonic() - started
        attempt.run_seconds = run_seconds
        attempt.queue_wait_seconds = (ended_at - row.scheduled_at).total_seconds() - run_seconds
        if error is not None:
            # As in River, the retry policy of a worker needs args that could be decoded.
            own_plan = None if job.args is None else plan
            change = await self._change_after(error, _Ended(attempt, ended_at, job.staged), own_plan)
        else:
            change = settle(row, _COMPLETED, now=ended_at, started_at=ended_at, metadata_updates=job.staged)
            if logger.isEnabledFor(self._completed_level):
                self._log_completed(attempt)
        waiting = self._hand_over(change, attempt)
        if waiting is not None:
            await waiting

    def _log_completed(self, attempt: Attempt) -> None:
        """Log that a job completed: in one write with the others of this turn of the event loop, where that is possible."""
        if self._line_sink is None:
            self._line_sink = line_sink_of(logger, self._completed_level)
            if self._line_sink is None:
                _log("job completed", self._completed_level, attempt)
                return
            asyncio.get_running_loop().call_soon(self._end_turn, self._line_sink)
        row = attempt.row
        line = CompletedLine(
            time.time(),
            row.id,
            row.kind,
            row.queue,
            row.attempt,
            row.max_attempts,
            round(attempt.queue_wait_seconds, 6),
            round(attempt.run_seconds, 6),
        )
        self._line_sink.add_completed(logger.name, self._completed_level, line)

    def _end_turn(self, sink: LineSink) -> None:
        self._line_sink = None
        sink.flush()

    def _reason_not_to_work(self, attempt: Attempt) -> BaseException:
        if attempt.reason is not None:
            return asyncio.CancelledError()
        return UnknownKind(attempt.row.kind, self._plans)

    async def _work_in_middleware(self, attempt: Attempt, plan: _Plan, job: Job[Any]) -> None:
        # Partials, because each coroutine in between would add to the cost of every attempt.
        call: Callable[[], Awaitable[None]] = functools.partial(self._work, attempt, plan, job)
        for middleware in reversed(plan.middleware):
            call = functools.partial(middleware.work, job, call)
        await call()

    async def _work(self, attempt: Attempt, plan: _Plan, job: Job[Any]) -> None:
        for hook in plan.begin_hooks:
            await hook.work_begin(job)
        job.args = plan.decode(attempt.row.encoded_args)
        timeout_seconds = plan.timeout_seconds
        if timeout_seconds is not None:
            self._timeouts.add(attempt, timeout_seconds)
        try:
            if plan.end_hooks:
                await self._call_with_end_hooks(attempt, plan, job)
            elif plan.is_async:
                await plan.call(job)
            else:
                await self._call_plain(attempt, plan, job)
        except _CANCELLATIONS as error:
            if attempt.reason is CancelReason.TIMEOUT and timeout_seconds is not None:
                raise JobTimeout(timeout_seconds) from error
            raise
        finally:
            if timeout_seconds is not None:
                self._timeouts.discard(attempt, timeout_seconds)
            if attempt.reason is not None:
                self._end_cancellation(attempt)

    async def _call_with_end_hooks(self, attempt: Attempt, plan: _Plan, job: Job[Any]) -> None:
        ended_with: BaseException | None = None
        try:
            await (plan.call(job) if plan.is_async else self._call_plain(attempt, plan, job))
        except (Exception, *_CANCELLATIONS) as error:  # noqa: BLE001 - passed to the hooks, raised after
            ended_with = error
            if isinstance(error, _CANCELLATIONS) and attempt.reason is CancelReason.TIMEOUT:
                ended_with = JobTimeout(plan.timeout_seconds or 0.0)
                ended_with.__cause__ = error
        for hook in plan.end_hooks:
            ended_with = await hook.work_end(job, ended_with)
        if ended_with is not None:
            raise ended_with

    async def _call_plain(self, attempt: Attempt, plan: _Plan, job: Job[Any]) -> None:
        self.num_plain_calls += 1
        try:
            await self._call_in_thread(attempt, plan, job)
        finally:
            self.num_plain_calls -= 1

    async def _call_in_thread(self, attempt: Attempt, plan: _Plan, job: Job[Any]) -> None:
        context = contextvars.copy_context()
        call = self._require_threads().submit(context.run, _caught, plan.call, job, attempt)
        future = asyncio.wrap_future(call)
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError:
                if self._is_closed:  # abandoned by a stop: the event loop must not wait for a thread
                    raise
                # A call that still waits for a free thread ends here. Not so after a timeout: the job would lose attempt
                # after attempt to the jobs before it.
                if attempt.reason is not CancelReason.TIMEOUT and call.cancel():
                    raise
                # The thread continues, and so does its attempt. The function may check is_cancel_requested.
        error = future.result()
        if error is not None:
            raise error

    def _require_threads(self) -> Executor:
        if self._lent_threads is not None:
            return self._lent_threads
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._config.max_threads, thread_name_prefix="millhand")
        return self._threads

    def _expired(self, attempt: Attempt) -> None:
        attempt.cancel(CancelReason.TIMEOUT)
        self._stuck_deadlines.add(attempt, self._stuck_seconds)

    def _end_cancellation(self, attempt: Attempt) -> None:
        """Clear the task's cancellation once the worker has ended: middleware and the outcome must not be cancelled."""
        self._stuck_deadlines.discard(attempt, self._stuck_seconds)
        task = attempt.task
        while task is not None and task.cancelling():
            task.uncancel()

    async def _change_after(self, error: BaseException, ended: _Ended, plan: _Plan | None) -> StateChange:
        try:
            outcome = signalled(error, ended.attempt.reason)
        except Exception:  # noqa: BLE001 - a user's subclass of a signal that lacks its attributes
            outcome = None
        if outcome is None:
            return await self._change_after_failure(error, ended, plan)
        _log_outcome(outcome, ended.attempt)
        return ended.change(outcome, ended.at)

    async def _change_after_failure(
        self, error: BaseException, ended: _Ended, plan: _Plan | None
    ) -> StateChange:
        row = ended.attempt.row
        error.__traceback__ = without_own_frames(error.__traceback__)
        policy = self._config.retry_policy if plan is None else plan.retry
        retry_at = checked_retry_at(policy, row, now=ended.at)
        is_last = row.attempt >= row.max_attempts
        failed = Failed(error_text(error), retry_at, "" if is_own(error) else trace_of(error))
        change = ended.change(failed, ended.at)
        is_cancelled = await self._handle_failure(
            AttemptFailure(
                job=row,
                error=error,
                trace=failed.trace,
                state=change.state,
                next_attempt_at=None if is_last else retry_at,
                run_seconds=ended.attempt.run_seconds,
            )
        )
        if not is_cancelled:
            return change
        # The error handler may have taken long.
        return ended.change(Cancelled(failed.error, failed.trace), self._now())


class _Ended(NamedTuple):
    """An attempt whose worker has ended without success, the instant of that end, and metadata to write."""

    attempt: Attempt
    at: datetime
    updates: dict[str, Json] | None

    def change(self, outcome: Outcome, now: datetime) -> StateChange:
        started_at = self.at - timedelta(seconds=self.attempt.run_seconds)
        return settle(
            self.attempt.row, outcome, now=now, started_at=started_at, metadata_updates=self.updates
        )


class _EndSteps(Middleware):
    async def work(self, job: Job[Any], call_next: Callable[[], Awaitable[None]]) -> None:
        error: BaseException | None = None
        try:
            await call_next()
        except BaseException as raised:  # noqa: BLE001 - passed to the steps, and raised again
            error = raised
        error = cast("JobInternals[Any]", job).end_steps(error)
        if error is not None:
            raise error


_END_STEPS = _EndSteps()


class _Plan:
    """What the executor needs of a worker and the configuration, computed once for each kind."""

    def __init__(self, worker: Worker, kind: str, config: Config) -> None:
        hooks: tuple[Hook, ...] = (*config.hooks, *worker.hooks)
        self.begin_hooks = tuple(hook for hook in hooks if overrides(hook, "work_begin"))
        self.call = worker.call
        self.decode = worker.decoder(kind, config.secret_keys)
        self.end_hooks = tuple(hook for hook in hooks if overrides(hook, "work_end"))
        self.is_async = worker.is_async
        own = tuple(m for m in worker.middleware if overrides(m, "work"))
        general = tuple(m for m in config.middleware if overrides(m, "work"))
        # Steps end inside of the worker's own middleware, which therefore sees an error of the steps, as in River.
        self.middleware = (*own, _END_STEPS, *general) if own else general
        self.retry: RetryPolicy = worker.retry or config.retry_policy
        timeout = worker.timeout if worker.timeout is not None else config.job_timeout
        self.timeout_seconds = timeout.total_seconds() if timeout.total_seconds() > 0 else None


def signalled(error: BaseException, reason: CancelReason | None) -> Outcome | None:
    """
    Return the outcome of an error that is a signal or a cancellation; None for a failure. The order is River's.

    `reason` is why the attempt was cancelled, if it was.
    """
    if reason is CancelReason.REMOTE:
        return Cancelled(CANCELLED_REMOTELY)
    if isinstance(error, JobSnooze):
        # Checked again: a user's subclass may have set its own delay.
        return Snoozed(JobSnooze(error.delay).delay, error.hold_partition)
    # Writes the job back as available, unless another client rescued it already: then the change comes too late.
    if reason in (CancelReason.LOST, CancelReason.STOPPING) and _is_cancellation(error):
        return Interrupted()
    if isinstance(error, JobCancel):
        return Cancelled(f"JobCancelError: {'no reason given' if error.reason is None else error.reason}")
    return None


def _is_loop_running() -> bool:
    try:
        return asyncio.get_running_loop().is_running()
    except RuntimeError:
        return False


def _is_cancellation(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, _CANCELLATIONS):
            return True
        error = error.__cause__
    return False


def _caught(call: Callable[[Job[Any]], object], job: Job[Any], attempt: Attempt) -> BaseException | None:
    """Call a worker in a thread and return its exception: a future treats some exceptions in its own way."""
    # A cancel frees the thread of one attempt before the event loop can cancel the calls that wait for it.
    if attempt.reason not in (None, CancelReason.TIMEOUT):
        return asyncio.CancelledError()
    try:
        returned = call(job)
    except BaseException as error:  # noqa: BLE001 - the executor decides
        return error
    if not inspect.iscoroutine(returned):
        return None
    returned.close()
    return TypeError(
        f"worker of kind {job.kind!r} must be a coroutine function to be awaited, got a plain function that returned "
        "a coroutine; write `async def`"
    )


def _log_outcome(outcome: Outcome, attempt: Attempt) -> None:
    """Log an attempt that ended by a signal; error handlers log failures."""
    match outcome:
        case Snoozed(delay):
            _log("job snoozed", logging.INFO, attempt, sleep_seconds=delay.total_seconds())
        case Interrupted():
            _log("job interrupted", logging.INFO, attempt)
        case Cancelled(error):
            _log("job cancelled", logging.INFO, attempt, error=error)
        case Completed() | Failed():
            pass
        case _:
            assert_never(outcome)


def _log(message: str, level: int, attempt: Attempt, **more: object) -> None:
    row = attempt.row
    logger.log(
        level,
        message,
        extra={
            "job_id": row.id,
            "kind": row.kind,
            "queue": row.queue,
            "attempt": row.attempt,
            "max_attempts": row.max_attempts,
            "queue_wait_seconds": round(attempt.queue_wait_seconds, 6),
            "run_seconds": round(attempt.run_seconds, 6),
            **more,
        },
    )
