"""
Measure how old snapshots slow down workers: jobs worked while transactions keep every dead row, and without any, in turns.

    python benchmarks/pressure.py --write benchmarks/results.md

It starts a PostgreSQL of its own with two databases, because a snapshot keeps rows in its own database only. One database
is clean. In the other a snapshot was opened before `--dead` jobs were completed, and stays open.

    idle       a worker that is started afterwards works jobs, beside an idle transaction
    readers    the same, beside four readers that query another table repeatedly, each in a snapshot that it keeps
    lists      the same, beside four readers that list jobs
    sustained  jobs are inserted while they are worked, faster than the worker is
    burst      jobs are inserted at once for an idle worker
    minutes    two workers, one in each database, and `--minutes` of such bursts for each in turns; the snapshot is opened
               at the start, and each minute has a ratio of its own

A round's ratio compares with the rate that was measured just before without pressure. With readers there is a second
ratio, to the rate beside readers that run the same queries in short transactions: the cost of the snapshots alone.

A round starts only if it can end within `--within` minutes, `minutes` included.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import statistics
import sys
import tempfile
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import msgspec
from document import put, table
from systems import MILLHAND
from worker_process import WorkerDied, WorkerProcess, WorkOrder, WorkReport, worker_process

from millhand.bench.bench_schema import BenchSchema, bench_schema
from millhand.embedded import embedded_postgres

BATCH = 1_000
WORKER = Path(__file__).with_name("pressure_worker.py")
NUM_READERS = 4
PAUSE_SECONDS = 0.5
ASK_SECONDS = 0.2
SLOTS_AHEAD = 4_000  # of the worker that makes dead rows
TIMEOUT_SECONDS = 900.0
MARK_BEGIN = "<!-- pressure figures: written by benchmarks/pressure.py -->"
MARK_END = "<!-- end of pressure figures -->"
# The queries of the readers.
OF_A_REPORT = 'SELECT kind, count(*), avg(length(said)) FROM "{}".bench_report GROUP BY kind'
OF_JOBS = 'SELECT * FROM "{}".river_job ORDER BY id LIMIT 100'
MAKE_REPORT = """
CREATE TABLE "{}".bench_report AS SELECT n % 10 AS kind, repeat('x', 80) AS said FROM generate_series(1, 50000) AS n
"""

Measure = Callable[[BenchSchema, int], Awaitable[float]]


@dataclass(frozen=True)
class Scene:
    """A measurement and its title; `asked` is the query of its readers."""

    title: str
    measure: Measure
    asked: str | None = None


@dataclass
class Ratios:
    """The ratios of a scene: to the clean rate, and to the rate beside readers without old snapshots."""

    to_clean: list[float] = field(default_factory=list)
    to_readers: list[float] = field(default_factory=list)


async def drained(schema: BenchSchema, num_jobs: int) -> float:
    """Insert jobs, start a worker that works them, and return the rate."""
    await inserted(schema, num_jobs)
    await schema.settle(with_checkpoint=True)  # VACUUM keeps the rows that a snapshot may see
    return rate(await worked(schema, num_jobs))


async def sustained(schema: BenchSchema, num_jobs: int) -> float:
    """Insert jobs while they are worked, and return the rate."""
    await schema.settle(with_checkpoint=True)
    async with working(schema, num_jobs) as worker:
        report, _ = await asyncio.gather(worker.wait_report(TIMEOUT_SECONDS), inserted(schema, num_jobs))
    return rate(report)


async def burst(schema: BenchSchema, num_jobs: int) -> float:
    """Insert jobs at once for an idle worker, and return the rate since the first insert."""
    await schema.settle(with_checkpoint=True)
    async with working(schema, num_jobs) as worker:
        await asyncio.sleep(PAUSE_SECONDS)
        began = time.monotonic_ns()
        await inserted(schema, num_jobs)
        report = await worker.wait_report(TIMEOUT_SECONDS)
    return num_jobs / (report.finished_ns - began) * 1e9


SCENES = {
    "idle": Scene("an idle transaction", drained),
    "readers": Scene("four readers of another table, each with its own snapshot", drained, OF_A_REPORT),
    "lists": Scene("four readers that list jobs, each with its own snapshot", drained, OF_JOBS),
    "sustained": Scene("sustained: inserts continue while jobs are worked", sustained),
    "burst": Scene("a burst", burst),
}
MINUTES = "minutes"


def rate(report: WorkReport) -> float:
    return len(report.started_ns) / (report.finished_ns - min(report.started_ns)) * 1e9


async def inserted(schema: BenchSchema, num_jobs: int, *, first: int = 0) -> None:
    async with MILLHAND.inserter(schema.url, schema.name) as inserter:
        for start in range(first, first + num_jobs, BATCH):
            await inserter.insert_many(range(start, min(start + BATCH, first + num_jobs)))


@contextlib.asynccontextmanager
async def working(
    schema: BenchSchema, num_jobs: int, slots: int = MILLHAND.slots
) -> AsyncIterator[WorkerProcess]:
    order = WorkOrder(
        num_jobs=num_jobs, schema=schema.name, slots=slots, system=MILLHAND.name, url=schema.url
    )
    async with worker_process(order) as worker:
        yield worker


async def worked(schema: BenchSchema, num_jobs: int, slots: int = MILLHAND.slots) -> WorkReport:
    async with working(schema, num_jobs, slots) as worker:
        return await worker.wait_report(TIMEOUT_SECONDS)


@contextlib.asynccontextmanager
async def kept_at_work(schema: BenchSchema) -> AsyncIterator[None]:
    """Run a worker without a report for as long as the block lasts."""
    order = WorkOrder(
        num_jobs=0, schema=schema.name, slots=MILLHAND.slots, system=MILLHAND.name, url=schema.url
    )
    process = await asyncio.create_subprocess_exec(sys.executable, WORKER, stdin=PIPE, stdout=PIPE)
    assert process.stdin is not None  # noqa: S101 - pipes
    assert process.stdout is not None  # noqa: S101
    try:
        process.stdin.write(msgspec.json.encode(order) + b"\n")
        if not await process.stdout.readline():
            raise WorkerDied("worker process must start, got an exit; its output is above")
        yield
    finally:
        process.stdin.close()
        await process.wait()


@contextlib.asynccontextmanager
async def connected(schema: BenchSchema) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(schema.url)
    try:
        yield connection
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def snapshot(schema: BenchSchema) -> AsyncIterator[asyncpg.Connection]:
    """Keep a snapshot open for as long as the block lasts."""
    async with connected(schema) as connection, connection.transaction(isolation="repeatable_read"):
        await connection.fetch(f'SELECT id FROM "{schema.name}".river_job LIMIT 1')
        yield connection


async def leave_dead_rows(schema: BenchSchema, num_dead: int) -> None:
    """Work jobs to completion, so that an open snapshot keeps their dead rows."""
    await inserted(schema, num_dead)
    await worked(schema, num_dead, SLOTS_AHEAD)


@contextlib.asynccontextmanager
async def reading(schema: BenchSchema, asked: str | None, *, is_old: bool) -> AsyncIterator[None]:
    """Run readers that query twice a second, each in one old snapshot if `is_old`, otherwise in short transactions."""

    async def read(connection: asyncpg.Connection, sql: str) -> None:
        due = time.monotonic()
        while True:
            await connection.fetch(sql)
            due = max(due + PAUSE_SECONDS, time.monotonic())
            await asyncio.sleep(due - time.monotonic())

    async with contextlib.AsyncExitStack() as stack:
        opened = snapshot if is_old else connected
        connections = [
            await stack.enter_async_context(opened(schema))
            for _ in range(NUM_READERS if asked is not None else 0)
        ]
        tasks = [asyncio.ensure_future(read(one, str(asked).format(schema.name))) for one in connections]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def compared_in_turns(
    found: dict[str, Ratios],
    clean: BenchSchema,
    pressed: BenchSchema,
    options: argparse.Namespace,
    *,
    until: float,
) -> None:
    """Measure scenes round by round; start a round only if the last one's duration fits into the time left."""
    for _ in range(options.rounds):
        began_at = time.monotonic()
        for name, ratios in found.items():
            await compared(SCENES[name], clean, pressed, options.jobs, ratios)
        ended_at = time.monotonic()
        if ended_at + (ended_at - began_at) > until:
            return


