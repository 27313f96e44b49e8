"""The fetch of a limited queue: when it collects, and when it looks again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from typing import Any

import pytest

from limited_queue import CLIENT, NOW, LimitedQueue, tenants
from millhand.core.errors import ConnectionLost, DriverError, MillhandError, OperationTimeout
from millhand.core.job import JobId, JobRow
from millhand.core.limit import Limit, QueueLimit, Rate
from millhand.db.driver.protocol import Executor
from millhand.engine.pending_change import EndedJobs
from millhand.engine.store.job import job_get_available
from millhand.limits.fetch import LimitedFetch, is_only_at_once
from millhand.limits.job_store import limited_job_admit_available


class Watched:
    """Runs statements, and calls `after` with the name of each before its answer is returned."""

    def __init__(self, executor: Executor, after: Callable[[str], None]) -> None:
        self.after = after
        self.executor = executor
        self.names: list[str] = []

    async def run(self, query: Any) -> Any:
        answer = await self.executor.run(query)
        self.names.append(query.name)
        self.after(query.name)
        return answer


@pytest.fixture
async def queue(tx: Executor) -> LimitedQueue:
    return LimitedQueue(tx, "limited", now=None)


def fetch_of(
    queue: LimitedQueue,
    after: Callable[[str], None] = lambda _name: None,
    *,
    kinds: Sequence[str] | None = None,
    running_ids: Callable[[], Collection[JobId]] = list,
    **given: Any,
) -> LimitedFetch:
    """Return the fetch of a queue with the limit `given`."""
    limit = QueueLimit(queue=queue.queue, limit=Limit(**given), declared=None, num_running=0, updated_at=NOW)
    return LimitedFetch(
        queue.queue,
        Watched(queue.executor, after),
        client_id=CLIENT,
        kinds=kinds,
        limits=lambda: {queue.queue: limit},
        running_ids=running_ids,
    )


def ended(*jobs: JobRow) -> EndedJobs:
    return EndedJobs(
        ids=[job.id for job in jobs],
        attempted_ats=[job.attempted_at or NOW for job in jobs],
        finalized_ats=[NOW] * len(jobs),
    )


async def test_a_fetch_after_a_release_does_not_collect(queue: LimitedQueue) -> None:
    """Only the first fetch, and those after notifications and polls, look for jobs that arrived."""
    await queue.set_limit(at_once=1)
    fetch = fetch_of(queue, at_once=1)

    for _ in range(2):
        await fetch.fetch(5)

    assert fetch._pool.names == ["limited_job_collect", "limited_job_admit", "limited_job_admit"]


async def test_a_fetch_leaves_available_jobs_of_kinds_that_its_client_does_not_know(
    queue: LimitedQueue,
) -> None:
    """A worker in another language takes such a job as it is. A pending one would wait for a client that knows its kind."""
    await queue.set_limit(at_once=1)
    [job] = await queue.insert_unaware("a", kind="only_go")
    fetch = fetch_of(queue, kinds=["push"], at_once=1)

    fetched = await fetch.fetch(5)

    assert (fetched.jobs, await queue.state(job)) == ([], "available")


async def test_a_fetch_that_completes_jobs_does_not_collect_and_the_next_one_follows_at_once(
    queue: LimitedQueue,
) -> None:
    """Outcomes do not wait for a collect; what may have arrived is collected by the next fetch."""
    await queue.set_limit(at_once=1)
    await queue.insert("a", "b")
    [job] = await queue.fetch(1)
    fetch = fetch_of(queue, at_once=1)
    completed = fetch.complete(ended(job))

    fetched = await fetch.fetch(5)

    assert (await completed, tenants(fetched.jobs), fetch.num_ended) == ([job.id], ["b"], 0)
    assert (fetch._pool.names, fetched.again_in_seconds) == (["limited_job_complete_and_admit"], 0.0)


async def test_jobs_that_a_fetch_did_not_complete_are_given_back(queue: LimitedQueue) -> None:
    """The completer gets None for what was not sent, and for a failure."""
    await queue.set_limit(at_once=1)
    await queue.insert("a")
    [job] = await queue.fetch(1)

    def fail(_name: str) -> None:
        raise OperationTimeout("limited_job_complete_and_admit", 10.0)

    fetch, failing = fetch_of(queue, at_once=1), fetch_of(queue, fail, at_once=1)
    not_sent, failed = fetch.complete(ended(job)), failing.complete(ended(job))
    fetch.give_back()
    with pytest.raises(OperationTimeout):
        await failing.fetch(5)

    assert [await not_sent, await failed, fetch.num_ended, failing.num_ended] == [None, None, 0, 0]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"at_once": 2, "by_args": ["tenant"], "by_kind": True, "shared": True}, True),
        ({"at_once_per_client": 2}, False),
        ({"at_once": 2, "at_once_per_client": 1}, False),
        ({"at_once": 2, "total": 3}, False),
        ({"in_order": True}, False),
        ({"at_once": 2, "rate": Rate(1, per=timedelta(seconds=1), burst=1)}, False),
    ],
)
def test_a_fetch_completes_jobs_only_under_a_number_at_once(given: dict[str, Any], expected: bool) -> None:
    """The statement does not know the other parts of a limit."""
    assert is_only_at_once(Limit(**given)) is expected


async def test_a_notification_that_comes_during_a_collect_leads_to_another(queue: LimitedQueue) -> None:
    """The job may have been inserted after the statement began."""
    await queue.set_limit(at_once=1)

    def notify(name: str) -> None:
        if name == "limited_job_collect":
            fetch.may_have_arrived = True

    fetch = fetch_of(queue, notify, at_once=1)
    fetched = await fetch.fetch(5)

    assert (fetch.may_have_arrived, fetched.again_in_seconds) == (True, 0.0)


async def test_the_next_start_of_a_rate_is_when_a_fetch_looks_again(queue: LimitedQueue) -> None:
    """The producer sleeps until the next token is there."""
    await queue.set_limit(rate_allowed=1, rate_seconds=60.0, rate_burst=1)
    await queue.insert("a", "b")

    fetched = await fetch_of(queue, at_once=1).fetch(5)

    assert (len(fetched.jobs), fetched.opens_in_seconds) == (1, pytest.approx(60.0))


async def test_jobs_that_a_lost_fetch_found_count_for_the_limit_of_a_client(queue: LimitedQueue) -> None:
    """An admission whose answer was lost marked them running; and the next fetch counts them."""
    await queue.set_limit(at_once_per_client=2, by_args=["tenant"])
    await queue.insert(*"aaab")
    lost = await queue.fetch(1)
    fetch = fetch_of(
        queue, running_ids=lambda: [job.id for job in lost], at_once_per_client=2, by_args=["tenant"]
    )

    fetched = await fetch.fetch(9)
    await fetch.fetch(9)

    assert tenants(fetched.jobs) == ["a", "b"]
    assert fetch._pool.names.count("limited_job_get_partition_keys") == 1


async def test_a_job_that_was_fetched_before_the_limit_counts_for_no_partition(queue: LimitedQueue) -> None:
    """It has no place, so it is asked for once, and the limit of the client is for the jobs after it."""
    await queue.insert("a")
    [job] = await queue.executor.run(job_get_available(queue=queue.queue, limit=1, client_id=CLIENT))
    await queue.set_limit(at_once_per_client=1)
    await queue.insert("a")
    fetch = fetch_of(queue, running_ids=lambda: [job.id], at_once_per_client=1)

    fetched = [await fetch.fetch(9) for _ in range(2)]

    assert len(fetched[0].jobs) == 1
    assert fetch._pool.names.count("limited_job_get_partition_keys") == 1


async def test_a_free_worker_is_no_reason_to_fetch_while_the_limit_is_reached(queue: LimitedQueue) -> None:
    """The limit is reached when no partition with waiting jobs has a slot left, not when the client has its jobs."""
    await queue.set_limit(at_once=2)
    await queue.insert(*"aaa")
    fetch = fetch_of(queue, at_once=2)

    one, other = [await fetch.fetch(1) for _ in range(2)]

    assert [len(one.jobs), len(other.jobs)] == [1, 1]
    assert [one.needs_release, other.needs_release] == [False, True]


async def test_a_job_that_the_leader_admitted_is_fetched_although_the_fetch_admits_enough(
    queue: LimitedQueue,
) -> None:
    """In a shared queue it has a slot and is available: it starts before others are admitted, and waits for no poll."""
    await queue.set_limit(at_once=3, is_shared=True)
    inserted = await queue.insert(*"aaaa")
    await queue.collect()
    await queue.executor.run(limited_job_admit_available(queue=queue.queue, limit=1))
    fetch = fetch_of(queue, at_once=3, shared=True)

    fetched = [await fetch.fetch(1) for _ in range(4)]

    assert [[job.id for job in one.jobs] for one in fetched] == [[job.id] for job in inserted[:3]] + [[]]
    assert [one.needs_release for one in fetched] == [False, False, True, True]


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [
        (DriverError("limited_job_admit", "deadlock detected", retryable=True, sqlstate="40P01"), False),
        (DriverError("limited_job_admit", "permission denied", sqlstate="42501"), False),
        (ConnectionLost("limited_job_admit", "connection reset"), True),
        (OperationTimeout("limited_job_admit", 10.0), True),
    ],
)
async def test_jobs_that_have_slots_start_although_the_admission_after_them_is_refused(
    queue: LimitedQueue, error: MillhandError, *, is_lost: bool
) -> None:
    """They are marked running, and no search follows a refusal. After a lost answer one follows, which finds them."""
    await queue.set_limit(at_once=1, is_shared=True)
    [inserted] = await queue.insert("a")
    await queue.collect()
    await queue.executor.run(limited_job_admit_available(queue=queue.queue, limit=1))

    def refuse(name: str) -> None:
        if name == "limited_job_admit":
            raise error

    fetch = fetch_of(queue, refuse, at_once=1, shared=True)
    fetched = None
    with contextlib.suppress(ConnectionLost, OperationTimeout):
        fetched = await fetch.fetch(5)
    with pytest.raises(type(error)):
        await fetch.fetch(5)

    ids = None if fetched is None else [job.id for job in fetched.jobs]
    assert (ids, fetched and fetched.again_in_seconds) == ((None, None) if is_lost else ([inserted.id], 0.0))


async def test_a_fetch_that_completes_jobs_admits_none_before_those_that_have_slots(
    queue: LimitedQueue,
) -> None:
    """As many available jobs as workers: those that are left start before others take the slots that are released."""
    await queue.set_limit(at_once=2, is_shared=True)
    inserted = await queue.insert(*"aaa")
    await queue.collect()
    await queue.executor.run(limited_job_admit_available(queue=queue.queue, limit=2))
    fetch = fetch_of(queue, at_once=2, shared=True)
    [first] = (await fetch.fetch(1)).jobs
    completed = fetch.complete(ended(first))

    fetched = [await fetch.fetch(1) for _ in range(3)]

    assert await completed == [first.id]
    assert [[job.id for job in one.jobs] for one in fetched] == [[], [inserted[1].id], [inserted[2].id]]
    assert fetched[0].again_in_seconds == 0.0


async def test_jobs_are_given_back_with_what_is_known_of_available_ones(queue: LimitedQueue) -> None:
    """The queue may have no limit any more, so no fetch is for them; if it still has one, the next fetch collects."""
    await queue.set_limit(at_once=2, is_shared=True)
    await queue.insert(*"aa")
    await queue.collect()
    await queue.executor.run(limited_job_admit_available(queue=queue.queue, limit=2))
    fetch = fetch_of(queue, at_once=2, shared=True)
    await fetch.fetch(1)
    before = (fetch.has_available, fetch.may_have_arrived)

    fetch.give_back()

    assert [before, (fetch.has_available, fetch.may_have_arrived)] == [(True, False), (False, True)]
