"""The binding of a bucket to one database: runs of copies and of older states of that database abort."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from adversary import ChaosExecutor, ChaosStore, Killed
from world import DAY, World

from millhand.core.errors import ConfigError
from millhand.orphans import Mode, bind, list_findings, list_runs, read_binding, reconcile, unbind
from millhand.orphans.binding import MARKER
from millhand.storage import StoreError, open_store
from repeats import first_of

HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)
REMEDY = "to bind the bucket to this database from now on, run: millhand orphans bind"


async def bound(world: World) -> None:
    """Make a live pair and an orphan that is due, and bind the bucket by a run."""
    await world.pair("live")
    await world.put("first orphan")
    await world.run(after=2 * HOUR)
    await world.put("orphan")
    assert (await world.runs(WEEK, WEEK)).state == "completed"


async def marker(world: World) -> dict[str, object]:
    found = json.loads(await world.store.get(MARKER))
    assert isinstance(found, dict)
    return found


@pytest.mark.slow
async def test_a_copy_of_the_database_moves_nothing_while_the_original_reports(world: World) -> None:
    """The binding begins with the first run of any mode, so an older dump on staging aborts before it has a ledger."""
    await world.pair("live")
    dump = await world.sql("SELECT key FROM {schema}.uploads")
    await world.pair("uploaded since")
    production = await world.runs(2 * HOUR, HOUR, mode=Mode.REPORT)
    ledger = ("run", "finding", "binding", "partition")
    for name in ledger:
        await world.sql(f"DELETE FROM {{schema}}.millhand_orphan_{name}")
    await world.sql("DELETE FROM {schema}.uploads WHERE key <> $1", dump[0]["key"])

    staging = [await world.run(after=span, mode=Mode.QUARANTINE) for span in (HOUR, WEEK, WEEK)]

    assert production.state == "completed"
    assert [(report.state, report.quarantined) for report in staging] == [("aborted", 0)] * 3
    assert "the bucket must be bound to this database" in staging[0].abort_reasons[0]
    assert await world.keys() == ["live", "uploaded since"]


@pytest.mark.slow
async def test_the_first_run_binds_the_bucket(world: World) -> None:
    """Marker and row have one token and one generation, which increases when a run begins and before it removes."""
    await world.pair("live")
    await world.put("orphan")
    await world.runs(2 * HOUR, WEEK)
    first = await read_binding(world.executor, world.store)
    await world.run(after=HOUR)

    second = await read_binding(world.executor, world.store)

    assert first.row is not None
    assert first.marker is not None
    assert (first.row.token, first.row.database) == (first.marker.token, first.database)
    assert (first.row.generation, first.marker.generation) == (3, 3)
    assert second.marker is not None
    assert second.marker.generation == 5
    assert second.abort_reasons() == ()


@pytest.mark.slow
async def test_runs_of_another_database_abort(world: World) -> None:
    """Runs of a second database abort in every mode, with the first one's name and a remedy, and remove nothing."""
    await bound(world)
    await world.put("of the other")
    found = await marker(world)
    # The ledger of another database has no binding.
    await world.sql("DELETE FROM {schema}.millhand_orphan_binding")

    for mode in Mode:
        report = await world.run(after=WEEK, mode=mode)

        assert (report.state, report.objects, report.deleted) == ("aborted", 0, 0)
        assert report.abort_reasons == (
            (
                f"the bucket must be bound to this database, {found['name']!r}, got one that {found['name']!r} bound at "
                f"{found['bound_at']} (database {found['database']}); {REMEDY}"
            ),
        )
    assert await world.keys() == ["live", "of the other"]


@pytest.mark.slow
async def test_runs_of_a_copied_database_abort(world: World) -> None:
    """A dump that was restored elsewhere has the row, but not the identity of the database that wrote it."""
    await bound(world)
    await world.sql("UPDATE {schema}.millhand_orphan_binding SET database = '123/45'")
    here = (await read_binding(world.executor, world.store)).database

    report = await world.run(after=HOUR)

    assert report.abort_reasons == (
        f"the ledger must have been written in this database, {here}, got one copied from 123/45; {REMEDY}",
    )


