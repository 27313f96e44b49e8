"""
How late the jobs of kept schedules are, and what they cost: many schedules, of which some are due in each second.

    .venv/bin/python benchmarks/schedules.py --seconds 60

The leader is this process, and a worker in another one starts the jobs. In turns, the schedules of a second are due at
instants of their own, or all at once. The server is an embedded one, so that its CPU time can be read.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from contender import about_machine
from document import put, table
from own_server import Server, own_server
from schedules_worker import KIND
from worker_process import WorkOrder, worker_process

from millhand import Client, Config, JobSchedule, RawArgs, Workers
from millhand.bench.bench_schema import AuditFailed, BenchSchema, bench_schema
from millhand.bench.rates import percentile
from millhand.schedules.store import schedule_insert_missing

BEGIN_MARK = "<!-- schedule figures: written by benchmarks/schedules.py -->"
END_MARK = "<!-- end of schedule figures -->"
CHILD = (str(Path(__file__).with_name("schedules_worker.py")),)
BATCH = 1_000
SLOTS = 200
SECONDS = 600.0
WARM_UP_SECONDS = 5
ORIGIN = datetime(2026, 1, 1, tzinfo=UTC)
SPREAD, AT_ONCE = "each at its own instant", "all at the full second"

# Each schedule begins with its next instant.
_BEGIN = """
UPDATE "{schema}".millhand_schedule
SET
    next_run_at
    = origin.at + ceil(extract(EPOCH FROM now() + interval '2 s' - origin.at) / {interval}) * interval '{interval} s'
FROM (SELECT id, (definition ->> 'starts_at')::timestamptz AS at FROM "{schema}".millhand_schedule) AS origin
WHERE origin.id = millhand_schedule.id
"""
_DUE = """
SELECT
    metadata ->> 'river:periodic_job_id' AS id,
    (metadata ->> 'millhand:due_at')::timestamptz AS due_at,
    extract(EPOCH FROM created_at - (metadata ->> 'millhand:due_at')::timestamptz)::float8 AS insert_seconds,
    extract(EPOCH FROM attempted_at - (metadata ->> 'millhand:due_at')::timestamptz)::float8 AS start_seconds
FROM "{schema}".river_job
WHERE (metadata ->> 'millhand:due_at')::timestamptz >= $1
AND (metadata ->> 'millhand:due_at')::timestamptz < $2
"""
_BEHIND = """
SELECT
    (SELECT min(next_run_at) FROM "{schema}".millhand_schedule) < $1
    OR EXISTS (SELECT FROM "{schema}".river_job WHERE state IN ('available', 'running')) AS is_behind
"""
_SIZE = """
SELECT
    pg_table_size('"{schema}".millhand_schedule') AS heap,
    pg_indexes_size('"{schema}".millhand_schedule') AS indexes,
    (SELECT n_dead_tup FROM pg_stat_user_tables WHERE relid = '"{schema}".millhand_schedule'::regclass) AS num_dead
