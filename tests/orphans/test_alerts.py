"""Somebody asks for what was taken away: it comes back if it can, and the alert rings, once."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from adversary import ChaosStore
from world import World

from millhand.orphans import (
    OrphanEvent,
    OrphanEventKind,
    explain,
    list_findings,
    recall,
    reconcile,
    restore,
)
from millhand.storage import StoreError

HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)


async def taken_away(world: World) -> None:
    """A live pair, and an object that run 2 took into quarantine."""
    await world.pair("live")
    await world.put("orphan", b"12345")
    assert (await world.runs(2 * HOUR, WEEK)).deleted == 1


async def test_rule_18_a_quarantined_object_that_is_referred_to_again_comes_back_with_an_alarm(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """The next run puts it back, warns, sends an event, notes a finding and writes it into the key's story; once."""
    await taken_away(world)
    await world.row("orphan")
    events: list[OrphanEvent] = []
    world.now += HOUR

    with caplog.at_level(logging.WARNING, "millhand.orphans.removal.alerts"):
        report = await reconcile(
            world.executor, world.store, world.config, now=world.now, on_event=events.append
        )

    (record,) = [one for one in caplog.records if one.getMessage() == "orphan cleanup alert"]
    (found,) = await list_findings(world.executor, kind="recalled")
    story = await explain(world.executor, world.store, world.config, "orphan", now=world.now)
    reason = "a row refers to it again; it was put back"
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
        "run 2 took it away; a row refers to it again, and it was put back",
    )
    assert f"  alert: {world.now:%Y-%m-%d %H:%M} UTC {reason}" in story.lines()
    again = await world.run(after=HOUR)
    assert (again.alerts, await list_findings(world.executor, kind="recalled")) == (0, [])


async def test_rule_18_a_destroyed_object_that_is_referred_to_is_an_error_that_names_the_run(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """What was purged cannot come back: the finding and the alert say which run took it and when its bytes ended."""
    await taken_away(world)
    assert (await world.run(after=WEEK)).purged == 1
    purged_at = f"{world.now:%Y-%m-%d %H:%M} UTC"
    await world.row("orphan")

    with caplog.at_level(logging.WARNING, "millhand.orphans.removal.alerts"):
        reports = [await world.run(after=HOUR) for _ in range(2)]

    records = [one for one in caplog.records if one.getMessage() == "orphan cleanup alert"]
    (found,) = await list_findings(world.executor, kind="missing")
    lost = f"run 2 took it away, and its bytes were destroyed at {purged_at}"
    assert [(report.missing, report.alerts) for report in reports] == [(1, 1), (1, 0)]
    assert [(record.levelname, vars(record)["reason"]) for record in records] == [
        ("ERROR", f"a row refers to it; {lost}")
    ]
    assert found.note == lost


async def test_what_somebody_else_deleted_is_missing_without_an_alarm(world: World) -> None:
    """A row without its object is a finding; the alert is for what we did."""
    await taken_away(world)
    await world.row("never there")

    report = await world.run(after=HOUR)

    (found,) = await list_findings(world.executor, kind="missing")
    assert (report.missing, report.alerts, found.note) == (1, 0, "")


async def test_recall_brings_back_what_an_application_asks_for(world: World) -> None:
    """Where a 404 would be answered, the object comes back at once, with an alert; of other keys nothing is said."""
    await taken_away(world)
    events: list[OrphanEvent] = []

    is_back = await recall(world.executor, world.store, "orphan", on_event=events.append)
    again = await recall(world.executor, world.store, "orphan", on_event=events.append)
    unknown = await recall(world.executor, world.store, "live", on_event=events.append)

    assert (is_back, again, unknown) == (True, False, False)
    assert await world.store.get("orphan") == b"12345"
    assert [(event.kind, event.key, event.reason) for event in events] == [
        (OrphanEventKind.ALERT, "orphan", "it was asked for; it was put back")
    ]


async def test_recall_says_when_there_is_nothing_left(world: World) -> None:
    """A purged object does not come back, and whoever asked is answered with the alert."""
    await taken_away(world)
    await world.run(after=WEEK)
    events: list[OrphanEvent] = []

    assert not await recall(world.executor, world.store, "orphan", on_event=events.append)

    assert [event.reason for event in events] == [
        f"it was asked for; run 2 took it away, and its bytes were destroyed at {world.now:%Y-%m-%d %H:%M} UTC"
    ]


async def test_restore_tells_what_is_back_already_from_what_was_never_removed(world: World) -> None:
    """Once more is no error and says so; a key, run or prefix of which nothing was removed is empty."""
    await taken_away(world)

    first, again = [await restore(world.executor, world.store, run=2, now=world.now) for _ in range(2)]
    wrong = [
        await restore(world.executor, world.store, now=world.now, **choice)  # type: ignore[arg-type]
        for choice in ({"run": 99}, {"key": "live"}, {"prefix": "nowhere/"})
    ]

    assert (first.restored, first.already, first.is_empty) == (1, 0, False)
    assert (again.restored, again.already, again.is_empty) == (0, 1, False)
    assert [report.is_empty for report in wrong] == [True, True, True]


async def test_each_run_ends_with_an_event(world: World) -> None:
    """A completed run, a refused one and a failed one are told to whoever listens, with figures or reason."""
    await world.pair("live")
    await world.put("orphan")
    events: list[OrphanEvent] = []

    async def break_down(operation: str) -> None:
        if operation == "list" and len(events) == 2:
            raise StoreError("list", "a cut cable")

    async def run(**changes: Any) -> None:
        world.now += WEEK
        store, config = ChaosStore(world.store, break_down), replace(world.config, **changes)
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
