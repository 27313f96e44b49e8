"""Progress of a run: its rate, the remaining time, and how often it is logged."""

from __future__ import annotations

import logging
from datetime import timedelta

import pytest
from world import World

from millhand.orphans import Progress, reconcile
from millhand.orphans.report.progress import Pace, ProgressLog, expected_objects


def progress(objects: int, seconds: float, phase: str = "scan") -> Progress:
    return Progress(bytes=0, key="k", objects=objects, phase=phase, rows=objects, seconds=seconds)


def test_pace_expects_as_many_objects_as_the_last_run() -> None:
    """Half of the expected objects in ten seconds leave ten seconds; beyond the expected number, the rest is unknown."""
    assert Pace.of(progress(500, 10.0), 1_000) == Pace(objects_per_second=50.0, remaining_seconds=10.0)
    assert Pace.of(progress(500, 10.0), None).remaining_seconds is None
    assert Pace.of(progress(1_001, 10.0), 1_000).remaining_seconds is None
    assert Pace.of(progress(500, 10.0, "sweep"), 1_000).remaining_seconds is None
    assert Pace.of(progress(0, 0.0), 1_000) == Pace(objects_per_second=0.0, remaining_seconds=None)


def test_progress_log_writes_one_line_per_interval(caplog: pytest.LogCaptureFixture) -> None:
    """Pages within an interval write no line; the first one after it writes rate and remaining time."""
    log = ProgressLog(1_000, every=timedelta(seconds=60))

    with caplog.at_level(logging.INFO, "millhand.orphans.report.progress"):
        for second in range(0, 150, 10):
            log(progress(second, float(second)))

    records = [one for one in caplog.records if one.msg == "orphan cleanup in progress"]
    names = ("objects", "objects_per_second", "remaining_seconds", "rows", "seconds")
    assert [tuple(vars(record)[name] for name in names) for record in records] == [
        (60, 1, 940, 60, 60.0),
        (120, 1, 880, 120, 120.0),
    ]


async def test_expected_objects_are_those_of_the_last_complete_run(world: World) -> None:
    """Before the first complete run nothing is expected."""
    await world.pair("a", "b", "c")
    before = await expected_objects(world.executor, world.store.url)

    seen: list[Progress] = []
    await reconcile(world.executor, world.store, world.config, now=world.now, progress=seen.append)

    assert (before, await expected_objects(world.executor, world.store.url)) == (None, 3)
    assert seen[-1].objects == 3
