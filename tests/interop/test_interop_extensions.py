"""Hooks, middleware and error handlers run at the same moments and in the same order in both languages."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar, Protocol

import pytest
from interop_harness import LANGUAGES, Harness, Language, Row, insert_opts
from river_program import EventLog, RiverError
from scripted_worker import Act, Boom

from millhand.client import Client
from millhand.core.config import Config
from millhand.core.errors import JobCancel, JobSnooze
from millhand.core.hooks import AttemptFailure, FetchMetric, Hook, Middleware
from millhand.core.insert_opts import InsertParams, InsertResult
from millhand.core.job import Json
from millhand.core.worker import Workers
from millhand.core.worker_job import Job

GOES_AROUND = ["own work", "outer work", "inner work"]
IS_OVER = ["inner work is over", "outer work is over", "own work is over"]
BEGINS = ["first work_begin", "second work_begin", "own work_begin"]
INSERTS = ["outer insert of 1", "inner insert of 1"]
INSERT_IS_OVER = ["inner insert is over", "outer insert is over"]


def ends(error: str) -> list[str]:
    return [f"{name} work_end {error}" for name in ("first", "second", "own")]


# A script, the event in which it ends, and what is called on the way.
ATTEMPTS: dict[str, tuple[list[Act], str, list[str]]] = {
    "succeeds": ([], "job_completed", [*GOES_AROUND, *BEGINS, "worker", *ends("nothing"), *IS_OVER]),
    "fails": (
        [["fail", "boom"]],
        "job_failed",
        [*GOES_AROUND, *BEGINS, "worker", *ends("error"), *IS_OVER, "handle_error"],
    ),
    "fails, and is given up": (
        [["fail", "hopeless"]],
        "job_cancelled",
        [*GOES_AROUND, *BEGINS, "worker", *ends("error"), *IS_OVER, "handle_error"],
    ),
    "snoozes": (
        [["snooze", 3600]],
        "job_snoozed",
        [*GOES_AROUND, *BEGINS, "worker", *ends("snooze"), *IS_OVER],
    ),
    "cancels": (
        [["cancel", "enough"]],
        "job_cancelled",
        [*GOES_AROUND, *BEGINS, "worker", *ends("cancel"), *IS_OVER],
    ),
}


class Moments(Protocol):
    """A leading client that records each call of an extension."""

    async def insert(self, acts: Sequence[Act], **opts: Any) -> int: ...


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", ATTEMPTS)
async def test_hooks_and_middleware_run_in_river_s_order(
    harness: Harness, language: Language, name: str
) -> None:
    """
    extension_hook_middleware_order, error_handler_cancel_override.

    From the insert to the error handler, both languages call extensions in the same order.
    """
    acts, event, expected = ATTEMPTS[name]
    async with recording(harness, language) as client:
        await harness.events.wait("moment", moment="second periodic_jobs_start")
        id = await client.insert(acts, max_attempts=1)  # a client that stops late begins no second attempt
        await harness.events.wait(event, job=id)

    events = extension_calls(harness)
    inserting = [moment for moment in events if "insert" in moment]
    attempting = [
        moment for moment in events if "work" in moment or "fetched" in moment or "handle" in moment
    ]
    assert events[:2] == ["first periodic_jobs_start", "second periodic_jobs_start"]
    assert inserting == [
        *INSERTS,
        "first insert_begin",
        "second insert_begin",
        "own insert_begin",
        *INSERT_IS_OVER,
    ]
    assert attempting == ["first fetched 1 of default", "second fetched 1 of default", *expected]


@pytest.mark.parametrize("language", LANGUAGES)
async def test_insert_hook_that_fails_stops_the_insert(harness: Harness, language: Language) -> None:
    """extension_hook_middleware_order; the later hooks are not called, and no job is inserted."""
    async with recording(harness, language) as client:
        with pytest.raises((RiverError, PermissionError), match=r"^second refuses$"):
            await client.insert([], tags=["no_insert_second"])
        events = [moment for moment in extension_calls(harness) if "insert" in moment]

    assert events == [*INSERTS, "first insert_begin", "second insert_begin", *INSERT_IS_OVER]
    assert await harness.rows() == []


@pytest.mark.parametrize("language", LANGUAGES)
async def test_work_hook_that_fails_fails_the_attempt(harness: Harness, language: Language) -> None:
    """extension_hook_middleware_order; neither the worker nor the hooks at its end are called."""
    async with recording(harness, language) as client:
        id = await client.insert([], tags=["no_work_second"], max_attempts=1)
        await harness.events.wait("job_failed", job=id)

    events = [moment for moment in extension_calls(harness) if "work" in moment or "handle" in moment]
    assert events == [*GOES_AROUND, "first work_begin", "second work_begin", *IS_OVER, "handle_error"]


@pytest.mark.parametrize("language", LANGUAGES)
async def test_args_are_decoded_after_the_hooks_and_an_unknown_kind_fails_before_them(
    harness: Harness, language: Language
) -> None:
    """
    extension_hook_middleware_order.

    Invalid args fail the job after its hooks have run; an unknown kind fails it before any hook runs.
    """
    jobs = {"act": [*GOES_AROUND, *BEGINS, *IS_OVER, "handle_error"], "stranger": ["handle_error"]}
    events: dict[str, list[str]] = {}
    async with recording(harness, language):
        await harness.events.wait("moment", moment="second periodic_jobs_start")
        for kind in jobs:
            before = len(extension_calls(harness))
            [inserted] = await harness.control("python").insert_many(
                [{"kind": kind, "args": {"do": 5}, "opts": {"max_attempts": 1}}]
            )
            await harness.events.wait("job_failed", job=inserted["id"])
            events[kind] = [moment for moment in extension_calls(harness)[before:] if "fetched" not in moment]

    assert events == jobs


def extension_calls(harness: Harness) -> list[str]:
    return [line["moment"] for line in harness.events.all("moment")]


@contextlib.asynccontextmanager
async def recording(harness: Harness, language: Language) -> AsyncIterator[Moments]:
    """Start a client that records each call of an extension."""
    if language == "go":
        await harness.go.call("moments", id="telling", schema=harness.schema)
        try:
            yield GoMoments(harness)
        finally:
            await harness.go.call("stop", id="telling", cancel=True)
        return
    client = Client(harness.url, python_config(harness))
    async with asyncio.TaskGroup() as readers:
        readers.create_task(harness._record_events("telling", client.subscribe()))
        async with client:
            yield PythonMoments(client)


@dataclass
class GoMoments:
    harness: Harness

    async def insert(self, acts: Sequence[Act], **opts: Any) -> int:
        jobs: list[Row] = [{"kind": "act", "args": {"do": acts}, "opts": opts}]
        [id] = await self.harness.go.call("moments_insert", id="telling", jobs=jobs)
        return int(id)


@dataclass
class PythonMoments:
    client: Client

    async def insert(self, acts: Sequence[Act], **opts: Any) -> int:
        inserted = await self.client.insert(Script(list(acts)), insert_opts(opts))
        return inserted.job.id


@dataclass(frozen=True)
class Script:
    """Args of a type that refuses some JSON values."""

    kind: ClassVar[str] = "act"
    do: list[Any]


class Around(Middleware):
    def __init__(self, name: str, events: EventLog) -> None:
        self.name = name
        self.events = events

    async def insert(
        self,
        params: Sequence[InsertParams],
        call_next: Callable[[Sequence[InsertParams]], Awaitable[Sequence[InsertResult]]],
    ) -> Sequence[InsertResult]:
        record_call(self.events, f"{self.name} insert of {len(params)}")
        try:
            return await call_next(params)
        finally:
            record_call(self.events, f"{self.name} insert is over")

    async def work(self, job: Job[Json], call_next: Callable[[], Awaitable[None]]) -> None:
        record_call(self.events, f"{self.name} work")
        try:
            await call_next()
        finally:
            record_call(self.events, f"{self.name} work is over")


class At(Hook):
    def __init__(self, name: str, events: EventLog) -> None:
        self.name = name
        self.events = events

    async def insert_begin(self, params: InsertParams) -> InsertParams:
        record_call(self.events, f"{self.name} insert_begin")
        self.refuse(params.tags, "no_insert_")
        return params

    def metric_emit(self, metric: FetchMetric) -> None:
        if metric.num_jobs:
            record_call(self.events, f"{self.name} fetched {metric.num_jobs} of {metric.queue}")

    async def periodic_jobs_start(self) -> None:
        record_call(self.events, f"{self.name} periodic_jobs_start")

    async def work_begin(self, job: Job[Json]) -> None:
        record_call(self.events, f"{self.name} work_begin")
        self.refuse(job.row.tags, "no_work_")

    async def work_end(self, job: Job[Json], error: BaseException | None) -> BaseException | None:
        kinds = {type(None): "nothing", JobSnooze: "snooze", JobCancel: "cancel"}
        record_call(self.events, f"{self.name} work_end {kinds.get(type(error), 'error')}")
        return error

    def refuse(self, tags: Sequence[str], prefix: str) -> None:
        if f"{prefix}{self.name}" in tags:
            raise PermissionError(f"{self.name} refuses")


class Handler:
    def __init__(self, events: EventLog) -> None:
        self.events = events

    async def handle_error(self, failure: AttemptFailure) -> bool | None:
        record_call(self.events, "handle_error")
        return "hopeless" in str(failure.error)


def record_call(events: EventLog, moment: str) -> None:
    events.record({"event": "moment", "client": "telling", "moment": moment})


def python_config(harness: Harness) -> Config:
    events = harness.events
    workers = Workers()

    @workers.add(middleware=[Around("own", events)], hooks=[At("own", events)])
    async def act(job: Job[Script]) -> None:
        record_call(events, "worker")
        for verb, value in job.args.do:
            match verb:
                case "fail":
                    raise Boom(value)
                case "snooze":
                    raise JobSnooze(timedelta(seconds=value))
                case "cancel":
                    raise JobCancel(value)

    return Config(
        client_id="telling",
        error_handlers=[Handler(events)],
        fetch_only_known_kinds=False,
        hooks=[At("first", events), At("second", events)],
        middleware=[Around("outer", events), Around("inner", events)],
        heartbeat_interval=None,
        queues={"default": 1},
        schema=harness.schema,
        skip_unknown_job_check=True,
        workers=workers,
    )
