"""Hooks, middleware and error handlers: the same moments in the same order, in River's client and in ours."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar, Protocol

import pytest
from interop_room import LANGUAGES, Language, Room, Row, insert_opts
from river_program import RiverError, Told
from scripted_worker import Act, Boom

from millhand.client import Client
from millhand.config import Config
from millhand.errors import JobCancel, JobSnooze
from millhand.hooks import AttemptFailure, FetchMetric, Hook, Middleware
from millhand.insert_opts import InsertParams, InsertResult
from millhand.job import Job, Json
from millhand.worker import Workers

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
    """A client that leads, and tells every moment."""

    async def insert(self, acts: Sequence[Act], **opts: Any) -> int: ...


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", ATTEMPTS)
async def test_hooks_and_middleware_run_in_river_s_order(room: Room, language: Language, name: str) -> None:
    """
    extension_hook_middleware_order, error_handler_cancel_override.

    From the insert to the error handler, both languages call extensions in the same order.
    """
    acts, event, expected = ATTEMPTS[name]
    async with telling(room, language) as client:
        await room.told.wait("moment", moment="second periodic_jobs_start")
        id = await client.insert(acts)
        await room.told.wait(event, job=id)

    told = moments(room)
    inserting = [moment for moment in told if "insert" in moment]
    attempting = [moment for moment in told if "work" in moment or "fetched" in moment or "handle" in moment]
    assert told[:2] == ["first periodic_jobs_start", "second periodic_jobs_start"]
    assert inserting == [
        *INSERTS,
        "first insert_begin",
        "second insert_begin",
        "own insert_begin",
        *INSERT_IS_OVER,
    ]
    assert attempting == ["first fetched 1 of default", "second fetched 1 of default", *expected]


@pytest.mark.parametrize("language", LANGUAGES)
async def test_insert_hook_that_fails_stops_the_insert(room: Room, language: Language) -> None:
    """extension_hook_middleware_order; the later hooks are not called, and no job is inserted."""
    async with telling(room, language) as client:
        with pytest.raises((RiverError, PermissionError), match=r"^second refuses$"):
            await client.insert([], tags=["no_insert_second"])
        told = [moment for moment in moments(room) if "insert" in moment]

    assert told == [*INSERTS, "first insert_begin", "second insert_begin", *INSERT_IS_OVER]
    assert await room.rows() == []


@pytest.mark.parametrize("language", LANGUAGES)
async def test_work_hook_that_fails_fails_the_attempt(room: Room, language: Language) -> None:
    """extension_hook_middleware_order; neither the worker nor the hooks at its end are called."""
    async with telling(room, language) as client:
        id = await client.insert([], tags=["no_work_second"])
        await room.told.wait("job_failed", job=id)

    told = [moment for moment in moments(room) if "work" in moment or "handle" in moment]
    assert told == [*GOES_AROUND, "first work_begin", "second work_begin", *IS_OVER, "handle_error"]


@pytest.mark.parametrize("language", LANGUAGES)
async def test_args_are_decoded_after_the_hooks_and_an_unknown_kind_fails_before_them(
    room: Room, language: Language
) -> None:
    """
    extension_hook_middleware_order.

    Invalid args fail the job after its hooks have run; an unknown kind fails it before any hook runs.
    """
    jobs = {"act": [*GOES_AROUND, *BEGINS, *IS_OVER, "handle_error"], "stranger": ["handle_error"]}
    told: dict[str, list[str]] = {}
    async with telling(room, language):
        await room.told.wait("moment", moment="second periodic_jobs_start")
        for kind in jobs:
            before = len(moments(room))
            [inserted] = await room.hand("python").insert_many(
                [{"kind": kind, "args": {"do": 5}, "opts": {"max_attempts": 1}}]
            )
            await room.told.wait("job_failed", job=inserted["id"])
            told[kind] = [moment for moment in moments(room)[before:] if "fetched" not in moment]

    assert told == jobs


def moments(room: Room) -> list[str]:
    return [line["moment"] for line in room.told.all("moment")]


@contextlib.asynccontextmanager
async def telling(room: Room, language: Language) -> AsyncIterator[Moments]:
    """Start a client that tells every moment."""
    if language == "go":
        await room.go.call("moments", id="telling", schema=room.schema)
        try:
            yield GoMoments(room)
        finally:
            await room.go.call("stop", id="telling", cancel=True)
        return
    client = Client(room.url, python_config(room))
    async with asyncio.TaskGroup() as readers:
        readers.create_task(room._tell_events("telling", client.subscribe()))
        async with client:
            yield PythonMoments(client)


@dataclass
class GoMoments:
    room: Room

    async def insert(self, acts: Sequence[Act], **opts: Any) -> int:
        jobs: list[Row] = [{"kind": "act", "args": {"do": acts}, "opts": opts}]
        [id] = await self.room.go.call("moments_insert", id="telling", jobs=jobs)
        return int(id)


@dataclass
class PythonMoments:
    client: Client

    async def insert(self, acts: Sequence[Act], **opts: Any) -> int:
        inserted = await self.client.insert(Script(list(acts)), insert_opts(opts))
        return inserted.job.id


@dataclass(frozen=True)
class Script:
    """The args, of a type that not every JSON is."""

    kind: ClassVar[str] = "act"
    do: list[Any]


class Around(Middleware):
    def __init__(self, name: str, told: Told) -> None:
        self.name = name
        self.told = told

    async def insert(
        self,
        params: Sequence[InsertParams],
        call_next: Callable[[Sequence[InsertParams]], Awaitable[Sequence[InsertResult]]],
    ) -> Sequence[InsertResult]:
        tell(self.told, f"{self.name} insert of {len(params)}")
        try:
            return await call_next(params)
        finally:
            tell(self.told, f"{self.name} insert is over")

    async def work(self, job: Job[Json], call_next: Callable[[], Awaitable[None]]) -> None:
        tell(self.told, f"{self.name} work")
        try:
            await call_next()
        finally:
            tell(self.told, f"{self.name} work is over")


class At(Hook):
    def __init__(self, name: str, told: Told) -> None:
        self.name = name
        self.told = told

    async def insert_begin(self, params: InsertParams) -> InsertParams:
        tell(self.told, f"{self.name} insert_begin")
        self.refuse(params.tags, "no_insert_")
        return params

    def metric_emit(self, metric: FetchMetric) -> None:
        if metric.num_jobs:
            tell(self.told, f"{self.name} fetched {metric.num_jobs} of {metric.queue}")

    async def periodic_jobs_start(self) -> None:
        tell(self.told, f"{self.name} periodic_jobs_start")

    async def work_begin(self, job: Job[Json]) -> None:
        tell(self.told, f"{self.name} work_begin")
        self.refuse(job.row.tags, "no_work_")

    async def work_end(self, job: Job[Json], error: BaseException | None) -> BaseException | None:
        kinds = {type(None): "nothing", JobSnooze: "snooze", JobCancel: "cancel"}
        tell(self.told, f"{self.name} work_end {kinds.get(type(error), 'error')}")
        return error

    def refuse(self, tags: Sequence[str], prefix: str) -> None:
        if f"{prefix}{self.name}" in tags:
            raise PermissionError(f"{self.name} refuses")


class Handler:
    def __init__(self, told: Told) -> None:
        self.told = told

    async def handle_error(self, failure: AttemptFailure) -> bool | None:
        tell(self.told, "handle_error")
        return "hopeless" in str(failure.error)


def tell(told: Told, moment: str) -> None:
    told.tell({"event": "moment", "client": "telling", "moment": moment})


def python_config(room: Room) -> Config:
    told = room.told
    workers = Workers()

    @workers.add(middleware=[Around("own", told)], hooks=[At("own", told)])
    async def act(job: Job[Script]) -> None:
        tell(told, "worker")
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
        error_handlers=[Handler(told)],
        fetch_only_known_kinds=False,
        hooks=[At("first", told), At("second", told)],
        middleware=[Around("outer", told), Around("inner", told)],
        queues={"default": 1},
        schema=room.schema,
        skip_unknown_job_check=True,
        workers=workers,
    )
