"""River UI reads Millhand's rows, and Millhand clients react to its commands."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from interop_harness import Harness, Periodic, Row
from river_ui import Answer, RiverUI, built_ui, started_ui

from millhand.core.errors import UniqueConflict

OK = Answer(200, {"status": "ok"})
CANCELLED = "JobCancelError: job cancelled remotely"
STATES = ("available", "cancelled", "completed", "discarded", "pending", "retryable", "running", "scheduled")


@pytest.fixture(scope="session")
def ui_path() -> Path:
    """The path of River UI's server."""
    return built_ui()


@pytest.fixture
async def ui(ui_path: Path, harness: Harness, tmp_path: Path) -> AsyncIterator[RiverUI]:
    """River UI on the harness's schema."""
    async with started_ui(ui_path, harness.url, harness.schema, tmp_path) as ui:
        yield ui


async def listed(ui: RiverUI, **query: Any) -> list[int]:
    """Return the IDs of a list of jobs, lowest first."""
    answer = await ui.get("/api/jobs", **query)
    assert answer.status == 200, answer
    return sorted(job["id"] for job in answer.body["data"])


async def shown(ui: RiverUI, id: int) -> Row:
    """Return the data of a job's page."""
    answer = await ui.get(f"/api/jobs/{id}")
    assert answer.status == 200, answer
    job: Row = answer.body
    return job


async def filled(harness: Harness) -> dict[str, int]:
    """Let a Millhand client work jobs to each outcome, and return their IDs by outcome."""
    control = harness.control("python")
    later = datetime.now(UTC) + timedelta(days=1)
    inserted = {
        "cancelled": await control.insert(["cancel", "not wanted"]),
        "completed": await control.insert(
            ["output", {"sheets": 3}], metadata={"trace": "a1"}, tags=["monthly", "vip"], priority=3
        ),
        "discarded": await control.insert(["fail", "disk full"], max_attempts=1, queue="mail"),
        "retried": await control.insert(["retry_in", 0], ["fail_before", 3]),
        "retryable": await control.insert(["retry_in", 3600], ["fail", "no such file"]),
        "snoozed": await control.insert(["snooze", 3600]),
        "unique": await control.insert(unique={"by_args": True}, queue="mail"),
    }
    nightly = Periodic(id="nightly", kind="report", opts={}, seconds=3600, run_on_start=True)
    queues = {"default": 10, "mail": 2}
    async with harness.working(
        "python", kinds=("act", "report"), leads=True, periodic_jobs=[nightly], queues=queues
    ):
        for end in ("discarded", "retryable"):
            await harness.events.wait("job_failed", job=inserted[end])
        for end in ("completed", "retried", "unique"):
            await harness.events.wait("job_completed", job=inserted[end])
        await harness.events.wait("job_cancelled", job=inserted["cancelled"])
        await harness.events.wait("job_snoozed", job=inserted["snoozed"])
        begun = await harness.events.wait("begun", kind="report")
        inserted["periodic"] = begun["job"]
        await harness.events.wait("job_completed", job=inserted["periodic"])
    inserted["available"] = await control.insert(kind="elsewhere", queue="mail")
    inserted["pending"] = await control.insert(pending=True, priority=4)
    inserted["scheduled"] = await control.insert(scheduled_at=later)
    return inserted


async def test_ui_lists_and_counts_jobs_that_millhand_worked(harness: Harness, ui: RiverUI) -> None:
    """41: The UI lists and counts Millhand's jobs by state, kind, queue, priority, tag and ID."""
    jobs = await filled(harness)

    by_state = {state: await listed(ui, state=state) for state in STATES}
    counts = (await ui.get("/api/states")).body

    assert by_state == {
        "available": [jobs["available"]],
        "cancelled": [jobs["cancelled"]],
        "completed": sorted(jobs[end] for end in ("completed", "periodic", "retried", "unique")),
        "discarded": [jobs["discarded"]],
        "pending": [jobs["pending"]],
        "retryable": [jobs["retryable"]],
        "running": [],
        "scheduled": sorted((jobs["scheduled"], jobs["snoozed"])),
    }
    assert {state: counts[state]["count"] for state in STATES} == {
        state: len(ids) for state, ids in by_state.items()
    }
    assert await listed(ui, state="completed", kinds=["report", "elsewhere"]) == [jobs["periodic"]]
    assert await listed(ui, state="available", kinds=["report", "elsewhere"]) == [jobs["available"]]
    assert await listed(ui, state="completed", queues="mail") == [jobs["unique"]]
    assert await listed(ui, state="completed", priorities=[3, 4]) == [jobs["completed"]]
    assert await listed(ui, state="completed", tags="vip") == [jobs["completed"]]
    assert await listed(ui, state="completed", ids=[jobs["unique"], jobs["cancelled"]]) == [jobs["unique"]]
    assert len(await listed(ui, state="completed", limit=2)) == 2


