"""Restoring removed objects and rows, by request or because an application misses one."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import timedelta

import pytest
from adversary import ChaosExecutor, ChaosStore, ClumsyStore, Killed
from world import DAY, World, uploads_source

from millhand.orphans import Mode, OrphanEvent, OrphanEventKind, explain, recall, reconcile, restore
from repeats import first_of

pytestmark = pytest.mark.slow  # CI runs it; the default suite stays within a minute

HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)


async def removed(world: World) -> None:
    """Make a live pair, and an object that run 2 moved into quarantine."""
    await world.pair("live")
    await world.put("orphan", b"12345")
    assert (await world.runs(2 * HOUR, WEEK)).deleted == 1


@pytest.mark.parametrize("selector", first_of("run", "prefix", "key"))
async def test_restore_undoes_a_removal_once(world: World, selector: str) -> None:
    """Objects and rows come back unchanged, by run, prefix or key; a second restore changes nothing."""
    await world.pair("live")
    await world.put("up/old", b"12345")
    row_id = await world.row("up/old", state="pending", created_at=world.now - 30 * DAY, size=5)
    before = await world.sql("SELECT * FROM {schema}.uploads ORDER BY id")
    run_id = (await world.runs(HOUR, WEEK)).run_id
    assert await world.row_keys() == ["live"]

    chosen = {"run": run_id, "prefix": "up/", "key": "up/old"}[selector]
    report = await restore(world.executor, world.store, **{selector: chosen}, now=world.now)
    again = await restore(world.executor, world.store, **{selector: chosen}, now=world.now)

    assert (report.restored, report.rows, report.kept, report.failed) == (1, 1, 0, ())
    assert (again.restored, again.rows, again.kept, again.failed) == (0, 0, 0, ())
    assert await world.sql("SELECT * FROM {schema}.uploads ORDER BY id") == before
    assert before[1]["id"] == row_id
    assert await world.store.get("up/old") == b"12345"


@pytest.mark.parametrize("step", first_of("moved", "commit", "committed", "move"))
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


async def test_an_object_that_was_restored_after_a_killed_run_has_another_grace(world: World) -> None:
    """A run is killed after it has moved an orphan, and a restore brings the orphan back. It is not due before a grace."""
    await world.pair("live")
    await world.put("orphan", b"12345")
    await world.run(after=2 * HOUR)
    world.now += WEEK

    async def die(operation: str) -> None:
        if operation == "moved":
            raise Killed

    with pytest.raises(Killed):
        await reconcile(world.executor, ChaosStore(world.store, die), world.config, now=world.now)
    report = await restore(world.executor, world.store, run=2, now=world.now)
    early = await world.runs(HOUR, WEEK - HOUR)
    kept = await world.keys()
    late = await world.run(after=HOUR)

    assert (report.restored, early.deleted, kept) == (1, 0, ["live", "orphan"])
    assert (late.deleted, await world.keys()) == (1, ["live"])


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


async def two_of_one_key(world: World) -> None:
    """Let run 2 quarantine an object, and run 4 a newer object of the same key."""
    world.config = replace(world.config, mode=Mode.QUARANTINE)
    await world.pair("live")
    for data in (b"old", b"new"):
        await world.put("twice", data)
        await world.runs(2 * HOUR, WEEK)
    assert len(await world.keys(".millhand/quarantine/")) == 2


@pytest.mark.parametrize("how", ["key", "prefix", "recall"])
async def test_restore_brings_back_the_newest_of_two_objects_of_one_key(world: World, how: str) -> None:
    """The key has the newer object again, and the older one stays in quarantine."""
    await two_of_one_key(world)

    if how == "recall":
        assert await recall(world.executor, world.store, "twice")
    else:
        report = await restore(world.executor, world.store, **{how: "twice"}, now=world.now)
        assert (report.restored, report.kept, report.failed) == (1, 1, ())

    assert await world.store.get("twice") == b"new"
    assert await world.keys(".millhand/quarantine/") == [".millhand/quarantine/2/twice"]


async def test_a_newer_object_stays_while_a_row_references_an_older_one_that_was_restored(
    world: World,
) -> None:
    """An operator restored the older of two objects of one key. No run destroys the newer one: the row may mean that."""
    await two_of_one_key(world)
    await restore(world.executor, world.store, run=2, now=world.now)
    await world.row("twice")

    report = await world.run(after=8 * DAY, mode=Mode.DELETE)

    assert (report.state, report.purged) == ("completed", 0)
    assert await world.store.get("twice") == b"old"
    assert await world.keys(".millhand/quarantine/") == [".millhand/quarantine/4/twice"]


async def test_restore_reports_what_was_destroyed(world: World) -> None:
    """Destroyed bytes are reported with the time of their destruction."""
    await world.pair("live")
    await world.put("orphan")
    await world.runs(2 * HOUR, WEEK, WEEK)

    report = await restore(world.executor, world.store, prefix="", now=world.now)

    when = f"{world.now:%Y-%m-%d %H:%M}"
    assert report.failed == (("orphan", f"its bytes were deleted at {when} UTC"),)


async def test_restore_counts_objects_that_were_restored_before(world: World) -> None:
    """A second restore counts the object in `already`; a selection without removed objects is empty."""
    await removed(world)

    first, again = [await restore(world.executor, world.store, run=2, now=world.now) for _ in range(2)]
    wrong = [
        await restore(world.executor, world.store, now=world.now, **choice)  # type: ignore[arg-type]
        for choice in ({"run": 99}, {"key": "live"}, {"prefix": "nowhere/"})
    ]

    assert (first.restored, first.already, first.is_empty) == (1, 0, False)
    assert (again.restored, again.already, again.is_empty) == (0, 1, False)
    assert [report.is_empty for report in wrong] == [True, True, True]


async def test_recall_restores_a_requested_object(world: World) -> None:
    """`recall` restores a removed object at once with an alert, and returns False for other keys."""
    await removed(world)
    events: list[OrphanEvent] = []

    is_back = await recall(world.executor, world.store, "orphan", on_event=events.append)
    again = await recall(world.executor, world.store, "orphan", on_event=events.append)
    unknown = await recall(world.executor, world.store, "live", on_event=events.append)

    assert (is_back, again, unknown) == (True, False, False)
    assert await world.store.get("orphan") == b"12345"
    assert [(event.kind, event.key, event.reason) for event in events] == [
        (OrphanEventKind.ALERT, "orphan", "an application requested it; it was restored")
    ]


async def test_recall_of_a_purged_object_returns_false(world: World) -> None:
    """`recall` of a purged object returns False and raises an alert."""
    await removed(world)
    await world.run(after=WEEK)
    events: list[OrphanEvent] = []

    assert not await recall(world.executor, world.store, "orphan", on_event=events.append)

    assert [event.reason for event in events] == [
        f"an application requested it; run 2 removed it, and its bytes were deleted at {world.now:%Y-%m-%d %H:%M} UTC"
    ]


async def test_recall_of_a_purged_object_inserts_no_row(world: World) -> None:
    """`recall` leaves a row deleted that Millhand deleted after the object's bytes; `restore` inserts it."""
    await removed(world)
    await world.run(after=WEEK)
    await world.row("orphan", state="pending", created_at=world.now - 30 * DAY)
    assert (await world.runs(HOUR, WEEK)).deleted_rows == 1

    is_back = await recall(world.executor, world.store, "orphan")
    rows = await world.row_keys()
    report = await restore(world.executor, world.store, key="orphan", now=world.now)

    assert (is_back, rows, report.rows) == (False, ["live"], 1)


