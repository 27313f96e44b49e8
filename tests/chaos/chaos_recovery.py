"""
How fast workers are again after a fault, how soon a dead one's job runs again, and what its reports cost.

    python tests/chaos/chaos_recovery.py --rounds 3 --kills 10
    python tests/chaos/chaos_recovery.py --write docs/reliability.md    # puts the table between its marks

Four workers, each a process, work no-op jobs, before a fault and after it, as many as they can, for which the machine
must be yours; or so many a second as `--offered` says. A fault costs what it costs beside nothing: tables grow, are
vacuumed and written back in any half a minute, so some windows of each round have no fault, and the ratio of after to
before of each fault is divided by theirs. Each window begins with the same table, vacuumed, behind a checkpoint; and no
other comes before it is over. Three rounds and ten kills take 18 minutes.

The table has medians of the rounds. What the windows without a fault differ from each other by is printed, too: a cost
that is smaller is not to be seen.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
from chaos_app import NOOP_KIND
from chaos_faults import NUM_WORKERS
from chaos_fleet import Fleet
from chaos_journal import Execution, read_journals
from chaos_plan import ASYNC_KIND
from chaos_server import ChaosServer, end_sessions, occupy

from millhand.args import RawArgs
from millhand.client import Client
from millhand.config import Config
from millhand.insert_opts import InsertOpts
from new_schema import migrate

MARK_BEGIN, MARK_END = (
    "<!-- recovery: written by tests/chaos/chaos_recovery.py -->",
    "<!-- end of recovery -->",
)
# No checkpoint comes of itself within a window.
SETTINGS = {"checkpoint_timeout": "30min", "max_wal_size": "2GB", "shared_buffers": "256MB"}
# What is there before: so a plan is the same at the beginning and at the end of a window.
NUM_DONE = 100_000
NUM_CONTROLS = 2  # in each round
BACKLOG = 6_000
WARM_SECONDS = 3.0
CLEAN_SECONDS = 8.0
# From the end of a fault until the rate is counted again: a new process is there, and the pauses between tries are over.
SETTLE_SECONDS = 12.0
FAULT_SECONDS = 5.0
QUIET_SECONDS = 45.0
LONG_MS = 3_600_000
OPTS = InsertOpts(max_attempts=25)
FEED_SECONDS = 0.2
# By the server itself: the machine's cores are the workers'.
INSERT = "INSERT INTO river_job (kind, args, max_attempts) SELECT $1, '{}', 25 FROM generate_series(1, $2)"
INSERT_DONE = """
    INSERT INTO river_job (kind, args, max_attempts, state, attempt, attempted_at, attempted_by, finalized_at)
    SELECT $1, '{}', 25, 'completed', 1, at, '{nobody}', at
    FROM (SELECT now() - interval '1 hour' AS at FROM generate_series(1, $2)) AS done
