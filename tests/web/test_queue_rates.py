"""Claims about how fast queues are worked, and about the time until they are empty."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from factory import insert_job
from millhand.core.clock import SystemClock
from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.queue_report import QueueReport
from millhand.history.queue_depth import DEPTH_MAX, QueueDepth
from millhand.shells.web.database import WebDatabase
from millhand.web.queue_rates import QueueRate, load_rates, rate_of

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def rate(now: int, before: int | None, *, finished: float = 2.0, is_capped: bool = False, **load: Any) -> Any:
    report = QueueReport(
        **{
            "name": "mail",
            "num_available": now,
            "num_retryable": 0,
            "num_running": 0,
            "num_scheduled": 0,
            **load,
        }
    )
    depth = None if before is None else QueueDepth(NOW, "mail", before, 0, 0, 0, 0, is_capped)
    return rate_of(report, before=depth, finished=finished, minutes=10)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (rate(10, 30), QueueRate(finished=2, inserted=0, growth=-2, empty_in=5 * MINUTE)),
        (rate(30, 10), QueueRate(finished=2, inserted=4, growth=2)),
        (rate(10, None), QueueRate(finished=2, inserted=3, growth=1)),
        (rate(10, 10), QueueRate(finished=2, inserted=2, growth=0)),
        (rate(0, 20), QueueRate(finished=2, inserted=0, growth=-2)),
        # Scheduled jobs were inserted, but none is available yet.
        (rate(10, 10, num_scheduled=50), QueueRate(finished=2, inserted=7, growth=0)),
        # Jobs were deleted or moved: fewer than none cannot be inserted.
        (rate(0, 100, finished=0), QueueRate(finished=0, inserted=0, growth=-10)),
        (rate(10, 30, is_capped=True), QueueRate(finished=2)),
        (rate(DEPTH_MAX + 1, 30), QueueRate(finished=2)),
        (rate(10, 30, num_retryable=DEPTH_MAX + 1), QueueRate(finished=2)),
    ],
)
def test_rate_of_a_queue_is_its_finished_jobs_and_its_growth(found: QueueRate, expected: QueueRate) -> None:
    """Inserted are the finished jobs and the growth; a queue that shrinks has a time until it is empty."""
    assert found == expected


@pytest.mark.slow
async def test_queues_page_has_rates_once_the_history_has_ten_minutes(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """Without history there is no rate; with it, the page says how a queue changes."""
    await insert_job(schema_driver.pool, JobState.AVAILABLE, queue="mail")
    before = (await browser.get("/api/v1/queues")).json()["rates"]
    await schema_driver.pool.execute_script(
        "INSERT INTO /* schema */millhand_queue_depth (step, began_at, queue, available, running, retryable, scheduled,"
        " oldest_ms, is_capped)"
        " SELECT 60, to_timestamp(floor(extract(epoch FROM now() - n * interval '1 minute') / 60) * 60), 'mail',"
        " 21, 0, 0, 0, 0, FALSE FROM generate_series(8, 12) AS n"
    )
    rates = (await browser.get("/api/v1/queues")).json()["rates"]
    html = (await browser.get("/queues")).text

    assert before == {}
    assert rates["mail"]["growth"] == pytest.approx(-2, rel=0.15)
    assert "empty in " in html


async def test_rates_are_of_all_queues_of_the_page(schema_driver: AsyncpgDriver) -> None:
    """Of the last of 250 queues, each with jobs in every minute, the rate is that of the first."""
    now = datetime.now(UTC)
    await schema_driver.pool.execute_script(
        "INSERT INTO /* schema */millhand_queue_depth"
        " SELECT 60, date_trunc('minute', now()) - n * interval '1 minute', 'q' || lpad(q::text, 3, '0'), 0, 0, 0, 0, 0,"
        " FALSE FROM generate_series(8, 12) AS n, generate_series(1, 250) AS q;"
        "INSERT INTO /* schema */millhand_job_stats"
        " SELECT 60, date_trunc('minute', now()) - n * interval '1 minute', '*', 'q' || lpad(q::text, 3, '0'), 6, 0, 0,"
        " 0, 0, 0, '{}', '{}', 1 FROM generate_series(0, 12) AS n, generate_series(1, 250) AS q"
    )
    reports = [
        QueueReport(name=name, num_available=0, num_retryable=0, num_running=0, num_scheduled=0)
        for name in ("q001", "q250", "never")
    ]

    rates = await load_rates(WebDatabase(schema_driver, SystemClock(), is_owner=False), reports, now)

    assert {name: rate.finished for name, rate in rates.items()} == {"q001": 6.0, "q250": 6.0, "never": 0.0}