async def test_restore_leaves_generated_columns_to_the_database(world: World) -> None:
    """A row with a generated column is inserted without that column, which PostgreSQL computes."""
    await world.sql(
        "ALTER TABLE {schema}.uploads ADD COLUMN name text GENERATED ALWAYS AS (upper(key)) STORED"
    )
    await world.pair("live")
    await world.row("old", state="pending", created_at=world.now - 30 * DAY)
    await world.runs(HOUR, WEEK)

    report = await restore(world.executor, world.store, key="old", now=world.now)

    names = await world.sql("SELECT name FROM {schema}.uploads WHERE key = 'old'")
    await world.sql("ALTER TABLE {schema}.uploads DROP COLUMN name")
    assert (report.rows, report.failed) == (1, ())
    assert names == [{"name": "OLD"}]


async def test_restore_changes_back_a_row_that_its_source_only_changed(world: World) -> None:
    """
    The `delete` of a source only clears the key and notes it: `restore` brings both columns back, with the object.

    A row whose changed columns have changed again stays as it is.
    """
    uploads, avatars = world.config.sources
    own = f"UPDATE {world.schema}.uploads SET note = to_jsonb(key), key = NULL WHERE id::text = ANY($1)"
    world.config = replace(world.config, sources=(replace(uploads, delete=own), avatars))
    await world.pair("live")
    for key in ("changed", "old"):
        await world.put(key)
        await world.row(key, state="pending", created_at=world.now - 30 * DAY)
    before = await world.sql("SELECT * FROM {schema}.uploads WHERE key = 'old'")
    removed = await world.runs(HOUR, WEEK)
    await world.sql("UPDATE {schema}.uploads SET note = '1' WHERE note = '\"changed\"'")

    explanation = await explain(world.executor, world.store, world.config, "old", now=world.now)
    reports = [
        await restore(world.executor, world.store, key=key, now=world.now) for key in ("old", "changed")
    ]

    row_id = before[0]["id"]
    assert (removed.deleted, removed.deleted_rows) == (2, 2)
    assert f"  row: uploads {row_id} was deleted with it; the ledger has a copy" in explanation.lines()
    assert [(one.restored, one.rows, one.failed) for one in reports] == [(1, 1, ()), (1, 0, ())]
    assert await world.sql("SELECT * FROM {schema}.uploads WHERE key = 'old'") == before
    assert await world.sql("SELECT key, note::text FROM {schema}.uploads WHERE note = '1'") == [
        {"key": None, "note": "1"}
    ]


