"""
What flows cost: drains of jobs with and without a flow, in turns; the insert of a graph; how soon a task follows another.

    .venv/bin/python benchmarks/flows.py --jobs 20000 --rounds 5 --write benchmarks/results.md
    .venv/bin/python benchmarks/flows.py --jobs 1000000 --rounds 1 --only "a batch"

The server is an embedded one, so that its CPU time can be read.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec
from contender import about_machine
from document import put, table
from drains import SECONDS, Cost, Costs, about_costs, costs_table, measure_costs, settle, truncate, work
from limits_queue import QUEUE, Push
from own_server import Server, own_server

from millhand import Client, Config, InsertOpts, Job, QueueConfig, Workers
from millhand.bench.bench_schema import BenchSchema, bench_schema
from millhand.bench.rates import percentile
from millhand.flows.flow import Flow, FlowTask

BEGIN_MARK = "<!-- flow figures: written by benchmarks/flows.py -->"
END_MARK = "<!-- end of flow figures -->"
BATCH = 1_000
OPTS = InsertOpts(queue=QUEUE)
PLAIN = "no flow"
LAYER = 500
SHAPES = (PLAIN, "a batch and one callback", "chains of two", f"layers of {LAYER}")
TABLES = ("millhand_flow", "millhand_flow_join", "millhand_flow_task")
GRAPH_SIZE = 10_000
NUM_LINKS = 200


class Graph(msgspec.Struct, frozen=True):
    """Seconds to insert a graph of `GRAPH_SIZE` tasks, and milliseconds from the end of a task to the start of the next."""

    insert_seconds: float
    follows_ms: list[float]


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


async def drain(server: Server, schema: BenchSchema, shape: str, num_jobs: int) -> Cost:
    await truncate(schema, *TABLES)
    before_insert = server.cpu_seconds()
    await insert(schema, num_jobs, shape)
    insert_seconds = server.cpu_seconds() - before_insert
    await settle(schema, "river_job", *TABLES)
    return await work(server, schema, num_jobs, insert_seconds)


async def measure_graph(schema: BenchSchema) -> Graph:
    """Insert a graph of layers; then work a chain whose tasks follow each other, one at a time."""
    await truncate(schema, *TABLES)
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


def report(costs: Costs, graphs: Sequence[Graph], version: str, num_jobs: int) -> str:
    heads = {
        "per_second": "jobs/s",
        "insert_us": "server, insert",
        "server_us": "server, fetch and completion",
        "wal_bytes": "log of the same",
        "client_us": "client",
    }
    parts = [*about_machine(version), *about_costs(costs, num_jobs), "", costs_table(costs, "jobs", heads)]
    return "\n".join([*parts, "", graphs_table(graphs)])


def graphs_table(graphs: Sequence[Graph]) -> str:
    """Return how long the insert of a graph takes, and how soon a task follows another."""
    follows = [one for found in graphs for one in found.follows_ms]
    seconds = [one.insert_seconds for one in graphs]
    rows = [
        [
            f"insert of a graph of {GRAPH_SIZE:,} tasks in layers of {LAYER}",
            f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})",
        ],
        ["end of a task to the start of the one after it, p50", f"{percentile(follows, 0.5):.1f} ms"],
        ["the same, p99", f"{percentile(follows, 0.99):.1f} ms"],
    ]
    return table(["what", "found"], rows)


async def measure(options: argparse.Namespace, server: Server) -> str:
    shapes = [one for one in SHAPES if one == PLAIN or not options.only or options.only in one]
    async with bench_schema(server.url) as schema:
        costs = await measure_costs(partial(drain, server, schema), shapes, options.rounds, options.jobs)
        graphs = [await measure_graph(schema) for _ in range(options.rounds)]
        return report(costs, graphs, await schema.server_version(), options.jobs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="part of the name of the jobs to measure")
    parser.add_argument("--write", type=Path, help="the document to write the tables into")
    options = parser.parse_args()
    with own_server() as server:
        text = asyncio.run(measure(options, server))
    print(text)
    if options.write:
        put(options.write, text, BEGIN_MARK, END_MARK)


if __name__ == "__main__":
    main()
