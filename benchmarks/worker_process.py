"""
Run a worker in a process of its own, so that its CPU and memory are counted apart from the inserter's.

The order is sent on standard input, because a URL may hold a password. The worker prints one line when it is ready, and
the report once all jobs are completed or its input ends. It exits with its input, so it never outlives the parent.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec

from millhand.core.errors import MillhandError

START_SECONDS = 30.0
END_SECONDS = 20.0
REPORT_BYTES_MAX = 256 * 1024 * 1024
# The program that Python runs. A replacement reads the same order and prints the same report.
CHILD = (str(Path(__file__).with_name("worker_child.py")),)


class WorkOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What to work: `num_jobs` jobs, or until the input ends if that is 0."""

    num_jobs: int
    schema: str
    slots: int
    system: str
    url: str


class WorkReport(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a worker's process has recorded.

    Units: see `Tally`. `cpu_seconds` is user and system time since it was ready; `rss_bytes` is the peak.
    """

    cpu_seconds: float
    finished_ns: int
    num_repeated: int
    rss_bytes: int
    started_ns: list[int]


class WorkerDied(MillhandError):
    """A worker's process exited or stalled before its report."""


class WorkerProcess:
    """A started worker that is ready."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def stop(self) -> WorkReport:
        """Stop the worker and return its report."""
        assert self._process.stdin is not None  # noqa: S101 - a pipe
        self._process.stdin.close()
        return await self.wait_report(END_SECONDS)

    async def wait_report(self, timeout_seconds: float) -> WorkReport:
        """
        Return the worker's report once all jobs are completed.

        Raises: WorkerDied, also on timeout.
        """
        line = await _read_line(self._process, timeout_seconds)
        return msgspec.json.decode(line, type=WorkReport)


@contextlib.asynccontextmanager
async def worker_process(order: WorkOrder, child: Sequence[str] = CHILD) -> AsyncIterator[WorkerProcess]:
    """
    Start a worker, yield it once it is ready, and end it with the block.

    Raises: WorkerDied; the worker printed the reason on standard error.
    """
    # In a session of its own: Ctrl-C reaches only the parent, which ends the worker in order.
    process = await asyncio.create_subprocess_exec(
        sys.executable, *child,
        stdin=PIPE, stdout=PIPE, start_new_session=True, limit=REPORT_BYTES_MAX,
    )  # fmt: skip
    assert process.stdin is not None  # noqa: S101 - a pipe
    try:
        process.stdin.write(msgspec.json.encode(order) + b"\n")
        await _read_line(process, START_SECONDS)
        yield WorkerProcess(process)
    finally:
        process.stdin.close()
        await _end(process)


async def _read_line(process: Process, timeout_seconds: float) -> bytes:
    assert process.stdout is not None  # noqa: S101 - a pipe
    line = b""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_seconds):
            line = await process.stdout.readline()
    if not line.endswith(b"\n"):
        raise WorkerDied(
            f"worker process must report within {timeout_seconds:g} s, got exit code {process.returncode}; "
            "its output is above"
        )
    return line


async def _end(process: Process) -> None:
    """Wait for the exit that the end of the input requests; kill the process if it does not come."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(END_SECONDS):
            await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()
