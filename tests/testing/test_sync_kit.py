"""The test kit for tests that are plain functions: it uses their thread and their open transaction."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy
from sample_jobs import DAY, HOUR, START, Act, Beget, Nightly, rows_left, settings
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from millhand.config import Config
from millhand.driver.asyncpg import AsyncpgDriver
from millhand.insert_opts import InsertOpts
from millhand.job import Job, JobState
from millhand.sync_client import SyncClient
from millhand.testing.sync import (
    Counts,
    drain,
    require_inserted,
    require_many_inserted,
    require_not_inserted,
    time_travel,
    work,
    work_again,
    work_one,
)
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


async def test_plain_functions_work_in_the_thread_and_transaction_of_the_test(
    url: str, driver: AsyncpgDriver, tx: Any
) -> None:
    """Worker and test see each other's rows; breaking the transaction fails one attempt; a rollback leaves nothing."""
    threads: list[threading.Thread] = []
    plain = Workers()

    @plain.add(kind="act")
    def act(job: Job[Act]) -> None:
        threads.append(threading.current_thread())
        execute_sql(tx, f"UPDATE river_job SET tags = '{{{job.args.what}}}' WHERE kind = 'nightly'")
        if job.args.what == "break":
            execute_sql(tx, "SELECT 1 / 0")

    client = new_client(url, workers=plain, skip_unknown_job_check=True)
    client.insert_many([Act("break"), Nightly(), Act("tag")], tx=tx)

    first = work_one(client, tx=tx)
    untouched = require_inserted(client, Nightly, tx=tx)
    second = drain(client, tx=tx)

    assert first is not None
    assert "division by zero" in str(first.error)
    assert (untouched.tags, require_inserted(client, Nightly, tx=tx).tags) == ((), ("tag",))
    assert second.counts == Counts(completed=1)
    assert threads == [threading.current_thread()] * 2
    assert await rows_left(driver) == 0


def test_coroutines_work_beside_in_the_same_transaction(url: str, tx: Any) -> None:
    """The `job.client` of a coroutine uses the test's transaction, through the test's thread."""
    client = new_client(url)
    client.insert(Beget(2), tx=tx)

    assert drain(client, tx=tx).counts == Counts(completed=3)
    assert len(require_many_inserted(client, *["beget"] * 3, tx=tx)) == 3
    require_not_inserted(client, Nightly, tx=tx)


def test_one_job_is_worked_and_worked_again(url: str, tx: Any) -> None:
    """`work` makes the first attempt and `work_again` the next one, as with a `Client`."""
    client = new_client(url)

    failed = work(client, Act("fail once"), tx=tx)
    done = work_again(client, failed.job, tx=tx)

    assert (str(failed.error), done.job.state) == ("no such thing", JobState.COMPLETED)


def test_sync_drain_raises_failures_on_request(url: str, tx: Any) -> None:
    """The worker's error is raised in the calling thread."""
    client = new_client(url)
    client.insert(Act("fail"), tx=tx)

    with pytest.raises(LookupError, match=r"^no such thing$"):
        drain(client, tx=tx, raise_failures=True)


def test_sync_time_travel_moves_the_clock(url: str, tx: Any) -> None:
    """Scheduled, retried and periodic jobs follow the test's clock, and inserts need no `tx`."""
    client = new_client(url, completed_job_retention=None)
    with time_travel(client, tx=tx, now=START) as travel:
        client.insert_many_fast([Act("fail once")])
        client.insert(Act("later"), InsertOpts(scheduled_at=START + DAY))
        assert drain(client).counts == Counts(failed=1)
        travel.advance(HOUR)
        assert drain(client).counts == Counts(completed=1)

        lived = travel.work_for(days=2)
        travel.advance_to(START + 3 * DAY)
        assert travel.work_until(travel.now(), "default").counts == Counts(completed=1)
        nights = require_many_inserted(client, *[Nightly] * 3)

    assert lived.counts == Counts(completed=3)
    assert [night.attempted_at for night in nights] == [
        START + 18 * HOUR,
        START + 42 * HOUR,
        START + 3 * DAY,  # found on arrival
    ]


async def test_session_that_a_plain_worker_commits_is_not_committed(url: str, driver: AsyncpgDriver) -> None:
    """With savepoints in place of transactions, the worker may commit and then fail, and a rollback leaves nothing."""
    with open_transaction("session", url) as session:
        sharing = Workers()

        @sharing.add(kind="act")
        def act(job: Job[Act]) -> None:
            session.commit()
            if job.args.what == "break":
                execute_sql(session, "SELECT 1 / 0")

        client = new_client(url, workers=sharing)
        client.insert_many([Act("commit"), Act("break")], tx=session)

        assert drain(client, tx=session).counts == Counts(completed=1, failed=1)
    assert await rows_left(driver) == 0
