"""Statements and plain functions in the thread of a synchronous test."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sample_jobs import Act
from sync_transactions import new_client

from millhand.core.errors import ConfigError, DriverError
from millhand.core.insert_opts import InsertOpts
from millhand.core.unique import UniqueOpts
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.testing.sync import Counts, drain, work


def test_job_client_runs_statements_in_the_thread_of_the_test(url: str, sync_tx: Any) -> None:
    """A failed statement does not affect others, and rows can be copied."""
    asking = Workers()

    @asking.add(kind="act")
    async def act(job: Job[Act]) -> None:
        if job.args.what == "x":
            twice = InsertOpts(unique=UniqueOpts(by_args=True))
            with pytest.raises(DriverError):
                await job.client.insert_many([(Act("same"), twice), (Act("same"), twice)])
            await job.client.insert_many_fast([Act("copied")])

    client = new_client(url, workers=asking)
    client.insert(Act(), tx=sync_tx)

    assert drain(client, tx=sync_tx).counts == Counts(completed=2)


def test_interrupt_of_a_worker_ends_the_test(url: str, sync_tx: Any) -> None:
    """Ctrl-C in a plain function ends the test and does not fail the job."""
    interrupted = Workers()

    @interrupted.add(kind="act")
    def act(job: Job[Act]) -> None:
        raise KeyboardInterrupt

    client = new_client(url, workers=interrupted)
    client.insert(Act(), tx=sync_tx)

    with pytest.raises(KeyboardInterrupt):
        drain(client, tx=sync_tx)


def test_plain_function_cannot_wait_for_the_event_loop(url: str, sync_tx: Any) -> None:
    """The wait would block the thread that it waits for, so `job.client.loop` raises."""
    waiting = Workers()

    @waiting.add(kind="act")
    def act(job: Job[Act]) -> None:
        assert job.client.loop is None

    worked = work(new_client(url, workers=waiting), Act(), tx=sync_tx)

    assert isinstance(worked.error, ConfigError)
    assert str(worked.error).startswith(
        "a plain function that a synchronous test works must not wait for an event"
    )


def test_threads_end_with_the_call(url: str, sync_tx: Any) -> None:
    """No thread of the kit or of its loop is left after a test."""
    client = new_client(url)
    before = set(threading.enumerate())
    work(client, Act(), tx=sync_tx)

    left = set(threading.enumerate()) - before
    assert [thread.name for thread in left if thread.name.startswith(("millhand", "asyncio"))] == []
