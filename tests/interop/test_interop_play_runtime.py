"""Scenarios of River's conformance suite about attempts and clients, played by each adapter beside the other."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from conformance_pair import Job, Pair, Side
from interop_harness import BOTH_WAYS, LANGUAGES, Language

from river_suite import upstream

CANCELLED = "JobCancelError: job cancelled remotely"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def comparable(job: Job) -> Job:
    """Return a job without the instants of its errors: River writes nanoseconds, and Python has microseconds."""
    return {**job, "errors": [{**one, "at": None} for one in job["errors"]]}


async def started(pair: Pair, name: Language, **settings: Any) -> Side:
    """Start the client of an adapter, whose id is the adapter's name."""
    side = pair.sides[name]
    await side.call("start", **{"client_id": name, "max_workers": 2, **settings})
    return side


@pytest.mark.parametrize("worker", LANGUAGES)
async def test_adapters_play_barrier(pair: Pair, worker: Language) -> None:
    """barrier_wait_and_release; a job that waits at a barrier is really running."""
    works = await started(pair, worker)
    await works.call("barrier_create", name="b")
    running = await works.wait(await works.insert("barrier_wait", message="b"), "running")

    await works.call("barrier_release", name="b")

    done = await works.wait(running)
    assert (running["attempt"], done["state"]) == (1, "completed")
    assert done["attempted_at"] == running["attempted_at"]


async def ended(works: Side, observes: Side, behavior: str, state: str) -> dict[str, Any]:
    """Return a job whose only attempt has ended in `state`, and which the other adapter reads alike."""
    done = await works.wait(await works.insert(behavior, message=behavior, opts={"max_attempts": 1}))
    assert (done["state"], done["attempt"]) == (state, 1), behavior
    assert done["finalized_at"] is not None
    assert comparable(await observes.call("get", id=done["id"])) == comparable(done)
    return done


@pytest.mark.parametrize(("worker", "observer"), BOTH_WAYS)
async def test_adapters_play_outcomes(pair: Pair, worker: Language, observer: Language) -> None:
    """single_implementation_worker_outcomes; each outcome has its state, error and metadata in both adapters."""
    works = await started(pair, worker)
    for behavior, state, error in (
        ("cancel", "cancelled", "cancelled by conformance worker"),
        ("discard", "discarded", "conformance discard"),
        ("error", "discarded", "conformance retryable error"),
        ("output", "completed", None),
    ):
        done = await ended(works, pair.sides[observer], behavior, state)
        assert len(done["errors"]) == (error is not None)
        assert error is None or error in done["errors"][0]["error"]
        assert done["metadata"] == ({"output": {"message": "output"}} if behavior == "output" else {})


@pytest.mark.parametrize(("worker", "observer"), BOTH_WAYS)
async def test_adapters_play_panics(pair: Pair, worker: Language, observer: Language) -> None:
    """panic_attempt_trace; the error of a panic has its text and a trace."""
    done = await ended(await started(pair, worker), pair.sides[observer], "panic", "discarded")

    [error] = done["errors"]
    assert "conformance worker panic" in error["error"]
    assert error["trace"]


@pytest.mark.parametrize(("worker", "observer"), BOTH_WAYS)
async def test_adapters_play_transactional_completions(
    pair: Pair, worker: Language, observer: Language
) -> None:
    """transactional_completion; a job that its worker completes in a transaction keeps the worker's metadata."""
    works = await started(pair, worker)

    done = await ended(works, pair.sides[observer], "transactional_complete", "completed")

    assert (done["errors"], done["metadata"]) == ([], {"transactional_completion": True})


@pytest.mark.parametrize(("worker", "observer"), BOTH_WAYS)
async def test_adapters_play_snoozes(pair: Pair, worker: Language, observer: Language) -> None:
    """snooze_once_metadata_transition; a snooze gives its attempt back, and a long one is scheduled."""
    works = await started(pair, worker)

    short = await works.wait(await works.insert("snooze_once", duration_ms=5))
    long = await works.wait(await works.insert("snooze_once", duration_ms=10_000), "scheduled")
    read_at = datetime.now(UTC)

    assert (short["state"], short["attempt"], short["metadata"], short["errors"]) == (
        *("completed", 1, {"snoozes": 1}, []),
    )
    assert (long["attempt"], long["metadata"], long["finalized_at"]) == (0, {"snoozes": 1}, None)
    assert at(long["scheduled_at"]) - at(long["attempted_at"]) >= timedelta(seconds=9.9)
    assert at(long["scheduled_at"]) - read_at <= timedelta(seconds=10)
    assert await pair.sides[observer].call("get", id=long["id"]) == long


