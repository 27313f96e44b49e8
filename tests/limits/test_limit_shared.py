"""Limits of queues that Go workers share: how soon a slot that these free has the next job."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from client_harness import GENEROUS
from limited_queue import NOW, LimitedQueue
from millhand.core.clock import Clock, SystemClock
from millhand.core.limit import Limit, QueueLimit
from millhand.limits import maintainer as limit_maintainer
from millhand.limits.maintainer import BUSY_SECONDS, LOOK_SECONDS, PASS_SECONDS, LimitMaintainer
from millhand.testing import ManualClock, Probe

CLOCK_STEP = 1e-6  # of a ManualClock
FETCH = """
UPDATE river_job SET state = 'running', attempted_at = now(), attempt = attempt + 1
WHERE state = 'available' AND queue = $1
RETURNING id
"""
COMPLETE = "UPDATE river_job SET state = 'completed', finalized_at = now() WHERE id = ANY($1)"


@pytest.fixture
async def queue(shared_queue: LimitedQueue) -> LimitedQueue:
    await shared_queue.set_limit(at_once=2, is_shared=True)
    return shared_queue


def maintainer(queue: LimitedQueue, clock: Clock | None = None, *, shared: bool = True) -> LimitMaintainer:
    limit = Limit(at_once=2, shared=shared)
    row = QueueLimit(queue=queue.queue, limit=limit, declared=None, num_running=0, updated_at=NOW)
    return LimitMaintainer(queue.executor, clock=clock or ManualClock(), limits=lambda: {queue.queue: row})


def inserted(queue: str) -> str:
    return json.dumps({"queue": queue})


@pytest.fixture
async def leading(queue: LimitedQueue, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LimitMaintainer]:
    """A maintainer that has made its first pass. The next one is due in an hour, and so is the end of the looks."""
    monkeypatch.setattr(limit_maintainer, "PASS_SECONDS", 3_600.0)
    monkeypatch.setattr(limit_maintainer, "BUSY_SECONDS", 3_600.0)
    service = maintainer(queue, SystemClock())
    probe = Probe(service)
    await service.start()
    await probe.wait("maintained")
    yield service
    await service.stop()


async def fetched_by_go(queue: LimitedQueue) -> list[int]:
    """Fetch as a Go worker, which does not know the limit, until there is a job."""
    async with asyncio.timeout(GENEROUS):
        while not (rows := await queue.executor.fetch(FETCH, [queue.queue])):
            pass
    return [row["id"] for row in rows]


@pytest.mark.slow
async def test_jobs_for_go_are_admitted_after_the_notification_of_their_insert(
    queue: LimitedQueue, leading: LimitMaintainer
) -> None:
    """They do not wait for the next pass, which is due in an hour."""
    jobs = await queue.insert(*"abc")
    leading.on_insert(inserted(queue.queue))

    assert set(await fetched_by_go(queue)) < {job.id for job in jobs}
    await queue.check()


@pytest.mark.slow
async def test_slots_that_go_frees_are_given_to_the_next_jobs_between_passes(
    queue: LimitedQueue, leading: LimitMaintainer
) -> None:
    """A Go worker completes job after job with a statement that notifies nobody, and each slot has the next one soon."""
    jobs = await queue.insert(*"abcdefgh")
    leading.on_insert(inserted(queue.queue))

    ended: list[int] = []
    while len(ended) < len(jobs):
        ids = await fetched_by_go(queue)
        assert len(ids) <= 2
        await queue.executor.fetch(COMPLETE, [ids])
        ended += ids
    assert sorted(ended) == [job.id for job in jobs]


@pytest.mark.slow
async def test_a_look_releases_a_slot_and_admits_the_next_job(queue: LimitedQueue) -> None:
    """It comes before the next pass, which follows soon: it lets jobs wait that Go failed."""
    clock = ManualClock()
    service = maintainer(queue, clock)
    await queue.insert(*"abc")
    await service.run_once()
    first = await fetched_by_go(queue)
    await queue.executor.fetch(COMPLETE, [first[:1]])

    clock.advance(service.next_pause_seconds())
    await service.run_once()

    assert len(await fetched_by_go(queue)) == 1
    assert clock.monotonic() == LOOK_SECONDS
    await queue.check()


@pytest.mark.slow
async def test_looks_become_rarer_and_end(queue: LimitedQueue) -> None:
    """Each pause is a share of the time since the last change. A second of pause is that of a pass, and looks end."""
    clock = ManualClock()
    service = maintainer(queue, clock)
    await queue.insert("a")
    await service.run_once()
    pauses = []
    for _ in range(80):
        pauses.append(service.next_pause_seconds())
        clock.advance(pauses[-1] + CLOCK_STEP)
        await service.run_once()

    assert (pauses[0], pauses[-1]) == (pytest.approx(LOOK_SECONDS), pytest.approx(PASS_SECONDS))
    since_change = 0.0
    for pause in pauses:
        assert pause <= max(LOOK_SECONDS, BUSY_SECONDS, since_change / 4)
        since_change += pause


@pytest.mark.slow
async def test_without_a_shared_queue_there_are_no_looks(shared_queue: LimitedQueue) -> None:
    """A pass that changed something in another queue is followed by one a second later, whatever is inserted."""
    await shared_queue.set_limit(at_once=2)
    [job] = await shared_queue.insert("a")
    await shared_queue.fetch()
    await shared_queue.executor.fetch(COMPLETE, [[job.id]])
    service = maintainer(shared_queue, shared=False)

    await service.run_once()
    service.on_insert(inserted(shared_queue.queue))

    assert service.next_pause_seconds() == PASS_SECONDS
