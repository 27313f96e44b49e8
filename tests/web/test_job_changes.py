from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from factory import get_job, insert_job
from millhand.core.args.secret_fields import SECRET_KEY, encrypt_args
from millhand.core.args.secret_keys import SecretKeys
from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.store.audit import audit_list
from millhand.engine.store.job_list import JobListParams, job_list
from millhand.engine.store.queue import queue_create_or_set_updated_at, queue_get

API = "/api/v1"


async def _audited(driver: AsyncpgDriver) -> list[tuple[str, str, int]]:
    entries = await driver.pool.run(audit_list())
    return [(entry.action, entry.subject, entry.num_jobs) for entry in entries]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action", "before", "after"),
    [
        ("retry", JobState.DISCARDED, JobState.AVAILABLE),
        ("cancel", JobState.AVAILABLE, JobState.CANCELLED),
        ("snooze", JobState.AVAILABLE, JobState.SCHEDULED),
        ("snooze", JobState.RETRYABLE, JobState.RETRYABLE),
    ],
)
async def test_change_of_a_job_is_made_and_recorded(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver, action: str, before: JobState, after: JobState
) -> None:
    """A form changes the job, writes an audit entry, and leads back to the page that it came from with a notice."""
    job = await insert_job(schema_driver.pool, before)
    path = f"/jobs/{job.id}"

    answer = await browser.post(f"{path}/{action}", data={"return_to": path, "seconds": "600"})

    assert (answer.status_code, answer.headers["location"]) == (303, path)
    assert (await get_job(schema_driver.pool, job.id)).state is after
    assert await _audited(schema_driver) == [(action, f"job {job.id}", 1)]
    assert f"job {job.id}." in (await browser.get(path)).text


