"""Whole runs over a small world: what a run finds, removes, keeps and restores."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from adversary import ChaosExecutor, ChaosStore, Killed
from world import DAY, World

from millhand.orphans import Mode, explain, list_findings, reconcile, restore

HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)


async def test_a_first_run_reports_and_touches_nothing(world: World) -> None:
    """In any mode, the first run over a bucket reports every figure and changes nothing."""
    await world.pair("live/a", "live/b")
    await world.put("orphan", b"12345")
    await world.row("missing")
    await world.row("abandoned", state="pending", created_at=world.now - 30 * DAY)
    await world.put("abandoned")

    report = await world.run(after=2 * HOUR)

    assert report.fields() | {"seconds": 0} == {
        "mode": "report",
        "objects": 4,
        "rows": 4,
        "orphan_objects": 1,
        "abandoned_rows": 1,
        "missing": 1,
        "near_matches": 0,
        "uploads": 0,
        "deleted": 0,
        "deleted_rows": 0,
        "quarantined": 0,
        "aborted_uploads": 0,
        "restored": 0,
        "alerts": 0,
        "not_removed": 0,
        "seconds": 0,
    }
    assert (report.state, report.is_first, report.orphan_bytes) == ("completed", True, 5)
    assert await world.keys() == ["abandoned", "live/a", "live/b", "orphan"]
    assert await world.row_keys() == ["abandoned", "live/a", "live/b", "missing"]


async def test_runs_remove_orphans_and_leave_the_rest_unchanged(world: World) -> None:
    """After two runs a grace apart, the orphan and the abandoned pair are gone, and the live objects are unchanged."""
    await world.pair("live/a", "live/b")
    await world.put("orphan", b"12345")
    await world.row("missing")
    await world.row("abandoned", state="pending", created_at=world.now - 30 * DAY)
    await world.put("abandoned")

    report = await world.runs(2 * HOUR, WEEK)

    assert (report.mode, report.deleted, report.deleted_rows, report.not_removed) == (Mode.DELETE, 2, 1, 0)
    assert await world.keys() == ["live/a", "live/b"]
    assert await world.row_keys() == ["live/a", "live/b", "missing"]
    assert [await world.store.get(key) for key in ("live/a", "live/b")] == [b"live/a", b"live/b"]
    assert await world.keys(".millhand/quarantine/") == [
        ".millhand/quarantine/2/abandoned",
        ".millhand/quarantine/2/orphan",
    ]


async def test_quarantine_mode_never_destroys_an_object(world: World) -> None:
    """In mode quarantine an orphan leaves its key and stays in quarantine, however long it lies there."""
    await world.pair("live")
    await world.put("orphan", b"12345")

    report = await world.runs(2 * HOUR, WEEK, mode=Mode.QUARANTINE)
    later = await world.run(after=52 * WEEK, mode=Mode.QUARANTINE)

    assert (report.quarantined, report.deleted, later.purged) == (1, 0, 0)
    assert await world.keys() == ["live"]
    assert await world.store.get(".millhand/quarantine/2/orphan") == b"12345"


async def test_delete_mode_destroys_an_object_after_quarantine_for(world: World) -> None:
    """In mode delete the bytes are destroyed after `quarantine_for`, not before, and no copy is left."""
    await world.pair("live")
    await world.put("orphan")

    await world.runs(2 * HOUR, WEEK)
    early = await world.run(after=WEEK - HOUR)
    late = await world.run(after=HOUR)

    assert (early.purged, late.purged) == (0, 1)
    assert await world.keys(".millhand/quarantine/") == []
    assert await world.keys() == ["live"]


async def test_the_time_in_quarantine_begins_with_the_move(world: World) -> None:
    """`quarantine_for` counts from the move of an object, not from the start of its run."""
    config = replace(world.config, grace=timedelta(0), allow_short_grace=True)
    moved_after = []

    async def note(operation: str) -> None:
        if operation == "move":
            moved_after.append((await world.sql("SELECT now() AS now"))[0]["now"])

    await world.pair("live")
    await world.put("orphan")
    for _ in range(2):
        report = await reconcile(world.executor, ChaosStore(world.store, note), config)

    (action,) = (await explain(world.executor, world.store, config, "orphan")).actions
    assert (report.deleted, report.purged, action.state) == (1, 0, "quarantined")
    assert action.updated_at is not None
    assert action.updated_at > moved_after[0]


async def test_a_short_grace_takes_two_runs_and_leaves_nothing(world: World) -> None:
    """With a grace of zero, which must be allowed, the second run removes and destroys at once."""
    short = {"grace": timedelta(0), "quarantine_for": timedelta(0), "allow_short_grace": True}
    await world.pair("live")
    await world.put("orphan")

    report = await world.runs(HOUR, timedelta(seconds=1), **short)

    assert (report.deleted, report.purged) == (1, 1)
    assert await world.keys() == ["live"]
    assert await world.keys(".millhand/quarantine/") == []


async def test_rules_11_and_12_an_orphan_waits_for_grace_and_for_a_second_run(world: World) -> None:
    """Neither many runs within the grace nor one run long ago is enough: it takes two complete runs, a grace apart."""
    await world.pair("live")
    await world.put("orphan")

    young = await world.runs(2 * HOUR, DAY, DAY, DAY, DAY, DAY, 2 * DAY - HOUR)
    due = await world.run(after=HOUR)

    assert (young.orphan_objects, young.deleted) == (1, 0)
    assert due.deleted == 1


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

    assert (report.objects, report.orphan_objects) == (2, 0)
    assert await list_findings(world.executor) == []


async def test_rules_08_and_09_an_unattached_row_goes_after_grace_and_two_runs(
    world: World,
) -> None:
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


async def test_rule_05_two_rows_of_one_object_keep_it(world: World) -> None:
    """An old pending row whose key another row names too is reported, and row and object stay."""
    await world.pair("shared")
    await world.row("shared", state="pending", created_at=world.now - 30 * DAY)
    await world.row("both old", state="pending", created_at=world.now - 30 * DAY)
    await world.row("both old", state="pending", created_at=world.now - 30 * DAY)

    report = await world.runs(HOUR, WEEK)

    assert (report.shared, report.deleted, report.deleted_rows) == (3, 0, 0)
    assert await world.row_keys() == ["both old", "both old", "shared", "shared"]


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


async def test_rules_16_and_17_keys_out_of_scope_are_left_alone(world: World) -> None:
    """Keys under excluded prefixes are not counted; keys that fit no declared pattern are counted and kept."""
    await world.pair("media/live")
    for key in ("media/orphan", "media/inventory/orphan", "media/odd name"):
        await world.put(key)
    scope = {"exclude": ("media/inventory/",), "key_patterns": (r"media/[a-z]+",)}

    report = await world.runs(2 * HOUR, WEEK, **scope)

    assert (report.objects, report.unclassified, report.deleted) == (3, 1, 1)
    assert await world.keys() == ["media/inventory/orphan", "media/live", "media/odd name"]


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


async def test_a_row_of_a_select_is_never_deleted(world: World) -> None:
    """An abandoned row of a SELECT is reported; there is no table to delete it from."""
    uploads, _ = world.config.sources
    select = replace(uploads, table=None, select=f"SELECT * FROM {world.schema}.uploads;  ")
    await world.pair("live")
    await world.row("old", state="pending", created_at=world.now - 30 * DAY)
    await world.put("old")

    report = await world.runs(HOUR, WEEK, sources=(select,))

    assert (report.state, report.abandoned_rows, report.deleted, report.deleted_rows) == (
        "completed",
        1,
        0,
        0,
    )
    assert await world.row_keys() == ["live", "old"]


async def test_a_row_that_a_constraint_protects_stays_and_the_others_go(world: World) -> None:
    """A row that a foreign key protects is kept with the database's reason; the other rows of its wave go."""
    ids = [await world.row(f"old/{n}", state="pending", created_at=world.now - 30 * DAY) for n in range(3)]
    await world.pair("live")
    await world.sql("CREATE TABLE {schema}.posts (upload_id bigint REFERENCES {schema}.uploads (id))")
    await world.sql("INSERT INTO {schema}.posts VALUES ($1)", ids[1])

    report = await world.runs(HOUR, HOUR)

    explanation = await explain(world.executor, world.store, world.config, "old/1", now=world.now)
    await world.sql("DROP TABLE {schema}.posts")
    assert (report.deleted_rows, report.kept) == (2, 1)
    assert await world.row_keys() == ["live", "old/1"]
    assert [action.state for action in explanation.actions] == ["kept"]
    assert "violates foreign key constraint" in explanation.actions[0].reason


