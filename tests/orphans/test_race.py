"""The race for a minute, the mutants that it must notice, and the clean-up after a killed race."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import sys
from dataclasses import fields
from datetime import timedelta
from pathlib import Path

import pytest
from adversary import App
from race import forget_late_moves
from race_app import RaceApp, RaceWorld
from race_mutants import MUTANTS
from race_plays import dump, load
from race_record import Record
from race_scenes import SCENES
from race_warden import running_in
from world import World

from millhand.embedded.process import is_gone, wait_until
from millhand.orphans import bind
from millhand.orphans.removal.recovery import INTERRUPTED

sys.path.append(str(Path(__file__).parents[1] / "storage"))  # the servers are there
from servers import seaweed

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("chaos_orphans.py")
TIMEOUT_SECONDS = 900.0  # on a busy machine
HOURS, WEEK = timedelta(hours=2), timedelta(days=7)


@pytest.fixture
async def versioned_app(versioned: World, tmp_path: Path) -> RaceApp:
    """An application of the race in a bucket with versions."""
    world = RaceWorld(**{one.name: getattr(versioned, one.name) for one in fields(World)})
    await world.pair("live")
    return RaceApp(
        world=world, is_versioned=True, recon_store=world.store, written=Record(tmp_path / "record", "app")
    )


async def race(*arguments: str) -> tuple[int, str]:
    """Run the script of the race, and return its exit code and output."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        process = await _begun(*arguments)
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(errors="replace")