"""


class Size(msgspec.Struct, frozen=True):
    """The bytes of the table and of its indexes, and how many dead rows the statistics count."""

    heap: int
    indexes: int
    num_dead: int


class Cost(msgspec.Struct, frozen=True):
    """
    What one measurement had.

    `insert_seconds` and `start_seconds` are from the due instant of each job to the transaction that inserted it, and to the
    start of the job. CPU times are in shares of a core.
    """

    insert_seconds: list[float]
    start_seconds: list[float]
    leader_share: float
    server_share: float
    before: Size
    after: Size


def schedules(options: argparse.Namespace, *, at_once: bool) -> list[JobSchedule]:
    """Return the schedules; those of a second have other phases, or the same one."""
    interval = timedelta(seconds=options.schedules // options.rate)
    return [
        JobSchedule(
            id=f"bench.{n}",
            args=RawArgs(KIND, f'{{"n":{n}}}'),
            interval=interval,
            starts_at=ORIGIN + timedelta(seconds=n // options.rate if at_once else n / options.rate),
        )
        for n in range(options.schedules)
    ]


async def fill(schema: BenchSchema, kept: Sequence[JobSchedule]) -> None:
    await schema.empty()
    await schema.pool.execute_script(f'TRUNCATE "{schema.name}".millhand_schedule')
    for start in range(0, len(kept), BATCH):
        await schema.pool.run(schedule_insert_missing(kept[start : start + BATCH]))
    assert kept[0].interval is not None  # noqa: S101 - they have one
    interval = kept[0].interval.total_seconds()
    begin = _BEGIN.format(schema=schema.name, interval=interval)
    await schema.pool.execute_script(begin, timeout_seconds=SECONDS)
    await schema.pool.execute_script(
        f'VACUUM (FULL, ANALYZE) "{schema.name}".millhand_schedule', timeout_seconds=SECONDS
    )
    # What fell due meanwhile is not part of the measurement.
    await schema.pool.execute_script(begin, timeout_seconds=SECONDS)


async def measure(server: Server, schema: BenchSchema, options: argparse.Namespace, *, at_once: bool) -> Cost:
    await fill(schema, schedules(options, at_once=at_once))
    async with leader(schema):
        await asyncio.sleep(WARM_UP_SECONDS)
        first = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=1)
        before = await size(schema)
        client_seconds, server_seconds, began = time.process_time(), server.cpu_seconds(), time.monotonic()
        await asyncio.sleep(options.seconds)
        took = time.monotonic() - began
        leader_share = (time.process_time() - client_seconds) / took
        server_share = (server.cpu_seconds() - server_seconds) / took
        after = await size(schema)
        end = first + timedelta(seconds=options.seconds)
        await caught_up(schema, end)
    jobs = await schema.pool.fetch(_DUE.format(schema=schema.name), [first, end])
    audit(jobs, options)
    return Cost(
        insert_seconds=[job["insert_seconds"] for job in jobs],
        start_seconds=[job["start_seconds"] for job in jobs],
        leader_share=leader_share,
        server_share=server_share,
        before=before,
        after=after,
    )


@contextlib.asynccontextmanager
async def leader(schema: BenchSchema) -> AsyncIterator[None]:
    """Let this process lead, and another one work."""
    order = WorkOrder(num_jobs=0, schema=schema.name, slots=SLOTS, system="", url=schema.url)
    workers = Workers()

    @workers.add(kind="other")
    async def other() -> None: ...

    config = Config(
        heartbeat_interval=None,
        queues={"other": 1},
        schema=schema.name,
        skip_unknown_job_check=True,
        workers=workers,
    )
    async with worker_process(order, CHILD), Client(schema.url, config):
        yield


async def size(schema: BenchSchema) -> Size:
    [row] = await schema.pool.fetch(_SIZE.format(schema=schema.name))
    return Size(row["heap"], row["indexes"], row["num_dead"])


async def caught_up(schema: BenchSchema, end: datetime) -> None:
    """Wait until all instants before the end have jobs, and these were worked."""
    query = _BEHIND.format(schema=schema.name)
    async with asyncio.timeout(SECONDS):
        while datetime.now(UTC) < end or (await schema.pool.fetch(query, [end]))[0]["is_behind"]:  # noqa: ASYNC110
            await asyncio.sleep(0.2)


def audit(jobs: Sequence[dict[str, object]], options: argparse.Namespace) -> None:
    """Raise AuditFailed unless each instant has exactly one job."""
    num_instants = len({(job["id"], job["due_at"]) for job in jobs})
    expected = options.rate * options.seconds
    if (len(jobs), num_instants) != (expected, expected):
        raise AuditFailed(
            f"each of {expected:,} due instants must have one job, got {len(jobs):,} jobs of {num_instants:,} instants"
        )


async def run(server: Server, options: argparse.Namespace) -> str:
    costs: dict[str, Cost] = {}
    async with bench_schema(server.url) as schema:
        for name in (SPREAD, AT_ONCE):
            costs[name] = await measure(server, schema, options, at_once=name == AT_ONCE)
            print(name, _texts(costs[name]), flush=True)
        version = await schema.server_version()
    return report(options, costs, version)


def report(options: argparse.Namespace, costs: dict[str, Cost], version: str) -> str:
    heads = [
        f"{options.rate:,} due a second",
        "insert, p50",
        "p99",
        "max",
        "start, p50",
        "p99",
        "max",
        "leader",
        "server",
        "table and indexes",
    ]
    return "\n".join(
        [
            *about_machine(version),
            f"- {options.schedules:,} schedules, {options.seconds} s of each row. Times are from the due instant.",
            "",
            table(heads, [[name, *_texts(cost)] for name, cost in costs.items()]),
        ]
    )


def _texts(cost: Cost) -> list[str]:
    return [
        *_times(cost.insert_seconds),
        *_times(cost.start_seconds),
        f"{cost.leader_share:.2f} of a core",
        f"{cost.server_share:.2f} of a core",
        f"{_mb(cost.before)} to {_mb(cost.after)} MB, {cost.after.num_dead:,} dead rows",
    ]


def _mb(size: Size) -> str:
    return f"{(size.heap + size.indexes) / 1e6:.0f}"


def _times(seconds: Sequence[float]) -> list[str]:
    return [
        f"{value * 1e3:,.0f} ms" for value in (*(percentile(seconds, q) for q in (0.5, 0.99)), max(seconds))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=1_000, help="schedules that are due in a second")
    parser.add_argument("--schedules", type=int, default=100_000, help="a multiple of the rate")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--write", type=Path, help="the document to write the table into")
    options = parser.parse_args()
    with own_server() as server:
        text = asyncio.run(run(server, options))
    print(text)
    if options.write:
        put(options.write, text, BEGIN_MARK, END_MARK)


if __name__ == "__main__":
    main()
