"""Workers that end late after a cancel, and workers of an unexpected type."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import pytest

from millhand.core.config import Config
from millhand.core.event import EventKind
from millhand.core.hooks import AttemptFailure, Hook, Middleware
from millhand.core.job import JobId, JobRow, JobState, Json
from millhand.core.transition import StateChange
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.engine.attempt import Attempt, CancelReason
from millhand.engine.job_executor import JobExecutor

GENEROUS = 10.0


@dataclass(frozen=True)
class Act:
    kind: ClassVar[str] = "act"


class Bench:
    """An executor without producer and completer; it keeps the changes handed over."""

    def __init__(self, workers: Workers, **settings: object) -> None:
        self.changes: list[StateChange] = []
        self.failures: list[AttemptFailure] = []
        self.executor = JobExecutor(
            Config(workers=workers, **settings),  # type: ignore[arg-type]
            client=None,
            hand_over=lambda change, _: self.changes.append(change),
            handle_failure=self.keep_failing,
            on_stuck=lambda _: None,
        )

    async def keep_failing(self, failure: AttemptFailure) -> bool:
        self.failures.append(failure)
        return False

    def begin(self) -> Attempt:
        now = datetime(2026, 1, 1, tzinfo=UTC)
        attempt = Attempt(
            JobRow(
                JobId(1), JobState.RUNNING, 1, 25, now, now, None, now, 1, "{}", ("me",), (), "act", {}, "default",
                (), None, None,
            )
        )  # fmt: skip
        attempt.task = asyncio.create_task(self.executor.execute(attempt))
        return attempt

    async def end(self, attempt: Attempt) -> StateChange:
        assert attempt.task is not None
        await attempt.task
        self.executor.close()
        [change] = self.changes
        return change


async def test_second_cancel_does_not_interrupt_the_cleanup() -> None:
    """A notification and later polls announce one cancel; only the first interrupts the worker."""
    workers = Workers()
    is_working, is_cleaning_up, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()
    cleaned_up = []

    @workers.add()
    async def act(job: Job[Act]) -> None:
        try:
            is_working.set()
            await asyncio.Event().wait()
        finally:
            is_cleaning_up.set()
            await go_on.wait()
            cleaned_up.append(job.id)

    bench = Bench(workers)
    attempt = bench.begin()
    await is_working.wait()
    attempt.cancel(CancelReason.REMOTE)
    await is_cleaning_up.wait()
    attempt.cancel(CancelReason.REMOTE)
    go_on.set()
    change = await bench.end(attempt)

    assert change.state is JobState.CANCELLED
    assert cleaned_up == [1]


async def test_cancel_after_an_ignored_timeout_reaches_the_worker() -> None:
    """A worker that continues after its timeout can still be cancelled."""
    workers = Workers()
    is_working = asyncio.Event()

    @workers.add(timeout=timedelta(milliseconds=1))
    async def act(job: Job[Act]) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            is_working.set()
            await asyncio.Event().wait()

    bench = Bench(workers)
    attempt = bench.begin()
    await is_working.wait()
    attempt.cancel(CancelReason.REMOTE)
    change = await bench.end(attempt)

    assert change.event_kind is EventKind.JOB_CANCELLED


class LastWord(Hook):
    """Keeps what `work_end` gets."""

    def __init__(self) -> None:
        self.ended_with: list[BaseException | None] = []

    async def work_end(self, job: Job[Json], error: BaseException | None) -> BaseException | None:
        self.ended_with.append(error)
        return error


@pytest.mark.parametrize("hooks", [(), (LastWord(),)], ids=["without hooks", "with hooks"])
async def test_function_that_checks_its_timeout_has_timed_out(hooks: tuple[LastWord, ...]) -> None:
    """A plain function that ends after its check fails with JobTimeout, like a coroutine."""
    workers = Workers()

    @workers.add(timeout=timedelta(milliseconds=1))
    def act(job: Job[Act]) -> None:
        while True:
            job.check_cancel_requested()

    bench = Bench(workers, hooks=hooks)
    change = await bench.end(bench.begin())

    assert change.error is not None
    assert change.error.error == "JobTimeout: attempt must end within 0.001 s, got its timeout"
    assert [str(error) for hook in hooks for error in hook.ended_with] == [
        "attempt must end within 0.001 s, got its timeout" for _ in hooks
    ]


async def test_end_hooks_run_for_a_cancelled_function() -> None:
    """They run for a plain function as for a coroutine."""
    workers = Workers()
    is_working, loop = asyncio.Event(), asyncio.get_running_loop()

    @workers.add()
    def act(job: Job[Act]) -> None:
        loop.call_soon_threadsafe(is_working.set)
        while True:
            job.check_cancel_requested()

    hook = LastWord()
    bench = Bench(workers, hooks=[hook])
    attempt = bench.begin()
    await is_working.wait()
    attempt.cancel(CancelReason.STOPPING)
    change = await bench.end(attempt)

    assert change.event_kind is EventKind.JOB_INTERRUPTED
    assert [type(error).__name__ for error in hook.ended_with] == ["AttemptCancelled"]


async def test_function_that_returns_a_coroutine_fails() -> None:
    """The error says to write `async def`."""
    workers = Workers()

    async def work(job: Job[Act]) -> None: ...

    @workers.add()
    def act(job: Job[Act]) -> object:
        return work(job)

    bench = Bench(workers)
    change = await bench.end(bench.begin())

    assert change.error is not None
    assert change.error.error == (
        "TypeError: worker of kind 'act' must be a coroutine function to be awaited, got a plain function that "
        "returned a coroutine; write `async def`"
    )


class Replacing(Middleware):
    """Raises another error than its cancellation."""

    def __init__(self) -> None:
        self.is_around = asyncio.Event()

    async def work(self, job: Job[Json], call_next: object) -> None:
        try:
            self.is_around.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError("no connection") from None


async def test_failure_of_a_cancelled_middleware_is_handled_uncancelled() -> None:
    """Error handlers run in a task that is not cancelled."""
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None: ...

    middleware = Replacing()
    bench = Bench(workers, middleware=[middleware])
    attempt = bench.begin()
    await middleware.is_around.wait()
    attempt.cancel(CancelReason.STOPPING)
    await bench.end(attempt)

    assert [str(failure.error) for failure in bench.failures] == ["no connection"]
    assert attempt.task is not None
    assert attempt.task.cancelling() == 0


async def test_abandoned_function_does_not_block_the_end_of_the_event_loop() -> None:
    """Before a stop only the end of the thread ends its attempt; after it a cancel does."""
    workers = Workers()
    is_working, loop, go_on = asyncio.Event(), asyncio.get_running_loop(), threading.Event()

    @workers.add()
    def act(job: Job[Act]) -> None:
        loop.call_soon_threadsafe(is_working.set)
        go_on.wait()

    bench = Bench(workers)
    attempt = bench.begin()
    assert attempt.task is not None
    await is_working.wait()
    attempt.cancel(CancelReason.STOPPING)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    was_done = attempt.task.done()
    bench.executor.close()
    attempt.task.cancel()
    await asyncio.wait([attempt.task], timeout=GENEROUS)
    is_done = attempt.task.done()
    go_on.set()

    assert (was_done, is_done) == (False, True)
