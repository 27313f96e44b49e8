"""Resumable steps: an attempt skips the steps that an earlier one completed."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from client_harness import GENEROUS, Act, ClientHarness
from millhand.core.errors import InvalidStep, JobCancel, JobSnooze
from millhand.core.event import Event, EventKind
from millhand.core.hooks import Middleware
from millhand.core.job import JobId, Json
from millhand.core.retry import ConstantRetryPolicy
from millhand.core.step import CURSOR_KEY, STEP_KEY, Cursor
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from repeats import first_of

Script = Callable[[Job[Act]], Awaitable[None]]


class Diary:
    """Records what steps did, and a worker that follows a test's script for each attempt."""

    def __init__(self, script: Script, *, middleware: list[Middleware] | None = None) -> None:
        self.entries: list[Any] = []
        self.workers = Workers()
        retry = ConstantRetryPolicy(timedelta(0))
        self.workers.add(retry=retry, middleware=middleware or [])(script)

    async def write(self, entry: object) -> None:
        self.entries.append(entry)

    def note(self, entry: object) -> None:
        self.entries.append(entry)


async def _work(
    harness: ClientHarness, workers: Workers, metadata: str = "{}", *, until: EventKind | None = None
) -> list[Event]:
    """Work one job until it is finalized, or until an event; return all events."""
    emitted = []
    async with harness.client(workers) as client:
        with client.subscribe() as events:
            await harness.driver.pool.fetch(
                "INSERT INTO river_job (kind, args, metadata, max_attempts) "
                "VALUES ('act', '{\"what\": \"x\"}', $1::text::jsonb, 5)",
                [metadata],
            )
            await harness.announce()
            while not emitted or not (
                emitted[-1].kind is until or (emitted[-1].job and emitted[-1].job.state.is_finalized)
            ):
                emitted.append(await harness.next(events))
    return emitted


async def _metadata(harness: ClientHarness) -> dict[str, Json]:
    return (await harness.row(JobId(1))).metadata


async def test_next_attempt_skips_completed_steps(harness: ClientHarness) -> None:
    """runtime: resumable_retry; the next attempt begins at the step that failed, with its cursor."""
    diary: Diary

    async def rows(cursor: Cursor, job: Job[Act]) -> None:
        diary.note(("rows from", cursor.value))
        cursor.set(7)
        if job.attempt == 1:
            raise ValueError("line 8 is broken")

    async def act(job: Job[Act]) -> None:
        await job.step("download", diary.write, "downloaded")
        await job.step_cursor("rows", rows, job)
        await job.step("tidy", diary.write, entry="tidied")

    diary = Diary(act)
    emitted = await _work(harness, diary.workers)

    assert [event.kind for event in emitted] == [EventKind.JOB_FAILED, EventKind.JOB_COMPLETED]
    assert emitted[0].job is not None
    assert emitted[0].job.metadata == {STEP_KEY: "download", CURSOR_KEY: {"rows": 7}}
    assert diary.entries == ["downloaded", ("rows from", None), ("rows from", 7), "tidied"]
    assert await _metadata(harness) == {
        STEP_KEY: "download",
        CURSOR_KEY: {"rows": 7},
    }  # success stores nothing


@pytest.mark.slow
async def test_steps_of_a_plain_function_are_the_same(harness: ClientHarness) -> None:
    """runtime: resumable_retry; a plain function in a thread has the same steps by the `_sync` methods."""
    diary: Diary

    def rows(cursor: Cursor, attempt: int) -> None:
        diary.note(("rows from", cursor.value))
        cursor.set({"file": 2, "line": 7})
        if attempt == 1:
            raise ValueError("line 8 is broken")

    def act(job: Job[Act]) -> None:
        job.step_sync("download", diary.note, "downloaded")
        job.step_cursor_sync("rows", rows, attempt=job.attempt)
        job.step_sync("tidy", diary.note, entry="tidied")

    diary = Diary(act)  # type: ignore[arg-type]
    emitted = await _work(harness, diary.workers)

    assert emitted[-1].kind is EventKind.JOB_COMPLETED
    assert diary.entries == [
        "downloaded",
        ("rows from", None),
        ("rows from", {"file": 2, "line": 7}),
        "tidied",
    ]


