"""Clients that know some kinds only, as in a deployment."""

from __future__ import annotations

import pytest

from limited_queue import LimitedQueue, tenants
from millhand.db.driver.protocol import Executor
from millhand.limits.job_store import PARTITIONS_MIN
from millhand.limits.report_store import limit_get_due_kinds


@pytest.fixture
async def queue(tx: Executor) -> LimitedQueue:
    return LimitedQueue(tx, "limited")


async def test_a_partition_stays_open_for_kinds_that_only_other_clients_know(queue: LimitedQueue) -> None:
    """A client that knows none of the kinds, or some, leaves the other jobs to those that know them, without a collect."""
    await queue.set_limit(at_once=3)
    await queue.insert("a", kind="new")
    await queue.insert("b", kind="old")
    await queue.collect()

    unknown = await queue.admit(kinds=["another"])
    old = await queue.admit(kinds=["old"])
    new = await queue.admit(kinds=["new"])

    assert [tenants(one.jobs) for one in (unknown, old, new)] == [[], ["b"], ["a"]]
    assert [one.has_more for one in (unknown, old, new)] == [False, False, False]
    assert [row["is_open"] for row in (await queue.partitions()).values()] == [False]
    await queue.check()


@pytest.mark.parametrize(
    ("columns", "states"),
    [
        pytest.param({}, ["available", "pending"], id="exclusive"),
        pytest.param({"is_shared": True}, ["pending", "pending"], id="shared"),
        pytest.param({"in_order": True}, ["pending", "pending"], id="in order"),
    ],
)
async def test_a_collect_leaves_jobs_of_other_kinds_to_workers_in_other_languages(
    queue: LimitedQueue, columns: dict[str, bool], states: list[str]
) -> None:
    """Such jobs stay available, unless these workers share the queue, or the jobs have places in an order."""
    await queue.set_limit(at_once=1, **columns)
    [other] = await queue.insert_unaware("a", kind="only_go")
    [known] = await queue.insert_unaware("b")

    await queue.collect(kinds=["push"])

    assert [await queue.state(job) for job in (other, known)] == states


async def test_each_client_collects_the_jobs_that_it_works(queue: LimitedQueue) -> None:
    """Clients with different kinds let their own jobs wait, and share the slots."""
    await queue.set_limit(at_once=1)
    await queue.insert_unaware("a", kind="old")
    await queue.insert_unaware("b", kind="new")

    new = await queue.fetch(kinds=["new"])
    full = await queue.fetch(kinds=["old"])
    await queue.complete(*new)
    old = await queue.fetch(kinds=["old"])

    assert [tenants(jobs) for jobs in (new, full, old)] == [["b"], [], ["a"]]
    await queue.check()


async def test_partitions_of_other_kinds_hide_no_job(queue: LimitedQueue) -> None:
    """However many partitions have only jobs of kinds that a client does not know, it admits the job that it knows."""
    await queue.set_limit(at_once=1, by_args=["tenant"])
    await queue.insert(*(f"a{number}" for number in range(2 * PARTITIONS_MIN)), kind="gone")
    await queue.insert("b", kind="known")
    await queue.collect()

    admission = await queue.admit(1, kinds=["known"])

    assert (tenants(admission.jobs), admission.has_more) == (["b"], False)


async def test_the_row_of_a_deleted_job_is_deleted_by_clients_that_know_some_kinds(
    queue: LimitedQueue,
) -> None:
    """A job that was deleted has no kind any more; its row leaves with the next admission, which is then full."""
    await queue.set_limit(at_once=1)
    gone, job = await queue.insert("a", "b")
    await queue.executor.fetch("DELETE FROM river_job WHERE id = $1", [gone.id])

    started = await queue.fetch(kinds=["push"])

    assert [one.id for one in started] == [job.id]
    assert [row["job_id"] for row in await queue.limited_jobs()] == [job.id]


async def test_a_job_in_order_does_not_overtake_one_of_another_kind(queue: LimitedQueue) -> None:
    """A client that does not know the kind of the first job starts none; one that knows it starts both in order."""
    await queue.set_limit(at_once=1, in_order=True)
    await queue.insert("a", kind="new")
    await queue.insert("b", kind="old")

    waiting = await queue.fetch(kinds=["old"])
    first = await queue.fetch(kinds=["new"])
    await queue.complete(*first)
    second = await queue.fetch(kinds=["old"])

    assert [tenants(jobs) for jobs in (waiting, first, second)] == [[], ["a"], ["b"]]


async def test_kinds_that_are_next_in_their_partitions_are_reported(queue: LimitedQueue) -> None:
    """The first job of each open partition counts; those behind it, in full and in held partitions do not."""
    await queue.set_limit(at_once=1, by_args=["tenant"])
    for tenant, kind in (
        ("a", "gone"),
        ("a", "push"),
        ("b", "gone"),
        ("c", "push"),
        ("full", "push"),
        ("full", "gone"),
    ):
        await queue.insert(tenant, kind=kind)
    await queue.collect()
    await queue.executor.fetch(
        "UPDATE millhand_limit_partition SET is_open = false, running = 1 WHERE partition_key LIKE '%full%'"
    )

    found = await queue.executor.run(limit_get_due_kinds([queue.queue, "other"], limit=9))

    assert [(one.queue, one.kind, one.num_due) for one in found] == [
        (queue.queue, "gone", 2),
        (queue.queue, "push", 1),
    ]
