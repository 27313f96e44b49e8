"""Claims about `millhand periodic`."""

from __future__ import annotations

import pytest

from cli_runner import millhand
from factory import get_job, insert_job
from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver

pytestmark = pytest.mark.usefixtures("project")


@pytest.mark.slow
async def test_periodic_job_is_listed_and_run_once(schema_driver: AsyncpgDriver) -> None:
    """A copy of the last run is inserted; a second one is refused with the job to wait for."""
    marks = '{"periodic": true, "river:periodic_job_id": "nightly"}'
    run = await insert_job(
        schema_driver.pool,
        JobState.COMPLETED,
        kind="report",
        queue="reports",
        args='{"day": 7}',
        metadata=marks,
    )

    done = await millhand("periodic", "run", "nightly")
    again = await millhand("periodic", "run", "nightly")
    listed = await millhand("periodic", "list")

    copy = await get_job(schema_driver.pool, run.id + 1)
    assert (done.code, done.out) == (0, "")
    assert done.err == f"inserted job {copy.id} of kind report into queue reports\n"
    assert (copy.state, copy.args, copy.queue) == (JobState.AVAILABLE, {"day": 7}, "reports")
    assert (again.code, again.err) == (
        1,
        f"error: no run of the periodic job must wait or run, got job {copy.id} available; wait for its end\n",
    )
    assert [line[:5] for line in listed.lines] == [
        ["nightly", "report", "reports", str(copy.id), "available"]
    ]


@pytest.mark.slow
async def test_unknown_periodic_job_is_an_error(schema_driver: AsyncpgDriver) -> None:
    """A periodic job without a run cannot be run. The error names the id that was meant, or else both ways on."""
    marks = '{"periodic": true, "river:periodic_job_id": "report"}'
    await insert_job(schema_driver.pool, JobState.COMPLETED, kind="report", metadata=marks)

    mistyped = await millhand("periodic", "run", "reprt")
    result = await millhand("periodic", "run", "nightly")

    none = "error: periodic job must have a run in the table, found none with id"
    assert (mistyped.code, mistyped.err) == (1, f"{none} 'reprt'; did you mean 'report'?\n")
    assert (result.code, result.err) == (
        1,
        (
            f"{none} 'nightly'; see: millhand periodic list; if it has not run yet, insert it once: "
            "millhand job insert KIND '{…}'\n"
        ),
    )