@pytest.mark.parametrize(("worker", "inserter"), BOTH_WAYS)
async def test_adapters_play_default_retries(pair: Pair, worker: Language, inserter: Language) -> None:
    """default_retry_policy_schedule; the first delay passes at once, and the second waits, both within River's bounds."""
    works = await started(pair, worker)

    job = await works.until_state(
        await pair.sides[inserter].insert("error", opts={"max_attempts": 5}), "retryable"
    )

    assert (job["attempt"], len(job["errors"])) == (2, 2)
    base = upstream("protocol_values")["retry_cases"]
    assert [case["error_count"] for case in base][:1] == [1]
    first = at(job["attempted_at"]) - at(job["errors"][0]["at"])
    second = at(job["scheduled_at"]) - at(job["errors"][1]["at"])
    assert timedelta(seconds=0.65) <= first < timedelta(seconds=6.1)
    assert timedelta(seconds=14.15) <= second <= timedelta(seconds=17.85 + 1)


@pytest.mark.parametrize("worker", LANGUAGES)
async def test_adapters_play_extensions(pair: Pair, worker: Language) -> None:
    """extension_hook_middleware_order; hooks run within middleware, in both languages in the same order."""
    works = await started(pair, worker, instrumented=True)

    await works.wait(await works.insert())

    await works.until_event("job_completed")
    trace = (await works.call("runtime_stats"))["trace"]
    assert [one for one in trace if "insert" in one] == [
        "middleware:insert_before",
        "hook:insert_begin",
        "middleware:insert_after",
    ]
    assert [one for one in trace if "work" in one] == [
        "middleware:work_before",
        "hook:work_begin",
        "hook:work_end",
        "middleware:work_after",
    ]


@pytest.mark.parametrize("worker", LANGUAGES)
async def test_adapters_play_error_handler(pair: Pair, worker: Language) -> None:
    """error_handler_cancel_override; a handler cancels a job that would be retried."""
    works = await started(pair, worker, error_handler_cancel=True)

    done = await works.wait(await works.insert("error", opts={"max_attempts": 3}))

    assert (done["state"], done["attempt"]) == ("cancelled", 1)
    assert [one["error"] for one in done["errors"]] == ["conformance retryable error"]
    assert await works.until_event("job_cancelled") == ["job_cancelled"]
    assert (await works.call("runtime_stats"))["error_handler_calls"] == 1


@pytest.mark.parametrize("worker", LANGUAGES)
async def test_adapters_play_resumable_steps(pair: Pair, worker: Language) -> None:
    """resumable_retry; the retry skips the step that is completed."""
    works = await started(pair, worker, retry_delay_ms=5)

    done = await works.wait(await works.insert("resumable", opts={"max_attempts": 2}))

    assert (done["state"], done["attempt"], len(done["errors"])) == ("completed", 2, 1)
    assert done["metadata"]["river:resumable_step"] == "first"
    stats = await works.call("runtime_stats")
    assert (stats["resumable_first_runs"], stats["resumable_second_runs"]) == (1, 2)


@pytest.mark.parametrize("worker", LANGUAGES)
async def test_adapters_play_invalid_steps(pair: Pair, worker: Language) -> None:
    """resumable_validation; repeated steps and cursors that are no object fail the attempt."""
    works = await started(pair, worker)
    for behavior, metadata, step in (
        ("resumable_duplicate", {}, "first"),
        ("resumable_duplicate", {"river:resumable_step": "later"}, "later"),
        ("resumable", {"river:resumable_step": ""}, "first"),
        ("output", {"river:resumable_cursor": []}, None),
    ):
        # Not by an insert, because Millhand's refuses River's own keys.
        opts = {"max_attempts": 1, "metadata": metadata}
        done = await works.wait(await works.call("raw_insert_no_notify", behavior=behavior, opts=opts))
        assert (done["state"], len(done["errors"])) == ("discarded", 1), (behavior, metadata)
        assert done["metadata"].get("river:resumable_step") == step
        if worker == "go":  # Millhand reads the cursors after the worker, if it calls no step
            assert "output" not in done["metadata"]
        if behavior == "resumable_duplicate":
            assert "duplicate resumable step" in done["errors"][0]["error"]


