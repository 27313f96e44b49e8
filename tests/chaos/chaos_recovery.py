"""
Measures how fast workers recover after faults, when a dead client's job runs again, and what heartbeats cost.

    python tests/chaos/chaos_recovery.py --write benchmarks/recovery.md
    python tests/chaos/chaos_recovery.py --rounds 2 --kills 0 --offered 1000    # a short try

Four worker processes work no-op jobs. `--offered` jobs a second are inserted in any case: those of an outage after it.
Each round injects all faults, and none once, in a random order. Between two of them there is a measured window, which
ends one and begins the other. A window begins when all workers run, no old job waits, the table is vacuumed, and a
checkpoint has ended. No vacuum or checkpoint runs within it.

Two windows are compared by:

    rate            jobs a second: whether the workers keep up with the load, as before
    jobs by CPU     jobs a second of CPU, of workers and server. Other load on the machine affects it far less. Where
                    cores are the limit, multiply it by their number for the possible rate.

The workers must be able to work more than is offered, or the backlog of an outage would never end. With `--offered 0`
they work as many as they can, which needs an idle machine.

Eight rounds and ten kills take about 13 minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
from chaos_app import NOOP_KIND
from chaos_faults import NUM_WORKERS
from chaos_fleet import Fleet
from chaos_journal import Execution, read_journals
from chaos_plan import ASYNC_KIND
from chaos_server import ChaosServer, end_sessions, occupy

from millhand.client import Client
from millhand.core.args.codec import RawArgs
from millhand.core.config import Config
from millhand.core.insert_opts import InsertOpts
from new_schema import migrate

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from document import put, table

MARK_BEGIN, MARK_END = (
    "<!-- recovery: written by tests/chaos/chaos_recovery.py -->",
    "<!-- end of recovery -->",
)
# No automatic checkpoint or vacuum runs within a window.
SETTINGS = {
    "autovacuum": "off",
    "checkpoint_timeout": "30min",
    "max_wal_size": "4GB",
    "shared_buffers": "256MB",
}
# A third of the possible rate, so that the backlog of an outage can be worked off.
OFFERED = 5_000
# Rows before the first round, so that query plans do not change within a round.
NUM_DONE = 100_000
BACKLOG = 6_000  # with `--offered 0`
WARM_SECONDS = 3.0
WINDOW_SECONDS = 4.0
# Long enough for a new process to start and for backoff delays to end.
SETTLE_SECONDS = 1.0
NOTHING_SECONDS = 2.0
EXHAUSTED_SECONDS = 5.0
BEHIND_SECONDS_MAX = 60.0
QUIET_SECONDS = 45.0
LONG_MS = 3_600_000
OPTS = InsertOpts(max_attempts=25)
# A window can cut a batch in two at each end, which is a hundredth of it.
FEED_SECONDS = 0.05
LOOK_SECONDS = 0.1
STATEMENT_SECONDS = 20.0
# COPY within the server, because the machine's cores are for the workers.
INSERT = """
    WITH inserted AS (
        INSERT INTO river_job (kind, args, max_attempts) SELECT $1, '{}', 25 FROM generate_series(1, $2)
    )
    SELECT pg_notify(current_schema || '.river_insert', '{"queue": "default"}')
"""
INSERT_DONE = """
    INSERT INTO river_job (kind, args, max_attempts, state, attempt, attempted_at, attempted_by, finalized_at)
    SELECT $1, '{}', 25, 'completed', 1, at, '{client}', at
    FROM (SELECT now() - interval '1 hour' AS at FROM generate_series(1, $2)) AS done
"""
NUM_WAITING = "SELECT count(*) FROM (SELECT FROM river_job WHERE state = 'available' LIMIT $1) AS waiting"
# A worker that has not reconnected waits for its next try, or its process starts.
NUM_AT_WORK = """
    SELECT count(DISTINCT attempted_by[cardinality(attempted_by)]) FROM river_job
    WHERE state = 'completed' AND finalized_at > to_timestamp($1)
    AND attempted_by[cardinality(attempted_by)] = ANY($2)
