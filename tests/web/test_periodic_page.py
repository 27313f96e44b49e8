"""Claims about the page of periodic jobs."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from visitors import bearer

from factory import insert_job
from millhand.core.job import JobId, JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.doctor.periodic_figures import interval_of, load_runs
from millhand.engine.store.periodic_job import RUNS_MAX, PeriodicRun
from millhand.shells.web.database import WebDatabase
from millhand.testing import ManualClock
from millhand.web.pages.periodic import periodic_job

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def instants(*minutes: float) -> list[datetime]:
    return [NOW - minute * MINUTE for minute in minutes]


@pytest.mark.parametrize(
    ("given", "interval"),
    [
        (instants(0, 5, 10), 5 * MINUTE),
        (instants(0, 5.5, 10.5, 15.5), 5 * MINUTE),  # a leader changed, and was late
        (instants(0, 5), None),
        (instants(0), None),
        (instants(0, 5, 30, 35), None),  # not each hour, or a run was missed
        (instants(0, 0, 0), None),
    ],
)
def test_interval_is_known_if_the_runs_are_regular(given: list[datetime], interval: timedelta | None) -> None:
    """Three runs with about the same time between them show the interval; fewer, or irregular ones, do not."""
    assert interval_of(given) == interval


@pytest.mark.parametrize(
    ("minutes", "expected", "is_late"),
    [
        ((1, 6, 11), 4, False),
        ((9, 14, 19), -4, False),  # due a while ago: a leader may be elected just now
        ((10.5, 15.5, 20.5), -5.5, False),
        ((12, 17, 22), -7, True),
        ((11, 16, 90), None, False),
    ],
)
def test_periodic_job_is_late_when_two_runs_are_missing(
    minutes: tuple[float, ...], expected: float | None, is_late: bool
) -> None:
    """The next run is expected one interval after the last one; a job is late a minute after one more was due."""
    runs = [
        PeriodicRun("nightly", JobId(9 - n), "report", "default", JobState.COMPLETED, at, RUNS_MAX)
        for n, at in enumerate(instants(*minutes))
    ]

    job = periodic_job("nightly", runs, NOW)

    assert (job.expected_at, job.is_late) == (None if expected is None else NOW + expected * MINUTE, is_late)
    assert [run.job_id for run in job.runs] == [9, 8, 7]


@pytest.mark.slow
async def test_periodic_page_shows_runs_within_the_limits_of_the_user(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """Each periodic job is on the page with its runs; a user with limits sees none of other queues and kinds."""
    for state in (JobState.COMPLETED, JobState.DISCARDED):
        job = await insert_job(
            schema_driver.pool, state, metadata='{"periodic": true, "river:periodic_job_id": "nightly"}'
        )

    page = (await browser.get("/api/v1/periodic")).json()
    html = (await browser.get("/periodic")).text
    limited = (await browser.get("/api/v1/periodic", headers=bearer("other"))).json()

    assert [(one["id"], [run["state"] for run in one["runs"]]) for one in page["jobs"]] == [
        ("nightly", ["discarded", "completed"])
    ]
    assert f"/jobs/{job.id}" in html
    assert limited["jobs"] == []


async def test_no_job_looks_late_by_runs_that_were_read_long_ago(schema_driver: AsyncpgDriver) -> None:
    """Of two requests after a quiet night, one reads the runs; the other has none, because those of yesterday look late."""
    clock = ManualClock(NOW)
    database = WebDatabase(schema_driver, clock, is_owner=False)
    await insert_job(schema_driver.pool, metadata='{"periodic": true, "river:periodic_job_id": "nightly"}')
    first = await database.recent(load_runs, MINUTE)
    clock.advance(timedelta(hours=8))
    one, other = await asyncio.gather(database.recent(load_runs, MINUTE), database.recent(load_runs, MINUTE))

    assert [len(first), len(one), len(other)] == [1, 1, 0]