@pytest.mark.parametrize(("first", "second"), BOTH_WAYS)
async def test_adapters_play_cursors_of_steps(pair: Pair, first: Language, second: Language) -> None:
    """resumable_cross_engine_cursor; three attempts in turn continue each other's steps and cursor."""
    job = await pair.sides[first].insert(
        "resumable_cursor", opts={"max_attempts": 3, "metadata": {"application": "retained"}}
    )
    for number, name in enumerate((first, second, first), start=1):
        works = await started(pair, name, max_workers=1, retry_delay_ms=60_000)
        job = await works.wait(job, "completed" if number == 3 else "retryable")
        await works.call("stop")
        metadata = job["metadata"]
        assert (job["attempt"], metadata["application"], metadata["first_attempt"]) == (number, "retained", 1)
        if number == 1:
            assert metadata["river:resumable_step"] == "first"
            assert metadata["river:resumable_cursor"] == {"second": 7}
        else:
            assert (metadata["river:resumable_step"], metadata["cursor_observed"]) == ("second", 7)
            assert not metadata.get("river:resumable_cursor")
        if number < 3:
            await pair.sides[second].call("retry", id=job["id"])
    assert len(job["errors"]) == 2


@pytest.mark.parametrize("worker", LANGUAGES)
async def test_adapters_play_changes_of_queues(pair: Pair, worker: Language) -> None:
    """dynamic_queue_add_reconfigure_remove; a queue is added, gets more workers, and is removed while the client runs."""
    works = await started(pair, worker, max_workers=1)
    for max_workers in (1, 2):
        await works.call("queue_add", name="dynamic", max_workers=max_workers)
    await works.call("barrier_create", name="b")
    opts = {"queue": "dynamic"}
    jobs = [await works.insert("barrier_wait", message="b", opts=opts) for _ in range(2)]
    for job in jobs:
        await works.wait(job, "running")
    await works.call("barrier_release", name="b")
    for job in jobs:
        assert (await works.wait(job))["state"] == "completed"

    await works.call("queue_remove", name="dynamic")

    left = await works.insert(opts=opts)
    await works.wait(await works.insert())
    assert (await works.call("get", id=left["id"]))["state"] == "available"


@pytest.mark.parametrize(("worker", "observer"), BOTH_WAYS)
async def test_adapters_play_timeouts(pair: Pair, worker: Language, observer: Language) -> None:
    """timeout_cancellation; an attempt ends with its timeout, and its job is discarded after the last one."""
    works = await started(pair, worker, job_timeout_ms=20)

    done = await works.wait(await works.insert("cooperative_cancel", opts={"max_attempts": 1}))

    assert (done["state"], done["attempt"], len(done["errors"])) == ("discarded", 1, 1)
    assert done["errors"][0]["error"]
    assert at(done["finalized_at"]) - at(done["attempted_at"]) >= timedelta(milliseconds=20)
    assert comparable(await pair.sides[observer].call("get", id=done["id"])) == comparable(done)


@pytest.mark.parametrize("worker", LANGUAGES)
async def test_adapters_play_stuck_jobs(pair: Pair, worker: Language) -> None:
    """stuck_job_detection; an attempt that ignores its timeout is reported once."""
    stuck = await pair.another(worker)
    settings = {"client_id": "stuck", "job_stuck_threshold_ms": 100, "job_timeout_ms": 50, "max_workers": 1}
    await stuck.call("start", **settings)
    await stuck.insert("ignored_cancel")

    stats = await stuck.until("runtime_stats", lambda stats: stats["stuck_jobs"])

    assert stats["stuck_jobs"] == 1
    await stuck.kill()


