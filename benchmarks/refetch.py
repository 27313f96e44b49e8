"""
Measure how jobs drain over a slow network: slots, job time and latency, by two versions of Millhand in turns.

    git worktree add ../before v0.2.0
    python benchmarks/refetch.py --before ../before/src

It starts a PostgreSQL of its own, inserts jobs, and works them through a relay that delivers each piece of data later.
Each cell of the grid has its own process for each version, in rounds that alternate. Printed are the ratio of the rates, as
the median with least and greatest, and the median rates. The first fifth of the jobs is not counted. A job sleeps. One in
ten of "mixed" jobs takes 20 times as long.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import msgspec

from millhand import Client, Config, Job, QueueConfig, Workers
from millhand.bench.bench_schema import BenchSchema, bench_schema
from millhand.core.event import EventKind
from millhand.embedded import embedded_postgres

PIECE = 64 * 1024
MEASURE_SECONDS = 2.0
NUM_JOBS_MAX = 12_000
# Of a job, with the fetches; only to choose how many jobs are inserted.
JOB_CPU_SECONDS = 150e-6
FETCH_SECONDS = 0.003


class Cell(msgspec.Struct, frozen=True):
    """What is measured. Units: milliseconds; `latency` is one way."""

    slots: int
    job: float
    latency: float
    is_mixed: bool = False

    @property
    def num_jobs(self) -> int:
        job = self.job * (2.9 if self.is_mixed else 1.0) / 1e3
        seconds = max((job + self.latency * 2e-3 + FETCH_SECONDS) / self.slots, JOB_CPU_SECONDS)
        return max(min(int(MEASURE_SECONDS / seconds), NUM_JOBS_MAX), self.slots * 10)


class Order(msgspec.Struct, frozen=True):
    """What a child measures."""

    cell: Cell
    schema: str
    url: str


class Noop(msgspec.Struct, frozen=True):
    """The args of a job that sleeps."""

    kind: ClassVar[str] = "noop"

    n: int


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_seconds: float) -> None:
    """Deliver each piece after a delay, however many are under way."""
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def deliver() -> None:
        while True:
            due, piece = await pieces.get()
            if (left := due - loop.time()) > 0:
                await asyncio.sleep(left)
            writer.write(piece)
            if not piece:
                return writer.close()

    delivery = asyncio.ensure_future(deliver())
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(PIECE):
            pieces.put_nowait((loop.time() + delay_seconds, piece))
    pieces.put_nowait((0.0, b""))
    await delivery


@contextlib.asynccontextmanager
async def delayed(url: str, delay_seconds: float) -> AsyncIterator[str]:
    """Yield the URL of a relay to the server of `url`."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    socket = f"{query['host']}/.s.PGSQL.{query['port']}"

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_unix_connection(socket)
        await asyncio.gather(
            relay(reader, server_writer, delay_seconds), relay(server_reader, writer, delay_seconds)
        )

    server = await asyncio.start_server(carry, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    yield urlunsplit(parts._replace(netloc=f"{parts.netloc}127.0.0.1:{port}", query=""))
    server.close()


async def work(order: Order) -> float:
    """Work the inserted jobs, and return the rate."""
    cell, workers, rng = order.cell, Workers(), random.Random(1)  # noqa: S311 - repeatable

    @workers.add()
    async def noop(job: Job[Noop]) -> None:
        del job
        if cell.job:
            is_long = cell.is_mixed and rng.random() < 0.1
            await asyncio.sleep(cell.job / 1e3 * (20 if is_long else 1))

    queues = {"default": QueueConfig(max_workers=cell.slots)}
    config = Config(
        queues=queues, schema=order.schema, workers=workers, leader_election=False, heartbeat_interval=None
    )
    client = Client(order.url, config)
    async with client:
        done = client._engine.completer.num_by_kind  # noqa: SLF001 - without an event for each job
        await until(done, cell.num_jobs // 5)
        first, began = done[EventKind.JOB_COMPLETED], time.perf_counter()
        await until(done, cell.num_jobs)
        return (cell.num_jobs - first) / (time.perf_counter() - began)


async def until(done: dict[EventKind, int], num_jobs: int) -> None:
    while done[EventKind.JOB_COMPLETED] < num_jobs:  # noqa: ASYNC110 - as above
        await asyncio.sleep(0.002)


async def measured(schema: BenchSchema, cell: Cell, source: Path) -> float:
    """Return the rate of one cell by the version in `source`."""
    await schema.empty()
    async with Client(schema.url, Config(schema=schema.name)) as inserter:
        await inserter.insert_many_fast(Noop(n) for n in range(cell.num_jobs))
    await schema.settle(with_checkpoint=False)
    async with delayed(schema.url, cell.latency / 1e3) as url:
        order = Order(cell, schema.name, url)
        process = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "--child", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(source)},
        )  # fmt: skip
        out, _ = await process.communicate(msgspec.json.encode(order))
    return float(out)


async def run(options: argparse.Namespace, url: str) -> None:
    cells = [
        Cell(slots, job, latency, is_mixed)
        for slots, (job, is_mixed), latency in itertools.product(
            options.slots, [*((job, False) for job in options.jobs), *((job, True) for job in options.mixed)],
            options.latencies,
        )
    ]  # fmt: skip
    print(f"load of the machine at the start: {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores", flush=True)
    async with bench_schema(url) as schema:
        for cell in cells:
            rates: dict[Path, list[float]] = {options.before: [], options.after: []}
            for number in range(options.rounds):
                for source in [*rates][:: -1 if number % 2 else 1]:
                    rates[source].append(await measured(schema, cell, source))
            before, after = rates.values()
            ratios = [new / old for old, new in zip(before, after, strict=True)]
            print(
                f"{cell.slots:5} slots  {cell.job:5g} ms{' mixed' if cell.is_mixed else '':6}  {cell.latency:4g} ms away: "
                f"{statistics.median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})  "
                f"{statistics.median(before):8,.0f} {statistics.median(after):8,.0f}",
                flush=True,
            )


if __name__ == "__main__":
    if sys.argv[1:] == ["--child"]:
        print(asyncio.run(work(msgspec.json.decode(sys.stdin.buffer.read(), type=Order))))
        sys.exit()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, required=True, help="`src` of the version to compare with")
    parser.add_argument("--after", type=Path, default=Path(__file__).parents[1] / "src")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slots", type=int, nargs="+", default=[10, 32, 100, 1_000])
    parser.add_argument("--jobs", type=float, nargs="+", default=[0, 1, 10, 100], help="milliseconds")
    parser.add_argument("--mixed", type=float, nargs="*", default=[1], help="milliseconds of the short jobs")
    parser.add_argument("--latencies", type=float, nargs="+", default=[0, 1, 5], help="milliseconds")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="millhand-bench-") as directory:
        Path(directory).chmod(0o755)  # a server that root starts runs as another user
        with embedded_postgres(Path(directory), {"max_wal_size": "4GB"}) as server:
            asyncio.run(run(options, server.url))