async def test_ui_suggests_kinds_and_queues(harness: Harness, ui: RiverUI) -> None:
    """41: The UI suggests the kinds of Millhand's jobs and the queues of its clients as filters."""
    await filled(harness)

    kinds = await ui.get("/api/autocomplete", facet="job_kind")
    begun_with = await ui.get("/api/autocomplete", facet="job_kind", match="repo")
    queues = await ui.get("/api/autocomplete", facet="queue_name")

    assert kinds.body["data"] == ["act", "elsewhere", "report"]
    assert begun_with.body["data"] == ["report"]
    assert queues.body["data"] == ["default", "mail"]


async def test_ui_shows_each_field_of_a_millhand_job(harness: Harness, ui: RiverUI) -> None:
    """41: A job's page shows the args, attempts, clients, output, tags and metadata that Millhand reads."""
    jobs = await filled(harness)
    client = harness.control("python").client

    for id in jobs.values():
        job, row = await shown(ui, id), await client.jobs.get(id)

        assert json.loads(job["args"]) == row.args
        assert job["metadata"] == row.metadata
        assert (job["kind"], job["queue"], job["state"]) == (row.kind, row.queue, row.state.value)
        assert (job["attempt"], job["max_attempts"]) == (row.attempt, row.max_attempts)
        assert (job["attempted_by"], job["tags"]) == (list(row.attempted_by), list(row.tags))
        assert job["priority"] == row.priority
        assert [(one["attempt"], one["error"], one["trace"]) for one in job["errors"]] == [
            (one.attempt, one.error, one.trace) for one in row.errors
        ]
        for name in ("attempted_at", "created_at", "finalized_at", "scheduled_at"):
            at = job[name]
            assert (at and datetime.fromisoformat(at)) == getattr(row, name)


async def test_ui_shows_errors_with_their_traces(harness: Harness, ui: RiverUI) -> None:
    """41: Each failed attempt shows its error, the exception's type, and the frames of the worker's code."""
    jobs = await filled(harness)

    discarded, retried = await shown(ui, jobs["discarded"]), await shown(ui, jobs["retried"])
    cancelled = await shown(ui, jobs["cancelled"])

    assert [one["error"] for one in discarded["errors"]] == ["Boom: disk full"]
    trace = discarded["errors"][0]["trace"]
    assert "scripted_worker.py" in trace
    assert "raise Boom(text)" in trace
    assert [(one["attempt"], one["error"]) for one in retried["errors"]] == [
        (1, "Boom: too early"),
        (2, "Boom: too early"),
    ]
    assert retried["attempted_by"] == ["python_a"] * 3
    assert [one["error"] for one in cancelled["errors"]] == ["JobCancelError: not wanted"]


async def test_ui_shows_outputs_snoozes_and_periodic_jobs(harness: Harness, ui: RiverUI) -> None:
    """23, 41: Millhand writes this metadata under the keys that the UI reads."""
    jobs = await filled(harness)

    assert (await shown(ui, jobs["completed"]))["metadata"] == {"output": {"sheets": 3}, "trace": "a1"}
    assert (await shown(ui, jobs["snoozed"]))["metadata"] == {"snoozes": 1}
    periodic = (await shown(ui, jobs["periodic"]))["metadata"]
    assert periodic == {"periodic": True, "river:periodic_job_id": "nightly"}


