"""Flows beside Go: River's workers end tasks, the leader counts them, and tasks in Python go on within seconds."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from interop_harness import Harness
from river_ui import built_ui, started_ui

from millhand.client import Client
from millhand.core.args.codec import RawArgs
from millhand.core.config import Config
from millhand.core.insert_opts import InsertOpts
from millhand.flows.flow import Flow, FlowRow, FlowState, TaskRow
from millhand.flows.store import flow_get_outputs

ONCE = InsertOpts(max_attempts=1)
# One pass of the leader in each second, and its rest on a busy machine.
BEAT_SECONDS = 8.0
STAGED_AT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def go(*acts: Any) -> RawArgs:
    """Return the args of a job that only Go works."""
    return RawArgs("act", json.dumps({"do": acts}))


def python(*acts: Any) -> RawArgs:
    """Return the args of a job that only Python works."""
    return RawArgs("mine", json.dumps({"do": acts}))


@pytest.fixture
async def client(harness: Harness) -> AsyncIterator[Client]:
    """A client that only inserts flows."""
    async with Client(harness.url, Config(schema=harness.schema)) as client:
        yield client


async def until_ended(harness: Harness, client: Client, id: int) -> FlowRow:
    """Return a flow when it has ended."""

    async def condition() -> FlowRow | None:
        row = await client.flows.get(id)
        return None if row.state is FlowState.RUNNING else row

    row: FlowRow = await harness.until(condition, f"the end of flow {id}")
    return row


def ends(tasks: Sequence[TaskRow]) -> dict[str, tuple[str, str]]:
    return {task.name: (task.state.value, task.job.state.value) for task in tasks if task.job}


async def test_tasks_that_go_workers_end_decide_those_that_wait(harness: Harness, client: Client) -> None:
    """A Go worker completes, discards and cancels tasks; Python works what goes on, and reads the outputs of Go."""
    flow = Flow("both")
    plain, output = flow.add(go(), name="plain"), flow.add(go(["output", {"lines": 3}]), name="output")
    discarded = flow.add(go(["fail", "boom"]), ONCE, name="discarded")
    cancelled = flow.add(go(["cancel", "enough"]), name="cancelled")
    total = flow.add(python(), after=[plain, output], name="total")
    flow.add(python(), after=[total, discarded], name="never")
    flow.add(python(), after=discarded, when="failed", name="alert")
    flow.add(python(), after=plain, when="failed", name="skipped")
    flow.add(python(), after=[cancelled, discarded, total], when="ended", name="clean_up")
    async with harness.working("python", kinds=("mine",), leads=True), harness.working("go"):
        inserted = await client.insert_flow(flow)
        row = await until_ended(harness, client, inserted.id)
    tasks = await client.flows.tasks(inserted.id)
    assert total.job_id is not None
    outputs = await harness.driver.pool.run(flow_get_outputs(total.job_id, limit=10))

    assert ends(tasks) == {
        "plain": ("completed", "completed"),
        "output": ("completed", "completed"),
        "discarded": ("failed", "discarded"),
        "cancelled": ("failed", "cancelled"),
        "total": ("completed", "completed"),
        "never": ("failed", "cancelled"),
        "alert": ("completed", "completed"),
        "skipped": ("skipped", "cancelled"),
        "clean_up": ("completed", "completed"),
    }
    assert (row.state, row.num_failed, row.num_skipped) == (FlowState.FAILED, 3, 1)
    assert outputs == [(output.job_id, '{"lines": 3}')]


async def test_python_goes_on_within_seconds_of_the_end_in_go(harness: Harness, client: Client) -> None:
    """Go, Python, Go and Python work a chain; after each end in Go, the leader releases the next task soon."""
    flow = Flow("chain")
    first = flow.add(go(["hold"]))
    second = flow.add(python(), after=first)
    third = flow.add(go(["hold"]), after=second)
    fourth = flow.add(python(), after=third)
    seconds = []
    async with harness.working("python", kinds=("mine",), leads=True), harness.working("go"):
        inserted = await client.insert_flow(flow)
        for held, after in ((first, second), (third, fourth)):
            await harness.events.wait("held", job=held.job_id, client="go_a")
            began_at = time.monotonic()
            await harness.go.call("release", job=held.job_id)
            await harness.events.wait("begun", job=after.job_id, client="python_a")
            seconds.append(time.monotonic() - began_at)
        row = await until_ended(harness, client, inserted.id)

    assert row.state is FlowState.COMPLETED
    assert max(seconds) < BEAT_SECONDS


async def test_changes_by_rivers_client_are_counted(harness: Harness, client: Client) -> None:
    """River's `JobCancel` and `JobDelete` of tasks, one of which waits, fail them."""
    flow = Flow("changed")
    cancelled, deleted = flow.add(go(), name="cancelled"), flow.add(go(), name="deleted")
    waiting = flow.add(python(), after=deleted, when="ended", name="waiting")
    flow.add(python(), after=[cancelled, deleted], when="failed", name="alert")
    control = harness.control("go")
    inserted = await client.insert_flow(flow)
    assert cancelled.job_id
    assert deleted.job_id
    assert waiting.job_id
    await control.cancel(cancelled.job_id)
    await control.delete(deleted.job_id)
    await control.cancel(waiting.job_id)
    async with harness.working("python", kinds=("mine",), leads=True):
        row = await until_ended(harness, client, inserted.id)
    tasks = await client.flows.tasks(inserted.id)

    assert (row.num_failed, row.num_skipped) == (3, 0)
    assert {task.name: task.state.value for task in tasks} == {
        "cancelled": "failed",
        str(deleted.job_id): "failed",
        "waiting": "failed",
        "alert": "completed",
    }


async def test_river_reads_the_metadata_of_a_task(harness: Harness, client: Client, tmp_path: Path) -> None:
    """Go's client and River UI have a task's workflow under the names of River Pro."""
    flow = Flow("invoice 17")
    flow.add(python(), name="total", after=[flow.add(go(), name="fetch"), flow.add(go(), name="price")])
    async with harness.working("python", kinds=("mine",), leads=True), harness.working("go"):
        inserted = await client.insert_flow(flow)
        await until_ended(harness, client, inserted.id)
    fetch, _, total = [
        await harness.go.call("get", schema=harness.schema, job=task.job_id)
        for task in await client.flows.tasks(inserted.id)
    ]
    async with started_ui(built_ui(), harness.url, harness.schema, tmp_path) as ui:
        shown = await ui.get(f"/api/jobs/{total['id']}")

    workflow = {"workflow_id": str(inserted.id), "workflow_name": "invoice 17"}
    staged_at = total["metadata"].pop("workflow_staged_at")
    assert fetch["metadata"] == {**workflow, "task": "fetch"}
    assert total["metadata"] == {**workflow, "task": "total", "deps": ["fetch", "price"]}
    assert STAGED_AT.fullmatch(staged_at)
    assert shown.body["metadata"] == {**total["metadata"], "workflow_staged_at": staged_at}


async def test_waiting_tasks_are_left_alone_by_go(harness: Harness, client: Client) -> None:
    """A Go client that works the kind and leads makes no task available that waits."""
    flow = Flow("waits")
    flow.add(go(), after=flow.add(python(["hold"]), name="first"), name="second")
    async with harness.working("go", leads=True):
        inserted = await client.insert_flow(flow)
        await harness.until_leader("go_a")
        done = await harness.control("go").insert()
        await harness.until_state(done, "completed")
        tasks = await client.flows.tasks(inserted.id)

    assert ends(tasks) == {"first": ("released", "available"), "second": ("waiting", "pending")}
