"""Results: callers in Python await jobs that River's clients insert, work, cancel and delete, by polls."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from interop_harness import LANGUAGES, Harness, Language
from river_program import GENEROUS_SECONDS

from millhand.client import Client
from millhand.core.args.codec import RawArgs
from millhand.core.config import Config
from millhand.core.errors import InvalidOutput, JobCancelled, JobFailed, NotFound
from millhand.core.insert_opts import InsertOpts
from millhand.core.job import AWAITED_KEY
from millhand.core.result import result_of

WAIT = timedelta(seconds=GENEROUS_SECONDS)
ONCE = InsertOpts(max_attempts=1)


@dataclass(frozen=True)
class Size:
    width: int
    height: int


def act(*acts: Any) -> RawArgs:
    return RawArgs("act", json.dumps({"do": acts}))


@pytest.fixture
async def caller(harness: Harness) -> AsyncIterator[Client]:
    """A client that only inserts and waits."""
    async with Client(harness.url, Config(schema=harness.schema)) as client:
        yield client


async def test_caller_gets_the_output_that_a_go_worker_recorded(harness: Harness, caller: Client) -> None:
    """River's `RecordOutput` comes back as the caller's class, and any JSON value as plain values."""
    values = [5, "ü", [1, {"a": None}], None]
    async with harness.working("go"):
        size = await caller.insert_and_wait(
            act(["output", {"width": 4, "height": 3}]), returns=Size, timeout=WAIT
        )
        plain = await asyncio.gather(
            *(caller.insert_and_wait(act(["output", value]), timeout=WAIT) for value in values)
        )
        with pytest.raises(InvalidOutput, match=r"must have an output, got none"):
            await caller.insert_and_wait(act(), returns=Size, timeout=WAIT)
        nothing = await caller.insert_and_wait(act(), timeout=WAIT)

    assert size == Size(4, 3)
    assert (plain, nothing) == (values, None)


async def test_caller_gets_the_end_of_a_job_that_a_go_worker_does_not_complete(
    harness: Harness, caller: Client
) -> None:
    """A job that fails for good, one that its Go worker cancels, and one that is cancelled while it runs in Go, raise."""
    async with harness.working("go"):
        with pytest.raises(JobFailed) as failed:
            await caller.insert_and_wait(act(["fail", "bad image"]), ONCE, timeout=WAIT)
        with pytest.raises(JobCancelled) as cancelled:
            await caller.insert_and_wait(act(["cancel", "no longer needed"]), timeout=WAIT)
        running = asyncio.ensure_future(caller.insert_and_wait(act(["hold"]), timeout=WAIT))
        held = await harness.events.wait("held")
        await harness.control("go").cancel(held["job"])
        with pytest.raises(JobCancelled):
            await running

    assert (failed.value.num_attempts, failed.value.last_error) == (1, "bad image")
    assert str(failed.value) == (
        f"job {failed.value.id} of kind 'act' must complete, got discarded after 1 attempt: bad image"
    )
    assert cancelled.value.last_error == "JobCancelError: no longer needed"


async def test_caller_waits_through_the_retries_of_a_go_worker(harness: Harness, caller: Client) -> None:
    """A failed attempt in Go ends no wait: the caller gets the output of the attempt that completes."""
    script = act(["retry_in", 0], ["fail_before", 3], ["output", "third"])
    async with harness.working("go", leads=True):
        output = await caller.insert_and_wait(script, returns=str, timeout=WAIT)

    assert output == "third"


@pytest.mark.parametrize("language", LANGUAGES)
async def test_job_of_a_go_caller_is_awaited_by_its_id(
    harness: Harness, caller: Client, language: Language
) -> None:
    """A job that River inserts has no mark; whichever language works it, its end and output are found."""
    go = harness.control("go")
    ids = [await go.insert(["output", [1]]), await go.insert(["fail", "boom"], max_attempts=1)]
    later = await go.insert(["output", 2], scheduled_at="2099-01-01T00:00:00Z")
    waiting = asyncio.ensure_future(caller.jobs.wait_many([*ids, later], timeout=WAIT))
    async with harness.working(language):
        completed, discarded = await caller.jobs.wait_many(ids, timeout=WAIT)
        await go.cancel(later)
        rows = await waiting

    assert result_of(completed, list[int]) == [1]
    assert [row.state for row in rows] == ["completed", "discarded", "cancelled"]
    assert rows[:2] == [completed, discarded]
    assert AWAITED_KEY not in completed.metadata


async def test_awaited_job_that_river_cancels_or_deletes_while_it_waits_ends_the_wait(
    harness: Harness, caller: Client
) -> None:
    """`JobCancel` and `JobDelete` of River's client end a wait with JobCancelled and NotFound."""
    waits = [asyncio.ensure_future(caller.insert_and_wait(act(), timeout=WAIT)) for _ in range(2)]
    rows = await harness.until(lambda: _two_rows(harness), "two jobs")
    await harness.control("go").cancel(rows[0]["id"])
    await harness.control("go").delete(rows[1]["id"])
    ends = await asyncio.gather(*waits, return_exceptions=True)

    assert {type(end) for end in ends} == {JobCancelled, NotFound}


async def test_go_reads_the_output_of_an_awaited_job(harness: Harness, caller: Client) -> None:
    """A Go program reads the output that a worker in Python recorded for an awaited job, beside the mark."""
    async with harness.working("python"):
        await caller.insert_and_wait(act(["output", {"a": [1]}]), timeout=WAIT)
    row = await harness.go.call("get", schema=harness.schema, job=1)

    assert row["metadata"] == {AWAITED_KEY: True, "output": {"a": [1]}}


async def _two_rows(harness: Harness) -> list[Any]:
    rows = await harness.rows()
    return rows if len(rows) == 2 else []
