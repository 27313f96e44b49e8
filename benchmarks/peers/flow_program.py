"""The command line of each `flow_*.py`, as that of `harness.py` for other measurements."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import databases
from flow import measure_fan_out, measure_kills
from flow_system import FlowSystem
from harness import Failed, Order

MEASURES: dict[str, Callable[[FlowSystem, Order], Awaitable[dict[str, Any]]]] = {
    "fan_out": measure_fan_out,
    "kills": measure_kills,
}


def main(system: FlowSystem) -> None:
    """Work until SIGTERM, or measure once and print one line of JSON."""
    if sys.argv[1] == "work":
        system.work()
        return
    order = Order(**json.loads(sys.argv[2]))
    os.environ["BENCH_SETTINGS"] = json.dumps(order.settings)
    try:
        print(json.dumps(asyncio.run(_measure(system, order))))
    except Failed as failed:
        sys.exit(f"failed: {failed}")


async def _measure(system: FlowSystem, order: Order) -> dict[str, Any]:
    """Measure once in a new database."""
    await databases.make(system, order)
    await system.open()
    try:
        return await MEASURES[order.what](system, order)
    finally:
        await system.close()
