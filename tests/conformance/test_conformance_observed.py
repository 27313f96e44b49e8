"""What a running client observes."""

from __future__ import annotations

import asyncio

import pytest
from working_adapter import until_stats, worked

from factory import GENEROUS_SECONDS
from river_adapter import Adapter


@pytest.mark.slow
async def test_instrumented_client_records_hooks_middleware_and_events(adapter: Adapter) -> None:
    """extension_hook_middleware_order; hooks run within middleware, around inserts and attempts."""
    await adapter.call("start", client_id="c", instrumented=True, max_workers=1)

    await worked(adapter, "")

    stats = await until_stats(adapter, lambda stats: stats["events"])
    assert stats["events"] == ["job_completed"]
    assert [one for one in stats["trace"] if "insert" in one] == [
        "middleware:insert_before",
        "hook:insert_begin",
        "middleware:insert_after",
    ]
    assert [one for one in stats["trace"] if "work" in one] == [
        "middleware:work_before",
        "hook:work_begin",
        "hook:work_end",
        "middleware:work_after",
    ]


@pytest.mark.slow
async def test_error_handler_cancels_a_failed_job(adapter: Adapter) -> None:
    """error_handler_cancel_override; the handler is called once, and the job keeps its error."""
    await adapter.call("start", client_id="c", error_handler_cancel=True)

    done = await worked(adapter, "error", opts={"max_attempts": 3})

    assert (done["state"], len(done["errors"])) == ("cancelled", 1)
    stats = await until_stats(adapter, lambda stats: stats["events"])
    assert (stats["error_handler_calls"], stats["events"]) == (1, ["job_cancelled"])


@pytest.mark.slow
async def test_stuck_attempt_is_reported(adapter: Adapter) -> None:
    """stuck_job_detection; an attempt that ignores its timeout is reported once."""
    await adapter.call("start", client_id="c", job_stuck_threshold_ms=100, job_timeout_ms=50)
    await adapter.call("insert", behavior="ignored_cancel")

    stats = await until_stats(adapter, lambda stats: stats["stuck_jobs"])

    assert stats["stuck_jobs"] == 1
    adapter.session.barriers.ended.set()


@pytest.mark.slow
async def test_periodic_jobs_run_when_the_client_leads(adapter: Adapter) -> None:
    """periodic_run_on_start, periodic_unique_cross_engine; both periodic jobs are inserted once, with their ids."""
    await adapter.call("start", client_id="c", periodic_run_on_start=True, periodic_unique=True)

    async with asyncio.timeout(GENEROUS_SECONDS):
        while len(jobs := (await adapter.call("list"))["jobs"]) < 2:
            pass

    found = {job["metadata"]["river:periodic_job_id"]: job for job in jobs}
    assert {id: job["args"]["message"] for id, job in found.items()} == {
        "conformance-periodic": "periodic run on start",
        "conformance-periodic-marker": "periodic marker",
    }
    assert all(job["metadata"]["periodic"] for job in jobs)
    assert found["conformance-periodic"]["unique_key"] is not None
    assert (await until_stats(adapter, lambda stats: stats["periodic_starts"]))["periodic_starts"] == 1