async def test_a_delete_statement_of_the_source_replaces_ours(world: World) -> None:
    """The `delete` of a source runs in place of the DELETE, and the object goes once no row names it."""
    uploads, _ = world.config.sources
    own = f"UPDATE {world.schema}.uploads SET note = to_jsonb(key), key = NULL WHERE id::text = ANY($1)"
    await world.pair("live")
    await world.row("old", state="pending", created_at=world.now - 30 * DAY)
    await world.put("old")

    report = await world.runs(HOUR, HOUR, sources=(replace(uploads, delete=own),))

    assert (report.deleted, report.deleted_rows) == (1, 1)
    assert await world.keys() == ["live"]
    assert await world.sql("SELECT note::text, key FROM {schema}.uploads ORDER BY id") == [
        {"note": '{"from": "a phone"}', "key": "live"},
        {"note": '"old"', "key": None},
    ]


async def test_a_quarantined_object_is_restored_when_a_row_names_it(world: World) -> None:
    """The next run restores an object from quarantine once a row names it again."""
    await world.pair("live")
    await world.put("orphan", b"12345")
    await world.runs(2 * HOUR, WEEK)
    await world.row("orphan")

    report = await world.run(after=HOUR)

    assert (report.restored, report.missing, report.deleted) == (1, 0, 0)
    assert await world.store.get("orphan") == b"12345"
    assert await world.keys(".millhand/quarantine/") == []


