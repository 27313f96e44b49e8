"""
How fast workers are again after a fault, how soon a dead one's job runs again, and what its reports cost.

    python tests/chaos/chaos_recovery.py --rounds 3 --kills 10

Four workers, each a process, work no-op jobs, before a fault and after it. Prints the table of docs/reliability.md:
medians of the rounds, each a ratio to the clean rate right before. Jobs come as fast as they can be worked, for which
the machine must be yours, or so many a second as `--offered` says.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
from chaos_app import NOOP_KIND
from chaos_faults import NUM_WORKERS
from chaos_fleet import Fleet
from chaos_journal import Execution, read_journals
from chaos_plan import ASYNC_KIND
from chaos_run import migrate, place
from chaos_server import ChaosServer, end_sessions, occupy

from millhand.args import RawArgs
from millhand.client import Client
from millhand.config import Config
from millhand.insert_opts import InsertOpts

BACKLOG = 6_000
WARM_SECONDS = 4.0
CLEAN_SECONDS = 15.0
# From the end of a fault until the rate is counted again: a new process is there, and the pauses between tries are over.
SETTLE_SECONDS = 15.0
FAULT_SECONDS = 5.0
QUIET_SECONDS = 60.0
LONG_MS = 3_600_000
OPTS = InsertOpts(max_attempts=25)
FEED_SECONDS = 0.2
# By the server itself: the machine's cores are the workers'.
INSERT = "INSERT INTO river_job (kind, args, max_attempts) SELECT $1, '{}', 25 FROM generate_series(1, $2)"


class Bench:
    """One fleet on one server, and faults for them."""

    def __init__(self, server: ChaosServer, fleet: Fleet, offered: int) -> None:
        self._fleet = fleet
        self._offered = offered
        self._server = server
        self.faults: dict[str, Callable[[], Awaitable[None]]] = {
            "restart of the server": self._restart,
            "crash of the server": self._crash,
            "all sessions ended": self._end_sessions,
            "no connection to be had for 5 s": self._exhaust,
            "kill -9 of a worker": self._kill,
            "kill -9 of a worker every 2 s, five times": self._kill_again,
        }

    async def ratio(self, fault: Callable[[], Awaitable[None]]) -> tuple[float, float, float]:
        """Return the rates before and after a fault, and how long none was worked at all."""
        await self._empty()
        async with self._fed():
            await asyncio.sleep(WARM_SECONDS)
            began_at = time.time()
            await asyncio.sleep(CLEAN_SECONDS)
            struck_at = time.time()
            await fault()
            await asyncio.sleep(SETTLE_SECONDS)
            again_at = time.time()
            await asyncio.sleep(CLEAN_SECONDS)
        clean = await self._rate(began_at, CLEAN_SECONDS)
        after = await self._rate(again_at, CLEAN_SECONDS)
        return clean, after, await self._longest_gap(struck_at, again_at)

    async def _restart(self) -> None:
        await asyncio.to_thread(self._server.stop)
        await asyncio.to_thread(self._server.start)

    async def _crash(self) -> None:
        await asyncio.to_thread(self._server.crash)
        await asyncio.to_thread(self._server.revive)

    async def _end_sessions(self) -> None:
        async with self._connected() as connection:
            await end_sessions(connection, [])

    async def _exhaust(self) -> None:
        taken = await occupy(self._server.url)
        await asyncio.sleep(FAULT_SECONDS)
        for connection in taken:
            connection.terminate()

    async def _kill(self) -> None:
        self._fleet.kill(0, keeps_name=False)

    async def _kill_again(self) -> None:
        for number in range(5):
            self._fleet.kill(number % NUM_WORKERS, keeps_name=False)
            await asyncio.sleep(2.0)

    @contextlib.asynccontextmanager
    async def _fed(self) -> AsyncIterator[None]:
        """Have enough jobs wait all the while."""
        async with asyncio.TaskGroup() as feeding:
            task = feeding.create_task(self._feed())
            yield
            task.cancel()

    async def _feed(self) -> None:
        due_at = time.monotonic()
        while True:
            with contextlib.suppress(Exception):  # whatever a server that goes away comes to
                async with self._connected() as connection:
                    while True:
                        num = await self._num_wanted(connection)
                        await connection.execute(INSERT, NOOP_KIND, num, timeout=10)
                        due_at = max(due_at + FEED_SECONDS, time.monotonic() - 1.0)
                        await asyncio.sleep(max(0.0, due_at - time.monotonic()))
            await asyncio.sleep(FEED_SECONDS)

    async def _num_wanted(self, connection: asyncpg.Connection) -> int:
        if self._offered:
            return round(self._offered * FEED_SECONDS)
        sql = "SELECT count(*) FROM (SELECT FROM river_job WHERE state = 'available' LIMIT $1) AS waiting"
        return BACKLOG - int(await connection.fetchval(sql, BACKLOG, timeout=10))

    async def _empty(self) -> None:
        async with self._connected() as connection:
            await connection.execute("TRUNCATE river_job")
            await connection.execute("CHECKPOINT")

    async def _rate(self, began_at: float, seconds: float) -> float:
        """Return how many jobs were completed a second."""
        sql = "SELECT count(*) FROM river_job WHERE finalized_at >= to_timestamp($1) AND finalized_at < to_timestamp($2)"
        async with self._connected() as connection:
            num: int = await connection.fetchval(sql, began_at, began_at + seconds)
        return num / seconds

    async def _longest_gap(self, began_at: float, ended_at: float) -> float:
        sql = """
            SELECT coalesce(max(gap), 0) FROM (
                SELECT extract(EPOCH FROM finalized_at - lag(finalized_at) OVER (ORDER BY finalized_at)) AS gap
                FROM river_job WHERE finalized_at >= to_timestamp($1) AND finalized_at < to_timestamp($2)
            ) AS gaps
        """
        async with self._connected() as connection:
            return float(await connection.fetchval(sql, began_at - 1.0, ended_at))

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(self._server.url, timeout=10)
        try:
            yield connection
        finally:
            connection.terminate()


async def kills(server: ChaosServer, fleet: Fleet, directory: Path, num: int) -> list[float]:
    """Return how long it took from each kill of a worker to its job running again elsewhere."""
    seconds: list[float] = []
    async with Client(server.url, Config(skip_unknown_job_check=True)) as client:
        for _ in range(num):
            args = {"n": 0, "acts": [], "snooze_at": 1, "snoozes": 0, "work_ms": LONG_MS}
            id = (await client.insert(RawArgs(ASYNC_KIND, json.dumps(args)), opts=OPTS)).job.id
            first = await _begun(directory, id, 1)
            fleet.kill(int(first.client.split(".")[0]), keeps_name=False)
            killed_at = time.monotonic()
            second = await _begun(directory, id, 2)
            seconds.append(second.began_at - killed_at)
            await client.jobs.cancel(id)
            await fleet.started()
    return sorted(seconds)


async def _begun(directory: Path, id: int, attempt: int) -> Execution:
    while True:
        for one in read_journals(directory):
            if (one.job, one.attempt) == (id, attempt):
                return one
        await asyncio.sleep(0.05)


async def reports(server: ChaosServer) -> float:
    """Return how often a second a client says that it is there; each time is a transaction of one statement."""
    sql = "SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'millhand_client'"
    counts = []
    for seconds in (QUIET_SECONDS, 0.0):
        connection = await asyncpg.connect(server.url)
        counts.append(await connection.fetchval(sql))
        await connection.close()
        await asyncio.sleep(seconds)
    return float(counts[1] - counts[0]) / QUIET_SECONDS / NUM_WORKERS


async def measure(server: ChaosServer, directory: Path, rounds: int, num_kills: int, offered: int) -> None:
    """Print all of it."""
    await migrate(server.url)
    fleet = Fleet(server.url, directory, is_direct=True)
    async with fleet.running():
        await fleet.started()
        bench = Bench(server, fleet, offered)
        rows: list[tuple[str, list[tuple[float, float, float]]]] = []
        for name, fault in bench.faults.items():
            told = []
            for _ in range(rounds):
                told.append(await bench.ratio(fault))
                print(name, *(f"{one:,.2f}" for one in told[-1]), flush=True)
            rows.append((name, told))
        seconds = await kills(server, fleet, directory, num_kills) if num_kills else []
        often = await reports(server)
        await fleet.end()
    if rounds:
        print(_table(rows))
    if seconds:
        print(
            f"\nkill -9 until the job runs again, {num_kills} times: p50 {statistics.median(seconds):.1f} s, "
            f"max {max(seconds):.1f} s; {', '.join(f'{one:.1f}' for one in seconds)}"
        )
    print(f"\nreports of a client: {often:.2f} a second, each a transaction")
    print(*fleet.faults, sep="\n")


def _table(rows: list[tuple[str, list[tuple[float, float, float]]]]) -> str:
    lines = [
        "| after | clean, jobs/s | afterwards, jobs/s | recovery | longest pause |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, told in rows:
        clean, after, gap = (statistics.median(one[n] for one in told) for n in range(3))
        ratio = statistics.median(one[1] / one[0] for one in told)
        lines.append(f"| {name} | {clean:,.0f} | {after:,.0f} | {100 * ratio:.0f} % | {gap:.1f} s |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--offered", type=int, default=0, help="jobs a second; 0 for as many as are worked")
    given: Any = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or servers and disks would be left behind
    with place(None) as (directory, server):
        asyncio.run(measure(server, directory, given.rounds, given.kills, given.offered))


if __name__ == "__main__":
    main()
