"""Claims about the statements that show what waits in queues, on rows of any shape."""

from __future__ import annotations

import pytest
from store_rows import HOUR, NOW, put_job

from millhand.core.job import JobState
from millhand.core.queue import QueueRow
from millhand.db.driver.protocol import Executor
from millhand.engine.store.queue import queue_create_or_set_updated_at
from millhand.engine.store.queue_load import (
    DueKind,
    QueueLoad,
    queue_get_due_kinds,
    queue_get_loads,
    queue_get_newest_jobs,
    queue_list_names,
)

UNFINISHED = [state for state in JobState if not state.is_finalized]


async def test_queues_are_listed_that_only_waiting_jobs_name(tx: Executor) -> None:
    """Names come page by page, from rows and from jobs of every waiting state; running and finished jobs name no queue."""
    await tx.run(queue_create_or_set_updated_at("b_row", now=NOW))
    await put_job(tx, queue="b_row")
    for state in UNFINISHED:
        await put_job(tx, state, queue=f"a_{state.value}")
    await put_job(tx, JobState.COMPLETED, queue="c_done")

    pages, after = [], ""
    while names := await tx.run(queue_list_names(after_name=after, limit=2)):
        pages.append(names)
        after = names[-1]

    assert pages == [["a_available", "a_pending"], ["a_retryable", "a_scheduled"], ["b_row"]]


async def test_names_are_those_among_some(tx: Executor) -> None:
    """Of the given names, those that a list of all would have, once each and page by page."""
    await tx.run(queue_create_or_set_updated_at("b_row", now=NOW))
    for state in UNFINISHED:
        await put_job(tx, state, queue=f"a_{state.value}")
    await put_job(tx, JobState.COMPLETED, queue="c_done")
    names = ["none", "c_done", "b_row", "b_row", *(f"a_{state.value}" for state in UNFINISHED)]

    first = await tx.run(queue_list_names(limit=3, among=names))
    rest = await tx.run(queue_list_names(after_name="a_retryable", among=names))

    assert (first, rest) == (["a_available", "a_pending", "a_retryable"], ["a_scheduled", "b_row"])
    assert await tx.run(queue_list_names(among=[])) == []


async def test_load_of_a_queue_counts_up_to_the_limit(tx: Executor) -> None:
    """Each state is counted one beyond the limit; the oldest and the next job are found in any priority."""
    row = await tx.run(queue_create_or_set_updated_at("mail", now=NOW))
    for hours, priority in ((1, 1), (3, 4), (2, 2)):
        await put_job(tx, queue="mail", priority=priority, scheduled_at=NOW - hours * HOUR)
    await put_job(tx, JobState.RETRYABLE, queue="mail", priority=3, scheduled_at=NOW + HOUR)
    await put_job(tx, JobState.SCHEDULED, queue="mail", scheduled_at=NOW + 2 * HOUR)
    await put_job(tx, JobState.RUNNING, queue="mail")
    await put_job(tx, queue="odd", scheduled_at="-infinity")

    loads = await tx.run(queue_get_loads(["mail", "none", "odd"], counted_max=1))

    assert loads[:2] == [
        QueueLoad(
            name="mail", row=QueueRow("mail", NOW, {}, None, row.updated_at), available=2, retryable=1, running=1,
            scheduled=1, oldest_available_at=NOW - 3 * HOUR, next_scheduled_at=NOW + HOUR,
        ),
        QueueLoad(
            name="none", row=None, available=0, retryable=0, running=0, scheduled=0, oldest_available_at=None,
            next_scheduled_at=None,
        ),
    ]  # fmt: skip
    assert loads[2].oldest_available_at is not None
    assert loads[2].oldest_available_at.year == 1


async def test_due_kinds_are_those_at_the_front_of_each_queue(tx: Executor) -> None:
    """Kinds come from the first due jobs in the order of their fetch; what is not due yet is left out."""
    for kind, priority in (("b", 1), ("b", 1), ("a", 2), ("late", 3)):
        await put_job(tx, queue="mail", kind=kind, priority=priority)
    await put_job(tx, queue="mail", kind="soon", scheduled_at=NOW + HOUR)
    await put_job(tx, queue="other", kind="a")

    due = await tx.run(queue_get_due_kinds(["mail", "none", "other"], limit=3, now=NOW))

    since = NOW - HOUR
    assert due == [
        DueKind("mail", "b", 2, since),
        DueKind("mail", "a", 1, since),
        DueKind("other", "a", 1, since),
    ]


@pytest.mark.parametrize("limit", [2, 20])
async def test_newest_jobs_of_a_queue_are_of_all_states(tx: Executor, limit: int) -> None:
    """The newest jobs come first, whatever their state and priority, and only those of the queue."""
    ids = [
        (await put_job(tx, state, queue="mail", priority=1 + n % 4)).id for n, state in enumerate(JobState)
    ]
    await put_job(tx, queue="other")

    newest = await tx.run(queue_get_newest_jobs("mail", limit=limit))

    assert [job.id for job in newest] == ids[::-1][:limit]
    assert newest[0].state is JobState.SCHEDULED
