"""
A worker in a process of its own: its CPU and memory are its own, and whoever inserts does not take its time.

The order goes in by standard input, for a URL may hold a password; on standard output come one line when it works, and
the report when all jobs are completed or it is told to stop. It ends when its input does, so it outlives nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence

import msgspec

from millhand.errors import MillhandError

START_SECONDS = 30.0
END_SECONDS = 20.0
REPORT_BYTES_MAX = 256 * 1024 * 1024
# What Python is to run; a program of one's own gets the same order, and reports as this one does.
CHILD = ("-m", "millhand.bench.child")


class WorkOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker's process is to do: work until `num_jobs` are completed; 0 is for working until told to stop."""

    num_jobs: int
    schema: str
    slots: int
    system: str
    url: str


class WorkReport(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a worker's process has to say in the end.

    Units: see `Tally`. `cpu_seconds` are user's and system's, since it was ready; `rss_bytes` is the most it had.
    """

    cpu_seconds: float
    finished_ns: int
    num_repeated: int
    rss_bytes: int
    started_ns: list[int]


class WorkerDied(MillhandError):
    """A worker's process ended before it had reported."""


class WorkerProcess:
    """A worker that was started and is ready."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def stop(self) -> WorkReport:
        """Tell it to stop, and return its report."""
        assert self._process.stdin is not None  # noqa: S101 - a pipe
        self._process.stdin.close()
        return await self.wait_report(END_SECONDS)

    async def wait_report(self, timeout_seconds: float) -> WorkReport:
        """
        Return its report once all jobs are completed.

        Raises: WorkerDied, also if it takes longer.
        """
        line = await _read_line(self._process, timeout_seconds)
        return msgspec.json.decode(line, type=WorkReport)


@contextlib.asynccontextmanager
async def worker_process(order: WorkOrder, child: Sequence[str] = CHILD) -> AsyncIterator[WorkerProcess]:
    """
    Start a worker, yield it once it works, and see to it that it has ended.

    Raises: WorkerDied; what was wrong has been said on standard error.
    """
    # In a session of its own: a Ctrl-C is for us, and we end it in order.
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
            "what it said stands above"
        )
    return line


async def _end(process: Process) -> None:
    """Wait for the end, which the end of its input is the sign for; kill what does not heed it."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(END_SECONDS):
            await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()
