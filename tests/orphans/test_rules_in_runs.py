"""Each rule has a test with its number in the name; these need no other module."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest
from world import DAY, World

from millhand.orphans import RunReport, explain, list_findings
from millhand.orphans.rules import RULES

HOUR = timedelta(hours=1)


def test_every_rule_has_a_test_that_is_named_for_it() -> None:
    """Every rule has a test of a whole run with its number in the name; the table of situations alone does not count."""
    named: set[int] = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        for first, second in re.findall(r"def test_rules?_(\d+)(?:_and_(\d+))?", path.read_text()):
            named |= {int(number) for number in (first, second) if number}

    assert named == {rule.number for rule in RULES}


async def runs(world: World, span: timedelta) -> RunReport:
    """Run twice, with `span` between, beside a live pair."""
    await world.pair("live")
    return await world.runs(HOUR, span)


async def what_is_left(world: World) -> tuple[list[str], list[str], list[int]]:
    """Return the keys of objects and of rows besides the live pair, and the rules of all findings."""
    objects = [key for key in await world.keys() if key != "live"]
    rows = [key for key in await world.row_keys() if key != "live"]
    return objects, rows, [finding.rule for finding in await list_findings(world.executor)]


@pytest.mark.slow
async def test_rule_01_a_row_clears_a_candidate(world: World) -> None:
    """An orphan that gets a row is live; when the row is gone again, its age starts again."""
    await world.pair("live")
    await world.put("key")
    await world.runs(2 * HOUR, 6 * DAY)
    row_id = await world.row("key")
    live = await world.run(after=HOUR)
    explanation = await explain(world.executor, world.store, world.config, "key", now=world.now)
    await world.sql("DELETE FROM {schema}.uploads WHERE id = $1", row_id)

    again = await world.runs(HOUR, 6 * DAY)
    due = await world.run(after=DAY)

    assert (live.orphan_objects, explanation.lines()[0]) == (0, "key: live, a row references it (rule 1)")
    assert (again.orphan_objects, again.deleted, due.deleted) == (1, 0, 1)


@pytest.mark.slow
async def test_rule_03_a_pending_row_in_its_grace_is_in_flight(world: World) -> None:
    """Row and object stay, nothing is found, and the ledger has the first sighting."""
    await world.put("key")
    await world.row("key", state="pending")

    report = await runs(world, 6 * DAY)

    assert (report.num_found, report.pending_rows) == (0, 1)
    assert await what_is_left(world) == (["key"], ["key"], [3])


@pytest.mark.slow
async def test_rule_04_a_pending_row_past_its_grace_goes_with_its_object(world: World) -> None:
    """A grace after the first sighting a run removes both: the row to the ledger, the object to quarantine."""
    await world.put("key")
    await world.row("key", state="pending")

    report = await runs(world, 7 * DAY)

    assert (report.deleted, report.deleted_rows, await what_is_left(world)) == (1, 1, ([], [], []))
    assert await world.keys(".millhand/quarantine/") == [".millhand/quarantine/2/key"]


@pytest.mark.slow
async def test_rule_06_a_soft_deleted_row_in_its_retention_is_kept(world: World) -> None:
    """A row that can still be undeleted keeps its object, even if it is older than the grace."""
    await world.put("key")
    await world.row("key", deleted_at=world.now)

    report = await runs(world, 29 * DAY)

    assert (report.num_found, report.soft_deleted_rows) == (0, 1)
    assert await what_is_left(world) == (["key"], ["key"], [6])


@pytest.mark.slow
async def test_rule_07_a_soft_deleted_row_past_its_retention_goes_with_its_object(world: World) -> None:
    """A row that can no longer be undeleted goes, with or without an object."""
    await world.put("key")
    for key in ("bare", "key"):
        await world.row(key, deleted_at=world.now)

    report = await runs(world, 30 * DAY)

    assert (report.deleted, report.deleted_rows, await what_is_left(world)) == (1, 2, ([], [], []))


@pytest.mark.slow
async def test_rules_04_and_07_an_object_that_comes_late_restarts_the_age_of_its_row(world: World) -> None:
    """An object that was put under the key of a row past its time, for example from a backup, stays for a whole grace."""
    await world.pair("live")
    await world.row("late", state="pending")
    await world.row("again", deleted_at=world.now)
    await world.run(after=2 * HOUR, retention=7 * DAY)
    for key in ("late", "again"):
        await world.put(key)

    early, late = [await world.run(after=7 * DAY, retention=7 * DAY) for _ in range(2)]

    assert (early.deleted, early.deleted_rows, early.orphan_objects) == (0, 0, 0)
    assert (late.deleted, late.deleted_rows) == (2, 2)
    assert await world.keys() == ["live"]


@pytest.mark.slow
async def test_rule_20_a_pending_row_without_an_object_goes_alone(world: World) -> None:
    """A pending row without an object is deleted, and nothing is moved."""
    await world.row("key", state="pending")

    report = await runs(world, 7 * DAY)

    assert (report.deleted, report.deleted_rows, await what_is_left(world)) == (0, 1, ([], [], []))
    assert await world.keys(".millhand/quarantine/") == []


@pytest.mark.slow
async def test_rules_03_and_06_a_row_that_was_ready_keeps_its_object_for_a_whole_grace(world: World) -> None:
    """A row of a year ago that is pending or deleted again has the age of its first sighting, whatever times it holds."""
    await world.put("live")
    old = {"created_at": world.now - 365 * DAY, "deleted_at": None}
    for key in ("live", "replaced", "trashed"):
        await world.put(key)
        await world.row(key, **old)
    await world.runs(2 * HOUR, HOUR)
    await world.sql("UPDATE {schema}.uploads SET state = 'pending' WHERE key = 'replaced'")
    await world.sql(
        "UPDATE {schema}.uploads SET deleted_at = $1 WHERE key = 'trashed'", world.now - 365 * DAY
    )

    reports = [await world.run(after=span) for span in (HOUR, 7 * DAY - HOUR, HOUR, 23 * DAY - HOUR, HOUR)]

    assert [(report.deleted, report.deleted_rows) for report in reports] == [
        (0, 0), (0, 0), (1, 1), (0, 0), (1, 1)
    ]  # fmt: skip


@pytest.mark.slow
async def test_rule_03_an_attempt_to_upload_again_restarts_the_age_of_a_pending_row(world: World) -> None:
    """Without runs in between, two attempts look like one; the changed row, or its changed object, shows the second."""
    await world.pair("live")
    for key in ("row", "object", "neither"):
        await world.put(key)
        await world.row(key, state="pending")
    await world.runs(2 * HOUR, HOUR)
    await world.sql("UPDATE {schema}.uploads SET state = 'ready' WHERE key = 'row'")
    await world.sql("UPDATE {schema}.uploads SET state = 'pending' WHERE key = 'row'")
    await world.put("object", b"replaced")

    reports = [await world.run(after=span) for span in (7 * DAY, 7 * DAY - HOUR, HOUR)]

    assert [(report.deleted, report.deleted_rows) for report in reports] == [(1, 1), (0, 0), (2, 2)]
    assert await world.keys() == ["live"]