"""


@dataclass(frozen=True, kw_only=True)
class Window:
    """The jobs that were completed in a window, in each second, and for each second of CPU."""

    rate: float
    rate_by_cpu: float


@dataclass(frozen=True, kw_only=True)
class Event:
    """
    The effect of a fault: the windows before and after it.

    `gap_seconds` is the longest time without a completed job; `behind_seconds` is how long after the fault a backlog
    remained.
    """

    before: Window
    after: Window
    behind_seconds: float
    gap_seconds: float

    @property
    def rate(self) -> float:
        return self.after.rate / self.before.rate

    @property
    def rate_by_cpu(self) -> float:
        return self.after.rate_by_cpu / self.before.rate_by_cpu


class Feed:
    """Inserts `offered` jobs a second, or as many as are worked if that is 0."""

    def __init__(self, server: ChaosServer, offered: int) -> None:
        self._began_at = time.monotonic()
        self._num_inserted = 0
        self._offered = offered
        self._server = server

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as feeding:
            task = feeding.create_task(self._run())
            yield
            task.cancel()

    @property
    def is_behind(self) -> bool:
        """Return whether jobs are due that are not inserted yet."""
        return self._num_due(-2 * FEED_SECONDS) > 0

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(Exception):  # a stopping server may raise any error
                async with connected(self._server) as connection:
                    while True:
                        num = await self._num_wanted(connection)
                        await connection.execute(INSERT, NOOP_KIND, num, timeout=STATEMENT_SECONDS)
                        self._num_inserted += num
                        due_at = self._began_at + self._num_inserted / (self._offered or float("inf"))
                        await asyncio.sleep(max(due_at - time.monotonic(), 0.0) or FEED_SECONDS)
            await asyncio.sleep(FEED_SECONDS)

    async def _num_wanted(self, connection: asyncpg.Connection) -> int:
        if self._offered:
            return max(self._num_due(FEED_SECONDS), 0)
        return BACKLOG - int(await connection.fetchval(NUM_WAITING, BACKLOG, timeout=STATEMENT_SECONDS))

    def _num_due(self, ahead_seconds: float) -> int:
        seconds = time.monotonic() + ahead_seconds - self._began_at
        return round(self._offered * seconds) - self._num_inserted


class Bench:
    """One set of workers on one server, and their faults."""

    def __init__(self, server: ChaosServer, fleet: Fleet, offered: int) -> None:
        self._fleet = fleet
        self._offered = offered
        self._server = server
        self.faults: dict[str, Callable[[], Awaitable[None]]] = {
            "nothing": self._nothing,
            "restart of the server": self._restart,
            "crash of the server": self._crash,
            "all sessions ended": self._end_sessions,
            "no free connection for 5 s": self._exhaust,
            "kill -9 of a worker": self._kill,
            "kill -9 of a worker every 2 s, five times": self._kill_again,
        }

    async def round(self, names: Sequence[str]) -> dict[str, Event]:
        """Inject all faults, one after the other, and return their results."""
        events: dict[str, Event] = {}
        await self._fleet.started()
        await self._prepare()
        feed = Feed(self._server, self._offered)
        async with feed.running():
            await asyncio.sleep(WARM_SECONDS)
            window = await self._window(feed)
            for name in names:
                before = window
                struck_at = time.time()
                await self.faults[name]()
                behind_seconds = await self._catch_up(feed)
                gap_seconds = await self._longest_gap(struck_at, time.time())
                window = await self._window(feed)
                events[name] = Event(
                    before=before, after=window, behind_seconds=behind_seconds, gap_seconds=gap_seconds
                )
                print(f"{name}: {events[name]}", flush=True)
        return events

    async def _window(self, feed: Feed) -> Window:
        """Count for a while, from the same state each time."""
        async with connected(self._server) as connection:
            await connection.execute("VACUUM river_job")
            await connection.execute("CHECKPOINT")
        await asyncio.sleep(SETTLE_SECONDS)
        await self._catch_up(feed)
        began_at, cpu_began = time.time(), self._cpu_seconds()
        await asyncio.sleep(WINDOW_SECONDS)
        ended_at, cpu_ended = time.time(), self._cpu_seconds()
        sql = """
            SELECT count(*) FROM river_job WHERE state = 'completed'
            AND finalized_at >= to_timestamp($1) AND finalized_at < to_timestamp($2)
        """
        async with connected(self._server) as connection:
            num: int = await connection.fetchval(sql, began_at, ended_at)
        return Window(rate=num / (ended_at - began_at), rate_by_cpu=num / (cpu_ended - cpu_began))

    def _cpu_seconds(self) -> float:
        """Return the CPU seconds of workers and server. The server's first process has those of its ended children."""
        server = self._server.pid
        return sum(
            [
                *(cpu_seconds(life.process.pid) for life in self._fleet.living()),
                cpu_seconds(server, with_gone=True),
                *(cpu_seconds(pid) for pid in children_of(server)),
            ]
        )

    async def _catch_up(self, feed: Feed) -> float:
        """Return when the backlog of an outage is worked off and all workers run, and print how long it took."""
        began_at, over_at = time.monotonic(), time.time()
        with contextlib.suppress(TimeoutError):  # the figure shows it
            async with asyncio.timeout(BEHIND_SECONDS_MAX), connected(self._server) as connection:
                while self._offered and (feed.is_behind or await self._is_much_waiting(connection)):  # noqa: ASYNC110
                    await asyncio.sleep(LOOK_SECONDS)
        behind_seconds = time.monotonic() - began_at
        await self._fleet.started()
        with contextlib.suppress(TimeoutError):  # the rate shows it
            async with asyncio.timeout(BEHIND_SECONDS_MAX), connected(self._server) as connection:
                while await connection.fetchval(NUM_AT_WORK, over_at, self._client_ids) < NUM_WORKERS:  # noqa: ASYNC110
                    await asyncio.sleep(LOOK_SECONDS)
        return behind_seconds

    @property
    def _client_ids(self) -> list[str]:
        return [life.client_id for life in self._fleet.living()]

    async def _is_much_waiting(self, connection: asyncpg.Connection) -> bool:
        """Return whether more jobs wait than were inserted just now."""
        num_fresh = round(2 * self._offered * FEED_SECONDS)
        return bool(await connection.fetchval(NUM_WAITING, num_fresh) == num_fresh)

    async def _nothing(self) -> None:
        await asyncio.sleep(NOTHING_SECONDS)

    async def _restart(self) -> None:
        await asyncio.to_thread(self._server.stop)
        await asyncio.to_thread(self._server.start)

    async def _crash(self) -> None:
        await asyncio.to_thread(self._server.crash)
        await asyncio.to_thread(self._server.revive)

    async def _end_sessions(self) -> None:
        async with connected(self._server) as connection:
            await end_sessions(connection, [])

    async def _exhaust(self) -> None:
        taken = await occupy(self._server.url)
        await asyncio.sleep(EXHAUSTED_SECONDS)
        for connection in taken:
            connection.terminate()

    async def _kill(self) -> None:
        self._fleet.kill(0, keeps_name=False)

    async def _kill_again(self) -> None:
        for number in range(5):
            self._fleet.kill(number % NUM_WORKERS, keeps_name=False)
            await asyncio.sleep(2.0)

    async def _prepare(self) -> None:
        """Restore the table to the same state."""
        async with connected(self._server) as connection:
            await connection.execute("TRUNCATE river_job")
            await connection.execute(INSERT_DONE, NOOP_KIND, NUM_DONE)
            await connection.execute("VACUUM (FREEZE, ANALYZE) river_job")

    async def _longest_gap(self, began_at: float, ended_at: float) -> float:
        sql = """
            SELECT coalesce(max(gap), 0) FROM (
                SELECT extract(EPOCH FROM finalized_at - lag(finalized_at) OVER (ORDER BY finalized_at)) AS gap
                FROM river_job WHERE state = 'completed'
                AND finalized_at >= to_timestamp($1) AND finalized_at < to_timestamp($2)
            ) AS gaps
        """
        async with connected(self._server) as connection:
            return float(await connection.fetchval(sql, began_at - 1.0, ended_at))


