"""A schema with jobs of the last minute, as the leader has counted them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from factory import insert_job, qualified
from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.history.writer import HistoryWriter
from millhand.testing import ManualClock

MINUTE = timedelta(minutes=1)
ERROR = "ReadTimeout: <b>POST</b> https://hooks.example.net/7 gave no answer"


@pytest.fixture
async def counted(schema_driver: AsyncpgDriver) -> AsyncpgDriver:
    """A schema in whose last minute three jobs completed and two failed, as the leader has counted them."""
    pool = schema_driver.pool
    [row] = await pool.fetch("SELECT date_trunc('minute', now() - interval '10 seconds') AS ended")
    ended: datetime = row["ended"]
    at = ended - MINUTE / 2
    begin = (
        "INSERT INTO /* schema */millhand_history (holder, expires_at, counted_to) VALUES ('me', now(), $1)"
    )
    await pool.fetch(qualified(begin, pool), [ended - MINUTE])
    times = {"attempted_at": at - MINUTE / 60, "scheduled_at": at - MINUTE / 30, "attempt": 1}
    for _ in range(3):
        await insert_job(pool, JobState.COMPLETED, kind="send_mail", finalized_at=at, **times)
    error = {
        "at": at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "attempt": 1,
        "error": ERROR,
        "trace": "",
    }
    for state, more in (
        (JobState.DISCARDED, {"finalized_at": at}),
        (JobState.RETRYABLE, {"scheduled_at": at + MINUTE}),
    ):
        columns = {**times, "errors": [json.dumps(error)], "kind": "call_hook", "queue": "hooks", **more}
        await insert_job(pool, state, **columns)
    await HistoryWriter(pool, clock=ManualClock(datetime.now(UTC)), holder="me").run_once()
    return schema_driver