async def test_restore_inserts_a_row_into_a_table_with_a_deferrable_constraint(world: World) -> None:
    """PostgreSQL allows no ON CONFLICT there. The row comes back all the same."""
    await world.sql("ALTER TABLE {schema}.uploads ADD COLUMN place int UNIQUE DEFERRABLE")
    await world.pair("live")
    await world.row("old", state="pending", created_at=world.now - 30 * DAY)
    await world.runs(HOUR, WEEK)

    report = await restore(world.executor, world.store, key="old", now=world.now)

    await world.sql("ALTER TABLE {schema}.uploads DROP COLUMN place")
    assert (report.rows, report.failed) == (1, ())
    assert await world.row_keys() == ["live", "old"]


async def test_restore_inserts_each_value_with_its_text(world: World) -> None:
    """Every value of a restored row has the text it had: JSON null, `json` with its blanks, bounds, infinities, bytes."""
    await world.sql("CREATE TYPE {schema}.pair AS (a text, b json)")
    await world.sql(
        "CREATE TABLE {schema}.odd (id int PRIMARY KEY, key text, at date, raw json, nothing jsonb, bounds int[], n real,"
        ' data bytea, span interval, day date, price money, "a-b" varchar(3), pair {schema}.pair, absent text)'
    )
    odd = """
        INSERT INTO {schema}.odd VALUES (
            1, 'old', '2020-01-01', '{"b" : 1,  "a": null, "b": 2}', 'null', '[0:1]={3,NULL}', '-Infinity',
            '\\x00ff', '1 mon -2 days', '2026-02-01', '-1234.5', 'x\\y', ROW('null', 'null')
        )
    """
    await world.sql(odd)
    await world.pair("live")
    before = await world.sql("SELECT odd::text AS row FROM {schema}.odd")
    source = uploads_source(
        world.schema,
        name="odd",
        table=f"{world.schema}.odd",
        created_at="at",
        time_zone="UTC",
        pending="true",
    )
    source = replace(source, size=None, deleted_at=None, soft_deleted=None, min_rows=0)

    deleted = await world.runs(HOUR, WEEK, sources=(*world.config.sources, source))
    report = await restore(world.executor, world.store, key="old", now=world.now)

    after = await world.sql("SELECT odd::text AS row FROM {schema}.odd")
    await world.sql("DROP TABLE {schema}.odd")
    await world.sql("DROP TYPE {schema}.pair")
    assert (deleted.abort_reasons, deleted.deleted_rows, report.rows, report.failed) == ((), 1, 1, ())
    assert after == before


async def test_restore_reports_a_row_whose_table_is_gone(world: World) -> None:
    """The object is restored although its row cannot be inserted, and the report has the reason."""
    await world.pair("live")
    await world.put("old")
    await world.row("old", state="pending", created_at=world.now - 30 * DAY)
    await world.runs(HOUR, WEEK)
    await world.sql("ALTER TABLE {schema}.uploads RENAME TO renamed")

    report = await restore(world.executor, world.store, key="old", now=world.now)

    await world.sql("ALTER TABLE {schema}.renamed RENAME TO uploads")
    table = f'"{world.schema}"."uploads"'
    reason = f"its row could not be inserted, no table {table} with columns of the row"
    assert (report.restored, report.rows, report.failed) == (1, 0, (("old", reason),))
    assert await world.store.get("old") == b"old"


@pytest.mark.parametrize(
    ("step", "is_copied"),
    [("copied", True), *itertools.product(("moved", "begin", "commit", "committed", "run"), (False, True))],
)
async def test_restore_goes_on_where_it_was_killed(world: World, step: str, is_copied: bool) -> None:
    """A second restore brings back object and row, wherever the first one was killed, also between copy and delete."""
    plain, num_runs = world.store, 0

    async def nothing(_operation: str) -> None:
        return

    async def die(operation: str) -> None:
        nonlocal num_runs
        num_runs += operation == "run"
        if operation == step and (operation != "run" or num_runs == 4):  # it records the end
            raise Killed

    if is_copied:
        world.store = ClumsyStore(plain, nothing)
    await world.pair("live")
    await world.put("up/old", b"12345")
    await world.row("up/old", state="pending", created_at=world.now - 30 * DAY, size=5)
    before = await world.sql("SELECT * FROM {schema}.uploads ORDER BY id")
    await world.runs(HOUR, WEEK)
    assert await world.row_keys() == ["live"]

    killed = (ClumsyStore if is_copied else ChaosStore)(plain, die)
    with pytest.raises(Killed):
        await restore(ChaosExecutor(world.executor, die), killed, key="up/old", now=world.now)
    report = await restore(world.executor, world.store, key="up/old", now=world.now)

    assert report.failed == ()
    assert await world.sql("SELECT * FROM {schema}.uploads ORDER BY id") == before
    assert await world.keys() == ["live", "up/old"]
    assert await world.keys(".millhand/quarantine/") == []
    assert await world.sql("SELECT state FROM {schema}.millhand_orphan_action") == [{"state": "restored"}]
