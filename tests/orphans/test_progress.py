"""How far a run is: its rate, what is left, and how often it is told."""

from __future__ import annotations

import logging
from datetime import timedelta

import pytest
from world import World

from millhand.cli.orphans_view import told
from millhand.orphans import Progress, reconcile
from millhand.orphans.report.progress import Pace, ProgressLog, expected_objects


def progress(objects: int, seconds: float, phase: str = "scan") -> Progress:
    return Progress(bytes=0, key="k", objects=objects, phase=phase, rows=objects, seconds=seconds)


def test_the_rest_is_reckoned_from_the_last_run() -> None:
    """Half of what was there the last time, in ten seconds, leaves ten seconds; a larger bucket leaves it open."""
    assert Pace.of(progress(500, 10.0), 1_000) == Pace(objects_per_second=50.0, remaining_seconds=10.0)
    assert Pace.of(progress(500, 10.0), None).remaining_seconds is None
    assert Pace.of(progress(1_001, 10.0), 1_000).remaining_seconds is None
    assert Pace.of(progress(500, 10.0, "sweep"), 1_000).remaining_seconds is None
    assert Pace.of(progress(0, 0.0), 1_000) == Pace(objects_per_second=0.0, remaining_seconds=None)


def test_a_person_reads_rate_and_time_left() -> None:
    """The line of the bar says what was seen, how fast, and how long it will still take."""
    some = progress(120_000, 60.0)

    assert told(some, Pace.of(some, 240_000)) == (
        "scan: 120,000 objects, 120,000 rows, 2,000 objects/s, 1:00 left"
    )
    assert told(some, Pace.of(some, 20_000_000)).endswith(", 2:45:40 left")


def test_the_log_has_a_line_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    """Not each page is a line, but what has come in each interval, with the rate and what is left."""
    log = ProgressLog(1_000, every=timedelta(seconds=60))

    with caplog.at_level(logging.INFO, "millhand.orphans.report.progress"):
        for second in range(0, 150, 10):
            log(progress(second, float(second)))

    records = [one for one in caplog.records if one.getMessage() == "orphan cleanup in progress"]
    names = ("objects", "objects_per_second", "remaining_seconds", "rows", "seconds")
    assert [tuple(vars(record)[name] for name in names) for record in records] == [
        (60, 1, 940, 60, 60.0),
        (120, 1, 880, 120, 120.0),
    ]


async def test_what_is_expected_is_what_the_last_whole_run_saw(world: World) -> None:
    """The first run has nothing to go by."""
    await world.pair("a", "b", "c")
    before = await expected_objects(world.executor, world.store.url)

    seen: list[Progress] = []
    await reconcile(world.executor, world.store, world.config, now=world.now, progress=seen.append)

    assert (before, await expected_objects(world.executor, world.store.url)) == (None, 3)
    assert seen[-1].objects == 3
