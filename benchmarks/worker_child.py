"""The program that `worker_process.py` starts: a worker in a process of its own."""

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
from systems import SYSTEMS
from worker_process import WorkOrder, WorkReport

from millhand.bench.workload import Tally


async def work(order: WorkOrder, while_working: AbstractContextManager[object] | None = None) -> None:
    """Carry out an order: print when ready, work, and print the report; `while_working` is entered around the work."""
    tally = Tally(order.num_jobs)
    gc.collect()
    gc.freeze()  # as `millhand worker` does
    async with SYSTEMS[order.system].worker(order.url, order.schema, order.slots, tally):
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), tally.stop)
        cpu_seconds = _cpu_seconds()
        _print(b"ready")
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
    _print(msgspec.json.encode(report))


def read_order() -> WorkOrder:
    """Read the order from standard input."""
    # Byte by byte: the event loop later waits for the end of the input, so nothing may be read ahead.
    line = bytearray()
    while (byte := os.read(sys.stdin.fileno(), 1)) not in (b"", b"\n"):
        line += byte
    return msgspec.json.decode(line, type=WorkOrder)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _rss_bytes() -> int:
    # On Linux ru_maxrss starts at the parent's value, VmHWM at zero.
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _print(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    asyncio.run(work(read_order()))