async def test_cursor_of_a_completed_step_is_deleted(harness: ClientHarness) -> None:
    """After a step with a cursor completes and a later one fails, the row keeps no cursor, as in River."""

    async def count(cursor: Cursor) -> None:
        cursor.set(1)
        if cursor.value != 1:
            raise AssertionError

    async def act(job: Job[Act]) -> None:
        await job.step_cursor("count", count)
        await job.step("fail", _fail, job)

    emitted = await _work(harness, Diary(act).workers)

    assert emitted[0].job is not None
    assert emitted[0].job.metadata == {STEP_KEY: "count", CURSOR_KEY: None}


@pytest.mark.parametrize("ending", ["error", "snooze", "cancel", "stop"])
async def test_cursor_of_the_first_step_is_kept_unless_the_job_completes(
    harness: ClientHarness, ending: str
) -> None:
    """Errors, snoozes, cancels and interruptions keep a cursor even without a completed step."""
    is_waiting = asyncio.Event()

    async def count(cursor: Cursor) -> None:
        cursor.set(7)
        if ending == "snooze":
            raise JobSnooze(timedelta(hours=1))
        if ending == "cancel":
            raise JobCancel
        if ending == "error":
            raise ValueError
        is_waiting.set()
        await asyncio.Event().wait()

    workers = Workers()

    @workers.add(retry=ConstantRetryPolicy(timedelta(hours=1)))
    async def act(job: Job[Act]) -> None:
        await job.step_cursor("count", count)

    client = harness.client(workers)
    await client.start()
    with client.subscribe() as events:
        await client.insert(Act("x"))
        if ending == "stop":
            await asyncio.wait_for(is_waiting.wait(), GENEROUS)
            await client.stop(soft_stop_timeout=timedelta(0))
        kind = (await harness.next(events)).kind
    await client.stop()

    expected = {
        "error": EventKind.JOB_FAILED,
        "snooze": EventKind.JOB_SNOOZED,
        "cancel": EventKind.JOB_CANCELLED,
        "stop": EventKind.JOB_INTERRUPTED,
    }
    assert kind is expected[ending]
    metadata = await _metadata(harness)
    assert (STEP_KEY in metadata, metadata[CURSOR_KEY]) == (False, {"count": 7})


async def test_failed_step_fails_the_attempt_even_if_caught(harness: ClientHarness) -> None:
    """A worker that catches a step's error can run no other step, and its attempt fails."""
    diary: Diary

    async def act(job: Job[Act]) -> None:
        await job.step("first", diary.write, job.attempt)
        for name in ("fail", "later"):
            try:
                await job.step(name, _fail if name == "fail" else diary.write, job)
            except ValueError:
                diary.note("caught")
        if job.attempt == 2:
            raise JobCancel

    diary = Diary(act)
    emitted = await _work(harness, diary.workers)

    assert [event.kind for event in emitted] == [EventKind.JOB_FAILED, EventKind.JOB_CANCELLED]
    assert diary.entries == [1, "caught", "caught", "caught", "caught"]
    assert (await harness.row(JobId(1))).errors[0].error == "ValueError: no"


@pytest.mark.slow
@pytest.mark.parametrize("goes_on", [True, False])
async def test_step_that_its_worker_cancelled_has_failed(harness: ClientHarness, goes_on: bool) -> None:
    """A caught timeout around a step leaves no cancellation for later steps."""

    async def act(job: Job[Act]) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.0):
                await job.step("slow", asyncio.Event().wait)  # type: ignore[arg-type]
        if goes_on:
            async with asyncio.TaskGroup() as group:
                group.create_task(job.step("next", _nothing))

    emitted = await _work(harness, Diary(act).workers, until=EventKind.JOB_FAILED)

    assert emitted[0].job is not None
    assert emitted[0].job.errors[0].error.startswith("ExceptionGroup: " if goes_on else "InvalidStep: ")
    assert (
        "cancellation of resumable step 'slow' must be raised again, got a worker that caught it"
        in emitted[0].job.errors[0].trace
    )


async def _fail(job: Job[Act]) -> None:
    raise ValueError("no")


