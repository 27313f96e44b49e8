"""Statements and plain functions in the thread of a synchronous test."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy
from sample_jobs import Act, settings
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from millhand.config import Config
from millhand.errors import ConfigError, DriverError
from millhand.insert_opts import InsertOpts
from millhand.job import Job
from millhand.sync_client import SyncClient
from millhand.testing.sync import (
    Counts,
    drain,
    work,
)
from millhand.unique import UniqueOpts
from millhand.worker import Workers


@contextlib.contextmanager
def open_transaction(kind: str, url: str) -> Iterator[Any]:
    """Yield a connection or session whose transaction is rolled back."""
    if kind == "psycopg":
        with psycopg.connect(url) as connection:
            yield connection
            connection.rollback()
        return
    engine = create_engine(url.replace("postgresql", "postgresql+psycopg", 1))
    with engine.connect() as connection:
        transaction = connection.begin()
        if kind == "sqlalchemy":
            yield connection
        else:
            with Session(connection, join_transaction_mode="create_savepoint") as session:
                yield session
        transaction.rollback()
    engine.dispose()


@pytest.fixture(
    params=["session", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("psycopg", "sqlalchemy"))]
)
def tx(request: pytest.FixtureRequest, url: str) -> Iterator[Any]:
    """A transaction of each kind that a `SyncClient` takes without Django."""
    with open_transaction(request.param, url) as tx:
        yield tx


def new_client(url: str, **more: Any) -> SyncClient:
    return SyncClient(url, Config(**settings(**more)))


def execute_sql(tx: Any, sql: str) -> None:
    tx.execute(sql if isinstance(tx, psycopg.Connection) else sqlalchemy.text(sql))


def test_job_client_runs_statements_in_the_thread_of_the_test(url: str, tx: Any) -> None:
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
    client.insert(Act(), tx=tx)

    assert drain(client, tx=tx).counts == Counts(completed=2)


def test_interrupt_of_a_worker_ends_the_test(url: str, tx: Any) -> None:
    """Ctrl-C in a plain function ends the test and does not fail the job."""
    interrupted = Workers()

    @interrupted.add(kind="act")
    def act(job: Job[Act]) -> None:
        raise KeyboardInterrupt

    client = new_client(url, workers=interrupted)
    client.insert(Act(), tx=tx)

    with pytest.raises(KeyboardInterrupt):
        drain(client, tx=tx)


def test_plain_function_cannot_wait_for_the_event_loop(url: str, tx: Any) -> None:
    """The wait would block the thread that it waits for, so `job.client.loop` raises."""
    waiting = Workers()

    @waiting.add(kind="act")
    def act(job: Job[Act]) -> None:
        assert job.client.loop is None

    worked = work(new_client(url, workers=waiting), Act(), tx=tx)

    assert isinstance(worked.error, ConfigError)
    assert str(worked.error).startswith(
        "a plain function that a synchronous test works must not wait for an event"
    )


def test_threads_end_with_the_call(url: str, tx: Any) -> None:
    """No thread of the kit or of its loop is left after a test."""
    client = new_client(url)
    before = set(threading.enumerate())
    work(client, Act(), tx=tx)

    left = set(threading.enumerate()) - before
    assert [thread.name for thread in left if thread.name.startswith(("millhand", "asyncio"))] == []
