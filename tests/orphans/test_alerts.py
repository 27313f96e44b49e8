"""Alerts for removed objects that are needed again, and the events of a run."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from adversary import ChaosStore
from world import World

from millhand.orphans import OrphanEvent, OrphanEventKind, explain, list_findings, reconcile
from millhand.storage import StoreError

HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)


async def removed(world: World) -> None:
    """Make a live pair, and an object that run 2 moved into quarantine."""
    await world.pair("live")
    await world.put("orphan", b"12345")
    assert (await world.runs(2 * HOUR, WEEK)).deleted == 1


@pytest.mark.slow
async def test_rule_18_a_quarantined_object_that_a_row_references_is_restored_with_an_alert(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """The next run restores the object and raises one alert: a log line, an event, a finding and a line of `explain`."""
    await removed(world)
    await world.row("orphan")
    events: list[OrphanEvent] = []
    world.now += HOUR

    with caplog.at_level(logging.WARNING, "millhand.orphans.removal.alerts"):
        report = await reconcile(
            world.executor, world.store, world.config, now=world.now, on_event=events.append
        )

    (record,) = [one for one in caplog.records if one.msg == "orphan cleanup alert"]
    (found,) = await list_findings(world.executor, kind="recalled")
    explanation = await explain(world.executor, world.store, world.config, "orphan", now=world.now)
    reason = "a row references it again; it was restored"
    assert (report.restored, report.alerts, report.missing) == (1, 1, 0)
    assert await world.store.get("orphan") == b"12345"
    assert (record.levelname, vars(record)["key"], vars(record)["reason"], vars(record)["run_id"]) == (
        "WARNING",
        "orphan",
        reason,
        2,
    )
    assert [(event.kind, event.key, event.reason) for event in events] == [
        (OrphanEventKind.ALERT, "orphan", reason),
        (OrphanEventKind.RUN_COMPLETED, None, ""),
    ]
    assert (found.key, found.rule, found.note) == (
        "orphan",
        18,
        "run 2 removed it; a row references it again, and it was restored",
    )
    assert f"  alert: {world.now:%Y-%m-%d %H:%M} UTC {reason}" in explanation.lines()
    again = await world.run(after=HOUR)
    assert (again.alerts, await list_findings(world.executor, kind="recalled")) == (0, [])


@pytest.mark.slow
async def test_rule_18_a_purged_object_that_a_row_references_is_an_error_that_names_the_run(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """The finding and the alert of a purged object name the run that removed it and the time of its deletion."""
    await removed(world)
    assert (await world.run(after=WEEK)).purged == 1
    purged_at = f"{world.now:%Y-%m-%d %H:%M} UTC"
    await world.row("orphan")

    with caplog.at_level(logging.WARNING, "millhand.orphans.removal.alerts"):
        reports = [await world.run(after=HOUR) for _ in range(2)]

    records = [one for one in caplog.records if one.msg == "orphan cleanup alert"]
    (found,) = await list_findings(world.executor, kind="missing")
    lost = f"run 2 removed it, and its bytes were deleted at {purged_at}"
    assert [(report.missing, report.alerts) for report in reports] == [(1, 1), (1, 0)]
    assert [(record.levelname, vars(record)["reason"]) for record in records] == [
        ("ERROR", f"a row references it; {lost}")
    ]
    assert found.note == lost


@pytest.mark.slow
async def test_an_object_that_another_program_deleted_raises_no_alert(world: World) -> None:
    """A row without its object is a finding; only an object that Millhand removed raises an alert."""
    await removed(world)
    await world.row("never there")

    report = await world.run(after=HOUR)

    (found,) = await list_findings(world.executor, kind="missing")
    assert (report.missing, report.alerts, found.note) == (1, 0, "")


@pytest.mark.slow
async def test_each_run_ends_with_an_event(world: World) -> None:
    """A completed, an aborted and a failed run each call `on_event`, with figures or a reason."""
    await world.pair("live")
    await world.put("orphan")
    events: list[OrphanEvent] = []

    async def fail(operation: str) -> None:
        if operation == "list" and len(events) == 2:
            raise StoreError("list", "a cut cable")

    async def run(**changes: Any) -> None:
        world.now += WEEK
        store, config = ChaosStore(world.store, fail), replace(world.config, **changes)
        await reconcile(world.executor, store, config, now=world.now, on_event=events.append)

    await run()
    await run(max_share=0.1)
    with pytest.raises(StoreError):
        await run()

    assert [(event.kind, event.run_id) for event in events] == [
        (OrphanEventKind.RUN_COMPLETED, 1),
        (OrphanEventKind.RUN_ABORTED, 2),
        (OrphanEventKind.RUN_FAILED, 3),
    ]
    assert events[0].figures is not None
    assert events[0].figures["orphan_objects"] == 1
    assert "orphans.max_share" in events[1].reason
    assert events[2].reason == "StoreError: list must succeed, got a cut cable"
