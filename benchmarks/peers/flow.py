"""Measure fan-outs: the time from the insert to the callback, and what becomes of callbacks when workers are killed."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from collections.abc import Callable
from typing import Any

from flow_journal import CALLBACK, ENDED, Entry, Journal, audited, first_callback, last_end, new_journal
from flow_system import FlowSystem
from flow_workers import PlacedWorkers
from harness import Failed, Order

WARM_UP_PARTS = 20
WARM_UP_SECONDS = 240.0
CALLBACK_SECONDS = 180.0
REST_SECONDS = 0.5
KILL_EACH_SECONDS = 1.0
LOOK_SECONDS = 0.005
# A callback is lost if so long no job did anything. Each system returns the jobs of a killed process sooner.
LOST_SECONDS = 60.0
MOST_SECONDS = 400.0


async def measure_fan_out(system: FlowSystem, order: Order) -> dict[str, Any]:
    """Insert one fan-out after the other for idle workers; return the times of each."""
    with new_journal() as journal:
        workers = PlacedWorkers(system, order)
        try:
            await _warm_up(system, journal, workers)
            numbers = range(1, order.fan_outs + 1)
            inserted = [await _timed(system, journal, workers, number, order.jobs) for number in numbers]
        finally:
            await asyncio.to_thread(workers.stop)
        journal.read()
    entries = journal.entries
    audit = audited(entries, numbers, order.jobs)
    if audit.lost or audit.early or audit.twice:
        raise Failed(f"each callback must run once and after all parts, got {audit}")
    return {
        "callback_ms": [
            (first_callback(entries, number) - began) / 1e6
            for number, (began, _) in zip(numbers, inserted, strict=True)
        ],
        "insert_ms": [(ended - began) / 1e6 for began, ended in inserted],
        "join_ms": [
            (first_callback(entries, number) - last_end(entries, number)) / 1e6 for number in numbers
        ],
    }


async def measure_kills(system: FlowSystem, order: Order) -> dict[str, Any]:
    """Insert fan-outs at equal intervals while one process a second is killed; then wait, and audit."""
    with new_journal() as journal:
        workers = PlacedWorkers(system, order)
        try:
            await _warm_up(system, journal, workers)
            killing = asyncio.create_task(_kill(workers, order))
            await _insert_all(system, order)
            num_kills = await killing
            stopped = time.monotonic_ns()
            numbers = set(range(1, order.fan_outs + 1))
            await _until_quiet(journal, workers, numbers, order.rest)
        finally:
            await asyncio.to_thread(workers.stop)
    audit = audited(journal.entries, numbers, order.jobs)
    return {
        **dataclasses.asdict(audit),
        "exits": workers.num_exits,
        "kills": num_kills,
        "seconds_after": max((_last_callback(journal.entries, numbers) - stopped) / 1e9, 0.0),
    }


async def _insert_all(system: FlowSystem, order: Order) -> None:
    began = time.monotonic()
    for index in range(order.fan_outs):
        due = began + order.seconds * index / order.fan_outs
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        await system.insert_fan_out(index + 1, order.jobs)


async def _kill(workers: PlacedWorkers, order: Order) -> int:
    chosen = random.Random(order.seed)  # noqa: S311 - it chooses which process dies
    ends = time.monotonic() + order.seconds
    num_kills = 0
    while time.monotonic() + KILL_EACH_SECONDS < ends:
        await asyncio.sleep(KILL_EACH_SECONDS)
        await asyncio.to_thread(workers.restart_exited)
        await asyncio.to_thread(workers.kill, chosen.randrange(order.processes))
        num_kills += 1
    return num_kills


async def _until_quiet(
    journal: Journal, workers: PlacedWorkers, numbers: set[int], rest_seconds: float
) -> None:
    """Wait until all callbacks have ended and then no job for `rest_seconds`, or no job for LOST_SECONDS."""
    last = began = time.monotonic()
    while time.monotonic() - began < MOST_SECONDS:
        if await asyncio.to_thread(journal.read):
            last = time.monotonic()
        quiet = time.monotonic() - last
        if quiet > LOST_SECONDS or (quiet > rest_seconds and numbers <= journal.called_back):
            return
        await asyncio.to_thread(workers.restart_exited)
        await asyncio.sleep(REST_SECONDS)
    raise Failed(f"jobs must end within {MOST_SECONDS:g} s after the last kill, got more: {workers.said()}")


async def _warm_up(system: FlowSystem, journal: Journal, workers: PlacedWorkers) -> None:
    await system.insert_fan_out(0, WARM_UP_PARTS)
    await _until(lambda: 0 in journal.called_back, journal, workers, WARM_UP_SECONDS)
    await asyncio.sleep(REST_SECONDS)


async def _timed(
    system: FlowSystem, journal: Journal, workers: PlacedWorkers, number: int, num_parts: int
) -> tuple[int, int]:
    """Insert a fan-out and wait for its callback; return when the insert began and ended."""
    began = time.monotonic_ns()
    await system.insert_fan_out(number, num_parts)
    ended = time.monotonic_ns()
    await _until(lambda: number in journal.called_back, journal, workers, CALLBACK_SECONDS)
    await asyncio.sleep(REST_SECONDS)
    return began, ended


async def _until(holds: Callable[[], bool], journal: Journal, workers: PlacedWorkers, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise Failed(f"a callback must run within {seconds:g} s, got none: {workers.said()}")
        await asyncio.sleep(LOOK_SECONDS)
        journal.read()


def _last_callback(entries: list[Entry], numbers: set[int]) -> int:
    return max(
        (one.at for one in entries if one.fan_out in numbers and (one.part, one.event) == (CALLBACK, ENDED)),
        default=0,
    )
