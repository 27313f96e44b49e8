"""The measurements. Each works in a new database; a drain and the bursts end with an audit."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import databases
from harness import BATCH, NUM_SLOTS, Board, Failed, Order, System, new_board
from limited import measure_limited
from workers import Workers

START_SECONDS = 60.0
DRAIN_SECONDS = 600.0
WARM_UP = 20
REST_SECONDS = 0.5
NUM_IMPORTS = 5
PAUSE_SECONDS = 0.002
IN_OWN_DATABASE = ("idle", "open")  # systems side by side


async def _until(holds: Callable[[], Awaitable[bool]], seconds: float, workers: Workers, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not await holds():
        workers.check()
        if time.monotonic() > deadline:
            raise Failed(f"{what} must come within {seconds:g} s: {workers.said()}")
        await asyncio.sleep(PAUSE_SECONDS)


async def _begun(board: Board, num: int, workers: Workers, seconds: float = DRAIN_SECONDS) -> None:
    """Wait until `num` jobs have started."""
    at = 0

    async def are_all() -> bool:
        nonlocal at
        while at < num and board.slots[at]:
            at += 1
        return at == num

    await _until(are_all, seconds, workers, f"the begin of all {num:,} jobs")


async def measure_insert(system: System, _board: Board, order: Order) -> dict[str, float]:
    """Insert one by one, then in batches."""
    await system.insert_each(range(WARM_UP))
    began = time.perf_counter()
    await system.insert_each(range(order.jobs))
    single = order.jobs / (time.perf_counter() - began)
    bulk = await _insert_bulk(system.insert_many, range(order.jobs * 10))
    figures = {"insert_per_second": single, "bulk_per_second": bulk}
    if system.insert_copy is not None:
        figures["copy_per_second"] = await _insert_bulk(system.insert_copy, range(order.jobs * 10))
    return figures


async def _insert_bulk(insert: Callable[[range], Awaitable[None]], numbers: range) -> float:
    gc.collect()
    began = time.perf_counter()
    for start in range(0, len(numbers), BATCH):
        await insert(numbers[start : start + BATCH])
    return len(numbers) / (time.perf_counter() - began)


async def measure_imports(system: System, _board: Board, _order: Order) -> dict[str, float]:
    """Measure the import time of the system's programs in a new interpreter."""
    words = f"import time; began = time.perf_counter(); {system.imports}; print(time.perf_counter() - began)"

    def said() -> float:
        done = subprocess.run([sys.executable, "-c", words], capture_output=True, check=True, text=True)
        return float(done.stdout)

    found = [await asyncio.to_thread(said) for _ in range(NUM_IMPORTS)]
    return {"imports_ms": statistics.median(found) * 1e3}


async def measure_drain(system: System, board: Board, order: Order) -> dict[str, float]:
    """Insert in bulk, then start workers; measure from the first start to the last durable completion."""
    await _insert_bulk(system.insert_many, range(order.jobs))
    await asyncio.to_thread(databases.settle, system)
    wal = await asyncio.to_thread(databases.wal_bytes, system)
    workers = Workers(system, board, order)
    try:
        # The cost of a process start is not part of a job's cost.
        await _begun(board, 1, workers, START_SECONDS)
        started_cpu_seconds = workers.cpu_seconds()
        server_seconds = await asyncio.to_thread(databases.server_cpu_seconds, system)
        await _begun(board, order.jobs, workers)

        async def is_done() -> bool:
            return await system.count_left() == 0

        await _until(is_done, DRAIN_SECONDS, workers, "the durable end of all jobs")
        ended_ns = time.monotonic_ns()
        wal = await asyncio.to_thread(databases.wal_bytes, system) - wal
        cpu_seconds = workers.cpu_seconds() - started_cpu_seconds
        server_seconds = await asyncio.to_thread(databases.server_cpu_seconds, system) - server_seconds
        memory_mib = workers.memory_mib()
    finally:
        await asyncio.to_thread(workers.stop)
    begun = board.slots[: order.jobs].tolist()
    _check_once(begun)
    await system.audit(order.finished + (order.jobs if system.keeps_rows else 0))
    figures = {
        "cpu_us_per_job": cpu_seconds / order.jobs * 1e6,
        "first_ms": (min(begun) - workers.started_ns) / 1e6,
        "jobs_per_second": order.jobs / ((ended_ns - min(begun)) / 1e9),
        "memory_mib": memory_mib,
        "server_us_per_job": server_seconds / order.jobs * 1e6,
    }
    if not system.is_on_redis:
        figures["wal_bytes_per_job"] = wal / order.jobs
    return figures


def _check_once(begun: list[int]) -> None:
    if repeated := sum(1 for at in begun if at & 1):
        raise Failed(f"each job must be begun once, got {repeated:,} that were begun again")