async def _nested(job: Job[Act]) -> None:
    await job.step("inner", _nothing)


async def _nested_and_hidden(job: Job[Act]) -> None:
    with contextlib.suppress(InvalidStep):
        await job.step("inner", _nothing)


async def _nothing(*_: object) -> None: ...


async def _side_by_side(job: Job[Act]) -> None:
    await asyncio.gather(job.step("outer", _until_next_turn), job.step("inner", _nothing))


async def _until_next_turn() -> None:
    await asyncio.sleep(0)


async def _twice(job: Job[Act]) -> None:
    await job.step("outer", _nothing)
    await job.step_cursor("outer", _nothing)


PLAIN = (
    "resumable step 'plain' must be a coroutine function, got a plain one; "
    "in a worker that is a plain function, call job.step_sync"
)
COROUTINE = (
    "resumable step 'async' must be a plain function, got a coroutine function; "
    "in a worker that is a coroutine function, await job.step"
)
OUTSIDE = (
    "checkpoint must be made within a resumable step, got one outside; "
    "make it in the function that job.step calls"
)
NESTED = "resumable step must not begin within another, got 'inner' within 'outer'; end one before the next, and await each"


@pytest.mark.parametrize(
    ("script", "emitted"),
    [
        (lambda job: job.step("outer", _nested, job), NESTED),
        (lambda job: job.step("outer", _nested_and_hidden, job), NESTED),
        (_side_by_side, NESTED),
        (_twice, "resumable step must have a name of its own, got 'outer' again"),
        (lambda job: job.step("plain", lambda: None), PLAIN),
        (lambda job: job.step_sync("async", _nothing), COROUTINE),
        (
            lambda job: job.step("", _nothing),
            "name of a resumable step must be a text that PostgreSQL can store, got ''",
        ),
        (
            lambda job: job.step("a\x00", _nothing),
            "name of a resumable step must be a text that PostgreSQL can store, got 'a\\x00'",
        ),
        (lambda job: job.checkpoint(tx=None), OUTSIDE),
    ],
)
async def test_invalid_step_fails_the_attempt(
    harness: ClientHarness, script: Callable[[Job[Act]], Any], emitted: str
) -> None:
    """runtime: resumable_validation; the error names the remedy, and no progress of the step is stored."""

    async def act(job: Job[Act]) -> None:
        await script(job)

    workers = Workers()
    workers.add(retry=ConstantRetryPolicy(timedelta(hours=1)))(act)
    [event] = await _work(harness, workers, until=EventKind.JOB_FAILED)

    assert event.job is not None
    assert [error.error for error in event.job.errors] == [f"InvalidStep: {emitted}"]
    assert event.job.metadata in ({}, {STEP_KEY: "outer"})


WITHOUT_CURSOR = (
    "resumable step 'second' must have a cursor, because an earlier attempt stored one, got a step without one; "
    "call job.step_cursor"
)
MISSED = (
    "resumable step '{}' must be called again, because an earlier attempt stopped there, got a worker that never called it; "
    "do not rename steps while jobs use them"
)


