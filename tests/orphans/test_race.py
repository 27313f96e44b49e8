"""The race for a minute, and the proof that it would notice: each forgotten step of a run is found by it."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "storage"))  # the servers are that room's
from servers import seaweed

PROGRAM = Path(__file__).with_name("chaos_orphans.py")
TIMEOUT_SECONDS = 240.0
# The judge, two guards and the move; with a seed that finds it soon.
NOTICED = {"no_grace": 11}


async def race(*words: str) -> tuple[int, str]:
    """Run the script of the race, and return its exit code and what it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(PROGRAM), *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(TIMEOUT_SECONDS):
        said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode(errors="replace")


@pytest.mark.slow
async def test_nothing_live_is_lost_in_a_race_of_a_minute() -> None:
    """
    On a directory in five manners and on a real server, with and without versions, all at once: 0 live objects lost.

    Reconcilers in processes of their own are killed, held up and helped; the application acts between any two words of
    theirs; clocks are wrong, tables empty, the database is restored from an older backup.
    """
    with seaweed():  # or skip, where it is not installed
        pass

    code, said = await race("--seconds", "60", "--stores", "directory,seaweed")

    assert code == 0, said
    assert re.search(r"^violations +0$", said, re.MULTILINE), said
    for what in (r"[1-9]\d* moved, [1-9]\d* destroyed", r"processes +[1-9]\d* killed", r"[1-9]\d* refused"):
        assert re.search(what, said), said


@pytest.mark.slow
@pytest.mark.parametrize("mutant", NOTICED)
async def test_race_notices_what_is_forgotten(mutant: str) -> None:
    """A run that forgets one of its steps loses something live, and the race says which object and its whole story."""
    words = ("--seconds", "120", "--seed", str(NOTICED[mutant]), "--stores", "directory", "--mutant", mutant)

    code, said = await race(*words)

    assert code == 1, said
    assert re.search(r"^violations +1$", said, re.MULTILINE), said
