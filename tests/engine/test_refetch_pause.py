"""How long a producer waits for short jobs before it fetches again."""

from __future__ import annotations

import asyncio

import pytest

from client_harness import GENEROUS, Act, ClientHarness
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.engine.refetch_pause import NUM_RECENT, PATIENCE, RefetchPause, pause_seconds
from millhand.testing import Probe
from proxy import proxied

MS = 1e-3
RUNS = float("inf")  # a job that has not ended yet


@pytest.mark.parametrize(
    ("recent", "num_jobs", "num_free", "fetch", "busy", "pause"),
    [
        # Short jobs, half of the slots, and all of them.
        ([1, 1, 1, 1], 50, 50, 5, 0, 1 * PATIENCE),
        ([1, 1, 1, 1], 100, 0, 5, 0, 1 * PATIENCE),
        ([1, 3, 1, 2], 50, 50, 7, 0, 3 * PATIENCE),
        # Jobs half as long as a fetch, longer ones, and some that are longer.
        ([3, 3, 3, 3], 50, 50, 6, 0, 0),
        ([5, 5, 5, 5], 50, 50, 5, 0, 0),
        ([5, 5, 5, 5], 100, 0, 5, 0, 0),
        ([100, 100, 100, 100], 50, 50, 5, 0, 0),
        ([1, 1, 6, 1], 50, 50, 5, 0, 0),
        ([1, 1, 1, RUNS], 50, 50, 5, 0, 0),
        # Few of the free slots became free, so it does not pay to wait as long for as many.
        ([1, 1, 1, 1], 10, 90, 5, 0, 0),
        ([1, 1, 1, 1], 10, 90, 20, 0, 1 * PATIENCE),
        # A process that is busy while it fetches does not wait.
        ([1, 1, 1, 1], 50, 50, 5, 1.5, 0),
        ([1, 1, 1, 1], 50, 50, 5, 4.9, 0),
        ([1, 1, 1, 1], 50, 50, 9, 1.5, 1 * PATIENCE),
        # Too few jobs have ended.
        ([], 50, 50, 5, 0, 0),
        ([1] * (NUM_RECENT - 1), 50, 50, 5, 0, 0),
    ],
)
def test_pause_is_for_jobs_shorter_than_fetches(
    recent: list[float], num_jobs: int, num_free: int, fetch: float, busy: float, pause: float
) -> None:
    """A producer pauses if all recent jobs were shorter than half a fetch, and only a little longer than these."""
    seconds = pause_seconds(
        [one * MS for one in recent],
        num_jobs=num_jobs,
        num_free=num_free,
        fetch_seconds=fetch * MS,
        busy_seconds=busy * MS,
    )

    assert seconds == pytest.approx(pause * MS)


def test_job_that_still_runs_ends_the_pauses() -> None:
    """One job of each full fetch is timed; one that does not end in time turns pauses off until four others did."""
    pause, pauses = RefetchPause(), []
    for number in range(15):
        began = number * 0.010
        pause.begin(began, num_jobs=5, num_free=5, fetch_seconds=0.008, busy_seconds=0.001)
        pauses.append(pause.until > began)
        if number != 7:
            pause.record_ended(began + 0.001)

    assert pauses == [False] * 4 + [True] * 4 + [False] * 4 + [True] * 3


@pytest.mark.slow
async def test_short_jobs_over_a_slow_network_use_all_slots(harness: ClientHarness) -> None:
    """With 40 ms to the server and back and jobs of 1 to 5 ms, fetches bring a job for each slot, not for half of them."""
    num_jobs, slots = 400, 10
    workers, done = Workers(), asyncio.Event()
    numbers = iter(range(num_jobs))

    @workers.add()
    async def act(job: Job[Act]) -> None:
        number = next(numbers)
        await later(0.001 * (1 + number % 5))
        if number == num_jobs - 1:
            done.set()

    inserter = harness.client(Workers(), queues={})
    async with inserter:
        await inserter.insert_many([Act("x")] * num_jobs)
    async with proxied(harness.url) as proxy:
        client = harness.client(workers, database=proxy.url, queues={"default": slots})
        proxy.slow(0.02)
        sizes: list[int] = []
        async with client:
            assert client._engine is not None
            [producer] = client._engine.queues.producers.values()
            probe = Probe(producer)
            async with asyncio.timeout(GENEROUS):
                while sum(sizes) < num_jobs:
                    sizes.append(await probe.wait("fetched"))
                await done.wait()
            proxy.restore()

    assert len([size for size in sizes if size == slots]) > len(sizes) / 2
    assert len(sizes) < num_jobs / slots * 1.5


def later(seconds: float) -> asyncio.Future[None]:
    """Return what a job waits for that takes so long."""
    loop = asyncio.get_running_loop()
    end = loop.create_future()
    loop.call_later(seconds, end.set_result, None)
    return end
