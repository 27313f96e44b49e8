"""`python -m millhand.bench.child`: the worker's side of `process.py`."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from millhand.bench.process import WorkOrder, WorkReport
from millhand.bench.system import SYSTEMS
from millhand.bench.workload import Tally


async def work(order: WorkOrder, while_working: AbstractContextManager[object] | None = None) -> None:
    """Work as ordered, say so, and report; `while_working` is entered when it works and left when it has."""
    tally = Tally(order.num_jobs)
    gc.collect()
    async with SYSTEMS[order.system].worker(order.url, order.schema, order.slots, tally):
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), tally.stop)
        cpu_seconds = _cpu_seconds()
        _say(b"ready")
        with while_working or contextlib.nullcontext():
            await tally.wait_end()
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        report = WorkReport(
            cpu_seconds=_cpu_seconds() - cpu_seconds,
            finished_ns=tally.finished_ns,
            num_repeated=tally.num_repeated,
            rss_bytes=_rss_bytes(),
            started_ns=tally.started_ns.tolist(),
        )
    _say(msgspec.json.encode(report))


def read_order() -> WorkOrder:
    """Read from standard input what is to be done."""
    # Byte by byte, so that nothing is read ahead of the loop that will look at the rest.
    line = bytearray()
    while (byte := os.read(sys.stdin.fileno(), 1)) not in (b"", b"\n"):
        line += byte
    return msgspec.json.decode(line, type=WorkOrder)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _rss_bytes() -> int:
    # Linux has ru_maxrss begin with what the parent had, and VmHWM with nothing.
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _say(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    asyncio.run(work(read_order()))
