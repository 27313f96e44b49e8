"""The worker of the suite's job: each behavior is one way in which an attempt ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta

from millhand.core.errors import InvalidStep, JobCancel, JobSnooze
from millhand.core.step import Cursor
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from river_conformance.barriers import Barriers
from river_conformance.echo import Echo
from river_conformance.observed import Observed

CURSOR = 7


def named_error(text: str) -> Exception:
    """
    Return an error whose text in the job's row is `text` alone.

    Millhand stores the name of an error's type before its text. The suite compares the whole text, so the type has it as
    its name.
    """
    error: Exception = type(text, (Exception,), {})()
    return error


class EchoWorker:
    """Works the suite's jobs for one client."""

    def __init__(self, barriers: Barriers, observed: Observed) -> None:
        self._barriers = barriers
        self._behaviors: Mapping[str, Callable[[Job[Echo]], Awaitable[None]]] = {
            "": self._complete,
            "barrier_output": self._barrier_output,
            "barrier_wait": self._barrier_wait,
            "cancel": self._cancel,
            "cancel_error": self._cancel_error,
            "cancel_panic": self._cancel_panic,
            "cooperative_cancel": self._cooperative_cancel,
            "discard": self._discard,
            "error": self._error,
            "ignored_cancel": self._ignored_cancel,
            "output": self._output,
            "panic": self._panic,
            "resumable": self._resumable,
            "resumable_cursor": self._resumable_cursor,
            "resumable_duplicate": self._resumable_duplicate,
            "sleep": self._sleep,
            "snooze_once": self._snooze_once,
            "snooze_then_cancel": self._snooze_then_cancel,
            "transactional_complete": self._transactional_complete,
        }
        self._observed = observed

    def workers(self) -> Workers:
        """Return the workers of a client."""
        workers = Workers()
        workers.add()(self)
        return workers

    async def work(self, job: Job[Echo]) -> None:
        """Work one job. Raises: JobCancel for an unknown behavior."""
        self._observed.record_called(job.row)
        behavior = self._behaviors.get(job.args.behavior)
        if behavior is None:
            raise JobCancel(f"behavior must be one of the contract, got {job.args.behavior!r}")
        await behavior(job)

    async def _complete(self, job: Job[Echo]) -> None:
        """Return at once."""

    async def _barrier_wait(self, job: Job[Echo]) -> None:
        await self._barriers.wait(job.args.message)

    async def _barrier_output(self, job: Job[Echo]) -> None:
        await self._barriers.wait(job.args.message)
        job.record_output({"race": "worker"})

    async def _output(self, job: Job[Echo]) -> None:
        job.record_output({"message": job.args.message})

    async def _sleep(self, job: Job[Echo]) -> None:
        await asyncio.sleep(job.args.duration_ms / 1000)

    async def _transactional_complete(self, job: Job[Echo]) -> None:
        job.set_metadata("transactional_completion", True)
        async with job.client.driver.pool.begin() as tx:
            await job.complete(tx=tx)

    # Failures, cancels and snoozes.

    async def _cancel(self, job: Job[Echo]) -> None:
        raise JobCancel("cancelled by conformance worker")

    async def _discard(self, job: Job[Echo]) -> None:
        raise named_error("conformance discard")

    async def _error(self, job: Job[Echo]) -> None:
        raise named_error("conformance retryable error")

    async def _panic(self, job: Job[Echo]) -> None:
        raise AssertionError("conformance worker panic")

    async def _snooze_once(self, job: Job[Echo]) -> None:
        if "snoozes" not in job.metadata:
            raise JobSnooze(timedelta(milliseconds=max(job.args.duration_ms, 1)))

    async def _snooze_then_cancel(self, job: Job[Echo]) -> None:
        await self._snooze_once(job)
        await self._cooperative_cancel(job)

    # Workers whose attempt is cancelled.

    async def _cooperative_cancel(self, job: Job[Echo]) -> None:
        """Wait for the cancellation, and let it pass."""
        await self._barriers.ended.wait()

    async def _cancel_error(self, job: Job[Echo]) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await self._barriers.ended.wait()
        raise named_error("conformance error after cancellation")

    async def _cancel_panic(self, job: Job[Echo]) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await self._barriers.ended.wait()
        raise AssertionError("conformance panic after cancellation")

    async def _ignored_cancel(self, job: Job[Echo]) -> None:
        """Catch every cancellation until the adapter ends."""
        while not self._barriers.ended.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self._barriers.ended.wait()

    # Resumable steps.

    async def _resumable(self, job: Job[Echo]) -> None:
        async def first() -> None:
            self._observed.resumable_first_runs += 1

        async def second() -> None:
            self._observed.resumable_second_runs += 1
            if job.attempt == 1:
                raise named_error("conformance resumable error")

        await job.step("first", first)
        await job.step("second", second)

    async def _resumable_cursor(self, job: Job[Echo]) -> None:
        async def first() -> None:
            job.set_metadata("first_attempt", job.attempt)

        async def second(cursor: Cursor) -> None:
            if job.attempt == 1:
                cursor.set(CURSOR)
                raise named_error("retry with cursor")
            if cursor.value != CURSOR:
                raise named_error(f"cursor must be {CURSOR}, got {cursor.value!r}")
            job.set_metadata("cursor_observed", CURSOR)

        async def third() -> None:
            if job.attempt == 2:
                raise named_error("retry after consuming cursor")

        await job.step("first", first)
        await job.step_cursor("second", second)
        await job.step("third", third)

    async def _resumable_duplicate(self, job: Job[Echo]) -> None:
        async def step() -> None:
            """Return at once."""

        await job.step("first", step)
        try:
            await job.step("first", step)
        except InvalidStep as error:
            raise named_error(
                "duplicate resumable step"
            ) from error  # River's words, which the suite compares
