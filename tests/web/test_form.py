"""Claims about what a browser or a program sends with a change, and the notice that it gets."""

from __future__ import annotations

import logging

import httpx
import pytest

from factory import insert_job
from millhand.core.job import JobId
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.shells.web.change import Changed
from millhand.shells.web.form import notice_of, whole_number

BEYOND = "9" * 19  # as many digits as the highest id
HIDDEN_BEYOND = "0" * 19 + "1" + "9" * 20  # the first 20 digits are the number 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "fields", "status"),
    [
        ("/jobs/{id}/snooze", {"seconds": HIDDEN_BEYOND}, 400),
        ("/jobs/insert", {"kind": "mail", "max_attempts": HIDDEN_BEYOND}, 400),
        ("/jobs/insert", {"kind": "mail", "copy_of": BEYOND}, 400),
        ("/jobs/selected/retry", {"ids": BEYOND}, 400),
        ("/orphans/restore", {"store": "s3://shop/", "run": HIDDEN_BEYOND}, 400),
        (f"/jobs/{BEYOND}/retry", {}, 404),
        (f"/jobs/{BEYOND}", None, 404),
        (f"/flows/{BEYOND}", None, 404),
        (f"/jobs/new?copy_of={BEYOND}", None, 400),
        (f"/orphans?after={HIDDEN_BEYOND}", None, 400),
    ],
)
async def test_number_that_no_row_can_have_is_a_problem(
    browser: httpx.AsyncClient,
    schema_driver: AsyncpgDriver,
    caplog: pytest.LogCaptureFixture,
    path: str,
    fields: dict[str, str] | None,
    status: int,
) -> None:
    """A number above its maximum, also behind zeros, is an error of the request, and never reaches the database."""
    caplog.set_level(logging.WARNING, "millhand.web")
    job = await insert_job(schema_driver.pool)
    path = f"/api/v1{path.replace('{id}', str(job.id))}"

    answer = await (browser.get(path) if fields is None else browser.post(path, json=fields))

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert caplog.records == []


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "08", "10", "٣", "seven"])
def test_text_that_is_no_number_within_the_limits_is_refused(text: str) -> None:
    """The error has the field, the limits and the text."""
    assert whole_number("priority", "4", maximum=9) == 4
    with pytest.raises(ValueError, match=f"priority must be a number from 1 to 9, got '{text}'"):
        whole_number("priority", text, maximum=9)


@pytest.mark.parametrize(
    ("done", "notice"),
    [
        (Changed(action="cancel", subject="job 7", num_jobs=1), "Cancelled job 7."),
        (
            Changed(action="cancel", subject="job 7", num_jobs=1, stopping=(JobId(7),)),
            "Asked to stop: job 7.",
        ),
        (
            Changed(action="cancel", subject="selected jobs", num_jobs=3, stopping=(JobId(7),)),
            "Cancelled 3 jobs. Running, and asked to stop: 1 of them.",
        ),
        (
            Changed(action="retry", subject="selected jobs", skipped={"7": "job must not be running"}),
            "Retried 0 jobs. Left 1 as they were: job must not be running",
        ),
    ],
)
def test_notice_does_not_call_a_running_job_cancelled(done: Changed, notice: str) -> None:
    """The notice says which jobs were changed, which were only asked to stop, and how many were left."""
    assert notice_of(done) == notice
