"""River's Go client in the roles that `millhand migrate sql --grants` makes."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import astuple
from pathlib import Path

import pytest
from interop_room import GoHand, Room
from river_program import RiverError, RiverProgram, started_river

from millhand.schema.grants import Roles, grants_sql

UNIQUE = {"unique": {"by_args": True}}


@pytest.fixture
async def roles(room: Room) -> AsyncIterator[Roles]:
    """Roles on the room's schema, of which the inserter may be a client of River's."""
    names = ("worker", "inserter", "feeder", "reader")
    roles = Roles(**{name: f"go{os.getpid()}_{name}" for name in names})
    await room.driver.pool.execute_script(grants_sql(roles, schema=room.schema, is_river_inserter=True))
    yield roles
    quoted = ", ".join(f'"{role}"' for role in astuple(roles))
    await room.driver.pool.execute_script(f"DROP OWNED BY {quoted}; DROP ROLE {quoted}")


@asynccontextmanager
async def river_as(role: str, room: Room, path: Path) -> AsyncIterator[RiverProgram]:
    async with started_river(path, f"{room.url}&role={role}") as program:
        program.told = room.told
        yield program


async def test_river_inserts_works_and_leads_in_millhand_s_roles(
    room: Room, roles: Roles, river_path: Path
) -> None:
    """A River worker that leads works an inserter's jobs; neither role can do what the other does."""
    async with (
        river_as(roles.inserter, room, river_path) as program,
        river_as(roles.worker, room, river_path) as worker,
    ):
        hand = GoHand(program, room.schema)
        jobs = [{"kind": "act", "args": {"do": [], "n": n}, "opts": UNIQUE} for n in (1, 2)]
        inserted = [*await hand.insert_many(jobs[:1]), *await hand.insert_many(jobs)]
        with pytest.raises(RiverError, match="permission denied"):
            await hand.cancel(inserted[0]["id"])
        async with room.working("go", "go_worker", program=worker, leads=True):
            await room.until_leader("go_worker")
            rows = [await room.until_state(one["id"], "completed") for one in inserted]

    assert [one["skipped"] for one in inserted] == [False, True, False]
    assert {row["attempted_by"][0] for row in rows} == {"go_worker"}
