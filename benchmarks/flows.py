"""
What flows cost: drains of jobs with and without a flow, in turns; the insert of a graph; how soon a task follows another.

    .venv/bin/python benchmarks/flows.py --jobs 20000 --rounds 5 --write docs/reference/benchmark_results.md

The server is an embedded one, so that its CPU time can be read.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from contender import about_machine
from document import put, table
from keep_completed import Server
from limits_queue import QUEUE, Push

from limits import SECONDS, Cost, work
from millhand import Client, Config, InsertOpts, Job, QueueConfig, Workers
from millhand.bench.bench_schema import BenchSchema, bench_schema
from millhand.bench.rates import percentile
from millhand.embedded import embedded_postgres
from millhand.flow import Flow, FlowTask

BEGIN_MARK = "<!-- flow figures: written by benchmarks/flows.py -->"
END_MARK = "<!-- end of flow figures -->"
BATCH = 1_000
OPTS = InsertOpts(queue=QUEUE)
PLAIN = "no flow"
LAYER = 500
SHAPES = (PLAIN, "a batch and one callback", "chains of two", f"layers of {LAYER}")
TABLES = ("river_job", "millhand_flow", "millhand_flow_join", "millhand_flow_task")
GRAPH_SIZE = 10_000
NUM_LINKS = 200


class Graph(msgspec.Struct, frozen=True):
    """Seconds to insert a graph of `GRAPH_SIZE` tasks, and milliseconds from the end of a task to the start of the next."""

    insert_seconds: float
    follows_ms: list[float]


async def empty(schema: BenchSchema) -> None:
    await schema.empty()
    tables = ", ".join(f'"{schema.name}".{name}' for name in TABLES[1:])
    await schema.pool.execute_script(f"TRUNCATE {tables}")


async def settle(schema: BenchSchema) -> None:
    for name in TABLES:
        await schema.pool.execute_script(f'VACUUM (ANALYZE) "{schema.name}".{name}', timeout_seconds=SECONDS)
    await schema.pool.execute_script("CHECKPOINT", timeout_seconds=SECONDS)


async def insert(schema: BenchSchema, num_jobs: int, shape: str) -> None:
    async with Client(schema.url, Config(heartbeat_interval=None, schema=schema.name)) as client:
        if shape == PLAIN:
            for start in range(0, num_jobs, BATCH):
                numbers = range(start, min(start + BATCH, num_jobs))
                await client.insert_many([(Push(n, 0), OPTS) for n in numbers])
        elif shape == "chains of two":
            for start in range(0, num_jobs, BATCH):
                flow = Flow("chains")
                for n in range(start, min(start + BATCH, num_jobs), 2):
                    flow.add(Push(n + 1, 0), OPTS, after=flow.add(Push(n, 0), OPTS))
                await client.insert_flow(flow)
        else:
            await client.insert_flow(graph(num_jobs, shape))


def graph(num_jobs: int, shape: str) -> Flow:
    flow = Flow(shape)
    if shape == "a batch and one callback":
        parts = flow.add_many((Push(n, 0), OPTS) for n in range(num_jobs - 1))
        flow.add(Push(num_jobs - 1, 0), OPTS, after=parts)
        return flow
    before: list[FlowTask] = []
    for start in range(0, num_jobs, LAYER):
        before = [
            flow.add(Push(n, 0), OPTS, after=before) for n in range(start, min(start + LAYER, num_jobs))
        ]
    return flow


async def drain(server: Server, schema: BenchSchema, num_jobs: int, shape: str) -> Cost:
    await empty(schema)
    before_insert = server.cpu_seconds()
    await insert(schema, num_jobs, shape)
    insert_seconds = server.cpu_seconds() - before_insert
    await settle(schema)
    tally, cost = await work(server, schema, num_jobs, insert_seconds)
    await schema.audit(tally.num_jobs)
    return cost


async def measure_graph(schema: BenchSchema) -> Graph:
    """Insert a graph of layers; then work a chain whose tasks follow each other, one at a time."""
    await empty(schema)
    instants: list[tuple[int, int]] = []
    ended, workers = asyncio.Event(), Workers()

    @workers.add()
    async def push(job: Job[Push]) -> None:
        began = time.perf_counter_ns()
        if job.args.n == NUM_LINKS - 1:
            ended.set()
        instants.append((began, time.perf_counter_ns()))

    config = Config(
        heartbeat_interval=None,
        queues={"chain": QueueConfig(max_workers=10)},
        schema=schema.name,
        workers=workers,
    )
    async with Client(schema.url, config) as client:
        layers = graph(GRAPH_SIZE, SHAPES[-1])
        began = time.perf_counter()
        await client.insert_flow(layers)
        insert_seconds = time.perf_counter() - began
        chain = Flow("chain")
        task = chain.add(Push(0, 0), InsertOpts(queue="chain"))
        for n in range(1, NUM_LINKS):
            task = chain.add(Push(n, 0), InsertOpts(queue="chain"), after=task)
        await client.insert_flow(chain)
        await asyncio.wait_for(ended.wait(), SECONDS)
    follows = [(start - end) / 1e6 for (_, end), (start, _) in itertools.pairwise(instants)]
    return Graph(insert_seconds, follows)


def report(costs: Mapping[str, Sequence[Cost]], graphs: Sequence[Graph], version: str, num_jobs: int) -> str:
    heads = ["jobs", "jobs/s", "server, insert", "server, fetch and completion", "log of the same", "client"]
    units = {
        "per_second": "",
        "insert_us": " µs",
        "server_us": " µs",
        "wal_bytes": " bytes",
        "client_us": " µs",
    }
    plain = costs[PLAIN]
    rows = [
        [
            PLAIN,
            *(
                f"{statistics.median(getattr(one, name) for one in plain):,.0f}{unit}"
                for name, unit in units.items()
            ),
        ]
    ]
    for shape in SHAPES[1:]:
        row = [shape]
        for name in units:
            ratios = [
                getattr(one, name) / getattr(base, name)
                for base, one in zip(plain, costs[shape], strict=True)
            ]
            row.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        rows.append(row)
    follows = [one for found in graphs for one in found.follows_ms]
    seconds = [one.insert_seconds for one in graphs]
    return "\n".join(
        [
            *about_machine(version),
            f"- {num_jobs:,} no-op jobs in each drain; a client with 1,000 workers.",
            "- The first line has the cost of a job, the others the ratios to it in the same round.",
            f"- {len(plain)} rounds in turns after an uncounted one: medians, with least and greatest in brackets.",
            "- Compare only the ratios: other machines have other rates.",
            "",
            table(heads, rows),
            "",
            table(
                ["what", "found"],
                [
                    [
                        f"insert of a graph of {GRAPH_SIZE:,} tasks in layers of {LAYER}",
                        f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})",
                    ],
                    [
                        "end of a task to the start of the one after it, p50",
                        f"{percentile(follows, 0.5):.1f} ms",
                    ],
                    ["the same, p99", f"{percentile(follows, 0.99):.1f} ms"],
                ],
            ),
        ]
    )


async def measure(options: argparse.Namespace, server: Server, url: str) -> str:
    shapes = [one for one in SHAPES if one == PLAIN or not options.only or options.only in one]
    async with bench_schema(url) as schema:
        costs: dict[str, list[Cost]] = {shape: [] for shape in SHAPES}
        for number in range(options.rounds + 1):
            for shape in shapes[:: 1 if number % 2 else -1]:
                num_jobs = options.jobs if number else max(options.jobs // 5, 100)
                cost = await drain(server, schema, num_jobs, shape)
                if number:
                    costs[shape].append(cost)
                    print(
                        f"{shape:28}",
                        *(f"{value:10,.1f}" for value in msgspec.structs.astuple(cost)),
                        flush=True,
                    )
        graphs = [await measure_graph(schema) for _ in range(options.rounds)]
        if options.only:
            return ""
        return report(costs, graphs, await schema.server_version(), options.jobs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="part of the name of the jobs to measure")
    parser.add_argument("--write", type=Path, help="the document to write the tables into")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="millhand-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # for root, the server runs as another user
        with embedded_postgres(directory / "pg") as postgres:
            server = Server(directory / "pg" / "data")
            text = asyncio.run(measure(options, server, postgres.url))
    print(text)
    if options.write:
        put(options.write, text, BEGIN_MARK, END_MARK)


if __name__ == "__main__":
    main()
