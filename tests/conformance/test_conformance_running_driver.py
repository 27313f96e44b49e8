"""Held fetches and cut listeners."""

from __future__ import annotations

import asyncio

import pytest
from working_adapter import until_stats, worked

from factory import GENEROUS_SECONDS
from river_adapter import Adapter


@pytest.mark.slow
async def test_job_cancelled_during_its_fetch_is_never_worked(adapter: Adapter) -> None:
    """claim_time_cancellation; the held fetch receives the cancel, and the attempt counts as cancelled at its start."""
    await adapter.call("barrier_create", name="b")
    await adapter.call("start", claim_barrier="b", client_id="c", max_workers=1)
    job = await adapter.call("insert", behavior="cooperative_cancel")
    await adapter.call("wait", id=job["id"], states=["running"])

    await adapter.call("cancel", id=job["id"])
    await adapter.call("queue_pause", name="default")
    # Notifications arrive in order: after this one, the cancel has arrived too.
    await until_stats(adapter, lambda stats: "queue_paused" in stats["events"])
    await adapter.call("barrier_release", name="b")

    done = await adapter.call("wait", id=job["id"])
    assert (done["state"], [one["error"] for one in done["errors"]]) == (
        "cancelled",
        ["JobCancelError: job cancelled remotely"],
    )
    assert (await until_stats(adapter, lambda stats: "job_cancelled" in stats["events"]))[
        "cancelled_at_start"
    ] == 1


@pytest.mark.slow
async def test_stop_releases_a_held_fetch(adapter: Adapter) -> None:
    """A client that holds its first fetch can be stopped, and its job is available again or has ended."""
    await adapter.call("barrier_create", name="b")
    await adapter.call("start", claim_barrier="b", client_id="c", max_workers=1)
    job = await adapter.call("insert")
    await adapter.call("wait", id=job["id"], states=["running"])

    await adapter.call("stop")

    assert (await adapter.call("get", id=job["id"]))["state"] in ("available", "completed")


@pytest.mark.slow
async def test_listener_that_is_cut_returns(adapter: Adapter) -> None:
    """listener_backend_disconnect_reconnect; a running client has one listener, also after it was cut."""
    assert (await adapter.call("listener_count"))["count"] == 0
    assert (await adapter.call("fault_disconnect_listeners"))["count"] == 0
    await adapter.call("start", client_id="c", fetch_poll_interval_ms=60_000)

    for _ in range(2):
        async with asyncio.timeout(GENEROUS_SECONDS):
            while (await adapter.call("listener_count"))["count"] != 1:
                pass
        assert (await worked(adapter, ""))["state"] == "completed"
        assert (await adapter.call("fault_disconnect_listeners"))["count"] == 1
