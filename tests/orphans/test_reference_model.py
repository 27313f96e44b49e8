"""An application with references in twelve places: nothing that it refers to may be moved or destroyed."""

from __future__ import annotations

import asyncio
import random
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from reference_model import Model, Where
from reference_places import PLACES
from reference_world import Rules, reference_world

from millhand.orphans import Mode

sys.path.append(str(Path(__file__).parents[1] / "storage"))  # the servers are there
from ceph import rgw
from servers import seaweed

PROGRAM = Path(__file__).with_name("chaos_references.py")
SERVERS = {"directory": None, "seaweed": seaweed, "rgw": rgw}
TIMEOUT_SECONDS = 900.0  # on a busy machine
TINY = Rules(days_per_run=2.5, kill_share=0.0, mode=Mode.DELETE, num_steps=200, steps_per_run=25, target=40)


@pytest.mark.slow
async def test_no_live_object_is_moved_in_a_small_world(postgres_server_url: str, tmp_path: Path) -> None:
    """In 200 steps of an application, runs move orphans, destroy them, and touch no live object."""
    async with reference_world(postgres_server_url, (tmp_path / "bucket").as_uri(), TINY, seed="3") as world:
        await world.play()

    assert (world.model.moved, world.model.destroyed, world.model.stories) == ({}, {}, [])
    assert world.done["moved"] > world.done["destroyed"] > 0
    assert world.done["places declared"] + world.model.done["find_again"] > 0


def test_the_model_counts_what_is_lost_and_what_is_left() -> None:
    """A live object in quarantine counts as moved, one that is nowhere as destroyed, and an old orphan as left."""
    model = Model(chance=random.Random(1), now=datetime(2026, 1, 1, tzinfo=UTC), target=100, places=("list",))  # noqa: S311
    for _ in range(3):
        model.upload()
    model.fail_upload()
    moved, destroyed, stored, orphan = model.things.values()
    sizes = {one.key: one.size for one in (stored, orphan)}
    model.judge(sizes, {moved.key}, "a run")
    model.now = model.now.replace(month=2)
    model.count_stale(quarantine_counts=True)

    assert (model.moved.total(), model.destroyed.total()) == (1, 1)
    assert (orphan.where, model.done["stale"], model.done["left"]) == (Where.STORED, 1, 1)
    assert model.stories[0].startswith(f"{moved.key!r} is quarantined, has references in: list, ")
    assert model.stories[1].startswith(f"{destroyed.key!r} is gone, has references in: list, ")


@pytest.mark.slow
async def test_the_model_notices_a_run_that_does_not_search(
    postgres_server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the search leaves out all tables, the model counts live objects that were moved and destroyed."""
    rules = replace(TINY, num_steps=1_200)
    async with reference_world(postgres_server_url, (tmp_path / "bucket").as_uri(), rules, seed="1") as world:
        sound = world.config
        blind = tuple(place.table for place in PLACES)
        monkeypatch.setattr(world, "config", lambda: replace(sound(), not_references=blind))
        await world.play()

    assert world.model.moved.total() > 0
    assert world.model.destroyed.total() > 0


@pytest.mark.slow
@pytest.mark.parametrize("store", SERVERS)
async def test_no_live_object_is_lost_on_a_store(store: str) -> None:
    """In both modes, with runs that are killed, no live object is moved or destroyed, and no old orphan is left."""
    size = {
        "steps": 6_000,
        "steps-per-world": 3_000,
        "steps-per-run": 120,
        "target": 120,
        "days-per-run": 1.5,
    }
    if SERVERS[store] is not None:
        size |= {"steps": 3_000, "steps-per-world": 1_500, "steps-per-run": 60, "target": 60}
    code, output = await played(store, [f"--{name}={value}" for name, value in size.items()])

    assert code == 0, output
    for what in ("live moved +0$", "live destroyed +0$", "orphans left +0 of [1-9]", r"[1-9]\d* killed"):
        assert re.search(what, output, re.MULTILINE), output


async def played(store: str, arguments: Sequence[str]) -> tuple[int, str]:
    """Run the script of the reference test on a store, and return its exit code and output."""
    if (server := SERVERS[store]) is not None:
        with server():  # or skip, where it is not installed
            pass
    async with asyncio.timeout(TIMEOUT_SECONDS):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(PROGRAM),
            *arguments,
            *("--stores", store),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(errors="replace")