@contextlib.asynccontextmanager
async def connected(server: ChaosServer) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(server.url, timeout=10)
    try:
        yield connection
    finally:
        connection.terminate()


def cpu_seconds(pid: int, *, with_gone: bool = False) -> float:
    """Return the CPU seconds of a process and its ended children; 0 if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(map(int, fields[11 : 15 if with_gone else 13])) / os.sysconf("SC_CLK_TCK")


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def kills(server: ChaosServer, fleet: Fleet, directory: Path, num: int) -> list[float]:
    """Return the seconds from each kill of a worker until its job runs again in another."""
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


async def heartbeats(server: ChaosServer) -> float:
    """Return how many heartbeats a client sends a second; each is a transaction of one statement."""
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
    """All figures, by fault and round."""

    events: dict[str, list[Event]]
    kill_seconds: Sequence[float] = ()
    offered: int = 0
    reports_a_second: float = 0.0
    loads: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join([*self._about(), "", self._table(), "", *self._others()])

    def _about(self) -> Iterator[str]:
        rounds = len(next(iter(self.events.values())))
        worked = (
            f"{self.offered:,} no-op jobs per second" if self.offered else "as many no-op jobs as possible"
        )
        yield f"Four workers on {os.cpu_count()} cores, {worked}; {rounds} rounds with every fault."
        yield (
            "Values are medians, with minimum and maximum in brackets; the true median lies between these with a "
            f"probability of {100 * (1 - 2 ** (1 - rounds)):.0f} %."
        )
        yield f"The load average over one minute was {min(self.loads):.1f} to {max(self.loads):.1f}, workers included."

    def _table(self) -> str:
        rows = [
            (
                name,
                ratio_text([event.rate for event in events]),
                ratio_text([event.rate_by_cpu for event in events]),
                f"{statistics.median(event.gap_seconds for event in events):.1f} s",
                *self._behind(events),
            )
            for name, events in self.events.items()
        ]
        heads = [
            "after",
            "rate",
            "jobs by CPU",
            "longest pause",
            *(["worked off after"] if self.offered else []),
        ]
        return table(heads, rows)

    def _behind(self, events: Sequence[Event]) -> Iterator[str]:
        if self.offered:
            yield f"{statistics.median(event.behind_seconds for event in events):.1f} s"

    def _others(self) -> Iterator[str]:
        windows = [event.before for events in self.events.values() for event in events]
        yield (
            f"Before a fault the workers completed {statistics.median(one.rate for one in windows):,.0f} jobs per second, "
            f"{statistics.median(one.rate_by_cpu for one in windows):,.0f} per second of CPU."
        )
        if self.kill_seconds:
            seconds = self.kill_seconds
            yield (
                f"From `kill -9` to the restart of the job: half of {len(seconds)} measurements within "
                f"{statistics.median(seconds):.1f} s, none above {max(seconds):.1f} s."
            )
        yield f"Heartbeats of a client are {self.reports_a_second:.2f} transactions per second."


def ratio_text(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.0%} ({min(ratios):.0%} to {max(ratios):.0%})".replace("%", " %")


async def measure(server: ChaosServer, directory: Path, given: Any) -> Figures:
    """Measure all faults and print each result."""
    await migrate(server.url)
    fleet = Fleet(server.url, directory, is_direct=True)
    async with fleet.running():
        await fleet.started()
        bench = Bench(server, fleet, given.offered)
        figures = Figures(events={name: [] for name in bench.faults}, offered=given.offered)
        chance = random.Random(given.seed)  # noqa: S311 - a seed must give the same order again
        for _ in range(given.rounds):
            events = await bench.round(chance.sample(list(bench.faults), len(bench.faults)))
            for name, event in events.items():
                figures.events[name].append(event)
            figures.loads.append(os.getloadavg()[0])
        figures.kill_seconds = await kills(server, fleet, directory, given.kills) if given.kills else ()
        figures.reports_a_second = await heartbeats(server)
        await fleet.end()
    print("from each kill, in seconds:", *(f"{one:.1f}" for one in figures.kill_seconds))
    print(*fleet.faults, sep="\n")
    return figures


@contextlib.contextmanager
def place() -> Iterator[tuple[Path, ChaosServer]]:
    """Make a directory and a server that may use the whole disk."""
    with tempfile.TemporaryDirectory(prefix="millhand-chaos-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        directory.chmod(0o755)  # for root, the server runs as another user, who must enter
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
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument(
        "--offered", type=int, default=OFFERED, help="jobs a second; 0 for as many as are worked"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the order in which faults come")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="put the figures between the marks of FILE"
    )
    given: Any = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # otherwise the server would keep running
    with place() as (directory, server):
        figures = asyncio.run(measure(server, directory, given))
    print(figures)
    if given.write is not None:
        put(given.write, str(figures), MARK_BEGIN, MARK_END)


if __name__ == "__main__":
    main()