async def _begun(*arguments: str) -> asyncio.subprocess.Process:
    with seaweed():  # or skip, where it is not installed
        pass
    return await asyncio.create_subprocess_exec(
        sys.executable,
        str(PROGRAM),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def test_nothing_live_is_lost_in_a_race_of_a_minute() -> None:
    """
    On a directory in four variants and on a real server, with and without versions, no live object is lost.

    Runs list the store, or compare the rows with a report that lacks objects. Processes are killed and held up; the
    application acts between any two of their calls; clocks are wrong, tables are empty, and the database is restored from an
    older backup.
    """
    # About a minute on two idle cores. A slow machine needs longer, and does as much.
    code, output = await race("--steps", "35000", "--seconds", "800")

    assert code == 0, output
    assert re.search(r"^violations +0$", output, re.MULTILINE), output
    for what in (
        r"[1-9]\d* moved, [1-9]\d* destroyed",
        r"processes +[1-9]\d* killed",
        r"[1-9][\d,]* aborted",
    ):
        assert re.search(what, output), output


async def test_a_race_notices_each_mutant() -> None:
    """With each mutant its scene loses something live, and without it nothing."""
    code, output = await race("--mutants")

    noticed = re.findall(r"^(\w+): noticed in", output, re.MULTILINE)
    assert (code, sorted(noticed)) == (0, sorted(MUTANTS)), output


def test_each_mutant_has_a_scene() -> None:
    """Every mutant has a scene in which it must lose something."""
    assert sorted(SCENES) == sorted(MUTANTS)


async def test_a_race_that_is_killed_leaves_nothing_behind() -> None:
    """After SIGKILL its PostgreSQL, its server and its processes end, and its directory is deleted."""
    process = await _begun("--seconds", "60")
    assert process.stdout is not None
    async with asyncio.timeout(TIMEOUT_SECONDS):
        first = (await process.stdout.readline()).decode()
        directory = Path(first.partition(", in ")[2].strip())
        # PostgreSQL and the server run before the first run makes a call.
        assert await asyncio.to_thread(
            wait_until, lambda: not recorded_in(directory).isdisjoint(running_in(directory))
        )
        running = running_in(directory)
        process.send_signal(signal.SIGKILL)
        await process.wait()

        assert await asyncio.to_thread(wait_until, lambda: not directory.exists())
    assert [pid for pid in running if not is_gone(pid)] == []


def recorded_in(directory: Path) -> set[int]:
    """Return the processes of a race that have made a call."""
    found: set[int] = set()
    for path in directory.glob("record-*"):
        with contextlib.suppress(FileNotFoundError):  # its world has ended
            text = path.read_text(errors="replace")
            found |= {int(pid) for pid in re.findall(r"^\S+ P(\d+): ", text, re.MULTILINE)}
    return found


async def test_the_application_finishes_no_upload_of_another_key(world: World) -> None:
    """A restored table assigns ids again, so the application finds its row by id and key."""
    app = App(world=world)
    for key in ("k/01", "k/02", "k/03"):
        await app.upload(key)
    remembered, _ = app.pending["k/03"]
    await world.sql("DELETE FROM {schema}.uploads WHERE key IN ('k/02', 'k/03')")
    [row] = await world.sql("SELECT jsonb_agg(t)::text AS rows FROM {schema}.uploads AS t")
    await load(world, {"uploads": row["rows"]})
    await app.begin_upload("k/04")
    assert app.pending["k/04"][0] == remembered

    await app.finish_upload("k/03")

    assert app.live == {}


async def test_an_older_version_with_equal_bytes_is_no_quarantine(versioned_app: RaceApp) -> None:
    """
    If an orphan was put twice, a run moves and destroys the newer version only.

    The older one stays behind the marker, and a row that comes then must not wait for it.
    """
    app, world = versioned_app, versioned_app.world
    await app.put_orphan("k/01")
    await app.put_orphan_again("k/01")
    await world.runs(HOURS, WEEK)
    is_kept_in_time = await app.is_kept("k/01")

    purged = await world.run(after=WEEK)

    left = [one async for page in world.store.list_versions(prefix="k/01") for one in page]
    assert (is_kept_in_time, purged.purged) == (True, 1)
    assert [one.is_delete_marker for one in left] == [True, False]
    await app.refer("k/01")
    assert app.awaited == {}


async def test_no_row_waits_for_an_object_that_a_restored_ledger_does_not_know(
    versioned_app: RaceApp,
) -> None:
    """
    A run hides an object after the backup of its database. After the restore no run can bring it back.

    This was seed 465840: the object was behind a marker, and the restored ledger had no action for it. The application
    waited for it as for one in quarantine.
    """
    app, world = versioned_app, versioned_app.world
    await app.put_orphan("k/01")
    await world.run(after=HOURS)
    backup = await dump(world)
    await world.run(after=WEEK)
    is_kept_in_time = await app.is_kept("k/01")

    app.forgotten = await app.in_quarantine()
    await load(world, backup)
    await bind(world.executor, world.store, now=world.now)
    await app.refer("k/01")
    report = await world.run(after=HOURS)

    assert (is_kept_in_time, report.state, report.restored) == (True, "completed", 0)
    assert app.awaited == {}


@pytest.mark.parametrize(("times", "is_awaited"), [(0.5, True), (1.0, False)])
async def test_no_row_waits_for_an_object_that_was_moved_after_the_end_of_its_action(
    world: World, tmp_path: Path, times: float, is_awaited: bool
) -> None:
    """
    A process moves an object whose action another run has ended, because it dates from before the time in quarantine.

    This was seed 585468: the process had been held up for eight days and wrote the action with its own clock.
    """
    await world.pair("live")
    world = RaceWorld(**{one.name: getattr(world, one.name) for one in fields(World)})
    app = RaceApp(world=world, recon_store=world.store, written=Record(tmp_path / "record", "app"))
    await app.put_orphan("k/01")
    await world.runs(HOURS, WEEK)
    assert await app.is_kept("k/01")
    sql = "UPDATE {schema}.millhand_orphan_action SET state = 'kept', reason = $1, created_at = $2"
    await world.sql(sql, INTERRUPTED, world.now - times * world.config.quarantine_for)
    await app.refer("k/01")

    await forget_late_moves(app)

    assert ("k/01" in app.awaited, await app.is_kept("k/01")) == (is_awaited, is_awaited)
