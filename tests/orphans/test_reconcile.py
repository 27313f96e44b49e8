"""Whole runs over a small world: what is found, what goes, what stays, and how it comes back."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from world import DAY, World

from millhand.orphans import Mode, explain, list_findings, restore

HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)


async def test_a_first_run_reports_and_touches_nothing(world: World) -> None:
    """Whatever the mode, the first run over a bucket only says what it found, figure by figure."""
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
        "deleted": 0,
        "deleted_rows": 0,
        "quarantined": 0,
        "restored": 0,
        "refused": 0,
        "seconds": 0,
    }
    assert (report.state, report.is_first, report.orphan_bytes) == ("completed", True, 5)
    assert await world.keys() == ["abandoned", "live/a", "live/b", "orphan"]
    assert await world.row_keys() == ["abandoned", "live/a", "live/b", "missing"]


async def test_runs_take_away_what_is_nobodys_and_leave_the_rest_byte_for_byte(world: World) -> None:
    """After two runs a grace apart, the orphan and the abandoned pair are gone; the live ones are as they were."""
    await world.pair("live/a", "live/b")
    await world.put("orphan", b"12345")
    await world.row("missing")
    await world.row("abandoned", state="pending", created_at=world.now - 30 * DAY)
    await world.put("abandoned")

    report = await world.runs(2 * HOUR, WEEK)

    assert (report.mode, report.deleted, report.deleted_rows, report.refused) == (Mode.DELETE, 2, 1, 0)
    assert await world.keys() == ["live/a", "live/b"]
    assert await world.row_keys() == ["live/a", "live/b", "missing"]
    assert [await world.store.get(key) for key in ("live/a", "live/b")] == [b"live/a", b"live/b"]
    assert await world.keys(".millhand/quarantine/") == [
        ".millhand/quarantine/2/abandoned",
        ".millhand/quarantine/2/orphan",
    ]