async def test_ui_shows_the_log_of_each_attempt(
    harness: Harness, ui: RiverUI, caplog: pytest.LogCaptureFixture
) -> None:
    """23, 41: A Millhand client stores each attempt's log where the UI reads it, in River's form."""
    caplog.set_level(logging.INFO, "interop.script")
    async with harness.working("python"):
        id = await harness.control("python").insert(["retry_in", 0], ["log", "looking"], ["fail_before", 2])
        await harness.events.wait("job_completed", job=id)

    logs = (await shown(ui, id))["metadata"]["river:log"]
    assert logs == [{"attempt": attempt, "log": "level=INFO msg=looking\n"} for attempt in (1, 2)]


async def test_ui_shows_large_values_and_replaced_characters(harness: Harness, ui: RiverUI) -> None:
    """18, 23, 41: The UI shows a number beyond doubles and a megabyte of text as written, and U+FFFD for U+0000."""
    output = {"n": 2**60 + 1, "ünïcode": "<&>\u2028 𝄞", "empty": [], "null": None}
    async with harness.working("python"):
        id = await harness.control("python").insert(
            ["output", output],
            ["metadata", "long", "x" * 2**20],
            ["fail", {"escaped": "a\\u0000b <b>"}],
            max_attempts=1,
        )
        await harness.events.wait("job_failed", job=id)
        listed_ids = await listed(ui, state="discarded")
        job = await shown(ui, id)

    assert listed_ids == [id]
    assert job["metadata"] == {"output": output, "long": "x" * 2**20}
    assert job["errors"][0]["error"] == "Boom: a\ufffdb <b>"


async def test_ui_counts_jobs_by_queue(harness: Harness, ui: RiverUI) -> None:
    """41: The UI lists each queue with its waiting and running jobs, and finds it by name."""
    await filled(harness)
    async with harness.working("python", queues={"default": 1}):
        held = await harness.control("python").insert(["hold"])
        await harness.events.wait("held", job=held)
        queues = (await ui.get("/api/queues")).body["data"]
        mail = await ui.get("/api/queues/mail")
        nowhere = await ui.get("/api/queues/nowhere")

    counts = {one["name"]: (one["count_available"], one["count_running"]) for one in queues}
    assert counts == {"default": (0, 1), "mail": (1, 0)}
    assert all(one["paused_at"] is None for one in queues)
    assert mail.body == next(one for one in queues if one["name"] == "mail")
    assert (nowhere.status, nowhere.body["message"]) == (404, "Queue not found: nowhere.")


async def test_ui_cancels_an_attempt_of_a_millhand_client(harness: Harness, ui: RiverUI) -> None:
    """25, 41: The UI's cancel ends a Python attempt long before any poll, and the row records who asked."""
    async with harness.working("python", poll_seconds=60.0):
        running = await harness.control("python").insert(["hold"])
        await harness.events.wait("held", job=running)
        answer = await ui.post("/api/jobs/cancel", ids=[str(running)])
        await harness.events.wait("context_done", job=running)
        await harness.events.wait("job_cancelled", job=running)

    job = await shown(ui, running)
    assert answer == OK
    assert (job["state"], [one["error"] for one in job["errors"]]) == ("cancelled", [CANCELLED])
    assert await listed(ui, state="cancelled") == [running]


async def test_ui_cancels_all_selected_jobs_or_none(harness: Harness, ui: RiverUI) -> None:
    """41: If one job is missing, the UI's error names its ID and no other job is cancelled."""
    control = harness.control("python")
    first, second = await control.insert(pending=True), await control.insert(pending=True)

    refused = await ui.post("/api/jobs/cancel", ids=[str(first), "999999"])
    pending = await listed(ui, state="pending")
    done = await ui.post("/api/jobs/cancel", ids=[str(first), str(second)])

    assert (refused.status, refused.body["message"]) == (404, "Job not found: 999999.")
    assert pending == [first, second]
    assert done == OK
    assert await listed(ui, state="cancelled") == [first, second]


