"""The test kit for tests that are plain functions: it uses their thread and their open transaction."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sample_jobs import DAY, HOUR, START, Act, Beget, Nightly, rows_left
from sync_transactions import execute_sql, new_client, open_transaction

from millhand.core.insert_opts import InsertOpts
from millhand.core.job import JobState
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.flows.flow import Flow, FlowState
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


async def test_plain_functions_work_in_the_thread_and_transaction_of_the_test(
    url: str, driver: AsyncpgDriver, sync_tx: Any
) -> None:
    """Worker and test see each other's rows; breaking the transaction fails one attempt; a rollback leaves nothing."""
    threads: list[threading.Thread] = []
    plain = Workers()

    @plain.add(kind="act")
    def act(job: Job[Act]) -> None:
        threads.append(threading.current_thread())
        execute_sql(sync_tx, f"UPDATE river_job SET tags = '{{{job.args.what}}}' WHERE kind = 'nightly'")
        if job.args.what == "break":
            execute_sql(sync_tx, "SELECT 1 / 0")

    client = new_client(url, workers=plain, skip_unknown_job_check=True)
    client.insert_many([Act("break"), Nightly(), Act("tag")], tx=sync_tx)

    first = work_one(client, tx=sync_tx)
    untouched = require_inserted(client, Nightly, tx=sync_tx)
    second = drain(client, tx=sync_tx)

    assert first is not None
    assert "division by zero" in str(first.error)
    assert (untouched.tags, require_inserted(client, Nightly, tx=sync_tx).tags) == ((), ("tag",))
    assert second.counts == Counts(completed=1)
    assert threads == [threading.current_thread()] * 2
    assert await rows_left(driver) == 0


@pytest.mark.slow
def test_coroutines_work_beside_in_the_same_transaction(url: str, sync_tx: Any) -> None:
    """The `job.client` of a coroutine uses the test's transaction, through the test's thread."""
    client = new_client(url)
    client.insert(Beget(2), tx=sync_tx)

    assert drain(client, tx=sync_tx).counts == Counts(completed=3)
    assert len(require_many_inserted(client, *["beget"] * 3, tx=sync_tx)) == 3
    require_not_inserted(client, Nightly, tx=sync_tx)


@pytest.mark.slow
def test_one_job_is_worked_and_worked_again(url: str, sync_tx: Any) -> None:
    """`work` makes the first attempt and `work_again` the next one, as with a `Client`."""
    client = new_client(url)

    failed = work(client, Act("fail once"), tx=sync_tx)
    done = work_again(client, failed.job, tx=sync_tx)

    assert (str(failed.error), done.job.state) == ("no such thing", JobState.COMPLETED)


def test_sync_drain_raises_failures_on_request(url: str, sync_tx: Any) -> None:
    """The worker's error is raised in the calling thread."""
    client = new_client(url)
    client.insert(Act("fail"), tx=sync_tx)

    with pytest.raises(LookupError, match=r"^no such thing$"):
        drain(client, tx=sync_tx, raise_failures=True)


@pytest.mark.slow
def test_sync_time_travel_moves_the_clock(url: str, sync_tx: Any) -> None:
    """Scheduled, retried and periodic jobs follow the test's clock, and inserts need no `sync_tx`."""
    client = new_client(url, completed_job_retention=None)
    with time_travel(client, tx=sync_tx, now=START) as travel:
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


@pytest.mark.slow
def test_sync_drain_works_flows_and_limited_queues(url: str, sync_tx: Any) -> None:
    """In a synchronous test, a flow whose tasks are in a limited queue is worked to its end, and read with `tx`."""
    plain = Workers()

    @plain.add(kind="act")
    def act(job: Job[Act]) -> None: ...

    client = new_client(url, workers=plain, skip_unknown_job_check=True)
    client.limits.set("calls", at_once=1, tx=sync_tx)
    flow = Flow("report")
    first = flow.add(Act("first"), InsertOpts(queue="calls"), name="first")
    flow.add(Act("second"), InsertOpts(queue="calls"), after=[first], name="second")
    inserted = client.insert_flow(flow, tx=sync_tx)

    drained = drain(client, tx=sync_tx)

    assert [one.job.args["what"] for one in drained.worked] == ["first", "second"]
    assert client.flows.get(inserted.id, tx=sync_tx).state is FlowState.COMPLETED
