"""The same for tests that are no coroutines: the caller's thread, and the transaction that is open in it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from testing_room import DAY, HOUR, START, Act, Beget, Nightly, rows_left, settings

from millhand.config import Config
from millhand.driver.asyncpg import AsyncpgDriver
from millhand.errors import ConfigError, DriverError
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
from millhand.unique import UniqueOpts
from millhand.worker import Workers


@contextlib.contextmanager
def stage(kind: str, url: str) -> Iterator[Any]:
    """Yield a connection, or a session, whose transaction is rolled back."""
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
    with stage(request.param, url) as tx:
        yield tx


def new_client(url: str, **more: Any) -> SyncClient:
    return SyncClient(url, Config(**settings(**more)))


def speak(tx: Any, sql: str) -> None:
    tx.execute(sql if isinstance(tx, psycopg.Connection) else sqlalchemy.text(sql))


async def test_plain_functions_work_in_the_thread_and_transaction_of_the_test(
    url: str, driver: AsyncpgDriver, tx: Any
) -> None:
    """They see its rows, it sees theirs; what breaks the transaction costs one attempt; nothing is left of it."""
    threads: list[threading.Thread] = []
    plain = Workers()

    @plain.add(kind="act")
    def act(job: Job[Act]) -> None:
        threads.append(threading.current_thread())
        speak(tx, f"UPDATE river_job SET tags = '{{{job.args.what}}}' WHERE kind = 'nightly'")
        if job.args.what == "break":
            speak(tx, "SELECT 1 / 0")

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
    """`job.client` of a coroutine speaks in the transaction of the test, whose thread does it for it."""
    client = new_client(url)
    client.insert(Beget(2), tx=tx)

    assert drain(client, tx=tx).counts == Counts(completed=3)
    assert len(require_many_inserted(client, *["beget"] * 3, tx=tx)) == 3
    require_not_inserted(client, Nightly, tx=tx)


def test_one_job_is_worked_and_worked_again(url: str, tx: Any) -> None:
    """Insert and work in one call, then the next attempt, as with a `Client`."""
    client = new_client(url)

    failed = work(client, Act("fail once"), tx=tx)
    done = work_again(client, failed.job, tx=tx)

    assert (str(failed.error), done.job.state) == ("no such thing", JobState.COMPLETED)


def test_failures_are_raised_where_that_is_asked_of_sync_code(url: str, tx: Any) -> None:
    """The worker's own error comes out of the call, through the thread beside."""
    client = new_client(url)
    client.insert(Act("fail"), tx=tx)

    with pytest.raises(LookupError, match=r"^no such thing$"):
        drain(client, tx=tx, raise_failures=True)


def test_time_is_travelled_without_an_event_loop(url: str, tx: Any) -> None:
    """Scheduled, retried and periodic jobs by the test's clock; inserts need no `tx` on the way."""
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
    """With savepoints in place of transactions the worker may commit, fail afterwards, and all is rolled back at the end."""
    with stage("session", url) as session:
        sharing = Workers()

        @sharing.add(kind="act")
        def act(job: Job[Act]) -> None:
            session.commit()
            if job.args.what == "break":
                speak(session, "SELECT 1 / 0")

        client = new_client(url, workers=sharing)
        client.insert_many([Act("commit"), Act("break")], tx=session)

        assert drain(client, tx=session).counts == Counts(completed=1, failed=1)
    assert await rows_left(driver) == 0


def test_client_of_a_coroutine_beside_is_as_free_as_in_production(url: str, tx: Any) -> None:
    """A statement that the database refuses harms nothing, and rows are copied, all by the thread of the test."""
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
    """Ctrl-C that comes while a plain function works is not taken for a failure of its job."""
    interrupted = Workers()

    @interrupted.add(kind="act")
    def act(job: Job[Act]) -> None:
        raise KeyboardInterrupt

    client = new_client(url, workers=interrupted)
    client.insert(Act(), tx=tx)

    with pytest.raises(KeyboardInterrupt):
        drain(client, tx=tx)


def test_plain_function_is_kept_from_waiting_for_itself(url: str, tx: Any) -> None:
    """The thread in which it would wait is the one that it would wait for: told, and no standstill."""
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
    """A test leaves no thread of the kit, or of its loop, behind; those of the test runner come and go by themselves."""
    client = new_client(url)
    before = set(threading.enumerate())
    work(client, Act(), tx=tx)

    left = set(threading.enumerate()) - before
    assert [thread.name for thread in left if thread.name.startswith(("millhand", "asyncio"))] == []
