"""
Reads the metrics of the fleet from the database: queues, clients, tables, and what `more` adds.

Rule 1: one leader reads for all clients, so that a fleet of any size asks the database once.
Rule 2: it reads only while its metrics are collected, and rests fifty times as long as a pass took.
Rule 3: each statement has an index that bounds what it reads. A count ends at 10,001.
Rule 4: the points go when the leader's term ends; the next leader's points replace them.
Rule 5: a pass that fails removes points that are older than a minute, because a frozen figure raises no alert.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from millhand.core.client_row import ClientState
from millhand.core.clock import Clock, rest_seconds
from millhand.core.errors import DriverError
from millhand.core.metrics import definitions
from millhand.core.metrics.points import Points, number, numbers
from millhand.core.sqlstate import INSUFFICIENT_PRIVILEGE
from millhand.db.driver.protocol import Executor
from millhand.db.health import TableSize, index_list_sizes, session_get_oldest_transaction, table_list_sizes
from millhand.db.query import Query
from millhand.engine.client_metrics import ClientMetrics, Names
from millhand.engine.fleet import Fleet, load_fleet
from millhand.engine.maintenance.batch import STATEMENT_SECONDS
from millhand.engine.queue_report import NUM_DUE_LISTED, load_due_kinds, unknown_kinds
from millhand.engine.service import IntervalService
from millhand.engine.store.queue_load import DueKind, QueueLoad, queue_get_loads, queue_list_names
from millhand.engine.waiting_jobs import WaitingJobs

T = TypeVar("T")

INTERVAL_SECONDS = 15.0
# Metrics that were not collected for this long are not wanted. Prometheus collects once a minute by default.
COLLECTED_SECONDS = 300.0
# Four passes. A pass that fails leaves younger points.
OLD_SECONDS = 60.0
TABLES = ("millhand_client", "millhand_job_stats", "millhand_queue_depth", "river_job", "river_queue")

Read = Callable[["BoundedRunner"], Awaitable[Sequence[Points]]]


class BoundedRunner:
    """Runs statements with the deadline of maintenance services."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool

    async def run(self, query: Query[T]) -> T:
        return await self._pool.run(query.within(STATEMENT_SECONDS))


class FleetWatcher(IntervalService):
    """Replaces `metrics.fleet` in each pass; `more` reads further points."""

    interval_seconds = INTERVAL_SECONDS

    def __init__(
        self,
        pool: Executor,
        *,
        clock: Clock,
        metrics: ClientMetrics,
        more: Sequence[Read] = (),
        waiting: WaitingJobs | None = None,
    ) -> None:
        super().__init__()
        self._clock = clock
        self._metrics = metrics
        self._more = more
        self._pause_seconds = INTERVAL_SECONDS
        self._read_at = -math.inf
        self._runner = BoundedRunner(pool)
        self._waiting = waiting

    async def run(self, started: Callable[[], None]) -> None:
        try:
            await super().run(started)
        finally:
            self._metrics.fleet = ()

    def next_pause_seconds(self) -> float:
        return self._pause_seconds

    async def run_once(self) -> None:
        began = time.monotonic()
        if began - self._metrics.collected_at > COLLECTED_SECONDS:
            self._metrics.fleet = ()
            self._pause_seconds = INTERVAL_SECONDS
            return
        try:
            points = await self._read()
        except Exception:
            self._remove_old()
            raise
        self._read_at = self._clock.monotonic()
        if not self.wake_event.is_stopping:
            self._metrics.fleet = points
        self._pause_seconds = rest_seconds(time.monotonic() - began, least=INTERVAL_SECONDS)
        self.probe("read", points)

    def _remove_old(self) -> None:
        """Remove points that are too old: alerts and autoscalers would take them for those of now."""
        if self._clock.monotonic() - self._read_at > OLD_SECONDS:
            self._metrics.fleet = ()

    async def _read(self) -> list[Points]:
        runner, now = self._runner, self._clock.now()
        fleet = await load_fleet(runner, now)
        names = await runner.run(queue_list_names())
        due: defaultdict[str, list[DueKind]] = defaultdict(list)
        waiting = self._waiting if self._waiting and await self._waiting.are_there(runner) else None
        for one in await load_due_kinds(runner, names, limit=NUM_DUE_LISTED, waiting=waiting):
            due[one.queue].append(one)
        num_waiting = {} if waiting is None else await runner.run(waiting.count(names))
        loads = await runner.run(queue_get_loads(names))
        tables = await runner.run(table_list_sizes(TABLES))
        indexes = await runner.run(index_list_sizes())
        points = [
            *queue_points(loads, now, num_waiting),
            unworked_points(fleet, due),
            client_points(fleet),
            *table_points(tables),
            numbers(definitions.INDEX_BYTES, {(name,): size for name, size in indexes.items()}),
        ]
        oldest = await runner.run(session_get_oldest_transaction())
        if oldest is not None:
            points.append(number(definitions.OLDEST_TRANSACTION, oldest))
        for read in self._more:
            points += await self._read_allowed(read)
        return points

    async def _read_allowed(self, read: Read) -> Sequence[Points]:
        """Return further points, or none where this role may not read their tables."""
        try:
            return await read(self._runner)
        except DriverError as error:
            if error.sqlstate != INSUFFICIENT_PRIVILEGE:
                raise
            return ()


