"""River's Go client in the roles that `millhand migrate sql --grants` makes."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import astuple
from pathlib import Path

import pytest
from interop_harness import GoControl, Harness
from river_program import RiverError, RiverProgram, started_river

from millhand.db.schema.grants import Roles, grants_sql

UNIQUE = {"unique": {"by_args": True}}


@pytest.fixture
async def roles(harness: Harness) -> AsyncIterator[Roles]:
    """The roles of the harness's schema. The inserter may be a River client."""
    names = ("worker", "inserter", "feeder", "reader")
    roles = Roles(**{name: f"go{os.getpid()}_{name}" for name in names})
    await harness.driver.pool.execute_script(grants_sql(roles, schema=harness.schema, is_river_inserter=True))
    yield roles
    quoted = ", ".join(f'"{role}"' for role in astuple(roles))
    await harness.driver.pool.execute_script(f"DROP OWNED BY {quoted}; DROP ROLE {quoted}")


@asynccontextmanager
async def river_as(role: str, harness: Harness, path: Path) -> AsyncIterator[RiverProgram]:
    async with started_river(path, f"{harness.url}&role={role}") as program:
        program.events = harness.events
        yield program


async def test_river_inserts_works_and_leads_in_millhand_s_roles(
    harness: Harness, roles: Roles, river_path: Path
) -> None:
    """A River worker that leads works an inserter's jobs; neither role can do what the other does."""
    async with (
        river_as(roles.inserter, harness, river_path) as program,
        river_as(roles.worker, harness, river_path) as worker,
    ):
        control = GoControl(program, harness.schema)
        jobs = [{"kind": "act", "args": {"do": [], "n": n}, "opts": UNIQUE} for n in (1, 2)]
        inserted = [*await control.insert_many(jobs[:1]), *await control.insert_many(jobs)]
        with pytest.raises(RiverError, match="permission denied"):
            await control.cancel(inserted[0]["id"])
        async with harness.working("go", "go_worker", program=worker, leads=True):
            await harness.until_leader("go_worker")
            rows = [await harness.until_state(one["id"], "completed") for one in inserted]

    assert [one["skipped"] for one in inserted] == [False, True, False]
    assert {row["attempted_by"][0] for row in rows} == {"go_worker"}
