"""Whole runs over a small world: what a run finds, removes, keeps and restores."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from world import DAY, World

from millhand.orphans import list_findings

HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)


@pytest.mark.slow
async def test_a_first_run_reports_and_touches_nothing(world: World) -> None:
    """In any mode, the first run over a bucket reports every figure and changes nothing."""
    await world.pair("live/a", "live/b")
    await world.put("orphan", b"12345")
    await world.row("missing")
    await world.row("pending", state="pending", created_at=world.now - 30 * DAY)
    await world.put("pending")

    report = await world.run(after=2 * HOUR)

    assert report.fields() | {"seconds": 0} == {
        "mode": "report",
        "objects": 4,
        "rows": 4,
        "orphan_objects": 1,
        "abandoned_rows": 0,
        "missing": 1,
        "near_matches": 0,
        "uploads": 0,
        "deleted": 0,
        "deleted_rows": 0,
        "quarantined": 0,
        "aborted_uploads": 0,
        "restored": 0,
        "alerts": 0,
        "kept": 0,
        "not_removed": 0,
        "searched": 0,
        "unsearched": "",
        "seconds": 0,
    }
    assert (report.state, report.is_first, report.orphan_bytes) == ("completed", True, 5)
    assert await world.keys() == ["live/a", "live/b", "orphan", "pending"]
    assert await world.row_keys() == ["live/a", "live/b", "missing", "pending"]


@pytest.mark.slow
async def test_rules_11_and_12_an_orphan_waits_for_grace_and_for_a_second_run(world: World) -> None:
    """Neither many runs within the grace nor one run long ago is enough: it takes two complete runs, a grace apart."""
    await world.pair("live")
    await world.put("orphan")

    young = await world.runs(2 * HOUR, DAY, DAY, DAY, DAY, DAY, 2 * DAY - HOUR)
    due = await world.run(after=HOUR)

    assert (young.orphan_objects, young.deleted) == (1, 0)
    assert due.deleted == 1


@pytest.mark.slow
async def test_rule_13_an_overwritten_orphan_has_a_new_age(world: World) -> None:
    """An object that was put again since it was first seen is another object, even with equal bytes."""
    await world.pair("live")
    await world.put("orphan", b"same")
    await world.run(after=2 * HOUR)
    await world.put("orphan", b"same")

    report = await world.runs(WEEK, WEEK - HOUR)
    due = await world.run(after=HOUR)

    assert (report.deleted, due.deleted) == (0, 1)


async def test_rule_10_a_young_object_is_no_finding(world: World) -> None:
    """In its first hour an object without a row is an upload that is still in progress."""
    await world.pair("live")
    await world.put("upload")

    report = await world.run(after=timedelta(minutes=50))

    assert (report.objects, report.orphan_objects, report.young_objects) == (2, 0, 1)
    assert await list_findings(world.executor) == []


@pytest.mark.slow
async def test_rules_08_and_09_an_unattached_row_goes_after_grace_and_two_runs(world: World) -> None:
    """An upload that was never attached is a candidate first, and goes with its object a grace later."""
    unattached = "NOT EXISTS (SELECT FROM {schema}.avatars AS a WHERE a.key = 'of ' || uploads.key)"
    uploads, _ = world.config.sources
    sources = (replace(uploads, unattached=unattached.replace("{schema}", world.schema)),)
    await world.pair("attached", "loose")
    await world.sql("INSERT INTO {schema}.avatars VALUES ('of attached')")

    first = await world.runs(30 * DAY, DAY, sources=sources)
    due = await world.run(after=WEEK, sources=sources)

    assert (first.abandoned_rows, first.deleted_rows) == (1, 0)
    assert (due.deleted, due.deleted_rows) == (1, 1)
    assert await world.keys() == ["attached"]


@pytest.mark.slow
async def test_rule_05_two_rows_of_one_object_keep_it(world: World) -> None:
    """An old pending row whose key another row names too is reported, and row and object stay."""
    await world.pair("shared")
    await world.row("shared", state="pending", created_at=world.now - 30 * DAY)
    await world.row("both old", state="pending", created_at=world.now - 30 * DAY)
    await world.row("both old", state="pending", created_at=world.now - 30 * DAY)

    report = await world.runs(HOUR, WEEK)

    assert (report.shared, report.deleted, report.deleted_rows) == (3, 0, 0)
    assert await world.row_keys() == ["both old", "both old", "shared", "shared"]


@pytest.mark.slow
async def test_rule_02_an_object_of_another_size_is_reported_and_stays(world: World) -> None:
    """A row with another size than its object is a finding, never a reason to delete."""
    await world.put("good", b"12345")
    await world.row("good", size=5)
    await world.put("bad", b"12345")
    await world.row("bad", size=6)

    report = await world.runs(HOUR, 30 * DAY)

    assert (report.size_mismatches, report.deleted) == (1, 0)
    assert [(found.kind, found.key) for found in await list_findings(world.executor)] == [
        ("size_mismatch", "bad")
    ]
    assert await world.keys() == ["bad", "good"]


@pytest.mark.slow
async def test_rules_16_and_17_keys_out_of_scope_are_left_alone(world: World) -> None:
    """Keys under excluded prefixes are not counted; keys that fit no declared pattern are counted and kept."""
    await world.pair("media/live")
    for key in ("media/orphan", "media/inventory/orphan", "media/other name"):
        await world.put(key)
    scope = {"exclude": ("media/inventory/",), "key_patterns": (r"media/[a-z]+",)}

    report = await world.runs(2 * HOUR, WEEK, **scope)

    assert (report.objects, report.unclassified, report.deleted) == (3, 1, 1)
    assert await world.keys() == ["media/inventory/orphan", "media/live", "media/other name"]


@pytest.mark.slow
async def test_a_run_with_a_prefix_sees_its_own_keys_only(world: World) -> None:
    """With a prefix, objects and rows before and after it are neither counted nor changed."""
    keys = ["medi", "media", "media.x", "media/", "media/a", "media/\U0010ffff", "media0", "media2/a"]
    for key in keys:
        if key != "media":  # a file cannot be a directory too
            await world.put(key)
    await world.pair("media/live")
    await world.row("media.gone")
    await world.row("media0gone")

    report = await world.runs(2 * HOUR, WEEK, prefix="media/")

    assert (report.objects, report.missing, report.deleted) == (4, 0, 3)
    assert await world.keys() == ["medi", "media.x", "media/live", "media0", "media2/a"]


@pytest.mark.slow
async def test_two_prefixes_of_a_bucket_have_runs_of_their_own(world: World) -> None:
    """Runs with different prefixes take turns over one bucket; each prefix has its own first run and its own second."""
    await world.pair("a/live", "b/live")
    await world.put("a/orphan")
    await world.put("b/orphan")

    firsts = [await world.run(after=2 * HOUR, prefix=prefix) for prefix in ("a/", "b/")]
    seconds = [await world.run(after=WEEK, prefix=prefix) for prefix in ("a/", "b/")]

    assert [(report.is_first, report.deleted) for report in firsts] == [(True, 0), (True, 0)]
    assert [(report.is_first, report.deleted) for report in seconds] == [(False, 1), (False, 1)]
    assert await world.keys() == ["a/live", "b/live"]


async def test_findings_that_no_longer_apply_are_deleted(world: World) -> None:
    """A finding is gone after the next run if a row was added, the object was deleted, or the missing object was put."""
    await world.pair("live")
    for key in ("adopted", "deleted", "orphan"):
        await world.put(key)
    await world.row("missing")
    await world.run(after=2 * HOUR)
    before = sorted([found.key for found in await list_findings(world.executor)])
    await world.row("adopted")
    await world.store.delete("deleted")
    await world.put("missing")

    await world.run(after=2 * HOUR)

    assert before == ["adopted", "deleted", "missing", "orphan"]
    found = await list_findings(world.executor, bucket=world.store.url, kind="orphan")
    assert [(finding.key, finding.sightings) for finding in found] == [("orphan", 1)]
    assert len(await list_findings(world.executor)) == 1
