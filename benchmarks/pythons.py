"""
Drains by workers on several Pythons, in turns: no-op jobs, and plain functions that compute for some 1 ms.

    .venv/bin/python benchmarks/pythons.py .venv-a/bin/python .venv-b/bin/python --rounds 5

Each Python must have Millhand. The first is the one that the others are divided by. Each drain has a process of its own,
whose start is not counted. Plain functions run in threads, so a free-threaded Python computes in as many of them at once as
there are cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import ClassVar

import msgspec
from document import table
from own_server import own_server

from millhand import Client, Config, EventKind, Job, QueueConfig, Workers
from millhand.bench.bench_schema import BenchSchema, bench_schema
from millhand.bench.workload import Noop, Tally

SECONDS = 300.0
# A free-threaded Python has a "t" after its version.
VERSION = """
import platform, sysconfig
print(platform.python_version() + "t" * (sysconfig.get_config_var("Py_GIL_DISABLED") or 0))
"""


class Part(msgspec.Struct, frozen=True):
    """What is drained: the name, the number of jobs, and the workers of the queue."""

    name: str
    num_jobs: int
    slots: int


NOOP, COMPUTE = Part("no-op", 50_000, 4_000), Part("computing", 2_000, 8)


class Compute(msgspec.Struct, frozen=True):
    """The args of a job that computes."""

    kind: ClassVar[str] = "compute"

    n: int


class Drained(msgspec.Struct, frozen=True):
    """What a worker reports: jobs a second, and CPU time of its process in microseconds for one job."""

    per_second: float
    cpu_us: float


FIELDS = Drained.__struct_fields__


async def work(url: str, schema: str, num_jobs: int, slots: int) -> Drained:
    """Work all jobs of the schema."""
    workers, tally = Workers(), Tally(num_jobs)

    @workers.add()
    async def noop(job: Job[Noop]) -> None:
        tally.begin(job.args.n)

    @workers.add()
    def compute(job: Job[Compute]) -> None:
        tally.begin(job.args.n)
        sum(n * n % 7 for n in range(30_000))

    queues = {"default": QueueConfig(max_workers=slots)}
    client = Client(url, Config(heartbeat_interval=None, queues=queues, schema=schema, workers=workers))
    completions = client.subscribe(EventKind.JOB_COMPLETED, buffer_size=num_jobs)

    async def count() -> None:
        async for _ in completions:
            tally.complete()

    async with asyncio.TaskGroup() as group:
        group.create_task(count())
        used = cpu_seconds()
        async with client:
            await tally.wait_end(SECONDS)
            used = cpu_seconds() - used
    return Drained(num_jobs / (tally.finished_ns - min(tally.started_ns)) * 1e9, used / num_jobs * 1e6)


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def drain(schema: BenchSchema, python: str, part: Part) -> Drained:
    await schema.empty()
    args = Noop if part is NOOP else Compute
    async with Client(schema.url, Config(schema=schema.name)) as client:
        await client.insert_many_fast([args(n) for n in range(part.num_jobs)])
    await schema.settle(with_checkpoint=True)
    command = [python, __file__, "--work", schema.url, schema.name, str(part.num_jobs), str(part.slots)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True, timeout=SECONDS)
    await schema.audit(part.num_jobs)
    return Drained(*json.loads(done.stdout))


async def measure(url: str, pythons: Mapping[str, str], num_rounds: int) -> None:
    async with bench_schema(url) as schema:
        for part in (NOOP, COMPUTE):
            found: dict[str, list[Drained]] = {name: [] for name in pythons}
            for number in range(num_rounds + 1):
                for name in list(pythons)[:: 1 if number % 2 else -1]:
                    drained = await drain(schema, pythons[name], part)
                    if number:  # the first round is not counted
                        found[name].append(drained)
            print(shown(part, found), flush=True)


def shown(part: Part, found: Mapping[str, Sequence[Drained]]) -> str:
    first_name, first = next(iter(found.items()))
    heads = [f"{part.name}, ÷ {first_name}", "jobs/s", "CPU of the worker a job", "jobs/s", "CPU, µs"]
    rows = [
        [
            name,
            *(ratio(drains, first, field) for field in FIELDS),
            *(median(drains, field) for field in FIELDS),
        ]
        for name, drains in found.items()
    ]
    return table(heads, rows)


def ratio(drains: Sequence[Drained], first: Sequence[Drained], field: str) -> str:
    ratios = [one / base for one, base in zip(values(drains, field), values(first, field), strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def median(drains: Sequence[Drained], field: str) -> str:
    return f"{statistics.median(values(drains, field)):,.1f}"


def values(drains: Sequence[Drained], field: str) -> list[float]:
    return [getattr(one, field) for one in drains]


def main() -> None:
    if sys.argv[1:2] == ["--work"]:
        url, schema, num_jobs, slots = sys.argv[2:]
        drained = asyncio.run(work(url, schema, int(num_jobs), int(slots)))
        print(json.dumps(msgspec.structs.astuple(drained)))
        return
    parser = argparse.ArgumentParser(description="drains on several Pythons, in turns")
    parser.add_argument("pythons", nargs="+", metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    pythons = {
        subprocess.check_output([python, "-c", VERSION], text=True).strip(): python
        for python in options.pythons
    }
    with own_server() as server:
        asyncio.run(measure(server.url, pythons, options.rounds))


if __name__ == "__main__":
    main()