async def measure_open(system: System, board: Board, order: Order) -> dict[str, Any]:
    """
    Insert and work bursts beside a transaction that stays open; return when each burst began, and its rate.

    Systems side by side take turns, so that no two bursts overlap.
    """
    workers = Workers(system, board, order)
    bursts: list[list[float]] = []
    try:
        await _insert_bulk(system.insert_many, range(WARM_UP))
        await _begun(board, WARM_UP, workers, START_SECONDS)
        numbers, opened = range(WARM_UP, WARM_UP + order.jobs), time.monotonic()
        with databases.held_snapshot():
            while numbers.stop <= NUM_SLOTS and time.monotonic() < opened + order.seconds:
                async with _turn():
                    began = time.monotonic()
                    await _insert_bulk(system.insert_many, numbers)
                    await _begun(board, numbers.stop, workers)
                begun = board.slots[numbers.start : numbers.stop].tolist()
                bursts.append([began - opened, len(begun) / ((max(begun) - min(begun)) / 1e9)])
                numbers = range(numbers.stop, numbers.stop + order.jobs)
                await asyncio.sleep(order.rest)

        async def is_done() -> bool:
            return await system.count_left() == 0

        await _until(is_done, DRAIN_SECONDS, workers, "the durable end of all jobs")
    finally:
        await asyncio.to_thread(workers.stop)
    _check_once(board.slots[: numbers.start].tolist())
    await system.audit(numbers.start if system.keeps_rows else 0)
    return {"bursts": bursts}


@contextlib.asynccontextmanager
async def _turn() -> AsyncIterator[None]:
    """Wait for the turn of this process among the systems of a server."""
    place = Path(tempfile.gettempdir()) / f"millhand-bench-turn-{os.getuid()}"
    with place.open("w") as turn:
        await asyncio.to_thread(fcntl.flock, turn, fcntl.LOCK_EX)
        yield


async def measure_pickup(system: System, board: Board, order: Order) -> dict[str, Any]:
    """Insert at one rate after the other for an idle worker."""
    workers = Workers(system, board, order)
    figures = {}
    try:
        await system.insert_each(range(WARM_UP))
        await _begun(board, WARM_UP, workers, START_SECONDS)
        first = WARM_UP
        for rate in order.rates:
            await asyncio.sleep(REST_SECONDS)
            numbers = range(first, first + max(1, int(rate * order.seconds)))
            returned = await system.insert_at_rate(numbers, rate)
            await _begun(board, numbers.stop, workers, START_SECONDS)
            figures[f"{rate:g}"] = _pickup(board.slots[numbers.start : numbers.stop].tolist(), returned)
            first = numbers.stop
    finally:
        await asyncio.to_thread(workers.stop)
    return figures


def _pickup(begun: list[int], returned: list[int]) -> dict[str, Any]:
    _check_once(begun)
    seconds = (max(returned) - min(returned)) / 1e9
    return {
        "latencies_ms": [round((at - back) / 1e6, 3) for at, back in zip(begun, returned, strict=True)],
        "rate_reached": (len(returned) - 1) / seconds if seconds else 0.0,
    }


async def measure_idle(system: System, board: Board, order: Order) -> dict[str, float]:
    """Measure the cost of an idle worker for the database and the machine."""
    await system.insert(0)
    await system.close()
    workers = Workers(system, board, order)
    try:
        await _begun(board, 1, workers, START_SECONDS)
        await asyncio.sleep(order.rest)
        before = await asyncio.to_thread(databases.transactions, system)
        cpu_seconds, began = workers.cpu_seconds(), time.perf_counter()
        await asyncio.sleep(order.seconds)
        seconds = time.perf_counter() - began
        cpu_seconds = workers.cpu_seconds() - cpu_seconds
        after = await asyncio.to_thread(databases.transactions, system)
        memory_mib = workers.memory_mib()
    finally:
        await asyncio.to_thread(workers.stop)
    await system.open()
    figures = {"cpu_percent": cpu_seconds / seconds * 100, "memory_mib": memory_mib}
    if not system.is_on_redis:
        figures["transactions_per_second"] = (after - before) / seconds
    return figures


MEASURES: dict[str, Callable[[System, Board, Order], Awaitable[dict[str, Any]]]] = {
    "drain": measure_drain,
    "idle": measure_idle,
    "imports": measure_imports,
    "insert": measure_insert,
    "limited": measure_limited,
    "open": measure_open,
    "pickup": measure_pickup,
}


async def measure(system: System, order: Order) -> dict[str, Any]:
    """Measure once in a new database."""
    await databases.make(system, order)
    await system.open()
    try:
        with new_board() as board:
            return await MEASURES[order.what](system, board, order)
    finally:
        await system.close()
        if order.what in IN_OWN_DATABASE and not system.is_on_redis:
            databases.drop()  # each system has its own