async def compared(
    scene: Scene, clean: BenchSchema, pressed: BenchSchema, num_jobs: int, ratios: Ratios
) -> None:
    """Measure a scene in both databases, one after the other."""
    await clean.empty()
    before = await scene.measure(clean, num_jobs)
    beside = before
    if scene.asked is not None:
        await clean.empty()
        async with reading(clean, scene.asked, is_old=False):
            beside = await scene.measure(clean, num_jobs)
    async with reading(pressed, scene.asked, is_old=True):
        after = await scene.measure(pressed, num_jobs)
    ratios.to_clean.append(after / before)
    if scene.asked is not None:
        ratios.to_readers.append(after / beside)
    log(f"{scene.title}: {before:,.0f} without pressure, {beside:,.0f} beside readers, {after:,.0f} under it")


async def minutes(clean: BenchSchema, pressed: BenchSchema, options: argparse.Namespace) -> list[list[float]]:
    """Work bursts in both databases in turns, by one worker each, and return the ratios of each minute."""
    rates: dict[str, float] = {}
    ratios: list[list[float]] = []
    async with (
        snapshot(pressed),
        kept_at_work(clean),
        kept_at_work(pressed),
        connected(clean) as in_clean,
        connected(pressed) as in_pressed,
    ):
        began_at = time.monotonic()
        turns = [(clean, in_clean), (pressed, in_pressed)]
        num_inserted = 0
        while (seconds := time.monotonic() - began_at) < options.minutes * 60.0:
            for schema, connection in turns:
                rates[schema.url] = await worked_off(schema, connection, options.burst, first=num_inserted)
            turns.reverse()
            num_inserted += options.burst
            ratio = rates[pressed.url] / rates[clean.url]
            # A slow pair may take more than a minute; that minute then has no ratio.
            ratios += [[] for _ in range(int(seconds / 60.0) + 1 - len(ratios))]
            ratios[-1].append(ratio)
            log(f"minutes: {rates[clean.url]:,.0f} and {rates[pressed.url]:,.0f} jobs/s, {ratio:.2f}")
    return ratios