async def test_deleted_job_is_gone_and_leads_to_the_list(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """After a delete the list is shown, because the job has no page any more."""
    job = await insert_job(schema_driver.pool, JobState.COMPLETED)

    answer = await browser.post(f"/jobs/{job.id}/delete")

    assert answer.headers["location"] == "/jobs"
    assert (await browser.get(f"/jobs/{job.id}")).status_code == 404


async def test_snoozed_job_waits_as_long_as_asked(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """The new instant is `seconds` from now."""
    job = await insert_job(schema_driver.pool)

    await browser.post(f"{API}/jobs/{job.id}/snooze", json={"seconds": 600})

    due = (await get_job(schema_driver.pool, job.id)).scheduled_at
    assert timedelta(minutes=9) < due - datetime.now(UTC) <= timedelta(minutes=10)


@pytest.mark.parametrize(
    ("state", "change", "body", "status", "detail"),
    [
        (
            JobState.RUNNING, "delete", {}, 409,
            "job must not be running to be deleted, got job {id} running; cancel it first",
        ),
        (
            JobState.COMPLETED, "snooze", {"seconds": 5}, 409,
            "job must be available, scheduled, retryable or waiting for a slot to be snoozed, got job {id} completed",
        ),
        (
            JobState.AVAILABLE, "snooze", {"seconds": "soon"}, 400,
            "seconds must be a number from 1 to 31,622,400, got 'soon'",
        ),
        (
            JobState.COMPLETED, "cancel", {}, 409,
            "job must not be finalized to be cancelled, got job {id} completed",
        ),
        (
            JobState.RUNNING, "retry", {}, 409,
            "job must not be running to be retried, got job {id} running; wait until its attempt ends, or cancel it",
        ),
        (
            JobState.AVAILABLE, "retry", {}, 409,
            "job must not be due to be retried, got job {id} available; it runs when a client works queue 'default'",
        ),
        (JobState.AVAILABLE, "copy", {"args": [1]}, 409, "args of kind 'kind' must be a JSON object, got 1"),
    ],
)  # fmt: skip
async def test_change_that_is_not_possible_says_why_and_records_nothing(
    browser: httpx.AsyncClient,
    schema_driver: AsyncpgDriver,
    state: JobState,
    change: str,
    body: dict[str, Any],
    status: int,
    detail: str,
) -> None:
    """A change that the state or the value forbids is a problem with subject, rule and value; the audit stays empty."""
    job = await insert_job(schema_driver.pool, state)

    answer = await browser.post(f"{API}/jobs/{job.id}/{change}", json=body)

    assert (answer.status_code, answer.json()["detail"]) == (status, detail.format(id=job.id))
    assert await _audited(schema_driver) == []


async def test_inserted_job_is_available_and_its_args_are_not_audited(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver, caplog: pytest.LogCaptureFixture
) -> None:
    """A job is inserted as given, and neither the audit nor the log has a value of its args."""
    caplog.set_level(logging.DEBUG, "millhand")
    fields = {
        "kind": "send_mail",
        "args": {"to": "secret@example.com"},
        "queue": "mail",
        "priority": 2,
        "tags": "a b c, ddd",
    }

    answer = await browser.post(f"{API}/jobs/insert", json={**fields, "tags": "eu1, urgent"})

    job = await get_job(schema_driver.pool, answer.json()["ids"][0])
    assert (job.kind, job.queue, job.priority, job.tags) == ("send_mail", "mail", 2, ("eu1", "urgent"))
    assert job.encoded_args == '{"to": "secret@example.com"}'
    entries = await schema_driver.pool.run(audit_list())
    assert "secret" not in f"{entries}{caplog.text}"
    assert entries[0].detail == {"kind": "send_mail", "queue": "mail"}


async def test_copy_has_other_args_and_no_unique_key(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """A copy keeps kind, queue, priority, tags and attempts, gets the new args, and can stand beside its original."""
    source = await insert_job(
        schema_driver.pool,
        JobState.AVAILABLE,
        unique_key=b"k",
        unique_states=0b1111_0101,
        queue="mail",
        priority=3,
        tags=["eu1"],
        max_attempts=7,
    )

    answer = await browser.post(f"/jobs/{source.id}/copy", data={"args": '{"to": "b@example.com"}'})

    copy = await get_job(schema_driver.pool, int(answer.headers["location"].removeprefix("/jobs/")))
    assert (copy.kind, copy.queue, copy.priority, copy.tags, copy.max_attempts) == (
        "kind",
        "mail",
        3,
        ("eu1",),
        7,
    )
    assert (copy.encoded_args, copy.unique_key) == ('{"to": "b@example.com"}', None)


async def test_queue_is_paused_and_resumed(browser: httpx.AsyncClient, schema_driver: AsyncpgDriver) -> None:
    """A pause and a resume change the queue's row; a queue that does not exist is not found."""
    await schema_driver.pool.run(queue_create_or_set_updated_at("mail"))

    await browser.post("/queues/mail/pause")
    paused = await schema_driver.pool.run(queue_get("mail"))
    await browser.post("/queues/mail/resume")
    resumed = await schema_driver.pool.run(queue_get("mail"))
    missing = await browser.post("/queues/male/pause")

    assert (paused.is_paused, resumed.is_paused, missing.status_code) == (True, False, 404)
    assert await _audited(schema_driver) == [("resume", "queue mail", 0), ("pause", "queue mail", 0)]


@pytest.mark.parametrize(
    "path", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)", "", "/a\nb"]
)
async def test_browser_stays_on_the_page_after_a_change(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver, path: str
) -> None:
    """A `return_to` that leads elsewhere is not followed."""
    job = await insert_job(schema_driver.pool, JobState.DISCARDED)

    answer = await browser.post(f"/jobs/{job.id}/retry", data={"return_to": path})

    assert answer.headers["location"] == "/"


@pytest.mark.slow
async def test_secret_args_are_opaque_on_the_page_and_in_a_copy(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """The page of a job, a search and the API have no plain text, and a copied job keeps the encrypted value."""
    keys = SecretKeys({"new": b"n" * 32})
    args = encrypt_args('{"card":"planted-4111","order":1}', ["card"], "charge", keys)
    job = await insert_job(schema_driver.pool, kind="charge", args=args)

    await browser.post(f"{API}/jobs/{job.id}/copy", json={})
    shown = [
        (await browser.get(path)).text
        for path in (f"/jobs/{job.id}", "/jobs", f"{API}/jobs/{job.id}", f"{API}/jobs")
    ]
    copies = await schema_driver.pool.run(job_list(JobListParams()))

    assert [copy.encoded_args for copy in copies] == [job.encoded_args] * 2
    assert "planted" not in "".join(shown)
    assert [SECRET_KEY in text for text in shown[::2]] == [True, True]
