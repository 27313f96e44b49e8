"""
Measure one process with a client for each of three databases, beside three processes with one client each.

    python benchmarks/several_databases.py --jobs 3000 --wait 10 --slots 33

It starts three PostgreSQL servers with default settings. Both ways have the same slots in each database, and take turns. A
job waits for `--wait` milliseconds, as for another service; with 0 it does nothing, and the one process has one core where
the three have as many as the machine gives them. The rate counts from the first job that began to the last that ended.
CPU is that of the workers alone, in microseconds a job.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from millhand import Client, Config, Job, Workers
from millhand.embedded import embedded_postgres
from millhand.process.databases_process import DatabasesProcess

NUM_DATABASES = 3
WAYS = ("one process", "three processes")


@dataclass(frozen=True)
class Wait:
    """The args of a job that waits."""

    kind: ClassVar[str] = "wait"
    milliseconds: float


@dataclass(frozen=True)
class Drained:
    """When the first job began and the last one ended, in seconds of the machine's clock, and the worker's CPU seconds."""

    began: float
    ended: float
    cpu: float
    num_jobs: int


async def drain(urls: Sequence[str], slots: int) -> Drained:
    """Work all jobs of the databases with a client each."""
    began: list[float] = []
    ended, num_jobs, cpu = 0.0, 0, 0.0
    workers = Workers()

    @workers.add()
    async def wait(job: Job[Wait]) -> None:
        nonlocal ended, num_jobs, cpu
        if not began:
            began.append(time.monotonic())
            cpu = time.process_time()
        if job.args.milliseconds:
            await asyncio.sleep(job.args.milliseconds / 1_000)
        ended, num_jobs = time.monotonic(), num_jobs + 1

    def start_of(name: str, url: str) -> Any:  # noqa: ANN401 - a Start
        async def start(_: AsyncExitStack) -> Client:
            queues = {"default": slots}
            client = Client(
                url, Config(database=name, heartbeat_interval=None, queues=queues, workers=workers)
            )
            await client.start()
            return client

        return start

    starts = {str(number): start_of(str(number), url) for number, url in enumerate(urls)}
    await DatabasesProcess(starts, until_empty=True).run()
    return Drained(began[0], ended, time.process_time() - cpu, num_jobs)


async def measured(way: str, urls: Sequence[str], slots: int, num_jobs: int) -> tuple[float, float]:
    """Return jobs a second, and microseconds of CPU a job. Raises: AssertionError if a job was not worked once."""
    parts = [urls] if way == WAYS[0] else [[url] for url in urls]
    found = await asyncio.gather(*(_child(part, slots) for part in parts))
    assert sum(one.num_jobs for one in found) == num_jobs, "each job must be worked once"  # noqa: S101
    seconds = max(one.ended for one in found) - min(one.began for one in found)
    return num_jobs / seconds, sum(one.cpu for one in found) / num_jobs * 1e6


async def _child(urls: Sequence[str], slots: int) -> Drained:
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "drain", str(slots), *urls, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    return Drained(**json.loads(out))


async def fill(url: str, num_jobs: int, milliseconds: float) -> None:
    """Insert jobs, without those of before."""
    async with Client(url, Config(skip_unknown_job_check=True)) as client:
        await client.driver.pool.fetch("TRUNCATE river_job")
        await client.insert_many_fast(Wait(milliseconds) for _ in range(num_jobs))


@contextlib.contextmanager
def servers(num: int) -> Iterator[list[str]]:
    """Start servers in directories of their own, and yield their URLs."""
    with tempfile.TemporaryDirectory(prefix="millhand") as directory, contextlib.ExitStack() as running:
        Path(directory).chmod(0o755)  # for the user of a server that root starts
        yield [
            running.enter_context(embedded_postgres(Path(directory) / str(number))).url
            for number in range(num)
        ]


async def compare(urls: Sequence[str], options: argparse.Namespace) -> dict[str, list[tuple[float, float]]]:
    """Return the figures of each way, after a round that does not count."""
    for url in urls:
        await Client(url).migrate()
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for number in range(options.rounds + 1):
        for way in WAYS[:: 1 if number % 2 else -1]:
            for url in urls:
                await fill(url, options.jobs, options.wait)
            figures = await measured(way, urls, options.slots, options.jobs * len(urls))
            found[way] += [figures] if number else []
    return found


def main() -> None:
    """Print the figures, or drain as a child of the measurement."""
    if sys.argv[1:2] == ["drain"]:
        drained = asyncio.run(drain(sys.argv[3:], int(sys.argv[2])))
        print(json.dumps(vars(drained)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--jobs", type=int, default=3_000, help="jobs in each database")
    parser.add_argument("--wait", type=float, default=10.0, help="milliseconds that a job waits")
    parser.add_argument("--slots", type=int, default=33, help="slots in each database")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with servers(NUM_DATABASES) as urls:
        found = asyncio.run(compare(urls, options))
    for way, figures in found.items():
        rates, times = zip(*figures, strict=True)
        print(
            f"{way:<16} {statistics.median(rates):>9,.0f} jobs/s {statistics.median(times):>7.0f} µs CPU a job"
        )
    one, three = ([rate for rate, _ in found[way]] for way in WAYS)
    ratios = sorted(each / other for each, other in zip(one, three, strict=True))
    print(
        f"one process to three: {statistics.median(ratios):.2f}, {ratios[0]:.2f} to {ratios[-1]:.2f} of "
        f"{options.rounds} rounds"
    )


if __name__ == "__main__":
    main()
