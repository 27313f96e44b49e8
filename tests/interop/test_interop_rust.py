"""River's Rust port works, inserts and leads beside Go and Python."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from interop_harness import Control, GoControl, GoMember, Harness, Language, Member
from river_program import GENEROUS_SECONDS, RiverProgram
from rust_build import SOURCES, built_rust, lock_of, postgres_environment, require_cargo, started_rust

from millhand.client import Client
from millhand.core.config import Config
from millhand.core.event import Event
from millhand.core.retry import ConstantRetryPolicy
from millhand.core.step import Cursor
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.engine.subscription import Subscription

pytestmark = pytest.mark.slow

THREE = ("go", "python", "rust")
PAIRS = [pair for pair in permutations(THREE, 2) if "rust" in pair]
BID_SECONDS = 5.0  # a follower bids again after five seconds at the earliest; what is faster was woken
NUM_JOBS = 3_000


@pytest.fixture(scope="session")
def rust_path() -> Path:
    """The path of the Rust program."""
    return built_rust()


@pytest.fixture(scope="session")
async def rust_program(rust_path: Path, postgres_url: str) -> AsyncIterator[RiverProgram]:
    """The Rust program on this process's database."""
    async with started_rust(rust_path, postgres_url) as program:
        yield program


@pytest.fixture
def rust(rust_program: RiverProgram, harness: Harness) -> RiverProgram:
    """The Rust program, with its events in this test's harness."""
    rust_program.events = harness.events
    return rust_program


class Trio:
    """The harness's interface for three languages. The Rust program has the protocol of the Go program."""

    def __init__(self, harness: Harness, rust: RiverProgram) -> None:
        self._harness = harness
        self._rust = rust

    def control(self, language: str) -> Control:
        if language == "rust":
            return GoControl(self._rust, self._harness.schema)
        return self._harness.control(_either(language))

    @contextlib.asynccontextmanager
    async def working(self, language: str, id: str = "", **settings: Any) -> AsyncIterator[Member]:
        """Start a client that works the kind `act`, and stop it at the end."""
        id = id or language
        if language != "rust":
            async with self._harness.working(_either(language), id, **settings) as member:
                yield member
            return
        await self._rust.call(
            "start",
            id=id,
            fetch_only_known_kinds=settings.get("knows_only", True),
            fetch_poll_seconds=0.05,
            is_quiet=settings.get("is_quiet", False),
            leader_election_disabled=not settings.get("leads", False),
            queues=settings.get("queues", {"default": 10}),
            schema=self._harness.schema,
        )
        rust_member = GoMember(self._rust, id)
        try:
            yield rust_member
        finally:
            await rust_member.stop(cancel=True)


@pytest.fixture
def trio(harness: Harness, rust: RiverProgram) -> Trio:
    """Three languages in one harness."""
    return Trio(harness, rust)


