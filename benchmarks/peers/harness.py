"""
Measure one system once; every `system_*.py` uses this module.

    PYTHON system_NAME.py measure '{"what": "drain", "jobs": 20000, …}'    # prints one line of JSON
    PYTHON system_NAME.py work                                             # the worker, until SIGTERM

Each system has an environment of its own, so this module imports only the standard library and psycopg. A job only
records CLOCK_MONOTONIC in a file that all processes map into memory, the board: the measured queue carries nothing extra.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import json
import mmap
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import databases
import processes
from databases import database_url, redis_url

__all__ = ["database_url", "redis_url"]

HERE = Path(__file__).resolve().parent
NUM_SLOTS = 2_000_000
BATCH = 1_000
START_SECONDS = 60.0
DRAIN_SECONDS = 600.0
STOP_SECONDS = 20.0
WARM_UP = 20
REST_SECONDS = 0.5
NUM_IMPORTS = 5
LANES = 4
PAUSE_SECONDS = 0.002
IN_OWN_DATABASE = ("idle", "open")  # systems side by side


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


class Workers:
    """The worker processes of a system."""

    def __init__(self, system: System, board: Board, order: Order) -> None:
        environment = {**os.environ, "BENCH_BOARD": board.path, "BENCH_SETTINGS": json.dumps(order.settings)}
        environment["PYTHONPATH"] = os.pathsep.join([str(HERE), environment.get("PYTHONPATH", "")])
        self._board = board
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self.started_ns = time.monotonic_ns()
        self._processes = [
            subprocess.Popen(system.command(), env=environment, cwd=HERE, stdout=self._log, stderr=self._log)
            for _ in range(order.processes)
        ]

    def check(self) -> None:
        """Raise Failed if a process has exited."""
        for process in self._processes:
            if process.poll() is not None:
                raise Failed(f"worker ended with {process.returncode}: {self.said()}")

    def said(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-2_000:]

    def cpu_seconds(self) -> float:
        """The user and system time of all processes and their children."""
        return sum(processes.cpu_seconds(pid) for pid in self._pids())

    def memory_mib(self) -> float:
        """The sum of the processes' peak memory, without the board."""
        return (
            sum(
                processes.status_kib(pid, "VmHWM") - processes.mapped_kib(pid, self._board.path)
                for pid in self._pids()
            )
            / 1024
        )

    def stop(self) -> None:
        begun = {pid: processes.begun_at(pid) for pid in self._pids()}
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pid, at in begun.items():
            # The id of an exited process may belong to another one.
            if at is not None and processes.begun_at(pid) == at:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _pids(self) -> list[int]:
        return processes.family(process.pid for process in self._processes)


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


def main(system: System) -> None:
    """Run the command line."""
    if sys.argv[1] == "work":
        system.work()
        return
    order = Order(**json.loads(sys.argv[2]))
    os.environ["BENCH_SETTINGS"] = json.dumps(order.settings)
    try:
        print(json.dumps(asyncio.run(measure(system, order))))
    except Failed as failed:
        sys.exit(f"failed: {failed}")