@pytest.mark.parametrize("selector", ["run", "prefix", "key"])
async def test_restore_undoes_a_removal_once(world: World, selector: str) -> None:
    """Objects and rows come back unchanged, by run, prefix or key; a second restore changes nothing."""
    await world.pair("live")
    await world.put("up/old", b"12345")
    row_id = await world.row("up/old", state="pending", created_at=world.now - 30 * DAY, size=5)
    before = await world.sql("SELECT * FROM {schema}.uploads ORDER BY id")
    run_id = (await world.runs(HOUR, HOUR)).run_id
    assert await world.row_keys() == ["live"]

    chosen = {"run": run_id, "prefix": "up/", "key": "up/old"}[selector]
    report = await restore(world.executor, world.store, **{selector: chosen}, now=world.now)
    again = await restore(world.executor, world.store, **{selector: chosen}, now=world.now)

    assert (report.restored, report.rows, report.kept, report.failed) == (1, 1, 0, ())
    assert (again.restored, again.rows, again.kept, again.failed) == (0, 0, 0, ())
    assert await world.sql("SELECT * FROM {schema}.uploads ORDER BY id") == before
    assert before[1]["id"] == row_id
    assert await world.store.get("up/old") == b"12345"


@pytest.mark.parametrize("step", ["commit", "committed", "move", "moved"])
async def test_restore_undoes_what_a_killed_run_began(world: World, step: str) -> None:
    """Without another run, restore brings back intended actions too, wherever the object is by then."""
    await world.pair("live")
    for key in ("up/orphan", "up/row"):
        await world.put(key)
    await world.row("up/row", state="pending", created_at=world.now - 30 * DAY)
    before = await world.sql("SELECT * FROM {schema}.uploads ORDER BY id")
    await world.run(after=2 * HOUR)
    world.now += WEEK

    async def die(operation: str) -> None:
        is_acting = await world.sql("SELECT FROM {schema}.millhand_orphan_action")
        if operation == step and is_acting:
            raise Killed

    with pytest.raises(Killed):
        await reconcile(
            ChaosExecutor(world.executor, die), ChaosStore(world.store, die), world.config, now=world.now
        )
    was_away = await world.keys() != ["live", "up/orphan", "up/row"] or len(await world.row_keys()) == 1

    report = await restore(world.executor, world.store, prefix="up/", now=world.now)

    assert was_away
    assert (report.rows, report.kept, report.failed) == (1, 0, ())
    assert await world.sql("SELECT * FROM {schema}.uploads ORDER BY id") == before
    assert await world.keys() == ["live", "up/orphan", "up/row"]
    assert await world.keys(".millhand/quarantine/") == []


async def test_restore_leaves_a_newer_object_in_its_place(world: World) -> None:
    """An object that was put under the key since stays, and the old one stays in quarantine."""
    await world.pair("live")
    await world.put("orphan", b"old")
    await world.runs(2 * HOUR, WEEK)
    await world.put("orphan", b"new")

    report = await restore(world.executor, world.store, key="orphan", now=world.now)

    assert (report.restored, report.kept, report.failed) == (0, 1, ())
    assert await world.store.get("orphan") == b"new"
    assert await world.keys(".millhand/quarantine/") == [".millhand/quarantine/2/orphan"]


async def test_restore_reports_what_was_destroyed(world: World) -> None:
    """Destroyed bytes are reported with the time of their destruction."""
    await world.pair("live")
    await world.put("orphan")
    await world.runs(2 * HOUR, WEEK, WEEK)

    report = await restore(world.executor, world.store, prefix="", now=world.now)

    when = f"{world.now:%Y-%m-%d %H:%M}"
    assert report.failed == (("orphan", f"its bytes were deleted at {when} UTC"),)


async def test_a_key_too_long_for_quarantine_is_kept_under_another_name(world: World) -> None:
    """A key that leaves no room for the quarantine's prefix is quarantined under another name, and restored."""
    key = "/".join(["x" * 100] * 10)
    await world.pair("live")
    await world.put(key, b"12345")

    report = await world.runs(2 * HOUR, WEEK)
    kept = await world.keys(".millhand/quarantine/")
    await restore(world.executor, world.store, key=key, now=world.now)

    assert report.deleted == 1
    assert [len(name) < 200 for name in kept] == [True]
    assert await world.store.get(key) == b"12345"


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