def queue_points(loads: Sequence[QueueLoad], now: datetime, num_waiting: Mapping[str, int]) -> list[Points]:
    """Return the jobs of each queue, its age, and whether it is paused; also the waiting jobs of those that have any."""
    jobs: dict[tuple[str, ...], float] = {}
    ages: dict[tuple[str, ...], float] = {}
    for load in loads:
        jobs[load.name, "available"] = load.available
        jobs[load.name, "retryable"] = load.retryable
        jobs[load.name, "running"] = load.running
        jobs[load.name, "scheduled"] = load.scheduled
        if (waiting := num_waiting.get(load.name)) is not None:
            jobs[load.name, "waiting"] = waiting
        oldest = load.oldest_available_at
        ages[load.name,] = 0.0 if oldest is None else max((now - oldest).total_seconds(), 0.0)
    return [
        numbers(definitions.QUEUE_JOBS, jobs),
        numbers(definitions.QUEUE_OLDEST, ages),
        numbers(
            definitions.QUEUE_PAUSED,
            {(load.name,): load.row is not None and load.row.is_paused for load in loads},
        ),
    ]


def unworked_points(fleet: Fleet, due: dict[str, list[DueKind]]) -> Points:
    """Return the due jobs of kinds that no client of their queue works; of many kinds, those with most jobs by name."""
    found: Counter[tuple[str, ...]] = Counter()
    for queue, kinds in due.items():
        unknown = unknown_kinds(queue, fleet, kinds) or ()
        found.update({(queue, one.kind): one.num_due for one in kinds if one.kind in unknown})
    names, values = Names(), Counter[tuple[str, ...]]()
    for labels, num_due in found.most_common():
        values[names.capped(*labels)] += num_due
    return numbers(definitions.QUEUE_UNWORKED, values)


def client_points(fleet: Fleet) -> Points:
    """Return the number of clients by language and state; stopped ones are left out."""
    values: defaultdict[tuple[str, ...], float] = defaultdict(int)
    for client in fleet.clients:
        if client.state is not ClientState.STOPPED:
            values[client.language or "", client.state.value] += 1
    return numbers(definitions.CLIENTS, values)


def table_points(tables: Sequence[TableSize]) -> list[Points]:
    """Return the rows, sizes and vacuums of tables; a table that was never vacuumed has no time."""
    rows: dict[tuple[str, ...], float] = {}
    sizes: dict[tuple[str, ...], float] = {}
    for table in tables:
        rows |= {(table.name, "live"): table.num_live, (table.name, "dead"): table.num_dead}
        sizes |= {(table.name, "table"): table.num_bytes, (table.name, "indexes"): table.num_index_bytes}
    vacuumed: dict[tuple[str, ...], float] = {
        (table.name,): at.timestamp() for table in tables if (at := table.vacuumed_at) is not None
    }
    return [
        numbers(definitions.TABLE_ROWS, rows),
        numbers(definitions.TABLE_BYTES, sizes),
        numbers(definitions.TABLE_VACUUMED_AT, vacuumed),
    ]