@pytest.mark.slow
async def test_runs_of_a_database_restored_from_an_older_backup_abort(world: World) -> None:
    """A backup brings back an older row, and the bucket's marker is ahead of it."""
    await bound(world)
    backup = await world.sql("SELECT generation FROM {schema}.millhand_orphan_binding")
    await world.run(after=HOUR)
    await world.pair("uploaded since")
    # The restore: rows and ledger are as they were at the backup.
    await world.sql("UPDATE {schema}.millhand_orphan_binding SET generation = $1", backup[0]["generation"])
    await world.sql("DELETE FROM {schema}.uploads WHERE key = 'uploaded since'")

    reports = [await world.run(after=WEEK) for _ in range(3)]

    assert [report.state for report in reports] == ["aborted"] * 3
    assert reports[0].abort_reasons == (
        (
            "the ledger must be as new as the bucket's marker, got generation 5 where the marker has 7: this database is "
            "older than its bucket, so what was uploaded since looks like orphans; bring its rows up to date first; "
            f"{REMEDY}"
        ),
    )
    assert await world.keys() == ["live", "uploaded since"]


async def restore(world: World, **changes: Any) -> None:
    """
    Make a backup of a bucket in good order, upload, run once if `changes` say how, and restore the backup.

    What was uploaded has an object then, and no row.
    """
    await bound(world)
    for _ in range(2):  # until nothing is left to remove, in the bucket or in quarantine
        await world.run(after=WEEK + HOUR)
    backup = await world.sql("SELECT generation FROM {schema}.millhand_orphan_binding")
    await world.pair("uploaded since")
    if changes:
        idle = await world.run(after=HOUR, **changes)
        assert (idle.state, idle.deleted, idle.purged) == ("completed", 0, 0)
    await world.sql("UPDATE {schema}.millhand_orphan_binding SET generation = $1", backup[0]["generation"])
    await world.sql("DELETE FROM {schema}.uploads WHERE key = 'uploaded since'")


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode",
    [Mode.REPORT, *(pytest.param(mode, marks=pytest.mark.slow) for mode in (Mode.QUARANTINE, Mode.DELETE))],
)
async def test_a_run_with_nothing_to_remove_advances_the_marker(world: World, mode: Mode) -> None:
    """A backup that is older than a run with nothing to remove is detected too."""
    await restore(world, mode=mode)

    reports = [await world.run(after=after) for after in (HOUR, WEEK, HOUR, WEEK + HOUR)]

    assert [report.state for report in reports] == ["aborted"] * 4
    assert "this database is older than its bucket" in reports[0].abort_reasons[0]
    assert await world.keys() == ["live", "uploaded since"]


@pytest.mark.slow
async def test_a_backup_newer_than_the_last_run_is_not_detected(world: World) -> None:
    """The marker is not ahead then: objects without rows are orphans that wait for their grace and their quarantine."""
    await restore(world)

    reports = [await world.run(after=after) for after in (HOUR, WEEK, HOUR, WEEK + HOUR)]

    assert [report.state for report in reports] == ["completed"] * 4
    assert [(report.orphan_objects, report.deleted, report.purged) for report in reports] == [
        (1, 0, 0),
        (1, 1, 0),
        (0, 0, 0),
        (0, 0, 1),
    ]


@pytest.mark.slow
async def test_rows_added_after_an_undetected_restore_get_their_objects_back(world: World) -> None:
    """Until the quarantine ends, a row that is inserted again gets its object back."""
    await restore(world)
    quarantined = await world.runs(HOUR, WEEK)
    await world.row("uploaded since")

    healed = await world.run(after=6 * DAY)

    assert (quarantined.deleted, healed.restored) == (1, 1)
    assert await world.keys() == ["live", "uploaded since"]


@pytest.mark.slow
async def test_runs_over_a_bucket_without_its_marker_abort(world: World) -> None:
    """Another bucket under the same name, or an emptied one, has no marker."""
    await bound(world)
    row = (await read_binding(world.executor, world.store)).row
    await world.store.delete(MARKER)

    report = await world.run(after=HOUR)

    assert row is not None
    assert report.abort_reasons == (
        (
            f"the bucket must have the marker .millhand/binding.json that it got at {row.bound_at:%Y-%m-%d %H:%M} UTC, got "
            f"none; check that it is the right bucket, mounted and not emptied; {REMEDY}"
        ),
    )


