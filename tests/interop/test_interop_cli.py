"""`millhand job` and `millhand queue` on rows that Go wrote, beside Go workers."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from interop_harness import Harness

from cli_runner import Result, millhand

STATES = ("available", "cancelled", "completed", "discarded", "pending", "retryable", "running", "scheduled")


@pytest.fixture(autouse=True)
def _at_hand(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the commands at the harness's schema."""
    monkeypatch.setenv("DATABASE_URL", harness.url)
    monkeypatch.setenv("MILLHAND_DATABASE_SCHEMA", harness.schema)


async def filled(harness: Harness) -> dict[str, int]:
    """Let a Go client work jobs to each outcome, and return their IDs by outcome."""
    control = harness.control("go")
    later = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    jobs = {
        "cancelled": await control.insert(["cancel", "not wanted"]),
        "completed": await control.insert(
            ["output", {"sheets": 3}],
            ["log", "hello"],
            ["metadata", "order", "4711"],
            tags=["monthly", "vip"],
            unique={"by_args": True},
        ),
        "discarded": await control.insert(["panic", "index out of range"], max_attempts=1, queue="mail"),
        "retryable": await control.insert(["retry_in", 3600], ["fail", "no such file\nat all"]),
        "snoozed": await control.insert(["snooze", 3600]),
    }
    async with harness.working("go", queues={"default": 10, "mail": 1}):
        for end, reported in (("cancelled", "cancelled"), ("completed", "completed"), ("snoozed", "snoozed")):
            await harness.events.wait(f"job_{reported}", job=jobs[end])
        for end in ("discarded", "retryable"):
            await harness.events.wait("job_failed", job=jobs[end])
    jobs["available"] = await control.insert(kind="elsewhere", queue="mail", priority=4)
    jobs["pending"] = await control.insert(pending=True)
    jobs["scheduled"] = await control.insert(scheduled_at=later)
    return jobs


def ids(result: Result) -> list[int]:
    """Return the IDs of a list, lowest first."""
    assert (result.code, result.err) == (0, "")
    return sorted(int(line[0]) for line in result.lines)


async def test_job_list_shows_jobs_of_go(harness: Harness) -> None:
    """41: `millhand job list` filters Go's jobs by state, kind, queue and tag, in a pipe and as JSON."""
    jobs = await filled(harness)

    by_state = {state: ids(await millhand("job", "list", "--state", state)) for state in STATES}
    listed = (await millhand("job", "list", "--json")).json

    assert by_state == {
        **{state: [jobs[state]] if state in jobs else [] for state in STATES},
        "scheduled": sorted((jobs["scheduled"], jobs["snoozed"])),
    }
    assert ids(await millhand("job", "list", "--kind", "elsewhere")) == [jobs["available"]]
    assert ids(await millhand("job", "list", "--queue", "mail")) == [jobs["discarded"], jobs["available"]]
    assert ids(await millhand("job", "list", "--tag", "vip")) == [jobs["completed"]]
    assert ids(await millhand("job", "list")) == sorted(jobs.values())
    rows = {row["id"]: row for row in await harness.rows()}
    assert {one["id"]: (one["state"], one["metadata"], one["args"], one["tags"]) for one in listed} == {
        id: (row["state"], row["metadata"], row["args"], row["tags"]) for id, row in rows.items()
    }


async def test_job_show_prints_an_attempt_of_go(harness: Harness) -> None:
    """23, 41: `millhand job show` prints output, log, errors and traces of a Go attempt, in a pipe and as JSON."""
    jobs = await filled(harness)

    completed, discarded = [await millhand("job", "show", jobs[end]) for end in ("completed", "discarded")]
    retryable = await millhand("job", "show", jobs["retryable"])
    reported = (await millhand("job", "show", jobs["discarded"], "--json")).json

    lines = dict(completed.lines)
    assert json.loads(lines["output"]) == {"sheets": 3}
    assert json.loads(lines["metadata"]) == {"order": "4711"}
    assert lines["log of attempt 1"] == "level=INFO msg=hello"
    assert lines["unique_states"] == "available, completed, pending, retryable, running, scheduled"
    assert (lines["tags"], lines["attempted_by"]) == ("monthly, vip", "go_a")
    assert dict(discarded.lines)["error of attempt 1"].startswith("index out of range (")
    assert dict(retryable.lines)["error of attempt 1"].startswith("no such file at all (")
    assert "main.(*actWorker).act" in reported["errors"][0]["trace"]


async def test_job_commands_cancel_and_retry_jobs_of_go(harness: Harness) -> None:
    """25, 41: A command cancels a Go attempt, and a Go client works a job that a command retried."""
    async with harness.working("go", poll_seconds=0.05):
        running, failed = [
            await harness.control("go").insert(["hold"]),
            await harness.control("go").insert(["fail_before", 2], max_attempts=1),
        ]
        await harness.events.wait("held", job=running)
        await harness.events.wait("job_failed", job=failed)
        refused = await millhand("job", "delete", running)
        cancelled = await millhand("job", "cancel", "--state", "running", "--yes")
        await harness.events.wait("job_cancelled", job=running)
        retried = await millhand("job", "retry", failed)
        await harness.events.wait("job_completed", job=failed)
        deleted = await millhand("job", "delete", "--state", "completed", "--state", "cancelled", "--yes")

    assert (refused.code, refused.out) == (1, "")
    assert refused.err == (
        f"error: job must not be running to be deleted, got job {running} running; cancel it first\n"
    )
    assert [(one.code, one.out) for one in (cancelled, retried)] == [(0, f"{running}\n"), (0, f"{failed}\n")]
    assert ids(Result(deleted.code, deleted.out, "")) == [running, failed]
    assert await harness.rows() == []


async def test_queue_commands_list_pause_and_resume_queues_of_go(harness: Harness) -> None:
    """27, 41: A Go client obeys `millhand queue pause` and `resume`, and its queues are listed."""
    async with harness.working("go", queues={"default": 1, "mail": 1}):
        before = await millhand("queue", "list")
        paused = await millhand("queue", "pause", "mail", "nowhere")
        await harness.events.wait("queue_paused", queue="mail")
        during = (await millhand("queue", "list", "--json")).json
        resumed = await millhand("queue", "resume", "*")
        await harness.events.wait("queue_resumed", queue="mail")

    assert [line[:2] for line in before.lines] == [["default", "active"], ["mail", "active"]]
    assert (paused.code, paused.err) == (
        1,
        "paused queue mail\nerror: queue must exist, found none named 'nowhere'; see: millhand queue list\n",
    )
    assert {one["name"]: one["paused_at"] is not None for one in during} == {"default": False, "mail": True}
    assert (resumed.code, resumed.err) == (0, "resumed all queues\n")