async def test_ui_retries_a_discarded_job(harness: Harness, ui: RiverUI) -> None:
    """41: A Millhand client works a discarded job that the UI retried, with one more attempt."""
    async with harness.working("python"):
        id = await harness.control("python").insert(["fail_before", 2], max_attempts=1)
        await harness.events.wait("job_failed", job=id)
        answer = await ui.post("/api/jobs/retry", ids=[str(id)])
        await harness.events.wait("job_completed", job=id)

    job = await shown(ui, id)
    assert answer == OK
    assert (job["state"], job["attempt"], job["max_attempts"]) == ("completed", 2, 2)


@pytest.mark.parametrize("ending", [["fail", "boom"], ["snooze", 3600]])
async def test_job_fails_normally_after_a_cancel_and_a_retry_in_the_ui(
    harness: Harness, ui: RiverUI, ending: list[Any]
) -> None:
    """26, 41: The UI's retry keeps the cancel mark, and the next Python attempt ignores it."""
    id = await harness.control("python").insert(["retry_in", 3600], ending)
    await ui.post("/api/jobs/cancel", ids=[str(id)])
    await ui.post("/api/jobs/retry", ids=[str(id)])
    before = await harness.row(id)
    async with harness.working("python"):
        row = await harness.until_state(id, "retryable", "scheduled", "cancelled")

    assert "cancel_attempted_at" in before["metadata"]
    assert row["state"] == ("retryable" if ending[0] == "fail" else "scheduled")
    assert "cancel_attempted_at" not in row["metadata"]


async def test_poll_ignores_a_cancel_that_is_older_than_a_retry_in_the_ui(
    harness: Harness, ui: RiverUI
) -> None:
    """26, 41: The poll for cancels ends another attempt, and does not end the retried one."""
    control = harness.control("python")
    retried = await control.insert(["hold"])
    await ui.post("/api/jobs/cancel", ids=[str(retried)])
    await ui.post("/api/jobs/retry", ids=[str(retried)])
    async with harness.working("python", poll_only=True) as member:
        other = await control.insert(["hold"])
        for id in (retried, other):
            await harness.events.wait("held", job=id)
        await control.cancel(other)
        await harness.events.wait("job_cancelled", job=other)
        await member.release(retried)
        await harness.events.wait("job_completed", job=retried)

    assert [(await shown(ui, id))["state"] for id in (retried, other)] == ["completed", "cancelled"]


async def test_ui_refuses_a_retry_whose_key_is_taken(harness: Harness, ui: RiverUI) -> None:
    """12, 41: The UI answers 409 where Millhand raises a conflict, and both jobs stay unchanged."""
    control = harness.control("python")
    first = await control.insert(["hold"], pending=True, unique={"by_args": True})
    await control.cancel(first)
    second = await control.insert(["hold"], pending=True, unique={"by_args": True})

    answer = await ui.post("/api/jobs/retry", ids=[str(first)])
    with pytest.raises(UniqueConflict):
        await control.retry(first)

    assert answer.status == 409
    assert "another active job has the same unique properties" in answer.body["message"]
    assert [(await shown(ui, id))["state"] for id in (first, second)] == ["cancelled", "pending"]


async def test_ui_deletes_only_jobs_that_do_not_run(harness: Harness, ui: RiverUI) -> None:
    """41: The UI refuses a selection with a running job, and deletes one without."""
    async with harness.working("python") as member:
        pending, running = (
            await harness.control("python").insert(pending=True),
            await harness.control("python").insert(["hold"]),
        )
        await harness.events.wait("held", job=running)
        refused = await ui.post("/api/jobs/delete", ids=[str(pending), str(running)])
        before = [row["id"] for row in await harness.rows()]
        deleted = await ui.post("/api/jobs/delete", ids=[str(pending)])
        await member.release(running)
        await harness.events.wait("job_completed", job=running)

    assert refused.status == 400
    assert refused.body["message"] == f"Job {running} is running and can't be deleted until it finishes."
    assert before == [pending, running]
    assert deleted == OK
    assert [row["id"] for row in await harness.rows()] == [running]


