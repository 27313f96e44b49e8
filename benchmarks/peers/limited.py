"""Measure a limit in several worker processes, and then with one process more, as in a deploy that adds one."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import databases
from harness import BATCH, Board, Failed, Order, System
from journal import FIELDS, Ran, journal, mean_at_once, most_at_once, most_of_a_key, num_ended
from workers import Workers

START_SECONDS = 60.0
# After the first job: one process may take all slots, and the others none.
MORE_SECONDS = 5.0
LOOK_SECONDS = 0.1


async def measure_limited(system: System, board: Board, order: Order) -> dict[str, Any]:
    """Work jobs of a fixed length in `order.processes` processes, and then in one more."""
    for start in range(0, order.jobs, BATCH):
        await system.insert_many(range(start, min(start + BATCH, order.jobs)))
    await asyncio.to_thread(databases.settle, system)
    workers = Workers(system, board, order)
    started = [workers]
    try:
        await _until_all_work(board, order, workers, order.processes)
        await asyncio.sleep(order.rest)
        cpu = workers.cpu_seconds() + await asyncio.to_thread(databases.server_cpu_seconds, system)
        began = time.monotonic_ns()
        await asyncio.sleep(order.seconds)
        ended = time.monotonic_ns()
        cpu = workers.cpu_seconds() + await asyncio.to_thread(databases.server_cpu_seconds, system) - cpu
        started.append(Workers(system, board, dataclasses.replace(order, processes=1)))
        joined = await _until_all_work(board, order, started[1], order.processes + 1)
        await asyncio.sleep(order.seconds)
        stopped = time.monotonic_ns()
        for some in started:
            some.check()
    finally:
        for some in started:
            await asyncio.to_thread(some.stop)
    ran = journal(board.slots, order.jobs, order.settings["keys"])
    if all(board.slots[FIELDS * n] for n in range(order.jobs)):
        raise Failed(
            f"jobs must be left at the end, got none of {order.jobs:,}: slots were free for want of jobs"
        )
    return figures(ran, (began, ended, stopped), cpu) | {"processes": joined}


def figures(ran: Sequence[Ran], instants: tuple[int, int, int], cpu_seconds: float) -> dict[str, Any]:
    """Return the figures of a window, and the most jobs at once before its end and after it."""
    began, ended, stopped = instants
    num_jobs = num_ended(ran, began, ended)
    return {
        "mean_at_once": mean_at_once(ran, began, ended),
        "jobs_per_second": num_jobs / (ended - began) * 1e9,
        "most": most_at_once(ran, 0, ended),
        "most_joined": most_at_once(ran, ended, stopped),
        "most_of_a_key": most_of_a_key(ran, 0, ended),
        "most_of_a_key_joined": most_of_a_key(ran, ended, stopped),
        "cpu_us_per_job": cpu_seconds / max(num_jobs, 1) * 1e6,
    }


async def _until_all_work(board: Board, order: Order, workers: Workers, num_processes: int) -> int:
    """Wait until each process has begun a job, but not for long after the first; return how many have."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        workers.check()
        found = set(board.slots[2 : FIELDS * order.jobs : FIELDS].tolist()) - {0}
        if found:
            deadline = min(deadline, time.monotonic() + MORE_SECONDS)
        if len(found) >= num_processes or time.monotonic() > deadline:
            break
        await asyncio.sleep(LOOK_SECONDS)
    if not found:
        raise Failed(f"a job must begin within {START_SECONDS:g} s, got none: {workers.said()}")
    return len(found)