@pytest.mark.parametrize(
    ("metadata", "emitted"),
    [
        ({STEP_KEY: "gone"}, MISSED.format("gone")),
        ({STEP_KEY: "gone", CURSOR_KEY: {"a": 1}}, MISSED.format("gone")),
        ({CURSOR_KEY: {"z": 1, "gone": None}}, MISSED.format("gone")),
        ({CURSOR_KEY: {"second": 1}}, WITHOUT_CURSOR),
        ({CURSOR_KEY: [1]}, f"stored cursors of a job must be an object, got [1]; make {CURSOR_KEY} null in its metadata"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("has_steps", first_of(True, False))
async def test_progress_of_an_unknown_step_fails_the_attempt_and_is_kept(
    harness: ClientHarness, metadata: dict[str, Json], emitted: str, has_steps: bool
) -> None:
    """runtime: resumable_validation; an interrupted step that the worker does not call fails the attempt."""

    async def act(job: Job[Act]) -> None:
        if has_steps:
            await job.step("first", _nothing)
            await job.step("second", _nothing)

    if not has_steps and "second" in metadata.get(CURSOR_KEY, ()):
        emitted = MISSED.format("second")
    workers = Workers()
    workers.add(retry=ConstantRetryPolicy(timedelta(hours=1)))(act)
    [event] = await _work(harness, workers, _json(metadata), until=EventKind.JOB_FAILED)

    assert event.job is not None
    assert [error.error for error in event.job.errors] == [f"InvalidStep: {emitted}"]
    assert event.job.metadata == metadata


@pytest.mark.parametrize(
    "metadata", [{}, {STEP_KEY: 7}, {STEP_KEY: ""}, {CURSOR_KEY: None}, {CURSOR_KEY: {}}]
)
async def test_malformed_progress_counts_as_none(harness: ClientHarness, metadata: dict[str, Json]) -> None:
    """Malformed values are read as River reads them, and the job succeeds."""
    diary: Diary

    async def act(job: Job[Act]) -> None:
        await job.step("first", diary.write, "first")

    diary = Diary(act)
    [event] = await _work(harness, diary.workers, _json(metadata))

    assert (event.kind, diary.entries) == (EventKind.JOB_COMPLETED, ["first"])


async def test_old_cursor_beside_a_completed_step_is_ignored(harness: ClientHarness) -> None:
    """The next steps run, and one of them gets its own cursor."""
    diary: Diary

    async def count(cursor: Cursor) -> None:
        diary.note(cursor.value)

    async def act(job: Job[Act]) -> None:
        await job.step("first", diary.write, "first")
        await job.step_cursor("count", count)

    diary = Diary(act)
    metadata = {STEP_KEY: "first", CURSOR_KEY: {"count": 3, "old": 1}}
    [event] = await _work(harness, diary.workers, _json(metadata))

    assert (event.kind, diary.entries) == (EventKind.JOB_COMPLETED, [3])


async def test_cursor_cannot_be_set_after_its_step(harness: ClientHarness) -> None:
    """A cursor kept after its step raises, and so does a value that is no JSON; the earlier cursor stays."""
    errors: list[str] = []
    kept: list[Cursor] = []

    async def count(cursor: Cursor) -> None:
        kept.append(cursor)
        cursor.set([1])
        with pytest.raises(
            ValueError, match=r"^cursor of step 'count' must be encodable as JSON, got object: "
        ) as bad:
            cursor.set(object())
        errors.append(str(bad.value))
        assert repr(cursor) == "Cursor(step='count', value=[1])"

    async def act(job: Job[Act]) -> None:
        await job.step_cursor("count", count)
        with pytest.raises(InvalidStep) as over:
            kept[0].set(2)
        errors.append(str(over.value))

    [event] = await _work(harness, Diary(act).workers)

    assert event.kind is EventKind.JOB_COMPLETED
    assert errors[1:] == [
        "cursor of a resumable step must be used within it, got that of 'count' after its end"
    ]


@pytest.mark.slow
async def test_workers_own_middleware_sees_errors_of_steps(harness: ClientHarness) -> None:
    """It is outside of the steps, as in River: it sees their errors, and its own error stores no progress."""
    seen: list[str] = []

    class Own(Middleware):
        async def work(self, job: Job[Json], call_next: Callable[[], Awaitable[None]]) -> None:
            try:
                await call_next()
            except InvalidStep as error:
                seen.append(str(error.step))
            if job.attempt == 1:
                raise ValueError("later")

    async def act(job: Job[Act]) -> None:
        if job.attempt == 1:
            await job.step("first", _nothing)
        else:
            await job.step("other", _fail, job)

    diary = Diary(act, middleware=[Own()])
    emitted = await _work(harness, diary.workers, until=EventKind.JOB_FAILED)
    await harness.driver.pool.fetch(
        "UPDATE river_job SET state = 'available', scheduled_at = now(), metadata = $1::text::jsonb",
        [_json({STEP_KEY: "gone"})],
    )
    client = harness.client(diary.workers)
    with client.subscribe() as events:
        async with client:
            last = await harness.next(events)

    assert emitted[0].job is not None
    assert emitted[0].job.metadata == {}
    assert (seen, last.kind) == (["gone"], EventKind.JOB_COMPLETED)


def _json(value: Json) -> str:
    return json.dumps(value)