@pytest.mark.parametrize("name", ["default", "*"])
async def test_ui_pauses_and_resumes_a_queue_of_a_millhand_client(
    harness: Harness, ui: RiverUI, name: str
) -> None:
    """27, 41: After a pause in the UI, Millhand fetches no job and running jobs continue; a resume ends that."""
    control = harness.control("python")
    async with harness.working("python", poll_seconds=60.0) as member:
        running = await control.insert(["hold"])
        await harness.events.wait("held", job=running)
        assert await ui.queue("pause", name) == OK
        await harness.events.wait("queue_paused", queue="default")
        waiting = await control.insert()
        await member.release(running)
        await harness.events.wait("job_completed", job=running)
        queue, job = (await ui.get("/api/queues/default")).body, await shown(ui, waiting)
        assert await ui.queue("resume", name) == OK
        await harness.events.wait("queue_resumed", queue="default")
        await harness.events.wait("job_completed", job=waiting)

    assert (queue["paused_at"] is not None, queue["count_available"]) == (True, 1)
    assert (job["state"], job["attempt"]) == ("available", 0)
    assert (await ui.get("/api/queues/default")).body["paused_at"] is None


async def test_ui_sets_changes_and_clears_the_limit_of_a_millhand_queue(
    harness: Harness, ui: RiverUI
) -> None:
    """41: The form for limits, of River Pro, sets a limit that Millhand obeys at once, changes, lifts and clears it."""

    async def at_once() -> list[int]:
        return [row[0] for row in await harness.fetch("SELECT at_once FROM /* schema */millhand_limit")]

    async def update(concurrency: dict[str, Any] | None, expected: list[int]) -> Answer:
        async def is_obeyed() -> bool:
            return await at_once() == expected

        answer = await ui.queue("update", "default", concurrency=concurrency)
        await harness.until(is_obeyed, f"limit {expected}")
        return answer

    async def has_slot(id: int) -> bool:
        await harness.events.wait("held", job=id)
        sql = "SELECT FROM /* schema */millhand_limited_job WHERE job_id = $1 AND admitted_at IS NOT NULL"
        return bool(await harness.fetch(sql, id))

    form = {"global_limit": 1, "local_limit": 0, "partition": {"by_args": None, "by_kind": None}}
    control = harness.control("python")
    async with harness.working("python", leads=True, poll_seconds=60.0) as member:
        updated = await update(form, [1])
        while not await has_slot(first := await control.insert(["hold"])):  # until the client knows the limit
            await member.release(first)
        second, third = [await control.insert(["hold"]) for _ in range(2)]
        # A client that has not read the limit inserts available jobs, and the next fetch lets them wait.
        for id in (second, third):
            await harness.until_state(id, "pending")
        await update({**form, "global_limit": 2}, [2])
        await harness.events.wait("held", job=second)
        under_two = await harness.row(third)
        # To River UI, 0 is for no limit.
        await update({**form, "global_limit": 0}, [])
        await harness.events.wait("held", job=third)
        await update(form, [1])
        cleared = await update(None, [])
        for id in (first, second, third):
            await member.release(id)
            await harness.until_state(id, "completed")

    assert (updated.status, updated.body["concurrency"]["global_limit"]) == (200, 1)
    assert under_two["state"] == "pending"
    assert cleared.body["concurrency"] is None


@pytest.mark.parametrize("verb", ["pause", "resume", "update"])
async def test_ui_refuses_a_queue_that_no_client_works(ui: RiverUI, verb: str) -> None:
    """27, 41: The UI answers 404 for a queue that no client has worked."""
    answer = await ui.queue(verb, "nowhere")

    assert (answer.status, answer.body["message"]) == (404, "Queue not found: nowhere.")


async def test_open_source_ui_is_healthy_on_millhand_s_schema(ui: RiverUI) -> None:
    """41: On Millhand's schema the server finds its database and its pages, and no feature of River Pro."""
    features = await ui.get("/api/features")

    assert features.body == {"extensions": {}, "job_list_hide_args_by_default": False}
    assert await ui.get("/api/health-checks/complete") == OK
    assert await ui.get("/api/health-checks/minimal") == OK
    assert (await ui.get("/api/version")).status == 200
    assert "<title>" in (await ui.get("/")).body
