"""No log line shows args, metadata or outputs of jobs, at any level."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal

import msgspec
import pydantic
import pytest

from client_harness import GENEROUS, ClientHarness
from millhand.core.config import StuckJob
from millhand.core.errors import DriverError, InvalidJob, JobCancel, JobSnooze, UniqueConflict
from millhand.core.event import Event
from millhand.core.insert_opts import InsertOpts
from millhand.core.unique import UniqueOpts
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.engine.subscription import Subscription
from millhand.observe import JsonFormatter, TextFormatter
from planted import ARGS, found_in

METADATA = InsertOpts(metadata={"note": ARGS}, max_attempts=1)
ENDED = 7


class Color(enum.Enum):
    RED = "red"


class Tagged(msgspec.Struct, tag="a"):
    x: int


class TaggedToo(msgspec.Struct, tag="b"):
    x: int


class Model(pydantic.BaseModel):
    kind: ClassVar[str] = "model"
    number: int = pydantic.Field(lt=5)
    color: Color


@dataclass(frozen=True)
class Typed:
    kind: ClassVar[str] = "typed"
    color: Color | None = None
    literal: Literal["red"] | None = None
    number: int | None = None
    id: uuid.UUID | None = None
    at: datetime | None = None
    tagged: Tagged | TaggedToo | None = None
    inner: dict[str, int] | None = None


@dataclass(frozen=True)
class Play:
    """The outcome of a job whose args hold a secret."""

    kind: ClassVar[str] = "play"
    what: str
    secret: str = ARGS


UNREADABLE = [
    *(f'{{"{name}": "{ARGS}"}}' for name in ("color", "literal", "number", "id", "at")),
    f'{{"tagged": {{"type": "{ARGS}", "x": 1}}}}',
    f'{{"inner": {{"a": "{ARGS}"}}}}',
    f'["{ARGS}"]',
    f'"{ARGS}"',
]


def lines_of(caplog: pytest.LogCaptureFixture) -> str:
    """Return every record in both renderings and with all of its fields."""
    formats = [TextFormatter(), JsonFormatter()]
    return "\n".join(
        text
        for record in caplog.records
        for text in (*(one.format(record) for one in formats), str(vars(record)), record.getMessage())
    )


@pytest.mark.slow
async def test_args_are_never_logged(harness: ClientHarness, caplog: pytest.LogCaptureFixture) -> None:
    """Jobs that fail, time out, stick, snooze, end as cancelled or discarded, are interrupted, or cannot be decoded."""
    caplog.set_level(logging.DEBUG)
    workers = Workers()
    is_running, is_told = asyncio.Event(), asyncio.Event()

    def stuck(job: StuckJob) -> bool:
        is_told.set()
        return False

    async def hang(job: Job[Play]) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await is_told.wait()

    async def be_cancelled(job: Job[Play]) -> None:
        is_running.set()
        await asyncio.Event().wait()

    def fail(job: Job[Play]) -> None:
        raise ValueError("no card")

    def snooze(job: Job[Play]) -> None:
        raise JobSnooze(timedelta(hours=1))

    def give_up(job: Job[Play]) -> None:
        raise JobCancel("no use")

    def record(job: Job[Play]) -> None:
        job.record_output({"it": job.args.secret})

    plays: dict[str, Callable[[Job[Play]], Any]] = {
        "hang": hang,
        "be_cancelled": be_cancelled,
        "fail": fail,
        "snooze": snooze,
        "give_up": give_up,
        "record": record,
    }

    @workers.add(timeout=timedelta(milliseconds=300))
    async def play(job: Job[Play]) -> None:
        result = plays[job.args.what](job)
        if result is not None:
            await result

    @workers.add()
    async def typed(job: Job[Typed]) -> None: ...

    @workers.add()
    async def model(job: Job[Model]) -> None: ...

    for args in UNREADABLE:
        await harness.insert_raw("typed", args)
    await harness.insert_raw("model", f'{{"number": "{ARGS}", "color": "{ARGS}"}}')
    await harness.insert_raw("unknown", f'{{"what": "{ARGS}"}}')
    settings = {
        "job_stuck_threshold": timedelta(milliseconds=1),
        "job_stuck_handler": stuck,
        "fetch_only_known_kinds": False,
    }
    async with harness.client(workers, **settings) as client:
        with client.subscribe() as events:
            ids = {what: (await client.insert(Play(what), METADATA)).job.id for what in plays}
            await asyncio.wait_for(is_running.wait(), GENEROUS)
            await client.jobs.cancel(ids["be_cancelled"])
            await _ended(events, len(plays) + len(UNREADABLE) + 2)

    lines = lines_of(caplog)
    for emitted in (
        "job errored",
        "job discarded",
        "job stuck",
        "job cancelled",
        "job snoozed",
        "job completed",
    ):
        assert emitted in lines, emitted
    assert lines.count("must decode as") >= len(UNREADABLE)
    assert found_in(lines) == []


async def _ended(events: Subscription[Event], count: int) -> None:
    for _ in range(count):
        event = await asyncio.wait_for(anext(events), GENEROUS)
        assert event.kind is not None


async def test_errors_of_inserts_show_no_args_of_other_jobs(harness: ClientHarness) -> None:
    """Only PostgreSQL's message is shown: its detail contains the whole row that failed."""
    unique = InsertOpts(unique=UniqueOpts(by_args=True))
    async with harness.client(Workers(), queues={}) as client:
        await client.insert(Play("once"), unique)
        errors = []
        for jobs in ([(Play("once"), unique)], [(Play("two"), unique), (Play("two"), unique)]):
            with pytest.raises(UniqueConflict) as conflict:
                await client.insert_many_fast(jobs)
            errors.append(str(conflict.value))
        await harness.execute("ALTER TABLE river_job ADD CONSTRAINT no_four CHECK (priority < 4)")
        try:
            four = Play("four"), InsertOpts(priority=4)
            for insert in (client.insert(*four), client.insert_many_fast([four])):
                with pytest.raises(DriverError) as refused:
                    await insert
                errors.append(str(refused.value))
        finally:
            await harness.execute("ALTER TABLE river_job DROP CONSTRAINT no_four")

    assert found_in("\n".join(errors)) == []


@pytest.mark.parametrize(
    ("encoded", "emitted"),
    [
        (f'{{"color": "{ARGS}"}}', "Invalid enum value - at `$.color`"),
        (f'{{"literal": "{ARGS} - at `$.x`"}}', "Invalid enum value - at `$.literal`"),
        (f'{{"tagged": {{"type": "{ARGS}"}}}}', "Invalid value - at `$.tagged.type`"),
    ],
)
def test_error_of_args_shows_the_place_and_not_the_value(encoded: str, emitted: str) -> None:
    """The place is enough to find the mistake; the value is in the row."""
    workers = Workers()

    @workers.add()
    async def typed(job: Job[Typed]) -> None: ...

    with pytest.raises(InvalidJob) as caught:
        workers.get("typed").decode(encoded)
    assert str(caught.value) == f"args of kind 'typed' must decode as Typed, got: {emitted}"
