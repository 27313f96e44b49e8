"""Each rule has a test with its number in the name; these need no other module."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

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


async def runs(world: World) -> RunReport:
    """Run twice within two hours, beside a live pair."""
    await world.pair("live")
    return await world.runs(HOUR, HOUR)


async def what_is_left(world: World) -> tuple[list[str], list[str], list[int]]:
    """Return the keys of objects and of rows besides the live pair, and the rules of all findings."""
    objects = [key for key in await world.keys() if key != "live"]
    rows = [key for key in await world.row_keys() if key != "live"]
    return objects, rows, [finding.rule for finding in await list_findings(world.executor)]


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

    assert (live.orphan_objects, explanation.lines()[0]) == (
        0,
        "key: live by rule 1: live; clears any candidate",
    )
    assert (again.orphan_objects, again.deleted, due.deleted) == (1, 0, 1)


async def test_rule_03_a_pending_row_in_its_grace_is_in_flight(world: World) -> None:
    """Neither the row nor its object is a finding, and both stay."""
    await world.put("key")
    await world.row("key", state="pending", created_at=world.now - 6 * DAY)

    report = await runs(world)

    assert (report.abandoned_rows, await what_is_left(world)) == (0, (["key"], ["key"], []))


async def test_rule_04_a_pending_row_past_its_grace_goes_with_its_object(world: World) -> None:
    """The row's own time counts, so the second run removes both: the row to the ledger, the object to quarantine."""
    await world.put("key")
    await world.row("key", state="pending", created_at=world.now - 8 * DAY)

    report = await runs(world)

    assert (report.deleted, report.deleted_rows, await what_is_left(world)) == (1, 1, ([], [], []))
    assert await world.keys(".millhand/quarantine/") == [".millhand/quarantine/2/key"]


async def test_rule_06_a_soft_deleted_row_in_its_retention_is_kept(world: World) -> None:
    """A row that can still be undeleted keeps its object, even if it is older than the grace."""
    await world.put("key")
    await world.row("key", deleted_at=world.now - 29 * DAY)

    report = await runs(world)

    assert (report.abandoned_rows, await what_is_left(world)) == (0, (["key"], ["key"], []))


async def test_rule_07_a_soft_deleted_row_past_its_retention_goes_with_its_object(world: World) -> None:
    """A row that can no longer be undeleted goes, with or without an object."""
    await world.put("key")
    for key in ("bare", "key"):
        await world.row(key, deleted_at=world.now - 31 * DAY)

    report = await runs(world)

    assert (report.deleted, report.deleted_rows, await what_is_left(world)) == (1, 2, ([], [], []))


async def test_rules_04_and_07_a_young_object_stays_whatever_its_row_is(world: World) -> None:
    """An object that was just put under the key of a row past its time, for example from a backup, stays for an hour."""
    await world.pair("live")
    await world.run()
    for key, column in (("late", "created_at"), ("again", "deleted_at")):
        state = "pending" if column == "created_at" else "ready"
        await world.row(key, state=state, **{column: world.now - 60 * DAY})
        await world.put(key)

    early = await world.run(after=HOUR / 60)
    late = await world.run(after=2 * HOUR)

    assert (early.deleted, early.deleted_rows, early.orphan_objects) == (0, 0, 0)
    assert (late.deleted, late.deleted_rows) == (2, 2)
    assert await world.keys() == ["live"]


async def test_rule_20_a_pending_row_without_an_object_goes_alone(world: World) -> None:
    """A pending row without an object is deleted, and nothing is moved."""
    await world.row("key", state="pending", created_at=world.now - 8 * DAY)

    report = await runs(world)

    assert (report.deleted, report.deleted_rows, await what_is_left(world)) == (0, 1, ([], [], []))
    assert await world.keys(".millhand/quarantine/") == []
