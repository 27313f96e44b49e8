"""The audit of schedules finds each instant that has no job or two, in evidence that it otherwise accepts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from chaos_schedules import SCHEDULES, NextRun, ScheduledRun, wrong_scheduled_runs

BEGAN_AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
NUM_RUNS = 20
FIRST = SCHEDULES[0]
Runs = list[ScheduledRun]
Nexts = list[NextRun]


def evidence() -> tuple[Runs, Nexts]:
    """Return the runs and rows of a run without violations."""
    runs, nexts = [], []
    for schedule in SCHEDULES:
        at = schedule.next_after(BEGAN_AT)
        for _ in range(NUM_RUNS):
            assert at is not None
            runs.append(ScheduledRun(id=schedule.id, due_at=at, inserted_at=at + timedelta(milliseconds=150)))
            at = schedule.next_after(at)
        assert at is not None
        nexts.append(NextRun(id=schedule.id, next_run_at=at, num_runs=NUM_RUNS))
    return runs, nexts


def test_audit_accepts_one_job_of_each_instant() -> None:
    """Nothing is reported, and the figures count the runs."""
    figures: dict[str, int] = {}

    assert list(wrong_scheduled_runs(*evidence(), figures)) == []
    assert figures == {"scheduled runs": 600, "scheduled runs late by ms at most": 150}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda runs, nexts: ([*runs[:1], *runs], nexts), "schedule chaos.0 has two jobs of 2026-03-01 12:00:02"),
        (
            lambda runs, nexts: ([*runs[:5], *runs[6:]], nexts),
            "no job of 2026-03-01 12:00:12+00:00, but of 2026-03-01 12:00:10+00:00 and then 2026-03-01 12:00:14",
        ),
        (
            lambda runs, nexts: (runs, [replace(nexts[0], next_run_at=nexts[0].next_run_at + timedelta(seconds=2))]),
            "schedule chaos.0 has no job of 2026-03-01 12:00:42",
        ),
        (lambda runs, nexts: (runs, [replace(nexts[0], num_runs=19)]), "must count its 20 jobs, got 19"),
        (lambda runs, nexts: (runs[NUM_RUNS:], nexts), "schedule chaos.0 must have a row and jobs, got"),
        (
            lambda runs, nexts: ([replace(runs[0], inserted_at=BEGAN_AT), *runs[1:]], nexts),
            "no job of a schedule must be inserted before its instant, got -2.000 s",
        ),
    ],
)  # fmt: skip
def test_audit_finds_each_violation(change: Callable[[Runs, Nexts], tuple[Runs, Nexts]], fault: str) -> None:
    """Each change of the evidence is reported."""
    runs, nexts = change(*evidence())

    found = list(wrong_scheduled_runs(runs, nexts, {}))

    assert any(fault in one for one in found), found


def test_rows_that_a_migration_lost_begin_anew() -> None:
    """Between the last run before the loss and the first after it, instants have no job; elsewhere each still has one."""
    runs, nexts = evidence()
    lost_at = runs[9].inserted_at + timedelta(milliseconds=1)
    kept = [run for run in runs if not lost_at <= run.inserted_at < lost_at + timedelta(seconds=7)]
    after = {one.id: sum(run.id == one.id and run.inserted_at > lost_at for run in kept) for one in nexts}
    nexts = [replace(one, num_runs=after[one.id]) for one in nexts]

    assert list(wrong_scheduled_runs(kept, nexts, {}, [lost_at])) == []
    assert list(wrong_scheduled_runs(kept, nexts, {}))
    assert any(
        "has no job of" in one for one in wrong_scheduled_runs(kept[1:4] + kept[5:], nexts, {}, [lost_at])
    )
