"""
Model a producer over a grid of slots, job times and latencies, with and without its pause before a fetch.

    python benchmarks/refetch_model.py

The producer is the real one. Its event loop has virtual time, in which nothing costs CPU time, and a function answers its
fetches. So the figures depend on no machine, and a grid takes a minute. `refetch.py` measures with a server.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import selectors
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from millhand.core.job import ClientId, JobId, JobRow, JobState
from millhand.db.query import Query
from millhand.engine import refetch_pause
from millhand.engine.attempt import Attempt
from millhand.engine.producer import Producer
from millhand.engine.store.job import CountedFetch
from millhand.engine.subscription import Subscriptions

SLOTS = (10, 100)
ROUND_TRIPS = (0.0, 0.002, 0.010, 0.040)
# Of the server.
SECONDS_A_FETCH, SECONDS_A_JOB = 0.6e-3, 8e-6
WARM_SECONDS, SECONDS = 1.0, 0.6
NOW = datetime(2026, 1, 1, tzinfo=UTC)

Duration = Callable[[random.Random], float]


def about(seconds: float) -> Duration:
    return lambda rng: seconds * rng.uniform(0.8, 1.2)


def mixed(short: float, share: float, long: float) -> Duration:
    """Return durations of which this share is long."""
    return lambda rng: about(long if rng.random() < share else short)(rng)


JOBS: dict[str, Duration] = {
    "1 ms": about(0.001),
    "3 ms": about(0.003),
    "10 ms": about(0.010),
    "100 ms": about(0.100),
    "3 ms, exponential": lambda rng: rng.expovariate(1 / 0.003),
    "10 ms, exponential": lambda rng: rng.expovariate(1 / 0.010),
    "1 ms, a tenth 20 ms": mixed(0.001, 0.1, 0.020),
    "1 ms, a hundredth 300 ms": mixed(0.001, 0.01, 0.300),
    "1 ms, half 30 ms": mixed(0.001, 0.5, 0.030),
}


class VirtualSelector(selectors.SelectSelector):
    """Returns at once, and adds the time that it would have waited."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += timeout or 0.0
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only while it waits."""

    def __init__(self) -> None:
        self._virtual = VirtualSelector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


class Server:
    """Answers fetches after a while, with as many jobs as they ask for."""

    def __init__(self, round_trip: float) -> None:
        self.num_fetches = 0
        self._ids = itertools.count(1)
        self._round_trip = round_trip

    async def run(self, query: Query[Any]) -> object:
        if query.name == "queue_create_or_set_updated_at":
            return SimpleNamespace(updated_at=NOW, is_paused=False)
        num_jobs = query.params["limit"]
        self.num_fetches += 1
        await asyncio.sleep(self._round_trip + SECONDS_A_FETCH + SECONDS_A_JOB * num_jobs)
        jobs = [job(JobId(id)) for id in itertools.islice(self._ids, num_jobs)]
        return CountedFetch(jobs, 0, 0) if query.name == "job_get_available_counted" else jobs


def job(id: JobId) -> JobRow:
    return JobRow(
        id=id, state=JobState.RUNNING, attempt=1, max_attempts=25, attempted_at=NOW, created_at=NOW, finalized_at=None,
        scheduled_at=NOW, priority=1, encoded_args="{}", attempted_by=("me",), errors=(), kind="act", metadata={},
        queue="default", tags=(), unique_key=None, unique_states=None,
    )  # fmt: skip


async def modelled(slots: int, duration: Duration, round_trip: float) -> tuple[float, float]:
    """Return the jobs a second, and the jobs a fetch."""
    rng, server = random.Random(1), Server(round_trip)  # noqa: S311 - repeatable
    num_ended = 0

    async def execute(attempt: Attempt) -> None:
        nonlocal num_ended
        del attempt
        await asyncio.sleep(duration(rng))
        num_ended += 1

    producer = Producer(
        "default", server, client_id=ClientId("me"), cooldown_seconds=0.001, execute=execute, kinds=None,
        max_workers=slots, poll_seconds=1.0, subscriptions=Subscriptions(),
    )  # type: ignore[arg-type]  # fmt: skip
    await producer.start()
    producer.begin()
    await asyncio.sleep(WARM_SECONDS)
    num_before, fetches_before = num_ended, server.num_fetches
    await asyncio.sleep(SECONDS)
    found = num_ended - num_before, server.num_fetches - fetches_before
    await producer.stop()
    await producer.wait_idle()
    return found[0] / SECONDS, found[0] / found[1]


def main() -> None:
    time.process_time = lambda: 0.0
    num_recent = refetch_pause.NUM_RECENT
    for slots, (name, duration), round_trip in itertools.product(SLOTS, JOBS.items(), ROUND_TRIPS):
        found = []
        for refetch_pause.NUM_RECENT in (2**31, num_recent):  # without a pause, and with it
            with asyncio.Runner(loop_factory=VirtualLoop) as runner:
                found.append(runner.run(modelled(slots, duration, round_trip)))
        (before, size_before), (after, size_after) = found
        print(
            f"{slots:4} slots  {name:25} {round_trip * 1e3:3.0f} ms away and back: {after / before:.2f}  "
            f"{before:7,.0f} {after:7,.0f} jobs/s, {size_before:4.0f} {size_after:4.0f} jobs a fetch",
            flush=True,
        )


if __name__ == "__main__":
    main()
