"""Jobs that one language inserts and the other works."""

from __future__ import annotations

import pytest
from interop_room import BOTH_WAYS, Language, Room


@pytest.mark.parametrize(("inserter", "worker"), BOTH_WAYS)
async def test_job_of_one_language_is_worked_by_the_other(
    room: Room, inserter: Language, worker: Language
) -> None:
    """4: What one inserts the other works, and leaves as River leaves it."""
    async with room.working(worker, "worker"):
        id = await room.hand(inserter).insert()
        await room.told.wait("job_completed", job=id, client="worker")

    row = await room.row(id)
    assert (row["state"], row["attempt"], row["attempted_by"]) == ("completed", 1, ["worker"])
