"""
What it costs to keep the rows of completed jobs: drains of no-op jobs with and without them, in turns.

    .venv/bin/python benchmarks/keep_completed.py --jobs 50000 --rounds 5

The server is an embedded one, so that its CPU time can be read.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence

import msgspec
from own_server import Server, own_server

from millhand.bench.bench_schema import AuditFailed, BenchSchema, bench_schema
from millhand.bench.noop_client import noop_inserter, noop_worker
from millhand.bench.workload import Tally

SECONDS = 900.0
SLOTS = (100, 4_000)


class Cost(msgspec.Struct, frozen=True):
    """What one drain had: jobs a second, and for one job CPU time in microseconds and WAL in bytes."""

    jobs_per_second: float
    client_us: float
    server_us: float
    wal_bytes: float


async def drain(server: Server, schema: BenchSchema, num_jobs: int, slots: int, *, keeps: bool) -> Cost:
    await schema.empty()
    async with noop_inserter(schema.url, schema.name) as inserter:
        for start in range(0, num_jobs, 1_000):
            await inserter.insert_many(range(start, min(start + 1_000, num_jobs)))
    await schema.settle(with_checkpoint=True)
    tally = Tally(num_jobs)
    wal, client_seconds, server_seconds = await _wal(schema), time.process_time(), server.cpu_seconds()
    async with noop_worker(schema.url, schema.name, slots, tally, keep_completed=keeps):
        await tally.wait_end(SECONDS)
        used = time.process_time() - client_seconds
    server_used, written = server.cpu_seconds() - server_seconds, await _wal(schema) - wal
    await _audit(schema, tally, keeps=keeps)
    return Cost(
        num_jobs / (tally.finished_ns - min(tally.started_ns)) * 1e9,
        used / num_jobs * 1e6,
        server_used / num_jobs * 1e6,
        written / num_jobs,
    )


async def _wal(schema: BenchSchema) -> int:
    [row] = await schema.pool.fetch("SELECT (pg_current_wal_lsn() - '0/0')::bigint AS position")
    return int(row["position"])


async def _audit(schema: BenchSchema, tally: Tally, *, keeps: bool) -> None:
    """Raise AuditFailed unless each job was worked once, and its row is kept or gone."""
    if keeps:
        await schema.audit(tally.num_jobs)
        return
    [row] = await schema.pool.fetch(f'SELECT count(*) AS num_jobs FROM "{schema.name}".river_job')
    if row["num_jobs"] or tally.num_repeated or 0 in tally.started_ns:
        raise AuditFailed(
            f"each of {tally.num_jobs:,} jobs must be worked once and deleted, got {tally.num_repeated:,} "
            f"repeated starts and {row['num_jobs']:,} rows"
        )


async def measure(server: Server, num_jobs: int, num_rounds: int) -> None:
    async with bench_schema(server.url) as schema:
        for slots in SLOTS:
            await drain(server, schema, num_jobs // 5, slots, keeps=False)  # a warm-up
            pairs = [
                [await drain(server, schema, num_jobs, slots, keeps=keeps) for keeps in (True, False)]
                for _ in range(num_rounds)
            ]
            print(f"{slots:,} slots, deleted ÷ kept")
            for name in Cost.__struct_fields__:
                print(f"    {name:<16} {summary([[getattr(one, name) for one in pair] for pair in pairs])}")


def summary(pairs: Sequence[Sequence[float]]) -> str:
    ratios = [deleted / kept for kept, deleted in pairs]
    kept, deleted = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
    return (
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}): "
        f"{kept:,.1f} kept, {deleted:,.1f} deleted"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with own_server() as server:
        asyncio.run(measure(server, options.jobs, options.rounds))


if __name__ == "__main__":
    main()
