"""Methods that start and stop a client, and those for barriers and queues."""

from __future__ import annotations

import pytest
from working_adapter import worked

from river_adapter import Adapter, code_of


async def test_barrier_holds_attempts_until_its_release(adapter: Adapter) -> None:
    """barrier_wait_and_release; an attempt runs until the release, and then records its output."""
    await adapter.call("start", client_id="c", max_workers=2)
    await adapter.call("barrier_create", name="b")
    job = await adapter.call("insert", behavior="barrier_output", message="b")
    running = await adapter.call("wait", id=job["id"], states=["running"])

    await adapter.call("barrier_release", name="b")
    done = await adapter.call("wait", id=job["id"])

    assert (done["state"], done["metadata"]) == ("completed", {"output": {"race": "worker"}})
    assert done["attempted_at"] == running["attempted_at"]


async def test_barrier_must_be_known_and_released_before_it_is_created_again(adapter: Adapter) -> None:
    """A name in use is rejected, an unknown one is not found, and a released one can be created again."""
    assert await code_of(adapter, "barrier_release", name="b") == "not_found"
    await adapter.call("barrier_create", name="b")
    assert await code_of(adapter, "barrier_create", name="b") == "rejected"
    await adapter.call("barrier_release", name="b")
    await adapter.call("barrier_release", name="b")
    await adapter.call("barrier_create", name="b")


@pytest.mark.slow
async def test_queue_is_added_changed_and_removed_while_the_client_runs(adapter: Adapter) -> None:
    """dynamic_queue_add_reconfigure_remove; two jobs run after the second number, and none after the removal."""
    await adapter.call("start", client_id="c", max_workers=1)
    await adapter.call("queue_add", name="dynamic", max_workers=1)
    await adapter.call("queue_add", name="dynamic", max_workers=2)
    await adapter.call("barrier_create", name="b")
    jobs = [
        await adapter.call("insert", behavior="barrier_wait", message="b", opts={"queue": "dynamic"})
        for _ in range(2)
    ]
    for job in jobs:
        await adapter.call("wait", id=job["id"], states=["running"])
    await adapter.call("barrier_release", name="b")

    await adapter.call("queue_remove", name="dynamic")

    left = await adapter.call("insert", opts={"queue": "dynamic"})
    await worked(adapter, "")
    assert (await adapter.call("get", id=left["id"]))["state"] == "available"
    assert await code_of(adapter, "queue_remove", name="dynamic") == "not_found"


async def test_wait_that_never_reaches_its_states_is_rejected(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait ends with an error after its time, and an unknown job is not found."""
    monkeypatch.setattr("river_conformance.lifecycle.WAIT_SECONDS", 0.0)
    job = await adapter.call("insert")

    assert await code_of(adapter, "wait", id=job["id"]) == "rejected"
    assert await code_of(adapter, "wait", id=job["id"] + 1) == "not_found"
    assert await code_of(adapter, "work", id=job["id"] + 1) == "not_found"
