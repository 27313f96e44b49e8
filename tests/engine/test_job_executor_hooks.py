"""Hooks and middleware around an attempt, in River's order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from client_harness import Act, ClientHarness
from millhand.core.errors import JobTimeout
from millhand.core.event import EventKind
from millhand.core.hooks import FetchMetric, Hook, Middleware
from millhand.core.job import Json
from millhand.core.worker import Workers
from millhand.core.worker_job import Job


class Mute(Exception):
    """An error whose text raises."""

    def __str__(self) -> str:
        raise LookupError


class Around(Middleware):
    def __init__(self, name: str, emitted: list[str]) -> None:
        self.name = name
        self.emitted = emitted

    async def work(self, job: Job[Json], call_next: Callable[[], Awaitable[None]]) -> None:
        self.emitted.append(f"{self.name} before")
        await call_next()
        self.emitted.append(f"{self.name} after")


class At(Hook):
    def __init__(self, name: str, emitted: list[str]) -> None:
        self.name = name
        self.emitted = emitted

    async def work_begin(self, job: Job[Json]) -> None:
        self.emitted.append(f"{self.name} begin {job.args}")

    async def work_end(self, job: Job[Json], error: BaseException | None) -> BaseException | None:
        self.emitted.append(f"{self.name} end {error!r}")
        return error


async def test_order_of_middleware_and_hooks(harness: ClientHarness) -> None:
    """
    extension_hook_middleware_order.

    The worker's middleware is outside the client's; begin hooks run before the args are decoded, the client's first.
    """
    emitted: list[str] = []
    workers = Workers()

    @workers.add(middleware=[Around("own", emitted)], hooks=[At("own hook", emitted)])
    async def act(job: Job[Act]) -> None:
        emitted.append(f"work {job.args.what}")

    settings = {"middleware": [Around("global", emitted)], "hooks": [At("global hook", emitted)]}
    async with harness.client(workers, **settings) as client:
        event = await harness.work(client, Act("x"))

    assert event.kind is EventKind.JOB_COMPLETED
    assert emitted == [
        "own before",
        "global before",
        "global hook begin None",
        "own hook begin None",
        "work x",
        "global hook end None",
        "own hook end None",
        "global after",
        "own after",
    ]


async def test_begin_hook_that_raises_fails_the_attempt_before_the_worker(harness: ClientHarness) -> None:
    """Neither the worker nor the end hooks are called, and the attempt counts."""
    emitted: list[str] = []

    class Refuse(At):
        async def work_begin(self, job: Job[Json]) -> None:
            raise PermissionError("not today")

    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        emitted.append("work")

    async with harness.client(workers, hooks=[Refuse("refuse", emitted)]) as client:
        event = await harness.work(client, Act("x"))

    assert event.job is not None
    assert (event.job.errors[0].error, emitted) == ("PermissionError: not today", [])


async def test_end_hook_decides_the_outcome(harness: ClientHarness) -> None:
    """An end hook may turn a failure into a success and a success into a failure."""

    class Turn(Hook):
        async def work_end(self, job: Job[Json], error: BaseException | None) -> BaseException | None:
            return ValueError("turned") if error is None else None

    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        if job.args.what == "fail":
            raise RuntimeError("x")

    async with harness.client(workers, hooks=[Turn()]) as client:
        kinds = [(await harness.work(client, Act(what))).kind for what in ("fail", "win")]

    assert kinds == [EventKind.JOB_COMPLETED, EventKind.JOB_FAILED]


async def test_end_hook_sees_a_timeout_as_job_timeout(harness: ClientHarness) -> None:
    """The error has the seconds."""
    seen: list[BaseException | None] = []

    class See(Hook):
        async def work_end(self, job: Job[Json], error: BaseException | None) -> BaseException | None:
            seen.append(error)
            return error

    workers = Workers()

    @workers.add(timeout=timedelta(milliseconds=10))
    async def act(job: Job[Act]) -> None:
        await asyncio.Event().wait()

    async with harness.client(workers, hooks=[See()]) as client:
        await harness.work(client, Act("x"))

    [error] = seen
    assert isinstance(error, JobTimeout)
    assert error.seconds == pytest.approx(0.01)


async def test_middleware_may_use_task_groups_after_a_timeout(harness: ClientHarness) -> None:
    """After a timeout the task is not cancelled any more, so a task group raises its own failure."""

    class Group(Middleware):
        async def work(self, job: Job[Json], call_next: Callable[[], Awaitable[None]]) -> None:
            await call_next()
            async with asyncio.TaskGroup() as group:
                group.create_task(_fail())
                group.create_task(asyncio.Event().wait())

    async def _fail() -> None:
        raise LookupError("child")

    workers = Workers()

    @workers.add(timeout=timedelta(milliseconds=10))
    async def act(job: Job[Act]) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    async with harness.client(workers, middleware=[Group()]) as client:
        event = await harness.work(client, Act("x"))

    assert event.job is not None
    assert event.job.errors[0].error.startswith("ExceptionGroup: unhandled errors in a TaskGroup")


@pytest.mark.parametrize("error", [LookupError("no such counter"), Mute(), SystemExit(3)])
async def test_metric_hooks_get_fetches_before_their_jobs_begin(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """Each fetch, also an empty one, gives queue, number and seconds; a hook that raises is logged."""
    emitted: list[str | FetchMetric] = []

    class Count(Hook):
        def metric_emit(self, metric: FetchMetric) -> None:
            emitted.append(metric)
            if metric.num_jobs:
                raise error

    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        emitted.append("work")

    with caplog.at_level(logging.ERROR):
        async with harness.client(workers, hooks=[Count()]) as client:
            event = await harness.work(client, Act("x"))

    index = emitted.index("work")
    fetched = emitted[index - 1]
    assert event.kind is EventKind.JOB_COMPLETED
    assert isinstance(fetched, FetchMetric)
    assert (fetched.num_jobs, fetched.queue, fetched.seconds > 0) == (1, "default", True)
    assert {one.num_jobs for one in emitted[: index - 1] if isinstance(one, FetchMetric)} <= {0}
    assert [record.msg for record in caplog.records] == ["metric hook failed"]