"""


@dataclass(frozen=True, kw_only=True)
class Window:
    """What came of one: jobs a second before and after what happened, and how long none was worked at all."""

    before: float
    after: float
    gap_seconds: float

    @property
    def ratio(self) -> float:
        return self.after / self.before


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

    async def window(self, fault: Callable[[], Awaitable[None]]) -> Window:
        """Work, do something, and work on."""
        await self._fleet.started()
        await self._prepare()
        async with self._fed():
            await asyncio.sleep(WARM_SECONDS)
            began_at = time.time()
            await asyncio.sleep(CLEAN_SECONDS)
            struck_at = time.time()
            await fault()
            await asyncio.sleep(SETTLE_SECONDS)
            again_at = time.time()
            await asyncio.sleep(CLEAN_SECONDS)
        return Window(
            before=await self._rate(began_at, CLEAN_SECONDS),
            after=await self._rate(again_at, CLEAN_SECONDS),
            gap_seconds=await self._longest_gap(struck_at, again_at),
        )

    async def nothing(self) -> None:
        """Take as long as a fault."""
        await asyncio.sleep(FAULT_SECONDS)

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

    async def _prepare(self) -> None:
        """Have the same table as ever, as if it had stood so for long."""
        async with self._connected() as connection:
            await connection.execute("TRUNCATE river_job")
            await connection.execute(INSERT_DONE, NOOP_KIND, NUM_DONE)
            await connection.execute("VACUUM (FREEZE, ANALYZE) river_job")
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


@dataclass(kw_only=True)
class Figures:
    """All that was measured: the windows without a fault, and those of each fault, round by round."""

    controls: list[list[Window]]
    faults: dict[str, list[Window]]
    kill_seconds: Sequence[float] = ()
    offered: int = 0
    reports_a_second: float = 0.0

    def recovery(self, name: str) -> float:
        """Return what is left of the rate after a fault, beside what is left of it after nothing."""
        rounds = zip(self.faults[name], self.controls, strict=True)
        return statistics.median(
            one.ratio / statistics.fmean(control.ratio for control in controls) for one, controls in rounds
        )

    def __str__(self) -> str:
        ratios = sorted(one.ratio for controls in self.controls for one in controls)
        lines = []
        if ratios:
            worked = (
                f"{self.offered} no-op jobs a second" if self.offered else "as many no-op jobs as they could"
            )
            lines += [
                f"Four workers on {os.cpu_count()} cores, {worked}; {len(self.controls)} rounds.",
                "",
                *self._table(),
                "",
                self._controls_told(ratios),
            ]
        if self.kill_seconds:
            seconds = self.kill_seconds
            lines.append(
                f"From `kill -9` to the job running again: half of {len(seconds)} times within "
                f"{statistics.median(seconds):.1f} s, none above {max(seconds):.1f} s."
            )
        return "\n".join(
            [*lines, f"A client's reports are {self.reports_a_second:.2f} transactions a second."]
        )

    def _controls_told(self, ratios: Sequence[float]) -> str:
        return (
            f"Without a fault the second rate was {_percent(statistics.median(ratios))} of the first, and "
            f"{_percent(ratios[0])} to {_percent(ratios[-1])} in single windows."
        )

    def _table(self) -> list[str]:
        lines = [
            "| after | before, jobs/s | afterwards, jobs/s | recovery | longest pause |",
            "|---|--:|--:|--:|--:|",
        ]
        for name, told in self.faults.items():
            before, after, gap = (
                statistics.median(values)
                for values in zip(*((one.before, one.after, one.gap_seconds) for one in told), strict=True)
            )
            recovery = _percent(self.recovery(name))
            lines.append(f"| {name} | {before:,.0f} | {after:,.0f} | {recovery} | {gap:.1f} s |")
        return lines


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.0f} %"


async def measure(server: ChaosServer, directory: Path, rounds: int, num_kills: int, offered: int) -> Figures:
    """Measure all of it, and tell of each window."""
    await migrate(server.url)
    fleet = Fleet(server.url, directory, is_direct=True)
    async with fleet.running():
        await fleet.started()
        bench = Bench(server, fleet, offered)
        figures = Figures(controls=[], faults={name: [] for name in bench.faults}, offered=offered)
        for number in range(rounds):
            await _round(bench, figures, number)
        figures.kill_seconds = await kills(server, fleet, directory, num_kills) if num_kills else ()
        figures.reports_a_second = await reports(server)
        await fleet.end()
    print("from each kill, in seconds:", *(f"{one:.1f}" for one in figures.kill_seconds))
    print(*fleet.faults, sep="\n")
    return figures


async def _round(bench: Bench, figures: Figures, number: int) -> None:
    """Do each fault once, beginning with another one each time, and nothing now and then in between."""
    names = list(bench.faults)
    names = [*names[2 * number % len(names) :], *names[: 2 * number % len(names)]]
    figures.controls.append([])
    for place, name in enumerate(names):
        if place % (len(names) // NUM_CONTROLS) == 0:
            control = await bench.window(bench.nothing)
            figures.controls[-1].append(control)
            print(f"nothing: {control}", flush=True)
        window = await bench.window(bench.faults[name])
        figures.faults[name].append(window)
        print(f"{name}: {window}", flush=True)


def write(path: Path, text: str) -> None:
    """Put a text between the marks of a document."""
    document = path.read_text()
    before, begin, rest = document.partition(MARK_BEGIN)
    _, end, after = rest.partition(MARK_END)
    if not begin or not end:
        sys.exit(f"error: {path} must hold the marks {MARK_BEGIN!r} and {MARK_END!r}, got one without")
    path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


@contextlib.contextmanager
def place() -> Iterator[tuple[Path, ChaosServer]]:
    """Make a directory, and a server that has all of the disk."""
    with tempfile.TemporaryDirectory(prefix="millhand-chaos-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        directory.chmod(0o755)  # the user that a root's server runs as has to enter it
        (directory / "journals").mkdir()
        server = ChaosServer(directory / "server", None, SETTINGS)
        server.make()
        try:
            yield directory / "journals", server
        finally:
            server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--offered", type=int, default=0, help="jobs a second; 0 for as many as are worked")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="put the figures between the marks of FILE"
    )
    given: Any = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or the server would be left behind
    with place() as (directory, server):
        figures = asyncio.run(measure(server, directory, given.rounds, given.kills, given.offered))
    print(figures)
    if given.write is not None:
        write(given.write, str(figures))


if __name__ == "__main__":
    main()
