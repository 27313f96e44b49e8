"""Dead clients in a mixed fleet: Millhand rescues only jobs of Millhand clients, under any leader."""

from __future__ import annotations

import time

import pytest
from interop_harness import Harness

from millhand.engine.store.leader import LeaderRole, leader_get

# What is promised of the time from a kill to the job running again.
MAX_SECONDS = 20.0


@pytest.mark.slow
async def test_millhand_client_rescues_a_dead_millhand_client_under_a_river_leader(harness: Harness) -> None:
    """34, 39: While River leads, a Millhand client works the job of a killed one, and River's job continues."""
    async with (
        harness.working("go", "go", leads=True, queues={"gos": 1}),
        harness.killable("python", "killed") as process,
    ):
        await harness.until_leader("go")
        ours = await harness.control("python").insert(["hold"])
        theirs = await harness.control("go").insert(["hold"], queue="gos")
        for id in (ours, theirs):
            await harness.events.wait("held", job=id)
        async with harness.working("python", "other", leads=True) as other:
            await process.kill()
            began = time.monotonic()
            await harness.events.wait("held", job=ours, client="other")
            seconds = time.monotonic() - began
            rows = [await harness.row(id) for id in (ours, theirs)]
            leaders = [
                await harness.driver.pool.run(leader_get(leader_role=leader_role))
                for leader_role in LeaderRole
            ]
            await other.release(ours)
            await harness.until_state(ours, "completed")

    assert seconds <= MAX_SECONDS
    assert [(row["state"], row["attempt"], row["attempted_by"]) for row in rows] == [
        ("running", 2, ["killed", "other"]),
        ("running", 1, ["go"]),
    ]
    assert [error["error"] for error in rows[0]["errors"]] == [
        "Job rescued by ClientRescuer: client 'killed' missed its heartbeats"
    ]
    assert [leader and leader.leader_id for leader in leaders] == ["go", "other"]
