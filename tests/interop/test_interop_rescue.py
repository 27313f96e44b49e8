"""Who dies in a mixed fleet: ours are rescued by ours whoever leads, and River's clients' jobs are theirs."""

from __future__ import annotations

import time

import pytest
from interop_room import Room

from millhand.store.leader import LeaderRole, leader_get

# What is promised of the time from a kill to the job running again.
MAX_SECONDS = 20.0


@pytest.mark.slow
async def test_millhand_client_rescues_a_dead_millhand_client_under_a_river_leader(room: Room) -> None:
    """34, 39: While River leads, a Millhand client works the job of a killed one, and River's job continues."""
    async with (
        room.working("go", "go", leads=True, queues={"gos": 1}),
        room.mortal("python", "killed") as process,
    ):
        await room.until_leader("go")
        ours = await room.hand("python").insert(["hold"])
        theirs = await room.hand("go").insert(["hold"], queue="gos")
        for id in (ours, theirs):
            await room.told.wait("held", job=id)
        async with room.working("python", "other", leads=True) as other:
            await process.kill()
            began = time.monotonic()
            await room.told.wait("held", job=ours, client="other")
            seconds = time.monotonic() - began
            rows = [await room.row(id) for id in (ours, theirs)]
            leaders = [
                await room.driver.pool.run(leader_get(leader_role=leader_role)) for leader_role in LeaderRole
            ]
            await other.release(ours)
            await room.until_state(ours, "completed")

    assert seconds <= MAX_SECONDS
    assert [(row["state"], row["attempt"], row["attempted_by"]) for row in rows] == [
        ("running", 2, ["killed", "other"]),
        ("running", 1, ["go"]),
    ]
    assert [error["error"] for error in rows[0]["errors"]] == [
        "Job rescued by ClientRescuer: client 'killed' missed its heartbeats"
    ]
    assert [leader and leader.leader_id for leader in leaders] == ["go", "other"]