async def worked_off(
    schema: BenchSchema, connection: asyncpg.Connection, num_jobs: int, *, first: int
) -> float:
    """Insert jobs for an idle worker, and return the rate since then, by the times in the table."""
    last_id = await connection.fetchval(f'SELECT max(id) FROM "{schema.name}".river_job') or 0
    began_at = await connection.fetchval("SELECT clock_timestamp()")
    await inserted(schema, num_jobs, first=first)
    jobs = f'SELECT count(*) FROM "{schema.name}".river_job WHERE finalized_at IS NULL AND id'
    async with asyncio.timeout(TIMEOUT_SECONDS):
        # First the last job alone: counting all of them beside a snapshot is slow.
        for asked in (f"{jobs} = $1 + {num_jobs}", f"{jobs} > $1"):
            while await connection.fetchval(asked, last_id):  # noqa: ASYNC110 - the worker is another process
                await asyncio.sleep(ASK_SECONDS)
    ended_at = await connection.fetchval(
        f'SELECT max(finalized_at) FROM "{schema.name}".river_job WHERE id > $1', last_id
    )
    return float(num_jobs / (ended_at - began_at).total_seconds())


async def run(options: argparse.Namespace, url: str) -> str:
    found = {name: Ratios() for name in options.only if name != MINUTES}
    rounds_minutes = options.within - (options.minutes if MINUTES in options.only else 0.0)
    rounds_until = time.monotonic() + 60.0 * rounds_minutes
    async with bench_schema(await other_database(url)) as clean, bench_schema(url) as pressed:
        for schema in (clean, pressed):
            async with connected(schema) as connection:
                await connection.execute(MAKE_REPORT.format(schema.name))
        if found:
            async with snapshot(pressed):
                await leave_dead_rows(pressed, options.dead)
                await compared_in_turns(found, clean, pressed, options, until=rounds_until)
        lasting: list[list[float]] = []
        if MINUTES in options.only:
            for schema in (clean, pressed):
                await schema.empty()
            lasting = await minutes(clean, pressed, options)
        return report(found, lasting, options, await clean.server_version())


def report(
    found: dict[str, Ratios], lasting: list[list[float]], options: argparse.Namespace, server: str
) -> str:
    rows = [
        (SCENES[name].title, said(ratios.to_clean), said(ratios.to_readers)) for name, ratios in found.items()
    ]
    rows += [
        (f"continuous bursts: minute {number} of an idle transaction", said(ratios), "")
        for number, ratios in enumerate(lasting, 1)
    ]
    about = [
        f"- Machine: {os.cpu_count()} cores, {platform.system()}; clients, workers, readers and server share it.",
        f"- PostgreSQL {server} with `max_wal_size = 4GB` and otherwise default settings; a worker with default settings.",
        "- Figures are the median, with least and greatest in brackets.",
    ]  # fmt: skip
    if found:
        num_rounds = min(len(ratios.to_clean) for ratios in found.values())
        rounds = f"- {num_rounds} rounds of {options.jobs:,} jobs a scene, in turns"
        about.append(f"{rounds}; {options.dead:,} jobs worked since the snapshot was opened.")
    if lasting:
        num_bursts = sum(map(len, lasting))
        about.append(
            f"- Continuous bursts: {num_bursts} of {options.burst:,} jobs in each database, in turns."
        )
    heads = ("beside", "to the rate without", "to readers without old snapshots")
    return "\n".join(about) + "\n\n" + table(heads, rows)


def said(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""


async def other_database(url: str) -> str:
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE DATABASE clean")
    await connection.close()
    return urlunsplit(urlsplit(url)._replace(path="/clean"))


def log(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def parsed_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dead", type=int, default=300_000, help="jobs worked since the snapshot")
    parser.add_argument("--jobs", type=int, default=30_000, help="jobs a measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="how long the transaction of `minutes` is open"
    )
    parser.add_argument(
        "--within", type=float, default=30.0, help="minutes; no round begins that would not end within them"
    )
    parser.add_argument("--burst", type=int, default=20_000, help="jobs a burst of `minutes`")
    parser.add_argument("--only", nargs="+", choices=[*SCENES, MINUTES], default=[*SCENES, MINUTES])
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table between the marks of FILE")
    return parser.parse_args()


def main() -> None:
    options = parsed_options()
    with tempfile.TemporaryDirectory(prefix="millhand-bench-") as directory:
        Path(directory).chmod(0o755)  # a server that root starts runs as another user
        with embedded_postgres(Path(directory), {"max_wal_size": "4GB"}) as server:
            text = asyncio.run(run(options, server.url))
    if options.write is not None:
        put(options.write, text, MARK_BEGIN, MARK_END)
    print(text)


if __name__ == "__main__":
    main()