async def test_three_languages_share_a_queue(harness: Harness, trio: Trio) -> None:
    """16: third_implementation_competition; two clients of each of three languages execute each job once."""
    jobs = [
        {"kind": "act", "args": {"do": []}, "opts": {"priority": 1 + n % 4}}
        for n in range(NUM_JOBS // len(THREE))
    ]
    members = {}
    async with contextlib.AsyncExitStack() as stack:
        for language in THREE:
            for letter in "ab":
                id = f"{language}_{letter}"
                working = trio.working(language, id, is_quiet=True, queues={"default": 20})
                members[id] = await stack.enter_async_context(working)
        for language in THREE:
            await trio.control(language).insert_many(jobs)
        await harness.until(lambda: _is_all_completed(harness), "the end of all jobs")
        executed = {id: await member.executed() for id, member in members.items()}

    assert sorted(one["job"] for some in executed.values() for one in some) == list(range(1, NUM_JOBS + 1))
    assert all(executed.values()), {id: len(some) for id, some in executed.items()}
    rows = await harness.rows()
    assert {(row["state"], row["attempt"], len(row["attempted_by"])) for row in rows} == {("completed", 1, 1)}


@pytest.mark.parametrize(("inserter", "worker"), PAIRS)
async def test_language_works_the_jobs_of_another(
    harness: Harness, trio: Trio, inserter: str, worker: str
) -> None:
    """
    4, 5, 19, 20: third_implementation_directed_work.

    A job leaves the same row in each language after success, failure and snooze.
    """
    control = trio.control(inserter)
    output = {"text": "<é>", "list": [1.5, None]}
    async with trio.working(worker):
        done = await control.insert(["output", output], priority=3)
        failed = await control.insert(["fail", "boom"], ["retry_in", 3600])
        discarded = await control.insert(["fail", "boom"], max_attempts=1)
        snoozed = await control.insert(["snooze", 3600])
        await harness.events.wait("job_completed", job=done)
        for id in (failed, discarded):
            await harness.events.wait("job_failed", job=id)
        await harness.events.wait("job_snoozed", job=snoozed)

    rows = {row["id"]: row for row in await harness.rows()}
    common: dict[str, Any] = {
        "kind": "act",
        "queue": "default",
        "tags": [],
        "unique_key": None,
        "unique_states": None,
    }
    assert [{name: row[name] for name in common} for row in rows.values()] == [common] * 4
    assert {id: _reported(row) for id, row in rows.items()} == {
        done: ("completed", 1, 3, [worker], {"output": output}, []),
        failed: ("retryable", 1, 1, [worker], {}, [1]),
        discarded: ("discarded", 1, 1, [worker], {}, [1]),
        snoozed: ("scheduled", 0, 1, [worker], {"snoozes": 1}, []),
    }
    errors = [error for row in rows.values() for error in row["errors"] or []]
    assert [sorted(error) for error in errors] == [["at", "attempt", "error", "trace"]] * 2
    assert all("boom" in error["error"] for error in errors)


@pytest.mark.parametrize(("inserter", "worker"), PAIRS)
async def test_insert_and_cancel_reach_a_client_of_another_language(
    harness: Harness, trio: Trio, inserter: str, worker: str
) -> None:
    """6: third_implementation_directed_work; a cancel by one language stops an attempt of another."""
    async with trio.working(worker):
        id = await trio.control(inserter).insert(["hold"])
        await harness.events.wait("held", job=id, client=worker)
        await trio.control(inserter).cancel(id)
        await harness.events.wait("job_cancelled", job=id)

    row = await harness.row(id)
    assert (row["state"], row["attempt"]) == ("cancelled", 1)
    assert [one["error"] for one in row["errors"]] == ["JobCancelError: job cancelled remotely"]


@pytest.mark.parametrize(("first", "second"), PAIRS)
async def test_client_of_another_language_leads_when_the_leader_stops(
    harness: Harness, trio: Trio, first: str, second: str
) -> None:
    """
    32: third_implementation_leader_failover.

    A stopping leader notifies the others, and one leads; a Millhand client waits for its turn.
    """
    async with trio.working(first, leads=True) as leader:
        await harness.until_leader(first)
        async with trio.working(second, leads=True):
            before = await _now(harness)
            await leader.stop()
            await harness.until_leader(second)
            seconds = await _now(harness) - before

    # Beside clients of other languages ours bids last: it lets a whole round of bids go by.
    assert seconds < (GENEROUS_SECONDS if second == "python" else BID_SECONDS)


@pytest.mark.parametrize("other", ["go", "python"])
async def test_rust_client_without_election_never_leads(harness: Harness, trio: Trio, other: str) -> None:
    """
    44: third_implementation_election_disabled.

    A Rust client without election works jobs, and no client leads after the leader stops.
    """
    async with trio.working("rust"):
        async with trio.working(other, leads=True, queues={"nothing": 1}):
            await harness.until_leader(other)
            await harness.events.wait("job_completed", job=await trio.control(other).insert(), client="rust")
        await harness.events.wait("job_completed", job=await trio.control(other).insert(), client="rust")
        leader = await harness.leader()

    assert leader is None


@pytest.mark.parametrize(("first", "second"), [("rust", "python"), ("python", "rust")])
async def test_step_resumes_from_the_cursor_of_another_language(
    harness: Harness, trio: Trio, first: str, second: str
) -> None:
    """
    24: third_implementation_resumable_cursor.

    A step continues from the stored count, and the completed step is not run again.
    """
    acts: list[Any] = [
        ["step", "before", []],
        ["cursor_step", "count", [["advance", 3], ["fail_before", 2]]],
        ["retry_in", 3600],
    ]
    id = await trio.control(first).insert(*acts)

    for number, language in enumerate((first, second), start=1):
        async with _stepping(harness, trio, language):
            await harness.events.wait(
                "job_failed" if number == 1 else "job_completed", job=id, client=language
            )
        if number == 1:
            await harness.control("python").retry(id)

    reported = [
        (line["client"], line["attempt"], line["step"], line["cursor"]) for line in harness.events.all("step")
    ]
    assert reported == [(first, 1, "before", 0), (first, 1, "count", 0), (second, 2, "count", 3)]
    # A success of either leaves the progress that the failure had stored.
    assert (await harness.row(id))["metadata"] == {
        "river:resumable_cursor": {"count": 3},
        "river:resumable_step": "before",
    }


@contextlib.asynccontextmanager
async def _stepping(harness: Harness, trio: Trio, language: str) -> AsyncIterator[None]:
    """Start a client whose workers run steps."""
    if language == "rust":
        async with trio.working("rust"):
            yield
        return
    workers = Workers()

    def record_step(job: Job[dict[str, Any]], step: str, cursor: int) -> None:
        line = {"client": "python", "job": job.id, "attempt": job.attempt, "step": step, "cursor": cursor}
        harness.events.record({"event": "step", **line})

    async def before(job: Job[dict[str, Any]]) -> None:
        record_step(job, "before", 0)

    async def count(cursor: Cursor, job: Job[dict[str, Any]]) -> None:
        done = cursor.value or 0
        assert isinstance(done, int)
        cursor.set(done + 3)
        record_step(job, "count", done)
        if job.attempt < 2:
            raise ValueError("too early")

    @workers.add(kind="act", retry=ConstantRetryPolicy(timedelta(hours=1)))
    async def act(job: Job[dict[str, Any]]) -> None:
        await job.step("before", before, job)
        await job.step_cursor("count", count, job)

    client = Client(
        harness.url,
        Config(
            client_id="python",
            heartbeat_interval=None,
            queues={"default": 1},
            schema=harness.schema,
            workers=workers,
        ),
    )
    events = client.subscribe()
    async with client:
        reading = asyncio.ensure_future(_record_events(harness, events))
        yield
    await reading


async def _record_events(harness: Harness, events: Subscription[Event]) -> None:
    async for event in events:
        assert event.job is not None
        harness.events.record({"event": event.kind.value, "client": "python", "job": event.job.id})


def test_cargo_lock_is_written_from_pins_and_a_source() -> None:
    """The stored pins contain no address; with cargo's own address they give the lock that cargo writes."""
    pins = (SOURCES / "Cargo.pins").read_text()
    lock = lock_of(pins, 'source = "somewhere"')

    assert "://" not in pins
    assert lock.count('source = "somewhere"\nchecksum = ') == pins.count("\nchecksum = ")
    assert lock.replace('source = "somewhere"\n', "") == pins


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "postgresql://postgres@/tests?host=/run/x%20y&port=5433",
            {"PGDATABASE": "tests", "PGHOST": "/run/x y", "PGPORT": "5433", "PGUSER": "postgres"},
        ),
        (
            "postgresql://me:s%40@db.example:6000/tests",
            {
                "PGDATABASE": "tests",
                "PGHOST": "db.example",
                "PGPASSWORD": "s@",
                "PGPORT": "6000",
                "PGUSER": "me",
            },
        ),
    ],
)
def test_postgres_environment_converts_each_form_of_url(url: str, expected: dict[str, str]) -> None:
    """Each form of a database URL becomes the environment variables that SQLx reads."""
    assert postgres_environment(url) == expected


@pytest.mark.parametrize(
    ("require", "outcome"), [("", pytest.skip.Exception), ("go,cargo", pytest.fail.Exception)]
)
def test_missing_cargo_skips_or_fails_the_tests(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, require: str, outcome: type[BaseException]
) -> None:
    """Without cargo the tests are skipped with a reason, or fail if MILLHAND_TEST_REQUIRE demands it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("MILLHAND_TEST_REQUIRE", require)

    with pytest.raises(outcome, match="there is no `cargo` on the PATH"):
        require_cargo()


def _either(language: str) -> Language:
    return "go" if language == "go" else "python"


def _reported(row: dict[str, Any]) -> tuple[Any, ...]:
    attempts = [error["attempt"] for error in row["errors"] or []]
    return row["state"], row["attempt"], row["priority"], row["attempted_by"], row["metadata"], attempts


async def _is_all_completed(harness: Harness) -> bool:
    [row] = await harness.fetch("SELECT bool_and(state = 'completed') AS is_done FROM /* schema */river_job")
    is_done: bool = row["is_done"]
    return is_done


async def _now(harness: Harness) -> float:
    [row] = await harness.fetch("SELECT extract(epoch FROM clock_timestamp())::float8 AS now")
    now: float = row["now"]
    return now