@pytest.mark.slow
async def test_an_unreadable_marker_ends_the_run(world: World) -> None:
    """A file of another program in place of the marker is neither used nor overwritten."""
    await bound(world)
    await world.store.put(MARKER, b"{}")

    with pytest.raises(StoreError, match="a file that is no marker of Millhand"):
        await world.run(after=HOUR)

    assert await world.store.get(MARKER) == b"{}"
    assert (await bind(world.executor, world.store, now=world.now)).marker is None
    assert (await world.run(after=HOUR)).state == "completed"


@pytest.mark.slow
async def test_bind_takes_a_bucket_over_and_unbind_frees_it(world: World) -> None:
    """`bind` returns the old binding and lets runs continue; `unbind` removes row and marker, if there are any."""
    await bound(world)
    await world.sql("DELETE FROM {schema}.millhand_orphan_binding")

    before = await bind(world.executor, world.store, now=world.now)
    after = await read_binding(world.executor, world.store)
    ran = await world.run(after=HOUR)
    freed = [await unbind(world.executor, world.store) for _ in range(2)]

    assert before.marker is not None
    assert before.row is None
    assert after.marker is not None
    assert (after.abort_reasons(), ran.state, freed) == ((), "completed", [True, False])
    assert after.marker.generation == before.marker.generation + 1
    assert await world.keys(".millhand/binding") == []


@pytest.mark.slow
async def test_bind_renames_a_bucket_that_has_another_url(world: World, tmp_path: Path) -> None:
    """After a change of the URL runs abort; `bind` then brings actions and findings along, so a row gets its object back."""
    await bound(world)
    await world.put("candidate")
    await world.run(after=2 * HOUR)
    earlier, moved = world.store.url, tmp_path / "moved"
    (tmp_path / "bucket").rename(moved)
    world.store = open_store(str(moved))
    await world.row("orphan")

    aborted = await world.run(after=HOUR)
    before = await bind(world.executor, world.store, now=world.now)
    healed = await world.run(after=HOUR)

    assert (aborted.state, before.earlier and before.earlier.bucket) == ("aborted", earlier)
    assert (healed.state, healed.is_first, healed.restored) == ("completed", True, 1)
    assert await world.keys() == ["candidate", "live", "orphan"]
    [candidate] = [one for one in await list_findings(world.executor) if one.key == "candidate"]
    assert (candidate.bucket, candidate.last_seen_at - candidate.first_seen_at) == (world.store.url, 2 * HOUR)
    assert (await read_binding(world.executor, open_store(earlier, create=True))).row is None


@pytest.mark.slow
async def test_bind_of_an_older_copy_leaves_the_ledger_of_its_original(world: World, tmp_path: Path) -> None:
    """A copy of a bucket whose runs continued is bound alone, and rows of the original still get their objects back."""
    await bound(world)
    shutil.copytree(tmp_path / "bucket", tmp_path / "copy")
    await world.runs(HOUR, HOUR)
    copy = open_store(str(tmp_path / "copy"))

    before = await bind(world.executor, copy, now=world.now)
    await world.row("orphan")
    healed = await world.run(after=HOUR)

    assert before.earlier is None
    assert (healed.state, healed.restored) == ("completed", 1)


@pytest.mark.slow
async def test_a_kill_while_binding_is_repaired_by_the_next_run(world: World) -> None:
    """A kill between any two steps of the first binding leaves no abort reason and no second marker."""
    for step in range(1, 20):
        await world.pair(f"{step:03}/live")
        await world.put(f"{step:03}/orphan")
        await world.run(after=2 * HOUR)
        world.now += WEEK
        hook = _KilledInTheSweep(world, step)
        with contextlib.suppress(Killed):
            await reconcile(
                ChaosExecutor(world.executor, hook),
                ChaosStore(world.store, hook),
                world.config,
                now=world.now,
            )

        assert (await world.run(after=timedelta(minutes=2))).state == "completed", step

        assert (await read_binding(world.executor, world.store)).abort_reasons() == (), step
        await unbind(world.executor, world.store)


class _KilledInTheSweep:
    """Kills a run at one of its steps after the scan; `step` counts them."""

    def __init__(self, world: World, last: int) -> None:
        self._world = world
        self._last = last
        self.step = 0

    async def __call__(self, operation: str) -> None:
        is_sweeping = (await list_runs(self._world.executor, limit=1))[0].state == "sweeping"
        self.step += is_sweeping
        if self.step == self._last:
            raise Killed


