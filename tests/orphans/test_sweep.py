"""The sweep: which objects and rows it removes, in which waves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from adversary import ChaosExecutor, ChaosStore, Interrupter
from world import DAY, World

from millhand.orphans import Mode, RunReport, explain, reconcile
from millhand.orphans.ledger import Finding
from millhand.orphans.removal.sweep import why_row_stays
from millhand.orphans.rules import Kind, Reference
from millhand.storage import ObjectInfo, StoreError
from repeats import first_of

HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
async def test_a_row_that_a_constraint_protects_stays_and_the_others_go(world: World) -> None:
    """
    A row that a foreign key protects is kept with the database's reason; the other rows of its wave go.

    Its age starts again, so the next run does not try it.
    """
    ids = [await world.row(f"old/{n}", state="pending", created_at=world.now - 30 * DAY) for n in range(3)]
    await world.pair("live")
    await world.sql("CREATE TABLE {schema}.posts (upload_id bigint REFERENCES {schema}.uploads (id))")
    await world.sql("INSERT INTO {schema}.posts VALUES ($1)", ids[1])

    report = await world.runs(HOUR, WEEK)
    later = [await world.run(after=span) for span in (HOUR, WEEK - HOUR)]

    explanation = await explain(world.executor, world.store, world.config, "old/1", now=world.now)
    last = await world.run(after=HOUR)
    await world.sql("DROP TABLE {schema}.posts")
    assert (report.deleted_rows, report.kept) == (2, 1)
    assert ([one.kept for one in later], last.kept) == ([0, 0], 1)
    assert await world.row_keys() == ["live", "old/1"]
    assert [action.state for action in explanation.actions] == ["kept"]
    assert "violates foreign key constraint" in explanation.actions[0].reason


async def run_while(world: World, act: Callable[[], Awaitable[object]]) -> RunReport:
    """Run once, and let the application act between the scan and the removal."""
    acts = [act]

    async def hook(_operation: str) -> None:
        if acts and await world.sql("SELECT FROM {schema}.millhand_orphan_run WHERE state = 'sweeping'"):
            await acts.pop()()

    return await reconcile(ChaosExecutor(world.executor, hook), world.store, world.config, now=world.now)


@pytest.mark.slow
async def test_a_row_whose_object_is_put_after_the_scan_stays(world: World) -> None:
    """
    Uploads end between scan and removal: their rows stay, as does one whose object is gone. The application finds them.

    `explain` has the reason, and the age of a row that stays starts again.
    """
    await world.pair("live")
    for key in ("again", "gone", "late", "same"):
        await world.row(key, state="pending")
    for key in ("again", "gone", "same"):
        await world.put(key)
    await world.run(after=2 * HOUR)
    world.now += WEEK

    async def upload() -> None:
        for key in ("again", "late"):
            await world.put(key, b"just uploaded")
        await world.store.delete("gone")

    report = await run_while(world, upload)

    explanation = await explain(world.executor, world.store, world.config, "late", now=world.now)
    finished = await world.sql(
        "UPDATE {schema}.uploads SET state = 'ready' WHERE key IN ('again', 'late') RETURNING key"
    )
    later = await world.run(after=WEEK)
    assert (report.deleted, report.deleted_rows, report.kept) == (1, 1, 3)
    assert [(one.state, one.reason) for one in explanation.actions] == [
        ("kept", "the object changed since the scan")
    ]
    assert sorted(row["key"] for row in finished) == ["again", "late"]
    assert (later.deleted, later.deleted_rows) == (0, 0)
    assert await world.row_keys() == ["again", "gone", "late", "live"]
    assert await world.keys() == ["again", "late", "live"]


@pytest.mark.slow
def test_a_row_stays_unless_its_object_is_as_the_scan_saw_it() -> None:
    """A row goes with the object that the scan saw, or without one; not if the object is locked, changed, new or gone."""
    now = datetime(2026, 3, 1, tzinfo=UTC)
    info = ObjectInfo(key="k", size=1, etag="a", modified_at=now)
    absent = Finding(
        key="k",
        source="uploads",
        row_id="1",
        kind=Kind.ABANDONED,
        reference=Reference.PENDING,
        rule=20,
        is_present=False,
        first_seen_at=now,
        last_seen_at=now,
    )
    present = replace(absent, rule=4, is_present=True, size=1, etag="a", modified_at=now)
    gone, changed = "the object is gone", "the object changed since the scan"
    locked = "the object is under legal hold or retention (rule 23)"

    assert [
        why_row_stays(finding, found)
        for finding, found in (
            (absent, None),
            (absent, info),
            (present, info),
            (present, None),
            (present, replace(info, modified_at=now + HOUR)),
            (present, replace(info, is_locked=True)),
        )
    ] == ["", changed, "", gone, changed, locked]


@pytest.mark.slow
async def test_a_delete_statement_of_the_source_replaces_ours(world: World) -> None:
    """The `delete` of a source runs in place of the DELETE, and the object goes once no row names it."""
    uploads, _ = world.config.sources
    own = f"UPDATE {world.schema}.uploads SET note = to_jsonb(key), key = NULL WHERE id::text = ANY($1)"
    await world.pair("live")
    await world.row("old", state="pending", created_at=world.now - 30 * DAY)
    await world.put("old")

    report = await world.runs(HOUR, WEEK, sources=(replace(uploads, delete=own),))

    assert (report.deleted, report.deleted_rows) == (1, 1)
    assert await world.keys() == ["live"]
    assert await world.sql("SELECT note::text, key FROM {schema}.uploads ORDER BY id") == [
        {"note": '{"from": "a phone"}', "key": "live"},
        {"note": '"old"', "key": None},
    ]


async def twelve_due_orphans(world: World) -> None:
    await world.pair("live")
    for number in range(12):
        await world.put(f"orphan/{number:02}")
    await world.run(after=2 * HOUR)
    world.now += WEEK


@pytest.mark.slow
async def test_a_failing_store_ends_the_sweep_with_its_first_wave(world: World) -> None:
    """If a small move fails as well, no further wave starts; moved objects stay moved, and the next run continues."""
    await twelve_due_orphans(world)

    async def break_at_the_third(operation: str) -> None:
        if operation == "move":
            moves.append(operation)
            if len(moves) > 2:
                raise StoreError("move", "a full disk", key="orphan")

    moves: list[str] = []
    report = await reconcile(
        world.executor, ChaosStore(world.store, break_at_the_third), world.config, now=world.now
    )

    assert (report.state, report.deleted, report.not_removed, len(moves)) == ("aborted", 2, 10, 11)
    assert report.abort_reasons == (
        (
            "a wave must finish without a failure, got move of 'orphan' must succeed, got a full disk; "
            "fix the cause, and the next run continues"
        ),
    )
    assert (await world.run(after=HOUR)).deleted == 10


@pytest.mark.slow
@pytest.mark.parametrize("is_refusal", first_of(False, True), ids=["unknown", "declined"])
async def test_an_object_that_a_working_store_does_not_move_delays_no_other(
    world: World, caplog: pytest.LogCaptureFixture, *, is_refusal: bool
) -> None:
    """The object stays with the reason, the others go, and its grace starts again. An unknown result is settled first."""
    await twelve_due_orphans(world)
    hook = Interrupter(interventions={})

    async def fail(operation: str) -> None:
        await hook(operation)
        if operation == "move" and hook.seen["move"] == 3:
            raise StoreError("move", "a broken disk", key="orphan", is_refusal=is_refusal)

    report = await reconcile(world.executor, ChaosStore(world.store, fail), world.config, now=world.now)
    [left] = await world.keys("orphan/")
    explanations = [await explain(world.executor, world.store, world.config, left, now=world.now)]
    later = await world.run(after=HOUR)
    explanations.append(await explain(world.executor, world.store, world.config, left, now=world.now))
    last = await world.run(after=WEEK)

    states = [(one.actions[0].state, one.actions[0].reason) for one in explanations]
    reason = "move of 'orphan' must succeed, got a broken disk"
    settled = "interrupted before the object was moved; the next run evaluates it again"
    assert (report.state, report.deleted, report.kept, later.deleted) == ("completed", 11, is_refusal, 0)
    assert states == [("kept", reason)] * 2 if is_refusal else [("intended", reason), ("kept", settled)]
    assert (last.deleted, await world.keys()) == (1, ["live"])
    [warning] = [one for one in caplog.records if one.levelname == "WARNING"]
    assert warning.msg == "orphan cleanup cannot move objects"
    assert (warning.key, warning.reason, warning.objects) == (left, reason, 1)  # type: ignore[attr-defined]


@pytest.mark.slow
async def test_a_sweep_moves_growing_waves_at_a_limited_pace(world: World) -> None:
    """A sweep moves 10, then 100, then more objects, and never more a second than `max_keys_per_second`."""
    await world.pair("live")
    for number in range(120):
        await world.put(f"orphan/{number:03}")
    await world.run(after=2 * HOUR)
    world.now += WEEK
    waves = [0]

    async def count(operation: str) -> None:
        if operation == "move":
            waves[-1] += 1
        elif operation == "committed" and waves[-1]:
            waves.append(0)

    report = await reconcile(
        ChaosExecutor(world.executor, count),
        ChaosStore(world.store, count),
        replace(world.config, max_keys_per_second=300),
        now=world.now,
    )

    assert (report.deleted, [number for number in waves if number]) == (120, [10, 100, 10])
    assert report.seconds >= 120 / 300
