"""Verdicts about a configuration before its deploy."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import pytest
from doctor_worlds import named

from millhand import InsertOpts, UniqueOpts
from millhand.core.periodic import IntervalSchedule, PeriodicJob, cron, every
from millhand.doctor.deploy_checks import (
    PeriodicRuns,
    UnworkableJobs,
    declared_runs,
    kind_findings,
    periodic_findings,
)

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@dataclass
class Tick:
    kind: ClassVar[str] = "tick"


@dataclass
class Once:
    kind: ClassVar[str] = "once"
    insert_opts: ClassVar[InsertOpts] = InsertOpts(unique=UniqueOpts(by_args=True))


def test_queued_jobs_that_do_not_fit_are_broken() -> None:
    """Args that do not decode name a job to look at, and a kind without a worker the option that leaves it out."""
    args, kind = kind_findings(
        [
            UnworkableJobs(kind="mail", num_jobs=3, example_id=7, has_worker=True, message="no field `to`"),
            UnworkableJobs(
                kind="go kind", num_jobs=1, example_id=8, has_worker=False, message="no worker is registered"
            ),
        ]
    )

    assert named([args, kind]) == [("broken", "kind mail"), ("broken", "kind go kind")]
    assert args.found == "3 queued jobs of kind mail, such as 7, do not fit: no field `to`."  # type: ignore[union-attr]
    assert args.commands == ("millhand job show 7",)
    assert kind.commands == ("millhand doctor --deploy MODULE:CONFIG --elsewhere 'go kind'",)


@pytest.mark.parametrize(
    ("minutes", "led_for", "is_found"),
    [(2, 60, False), (22, 60, True), (20, 60, False), (60, 15, False), (60, 22, True)],
)
def test_periodic_job_that_missed_two_runs_is_found(minutes: int, led_for: int, *, is_found: bool) -> None:
    """Two intervals and a minute since the last run, and since a client leads, are harmful."""
    run = PeriodicRuns(id="p", schedule=IntervalSchedule(10 * MINUTE), inserted_at=NOW - minutes * MINUTE)

    found = periodic_findings([run], elected_at=NOW - led_for * MINUTE, now=NOW)

    assert named(found) == ([("harmful", "periodic job p")] if is_found else [])
    assert periodic_findings([run], elected_at=None, now=NOW) == []


def test_only_jobs_that_insert_at_each_time_are_judged() -> None:
    """A job without an id or a run, with a constructor, or unique by its options or class is left out."""
    jobs = [
        every(MINUTE, Tick(), id="plain"),
        cron("0 3 * * *", Tick(), id="no_run"),
        every(MINUTE, Tick()),
        every(MINUTE, lambda: None, id="constructor"),
        every(MINUTE, Once(), id="class"),
        PeriodicJob(schedule=IntervalSchedule(MINUTE), args=Tick(), id="options", opts=Once.insert_opts),
    ]
    inserted = dict.fromkeys(("plain", "constructor", "class", "options"), NOW)

    assert [run.id for run in declared_runs(jobs, inserted)] == ["plain"]