@pytest.mark.slow
async def test_files_of_a_store_with_another_root_are_no_orphans(world: World) -> None:
    """A store with its root higher up sees another store's quarantine as out of scope."""
    await world.pair("live")
    await world.put("media/.millhand/quarantine/1/x")

    report = await world.runs(2 * HOUR, WEEK, 4 * DAY)

    assert (report.orphan_objects, report.objects, report.deleted) == (0, 1, 0)


async def nested(world: World) -> tuple[World, World]:
    """Return a whole bucket, and a store whose root is `media/` in it, each with a pair and an orphan."""
    await world.pair("live", "media/a")
    for key in ("orphan", "media/orphan"):
        await world.put(key)
    await world.row("a")
    part = replace(world, store=open_store(f"{world.store.url}/media"))
    return world, part


async def forget(world: World) -> None:
    """Delete the binding, as in another database."""
    await world.sql("DELETE FROM {schema}.millhand_orphan_binding")


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    first_of("DELETE FROM {}", "UPDATE {} SET database = '123/45'", "UPDATE {} SET generation = 0"),
    ids=["another", "copied", "older"],
)
async def test_runs_of_another_database_over_a_part_of_a_bound_bucket_abort(
    world: World, change: str
) -> None:
    """
    A store whose root lies within a bound bucket has no marker of its own, and the marker above it counts.

    After `bind` for that part, the runs of both databases complete.
    """
    whole, part = await nested(world)
    await whole.runs(2 * HOUR, HOUR, exclude=("media/",), grace=HOUR, allow_short_grace=True)
    found = await marker(whole)
    await world.sql(change.format("{schema}.millhand_orphan_binding"))
    part.now = whole.now

    reports = [await part.run(after=WEEK) for _ in range(3)]
    before = await bind(part.executor, part.store, now=part.now)
    after = [(await part.run(after=WEEK)).deleted for _ in range(2)]

    assert [report.state for report in reports] == ["aborted"] * 3
    assert reports[0].abort_reasons == (
        (
            f"the bucket must not be part of a bucket of another database, got one that {found['name']!r} bound above it "
            f"at {found['bound_at']} (database {found['database']}); add this part to orphans.exclude there, then run: "
            "millhand orphans bind"
        ),
    )
    assert [one.token for one in before.above] == [found["token"]]
    assert after == [0, 1]
    assert await part.keys() == ["a"]


@pytest.mark.slow
async def test_a_bucket_with_a_part_of_another_database_needs_exclude(world: World) -> None:
    """A marker below the root ends the run until its part is excluded."""
    whole, part = await nested(world)
    await part.runs(2 * HOUR, WEEK)
    found = await marker(part)
    await forget(world)
    whole.now = part.now

    with pytest.raises(ConfigError) as raised:
        await whole.run()
    apart = await whole.runs(HOUR, WEEK, exclude=("media/",))

    assert str(raised.value) == (
        f"orphans.exclude must have 'media/', which {found['name']!r} bound at {found['bound_at']} (database "
        f"{found['database']}), got no such prefix; add it, or run with that store: millhand orphans unbind"
    )
    assert (apart.state, apart.deleted) == ("completed", 1)
    assert await whole.keys() == [
        "live",
        "media/.millhand/binding.json",
        "media/.millhand/quarantine/2/orphan",
        "media/a",
    ]


@pytest.mark.slow
async def test_one_database_may_scan_a_bucket_and_a_part_of_it(world: World) -> None:
    """Two stores with one ledger accept the marker of the other, whichever was bound first."""
    whole, part = await nested(world)

    reports = [await one.run(after=span) for span in (2 * HOUR, WEEK, HOUR) for one in (whole, part)]

    assert [report.state for report in reports] == ["completed"] * 6


@pytest.mark.slow
async def test_a_bucket_is_bound_across_prefixes(world: World) -> None:
    """Runs over two prefixes of one bucket share its binding."""
    await world.pair("a/live", "b/live")
    for prefix in ("a/", "b/"):
        await world.put(f"{prefix}orphan")
    for prefix in ("a/", "b/"):
        await world.run(after=2 * HOUR, prefix=prefix)

    states = [(await world.run(after=WEEK, prefix=prefix)).state for prefix in ("a/", "b/")]

    row = (await read_binding(world.executor, world.store)).row
    assert states == ["completed", "completed"]
    assert row is not None
    assert row.generation == 6
