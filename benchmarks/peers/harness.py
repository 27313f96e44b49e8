"""
What the measured systems share; every `system_*.py` uses this module.

Each system has an environment of its own, so this module imports only the standard library and psycopg. A job only
records CLOCK_MONOTONIC in a file that all processes map into memory, the board: the measured queue carries nothing extra.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import mmap
import os
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
NUM_SLOTS = 2_000_000
BATCH = 1_000
LANES = 4


def database_url() -> str:
    return os.environ["BENCH_DATABASE"]


def redis_url() -> str:
    return os.environ.get("BENCH_REDIS", "")


class Failed(Exception):
    """A measurement failed; the text has the reason."""


@dataclass(frozen=True)
class Order:
    """The order of a measurement."""

    what: str
    jobs: int = 0
    rates: tuple[float, ...] = ()
    rest: float = 0.0
    seconds: float = 20.0
    processes: int = 1
    finished: int = 0
    waiting: int = 0
    fan_outs: int = 0
    seed: int = 0
    settings: dict[str, Any] = field(default_factory=dict)


class Board:
    """The start of each job in nanoseconds of the monotonic clock; 0 means never."""

    def __init__(self, path: str) -> None:
        with open(path, "r+b") as file:  # noqa: PTH123 - a number of modes is all that is needed
            self._map = mmap.mmap(file.fileno(), NUM_SLOTS * 8)
        self.path = path
        self.slots = memoryview(self._map).cast("q")

    def begun(self, num: int) -> int:
        """Count the started jobs among the first `num`."""
        return num - sum(1 for at in self.slots[:num] if not at)


@contextlib.contextmanager
def new_board() -> Iterator[Board]:
    with tempfile.NamedTemporaryFile(prefix="bench-board-") as file:
        os.ftruncate(file.fileno(), NUM_SLOTS * 8)
        yield Board(file.name)


_marks: list[memoryview] = []


def mark(n: int) -> None:
    """Record a start; a second start sets the lowest bit of the slot."""
    if not _marks:
        _marks.append(Board(os.environ["BENCH_BOARD"]).slots)
    slots, now = _marks[0], time.monotonic_ns() & ~1
    slots[n] = now | 1 if slots[n] else now


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop if the settings ask for it and it is installed, otherwise on asyncio."""
    if settings().get("uvloop"):
        import uvloop  # noqa: PLC0415 - not in each environment

        uvloop.run(main)
    else:
        asyncio.run(main)


def settings() -> dict[str, Any]:
    """Return the worker's settings of this measurement."""
    found: dict[str, Any] = json.loads(os.environ.get("BENCH_SETTINGS", "{}"))
    return found


class System:
    """A job system: how its queue is set up, filled and worked. Coroutines run in one event loop."""

    name = ""
    imports = ""
    is_on_redis = False

    @property
    def keeps_rows(self) -> bool:
        """Return whether a job that succeeded leaves a row, which the audit can count."""
        return True

    @property
    def tables(self) -> str:
        """Return the name of the tables; systems of one name may share a database."""
        return self.name

    async def set_up(self) -> None:
        """Create the tables in an empty database."""

    async def open(self) -> None:
        """Open the inserter."""

    async def close(self) -> None:
        """Close it."""

    async def insert(self, n: int) -> None:
        raise NotImplementedError

    async def insert_many(self, numbers: range) -> None:
        raise NotImplementedError

    insert_copy: Callable[[range], Awaitable[None]] | None = None  # for systems with COPY

    async def insert_each(self, numbers: range) -> None:
        """Insert jobs one after the other."""
        for n in numbers:
            await self.insert(n)

    async def insert_at_rate(self, numbers: range, rate: float) -> list[int]:
        """Insert each job at its own instant; return when each insert returned."""
        returned = [0] * len(numbers)
        began = time.perf_counter()

        async def insert_some(lane: int) -> None:
            for index in range(lane, len(numbers), LANES):
                await asyncio.sleep(max(0.0, began + index / rate - time.perf_counter()))
                await self.insert(numbers[index])
                returned[index] = time.monotonic_ns()

        await asyncio.gather(*(insert_some(lane) for lane in range(LANES)))
        return returned

    async def count_left(self) -> int:
        """Return the number of unfinished jobs, without the backlog; a system may return any number above 0."""
        raise NotImplementedError

    async def audit(self, num_jobs: int) -> None:
        """
        Raise Failed unless each of so many jobs was finished by its first attempt, as far as the queue remembers.

        A history's rows count, a backlog's do not. The number is that of the rows to find: without a history it is 0
        for a system that keeps none.
        """

    def history_sql(self, num_rows: int) -> str | None:
        """Return the SQL that creates rows of finished jobs."""
        return None

    def backlog_sql(self, num_rows: int) -> str | None:
        """Return the SQL that creates rows of jobs that wait behind the measured ones."""
        return None

    def work(self) -> None:
        """Work until SIGTERM."""
        raise NotImplementedError

    def command(self) -> list[str]:
        """Return the command that starts a worker."""
        return [sys.executable, str(Path(sys.argv[0]).resolve()), "work"]


async def stopped() -> None:
    """Wait for SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
