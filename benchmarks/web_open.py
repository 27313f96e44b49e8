"""
Measure what open browsers of the web page cost, in turns.

    python benchmarks/web_open.py database --rows 10000000 --directory ../millhand-web-tables
    python benchmarks/web_open.py workers --rounds 7

`database` prints the CPU time of PostgreSQL that one browser and ten browsers add, while four jobs a second change. It needs
Linux. Without `--directory` it fills a table of its own.
`workers` prints the rate of a worker at full speed with ten open browsers, divided by its rate without them, and the CPU
time of the page and its sessions. With `--history`, the history's writer makes a pass too, and its CPU time counts. A round
is one drain: without, with, without; so a rate that changes slowly does not matter. A rate changes by a tenth from one half
minute to the next, whatever else runs: the CPU time tells more.
DATABASE_URL names the server; without it, an embedded one is started. Run it on an idle machine: the browsers and the page
share it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import asyncpg
from systems import MILLHAND
from web_browser import browsers
from web_cpu import cpu_seconds
from web_pages import filled, page_server, server_pid
from worker_process import WorkOrder, worker_process

from millhand.bench.bench_schema import BenchSchema, bench_schema
from millhand.bench.rates import insert_bulk
from millhand.core.clock import SystemClock
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.embedded import embedded_postgres
from millhand.history.writer import HistoryWriter

# A browser loads its page and connects.
OPENING_SECONDS = 5.0
# Until a worker has reached its speed.
WARM_UP_SECONDS = 5.0
PAGE = "web_open_page"
HISTORY = "web_open_history"
SLOTS = 1_000
INSERT = """
INSERT INTO river_job (kind, args, max_attempts, queue, state)
VALUES ('bench_trickle', '{}', 25, 'default', 'available') RETURNING id
"""


async def database(options: argparse.Namespace) -> None:
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(filled(options))
        address, _ = stack.enter_context(page_server(url, "public"))
        pid = await server_pid(url)
        await stack.enter_async_context(changing(url))
        for path in options.paths:
            shares: dict[int, list[float]] = {0: [], 1: [], options.browsers: []}
            for _ in range(options.rounds):
                for number, found in shares.items():
                    found.append(await share(address, pid, path, number, options.seconds))
            base = shares.pop(0)
            for number, found in shares.items():
                added = [after - before for before, after in zip(base, found, strict=True)]
                print(f"{path}, {number} open: {spread(added, '.2%')} of a core of the database", flush=True)


async def share(address: str, pid: int, path: str, number: int, seconds: float) -> float:
    """Return how much of a core PostgreSQL uses while so many browsers are open."""
    async with browsers(address, path, number):
        await asyncio.sleep(OPENING_SECONDS)
        used, began = cpu_seconds(pid), time.monotonic()
        await asyncio.sleep(seconds)
        return (cpu_seconds(pid) - used) / (time.monotonic() - began)


@contextlib.asynccontextmanager
async def changing(url: str) -> AsyncIterator[None]:
    """Insert a job twice a second and complete it, so that each look at the jobs finds a change."""

    async def change() -> None:
        while True:
            id = await connection.fetchval(INSERT)
            await asyncio.sleep(0.25)
            await connection.execute(
                "UPDATE river_job SET state = 'completed', finalized_at = now() WHERE id = $1", id
            )
            await asyncio.sleep(0.25)

    connection = await asyncpg.connect(url)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(change())
        yield
        task.cancel()
    await connection.execute("DELETE FROM river_job WHERE kind = 'bench_trickle'")
    await connection.close()


@contextlib.contextmanager
def server_url() -> Iterator[str]:
    """Return the URL of a server: that of DATABASE_URL, or one of this program."""
    if url := os.environ.get("DATABASE_URL"):
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="millhand-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # for root, the server runs as another user
        with embedded_postgres(directory, {"max_wal_size": "8GB"}) as server:
            yield server.url


async def workers(options: argparse.Namespace) -> None:
    ratios, shares = [], []
    with server_url() as url:
        for number in range(1, options.rounds + 1):
            async with bench_schema(url) as schema:
                without, with_page, share_of_page = await drain(schema, options)
            ratios.append(with_page / without)
            shares.append(share_of_page)
            rates = f"{without:,.0f} jobs/s without, {ratios[-1]:.3f} of them with"
            print(
                f"round {number} of {options.rounds}: {rates}; page {share_of_page:.2%} of a core", flush=True
            )
    what = f"with {options.browsers} browsers{' and the history' if options.history else ''}"
    print(f"{what} ÷ without: {spread(ratios, '.3f')}")
    print(f"CPU time of the page, the history and their sessions, of a core: {spread(shares, '.2%')}")


async def drain(schema: BenchSchema, options: argparse.Namespace) -> tuple[float, float, float]:
    """
    Return a worker's jobs a second without the page, before and after, and with it.

    The third number is how much of a core the page, the history's writer and their sessions use. Other programs change it
    little.
    """
    async with MILLHAND.inserter(schema.url, schema.name) as inserter:
        await insert_bulk(inserter, options.jobs)
    await schema.settle(with_checkpoint=True)
    order = WorkOrder(
        num_jobs=options.jobs, schema=schema.name, slots=SLOTS, system=MILLHAND.name, url=schema.url
    )
    half = options.seconds / 2
    async with worker_process(order) as worker, history_writer(schema) as writer:
        with page_server(named(schema.url, PAGE), schema.name) as (address, pid):
            await asyncio.sleep(WARM_UP_SECONDS)
            await writer()  # begins the history
            periods = [await period(half)]
            async with browsers(address, "/", options.browsers) as opened:
                await asyncio.sleep(OPENING_SECONDS)
                used = await page_seconds(schema, pid) + writer.busy_seconds
                periods.append(await period(options.seconds, writer if options.history else None))
                used = await page_seconds(schema, pid) + writer.busy_seconds - used
            await asyncio.sleep(1.0)
            periods.append(await period(half))
        report = await worker.stop()
    if unavailable := sum(browser.num_unavailable for browser in opened):
        print(f"{unavailable} answers of 503: the database was too slow for the page", flush=True)
    if report.finished_ns:
        raise RuntimeError(
            f"--jobs must last for a round, got {options.jobs:,}, which were worked before its end"
        )
    before, with_page, after = (
        sum(begin <= at < end for at in report.started_ns) / (end - begin) * 1e9 for begin, end in periods
    )
    return (before + after) / 2, with_page, used / options.seconds


async def page_seconds(schema: BenchSchema, pid: int) -> float:
    """
    Return the CPU time of the page's process, of its sessions and of the history writer's session.

    The server must run on this machine.
    """
    sessions = await schema.pool.fetch(
        "SELECT pid FROM pg_stat_activity WHERE application_name = ANY($1::text [])", [[PAGE, HISTORY]]
    )
    return cpu_seconds(pid, *(session["pid"] for session in sessions))


class CountedWriter:
    """A writer of the history, and the CPU time of this process in its passes."""

    def __init__(self, writer: HistoryWriter) -> None:
        self._writer = writer
        self.busy_seconds = 0.0

    async def __call__(self) -> None:
        began = time.process_time()
        await self._writer.run_once()
        self.busy_seconds += time.process_time() - began


@contextlib.asynccontextmanager
async def history_writer(schema: BenchSchema) -> AsyncIterator[CountedWriter]:
    """Return a writer with a session of its own."""
    driver = AsyncpgDriver(named(schema.url, HISTORY), schema.name, pool_size=1)
    await driver.open()
    try:
        yield CountedWriter(HistoryWriter(driver.pool, clock=SystemClock(), holder="bench"))
    finally:
        await driver.close()


def named(url: str, application: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}application_name={application}"


async def period(seconds: float, writer: CountedWriter | None = None) -> tuple[int, int]:
    """Return the begin and the end of so many seconds; the writer makes a pass in them."""
    begin = time.monotonic_ns()
    await asyncio.sleep(seconds / 2)
    if writer is not None:
        await writer()
    await asyncio.sleep(max(0.0, seconds - (time.monotonic_ns() - begin) / 1e9))
    return begin, time.monotonic_ns()


def spread(values: Sequence[float], form: str) -> str:
    """Return the median, the lowest and the highest."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(url=None)
    parser.add_argument("what", choices=("database", "workers"))
    parser.add_argument("--browsers", type=int, default=10)
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--history", action="store_true", help="count the jobs for the history too")
    parser.add_argument(
        "--jobs", type=int, default=2_600_000, help="of a round; more than a worker can do in it"
    )
    parser.add_argument("--paths", nargs="+", default=["/"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement")
    options = parser.parse_args()
    asyncio.run({"database": database, "workers": workers}[options.what](options))


if __name__ == "__main__":
    main()
