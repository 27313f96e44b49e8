"""Claims about `JobLog` in a running client."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest

from client_harness import GENEROUS, Act, ClientHarness
from millhand.core.errors import JobSnooze
from millhand.core.event import EventKind
from millhand.core.job import JobId
from millhand.core.retry import ConstantRetryPolicy
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.observe.job_log import LOG_KEY, JobLog

log = logging.getLogger("shop.orders")
OURS = logging.getLogger("millhand.observe.job_log")
PLAIN = logging.Formatter("%(levelname)s %(message)s")


@pytest.fixture(autouse=True)
def _info() -> Iterator[None]:
    log.setLevel(logging.INFO)
    yield
    log.setLevel(logging.NOTSET)


async def test_each_attempt_has_an_entry(harness: ClientHarness) -> None:
    """Each failed, snoozed or completed attempt has an entry with its lines, also from tasks and threads."""
    workers = Workers()

    @workers.add(retry=ConstantRetryPolicy(timedelta(0)))
    async def act(job: Job[Act]) -> None:
        log.info("attempt %d, %d entries", job.attempt, len(job.metadata.get(LOG_KEY, ())))
        log.debug("not let through")
        if job.attempt == 1:
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.to_thread(log.warning, "from a thread"))
            raise ValueError("x")
        if "snoozes" not in job.metadata:
            raise JobSnooze(timedelta(0))

    async with harness.client(workers, middleware=[JobLog(formatter=PLAIN)]) as client:
        with client.subscribe() as events:
            await client.insert(Act("x"))
            kinds = [(await harness.next(events)).kind for _ in range(3)]
        is_listening = any("PageHandler" in repr(handler) for handler in logging.getLogger().handlers)

    assert kinds == [EventKind.JOB_FAILED, EventKind.JOB_SNOOZED, EventKind.JOB_COMPLETED]
    assert (await harness.row(JobId(1))).metadata[LOG_KEY] == [
        {"attempt": 1, "log": "INFO attempt 1, 0 entries\nWARNING from a thread\n"},
        {"attempt": 2, "log": "INFO attempt 2, 1 entries\n"},
        {"attempt": 2, "log": "INFO attempt 2, 2 entries\n"},
    ]
    assert not is_listening
    assert "observe" not in (await harness.row(JobId(1))).errors[0].trace


async def test_jobs_side_by_side_keep_their_own_lines(harness: ClientHarness) -> None:
    """Of twenty concurrent jobs, half of them in threads, each entry has only the job's own lines."""
    all_here = threading.Barrier(10)
    workers = Workers()

    @workers.add(kind="in_a_thread")
    def in_a_thread(what: str) -> None:
        log.info("begin %s", what)
        all_here.wait(20.0)
        log.info("end %s", what)

    @workers.add()
    async def act(job: Job[Act]) -> None:
        log.info("begin %s", job.args.what)
        await asyncio.sleep(0)
        log.info("end %s", job.args.what)

    async with harness.client(
        workers, middleware=[JobLog(formatter=PLAIN)], queues={"default": 20}
    ) as client:
        with client.subscribe() as events:
            await client.insert_many([Act(str(n)) for n in range(10)])
            await client.insert_many([in_a_thread.args(str(n)) for n in range(10)])
            log.info("nobody's")
            for _ in range(20):
                await harness.next(events)

    rows = await harness.rows()
    assert [row.metadata[LOG_KEY] for row in rows] == [
        [{"attempt": 1, "log": f"INFO begin {row.args['what']}\nINFO end {row.args['what']}\n"}]
        for row in rows
    ]


@pytest.mark.slow
async def test_completed_job_is_logged_at_info_if_the_configuration_asks(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """A client logs `job completed` with its duration at DEBUG, and with `log_completed_jobs` at INFO."""
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None: ...

    caplog.set_level(logging.DEBUG, "millhand.engine.job_executor")
    for settings in ({}, {"log_completed_jobs": True}):
        async with harness.client(workers, **settings) as client:
            await harness.work(client, Act("once"))

    records = [record for record in caplog.records if vars(record).get("event") == "job completed"]
    assert [record.levelname for record in records] == ["DEBUG", "INFO"]
    assert all(0 <= vars(record)["run_seconds"] < GENEROUS for record in records)
