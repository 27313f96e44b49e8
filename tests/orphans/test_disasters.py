"""Each test is a data loss that another tool had; its name has the issue. Millhand must not lose data that way."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from adversary import ChaosExecutor, ChaosStore, Interrupter, Killed
from world import DAY, World

from millhand.core.errors import ConfigError
from millhand.orphans import Mode, OrphansConfig, SourceFailed, list_findings, list_runs, reconcile
from millhand.testing import ManualClock
from repeats import first_of

HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)


async def seen_once(world: World) -> None:
    """Make a live pair, and an orphan that a first run saw a week ago."""
    await world.pair("live")
    await world.put("orphan")
    await world.run(after=2 * HOUR)
    world.now += WEEK


async def test_gitea_36227_a_reference_query_that_fails_deletes_nothing(world: World) -> None:
    """A source that fails ends the run before anything is removed, and the error names the source."""
    await seen_once(world)
    await world.sql("ALTER TABLE {schema}.avatars RENAME TO avatars_gone")

    with pytest.raises(SourceFailed) as failed:
        await world.run()

    await world.sql("ALTER TABLE {schema}.avatars_gone RENAME TO avatars")
    assert str(failed.value).startswith("orphans source 'avatars' must return all its rows, got ")
    assert str(failed.value).endswith("does not exist; the run ended there")
    assert await world.keys() == ["live", "orphan"]


@pytest.mark.slow
async def test_gitea_36227_a_reference_query_that_fails_midway_deletes_nothing(world: World) -> None:
    """A source that fails at any step of the run ends it, with every live object in its place."""
    failures = 0
    for step in range(1, 40, 2):
        await world.put(f"orphan/{step}")
        await world.pair(f"live/{step}")
        await world.run(after=2 * HOUR)
        world.now += WEEK
        interrupter = Interrupter(interventions={})
        interrupter.interventions[step] = [lambda hook=interrupter: _break(hook)]
        try:
            await reconcile(
                ChaosExecutor(world.executor, interrupter), world.store, world.config, now=world.now
            )
        except SourceFailed:
            failures += 1
            await world.run(after=HOUR)
        assert await world.keys("live/") == sorted(f"live/{passed}" for passed in range(1, step + 1, 2))

    assert failures >= 10


async def _break(interrupter: Interrupter) -> None:
    interrupter.is_source_broken = True


@pytest.mark.slow
async def test_gitea_36227_a_source_that_is_suddenly_empty_deletes_nothing(world: World) -> None:
    """A table without rows, which had some in an earlier run, aborts the run."""
    await seen_once(world)
    await world.sql("DELETE FROM {schema}.uploads")

    report = await world.run()

    assert (report.state, report.deleted, report.not_removed) == ("aborted", 0, 1)
    assert (
        "source 'uploads' must have at least 1 rows, got 0 (1 in an earlier run)" in report.abort_reasons[0]
    )
    assert await world.keys() == ["live", "orphan"]


@pytest.mark.slow
async def test_a_source_that_lost_most_rows_aborts_until_somebody_acts(world: World) -> None:
    """The most rows of earlier runs count, after a run without work, a report and aborted runs with fewer rows too."""
    keys = [f"live/{number}" for number in range(10)]
    await world.pair(*keys)
    await world.runs(2 * HOUR, HOUR)
    await world.sql("DELETE FROM {schema}.uploads WHERE key > 'live/3'")

    idle = await world.run(after=HOUR)
    aborted = [await world.run(after=span) for span in (WEEK, HOUR, WEEK)]
    reported = await world.run(after=2 * WEEK, mode=Mode.REPORT)
    aborted += [await world.run(after=span) for span in (HOUR, WEEK)]

    assert (idle.state, reported.state, await world.keys()) == ("completed", "completed", keys)
    reason = (
        "source 'uploads' must have at least 5 rows, got 4 (10 in an earlier run); "
        "if this is correct, set min_rows of the source"
    )
    assert [(one.state, one.abort_reasons) for one in aborted] == [("aborted", (reason,))] * 5


@pytest.mark.slow
async def test_the_rows_of_a_run_before_grace_no_longer_count(world: World) -> None:
    """A source that lost most rows may act again once all runs of a `grace` and a day, and the one before, had so few."""
    await world.pair(*[f"live/{number}" for number in range(10)])
    await world.run(after=2 * HOUR)
    await world.sql("DELETE FROM {schema}.uploads WHERE key > 'live/3'")
    for number in range(4, 10):
        await world.store.delete(f"live/{number}")
    await world.runs(HOUR, WEEK, WEEK)
    await world.put("orphan")
    await world.run(after=2 * HOUR)

    report = await world.run(after=WEEK)

    assert (report.state, report.deleted) == ("completed", 1)


@pytest.mark.slow
async def test_gitea_36227_a_source_filtered_by_row_level_security_deletes_nothing(world: World) -> None:
    """A policy that hides rows is an error, so hidden rows do not look like missing rows."""
    await seen_once(world)
    await world.sql("CREATE ROLE hidden_from")
    await world.sql("GRANT USAGE ON SCHEMA {schema} TO hidden_from")
    await world.sql("GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO hidden_from")
    await world.sql("ALTER TABLE {schema}.uploads ENABLE ROW LEVEL SECURITY")

    class Hidden(ChaosExecutor):
        """The same database as a role that policies apply to."""

        def begin(self) -> object:
            return _as_role(super().begin())

    try:
        with pytest.raises(SourceFailed) as failed:
            await reconcile(Hidden(world.executor, _nothing), world.store, world.config, now=world.now)
    finally:
        await world.sql("ALTER TABLE {schema}.uploads DISABLE ROW LEVEL SECURITY")
        await world.sql("REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM hidden_from")
        await world.sql("REVOKE USAGE ON SCHEMA {schema} FROM hidden_from")
        await world.sql("DROP ROLE hidden_from")
    assert "row-level security" in failed.value.reason
    assert await world.keys() == ["live", "orphan"]


async def _nothing(operation: str) -> None:
    """Do nothing."""


def _as_role(transaction: object) -> object:
    from contextlib import asynccontextmanager  # noqa: PLC0415

    @asynccontextmanager
    async def begin() -> object:
        async with transaction as tx:  # type: ignore[attr-defined]
            await tx.fetch("SET LOCAL ROLE hidden_from")
            yield tx

    return begin()


@pytest.mark.slow
async def test_supabase_storage_830_a_prefix_never_matches_its_sibling(world: World) -> None:
    """A run with `images/` sees nothing of `images2/`, and `images` without its slash is a ConfigError."""
    await world.pair("images/live", "images2/live")
    for key in ("images/orphan", "images2/orphan"):
        await world.put(key)

    await world.runs(2 * HOUR, WEEK, prefix="images/")

    assert await world.keys() == ["images/live", "images2/live", "images2/orphan"]
    with pytest.raises(ConfigError):
        replace(world.config, prefix="images")


async def test_iceberg_4194_a_grace_shorter_than_an_upload_is_invalid(world: World) -> None:
    """A grace of minutes is a ConfigError unless `allow_short_grace` is set."""
    with pytest.raises(ConfigError):
        replace(world.config, grace=timedelta(minutes=5))


@pytest.mark.slow
async def test_delta_1470_an_upload_in_flight_is_not_an_orphan(world: World) -> None:
    """An object whose row comes six days and several runs later stays."""
    await world.pair("live")
    await world.put("slow upload")
    await world.runs(2 * HOUR, DAY, DAY, DAY, DAY, DAY, DAY)
    await world.row("slow upload")

    await world.runs(DAY, WEEK)

    assert await world.keys() == ["live", "slow upload"]


@pytest.mark.slow
@pytest.mark.parametrize("step", first_of("move", "begin", "commit", "moved"))
async def test_docker_3045_and_rails_33438_an_object_that_gets_a_row_between_check_and_delete_stays(
    world: World, step: str
) -> None:
    """A row that comes at any moment of the removal, before or after the move, has its object in the end."""
    await seen_once(world)
    happened = []

    async def refer(operation: str) -> None:
        if operation == step and not happened and await _is_sweeping(world):
            happened.append(await world.row("orphan"))

    hooked = ChaosStore(world.store, refer)
    report = await reconcile(ChaosExecutor(world.executor, refer), hooked, world.config, now=world.now)

    assert len(happened) == 1
    assert report.deleted == 0
    assert await world.store.get("orphan") == b"orphan"
    assert await world.keys(".millhand/quarantine/") == []


async def _is_sweeping(world: World) -> bool:
    return (await list_runs(world.executor, limit=1))[0].state == "sweeping"


@pytest.mark.slow
async def test_restic_3126_a_paused_removal_is_evaluated_again(world: World) -> None:
    """A run that stops before its deletions and continues days later evaluates everything again."""
    await seen_once(world)
    hook = Interrupter(interventions={})

    async def stop(operation: str) -> None:
        await hook(operation)
        if operation == "move":
            raise Killed

    with pytest.raises(Killed):
        await reconcile(world.executor, ChaosStore(world.store, stop), world.config, now=world.now)
    row_id = await world.row("orphan")
    await world.run(after=2 * DAY)
    await world.sql("DELETE FROM {schema}.uploads WHERE id = $1", row_id)

    report = await world.run(after=DAY)

    assert (report.orphan_objects, report.deleted) == (1, 0)
    assert await world.keys() == ["live", "orphan"]


@pytest.mark.slow
async def test_a_database_restored_from_an_older_backup_deletes_nothing(world: World) -> None:
    """Rows that a restore has lost look like orphans all at once: the guards abort the run, and the grace leaves a week."""
    careful = replace(world.config, max_share=0.01, min_overlap=0.95)
    for number in range(40):
        await world.pair(f"live/{number:02}")
    await world.run(after=2 * HOUR)
    await world.sql("DELETE FROM {schema}.uploads WHERE id > 30")

    first = await world.run(after=HOUR, max_share=careful.max_share, min_overlap=careful.min_overlap)
    later = await world.run(after=WEEK, max_share=careful.max_share, min_overlap=careful.min_overlap)

    assert (first.state, first.orphan_objects, first.deleted) == ("completed", 10, 0)
    assert (later.state, later.orphan_objects, later.deleted, later.not_removed) == ("aborted", 10, 0, 10)
    assert len(await world.keys()) == 40


@pytest.mark.slow
async def test_django_cleanup_44_one_of_two_rows_of_an_object_may_go(world: World) -> None:
    """If two rows name one object, deleting one of them, hard or soft, leaves the object to the other."""
    await world.pair("shared/hard", "shared/soft")
    hard, soft = await world.row("shared/hard"), await world.row("shared/soft")
    await world.sql("DELETE FROM {schema}.uploads WHERE id = $1", hard)
    await world.sql("UPDATE {schema}.uploads SET deleted_at = $2 WHERE id = $1", soft, world.now - 60 * DAY)

    await world.runs(2 * HOUR, WEEK, WEEK)

    assert await world.keys() == ["shared/hard", "shared/soft"]


def test_supabase_1032_an_impossible_cutoff_is_invalid() -> None:
    """A negative or zero duration is a ConfigError, so it matches neither everything nor nothing."""
    for wrong in (timedelta(days=-7), timedelta(0)):
        with pytest.raises(ConfigError):
            OrphansConfig(grace=wrong)


@pytest.mark.slow
async def test_mastodon_30281_a_new_source_makes_a_first_run_again(world: World) -> None:
    """After a change of the declared sources the next run only reports, in any mode."""
    uploads, avatars = world.config.sources
    await world.pair("live")
    await world.put("avatar")
    await world.run(after=2 * HOUR, sources=(uploads,))
    await world.sql("INSERT INTO {schema}.avatars VALUES ('avatar')")

    report = await world.run(after=WEEK, sources=(uploads, avatars))

    assert (report.is_first, report.mode.value, report.orphan_objects) == (True, "report", 0)
    assert await world.keys() == ["avatar", "live"]


@pytest.mark.slow
async def test_sources_that_change_and_change_back_make_a_first_run_again(world: World) -> None:
    """The first run with the sources of an earlier run only reports, if a run in between had other sources."""
    uploads, avatars = world.config.sources
    await world.pair("live")
    await world.put("orphan")
    await world.run(after=2 * HOUR)
    other = await world.run(after=WEEK, sources=(uploads,))

    back = await world.run(after=HOUR, sources=(uploads, avatars))
    second = await world.run(after=HOUR)

    assert [(one.is_first, one.deleted) for one in (other, back)] == [(True, 0), (True, 0)]
    assert (second.is_first, second.deleted) == (False, 1)


@pytest.mark.slow
@pytest.mark.parametrize("mode", first_of("delete", "report"))
async def test_a_run_with_a_wrong_clock_records_nothing(world: World, mode: str) -> None:
    """A run whose clocks disagree records no sighting, in any mode, because its ages would be wrong later."""
    await world.pair("live")
    await world.runs(2 * HOUR, HOUR)
    await world.put("just put")
    right = datetime.now(UTC)

    wrong = await reconcile(
        world.executor,
        world.store,
        replace(world.config, mode=Mode(mode)),
        clock=ManualClock(right + 10 * DAY),
        now=world.now - 10 * DAY,
    )
    after = await world.runs(HOUR, HOUR)

    assert (wrong.state, wrong.objects) == ("aborted", 0)
    assert wrong.abort_reasons[0].startswith(
        "clocks of process and database must agree within 300 s, got 864000 s"
    )
    assert (after.state, after.orphan_objects, after.deleted) == ("completed", 1, 0)
    assert await world.keys() == ["just put", "live"]


@pytest.mark.slow
async def test_an_emptied_bucket_is_not_a_reason_to_delete_rows(world: World) -> None:
    """If many objects vanish at once, they are reported as missing and the run aborts."""
    for number in range(20):
        await world.pair(f"live/{number:02}")
    await world.row("abandoned", state="pending", created_at=world.now - 30 * DAY)
    await world.run(after=2 * HOUR)
    for number in range(10):
        await world.store.delete(f"live/{number:02}")

    report = await world.run(after=WEEK, min_overlap=0.95)

    assert (report.state, report.missing, report.deleted_rows, report.not_removed) == ("aborted", 10, 0, 1)
    assert "at least 95% of ready rows must have their object, got 10 of 20" in report.abort_reasons[0]
    assert len(await world.row_keys()) == 21


@pytest.mark.slow
async def test_a_bucket_that_is_not_mounted_deletes_nothing(world: World) -> None:
    """An empty directory in place of the bucket has no marker, so the run aborts before it scans."""
    await world.row("abandoned", state="pending", created_at=world.now - 30 * DAY)
    await seen_once(world)
    root = world.store.url.removeprefix("file://")
    shutil.move(root, f"{root}.unmounted")
    os.mkdir(root)  # noqa: PTH102

    report = await world.run(after=WEEK, min_overlap=0.95)

    assert (report.state, report.objects, report.deleted_rows) == ("aborted", 0, 0)
    assert [found.kind for found in await list_findings(world.executor)] == ["orphan", "waiting"]