@pytest.mark.parametrize(("worker", "inserter"), BOTH_WAYS)
async def test_adapters_play_hard_stops(pair: Pair, worker: Language, inserter: Language) -> None:
    """
    hard_shutdown_soft_stop_classification, shutdown_after_cancel_attempt.

    A stop gives the attempt back, but an error counts, and a job whose cancel was requested ends cancelled.
    """
    works = await started(pair, worker, max_workers=4)
    jobs = {}
    for name, behavior in (
        ("cooperative", "cooperative_cancel"),
        ("requested", "cooperative_cancel"),
        ("error", "cancel_error"),
        ("panic", "cancel_panic"),
    ):
        jobs[name] = await works.wait(await pair.sides[inserter].insert(behavior, message=name), "running")
    await pair.fetch(
        'UPDATE river_job SET metadata = metadata || \'{"cancel_attempted_at": "2026-01-02T03:04:05Z"}\' WHERE id = $1',
        jobs["requested"]["id"],
    )

    await works.call("stop", cancel=True)

    rows = {name: await pair.sides[inserter].call("get", id=job["id"]) for name, job in jobs.items()}
    assert (rows["cooperative"]["state"], rows["cooperative"]["attempt"]) == ("available", 0)
    assert rows["cooperative"]["attempted_at"] is not None
    assert rows["cooperative"]["errors"] == []
    assert rows["requested"]["state"] == "cancelled"
    for name in ("error", "panic"):
        assert rows[name]["state"] in ("available", "retryable")
        assert (rows[name]["attempt"], len(rows[name]["errors"])) == (1, 1)


# Cancels by the other adapter.


@pytest.mark.parametrize(("controller", "worker"), BOTH_WAYS)
async def test_adapters_play_cancels(pair: Pair, controller: Language, worker: Language) -> None:
    """
    cooperative_remote_cancellation, remote_cancel_notification.

    A cancel reaches a worker that polls once a minute, and the job has River's error and event.
    """
    works = await started(pair, worker, fetch_poll_interval_ms=60_000)
    job = await works.wait(await pair.sides[controller].insert("cooperative_cancel"), "running")

    requested = await pair.sides[controller].call("cancel", id=job["id"])

    done = await works.wait(job)
    assert requested["state"] == "running"
    assert (done["state"], done["attempt"]) == ("cancelled", 1)
    assert done["metadata"] == requested["metadata"]
    assert at(done["metadata"]["cancel_attempted_at"])
    assert [one["error"] for one in done["errors"]] == [CANCELLED]
    assert await works.until_event("job_cancelled") == ["job_cancelled"]


@pytest.mark.parametrize(("worker", "canceller"), BOTH_WAYS)
async def test_adapters_play_cancels_after_a_snooze(
    pair: Pair, worker: Language, canceller: Language
) -> None:
    """refetched_attempt_cancellation; a cancel reaches the attempt after the snooze."""
    works = await started(pair, worker, max_workers=1)
    job = await pair.sides[canceller].insert("snooze_then_cancel", duration_ms=1)
    await works.until(
        "get", lambda row: row["state"] == "running" and "snoozes" in row["metadata"], id=job["id"]
    )

    await pair.sides[canceller].call("cancel", id=job["id"])

    assert (await works.wait(job))["state"] == "cancelled"


async def test_adapters_play_cancels_during_a_fetch(pair: Pair) -> None:
    """claim_time_cancellation; Millhand holds its fetch, River cancels the job, and no worker begins."""
    works, cancels = pair.sides["python"], pair.sides["go"]
    await works.call("barrier_create", name="b")
    await works.call("start", claim_barrier="b", client_id="python", max_workers=1)
    await works.until("listener_count", lambda result: result["count"])
    job = await cancels.wait(await cancels.insert("cooperative_cancel"), "running")

    await cancels.call("cancel", id=job["id"])
    await cancels.call("queue_pause", name="default")
    await works.until_event("queue_paused")  # after the cancel, because notifications arrive in order
    await works.call("barrier_release", name="b")

    done = await cancels.wait(job)
    assert (done["state"], done["attempt"], [one["error"] for one in done["errors"]]) == (
        *("cancelled", 1, [CANCELLED]),
    )
    await works.until_event("job_cancelled")
    assert (await works.call("runtime_stats"))["cancelled_at_start"] == 1
