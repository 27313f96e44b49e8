"""
The baseline: River's tables worked by bare asyncpg, as fast as a page of Python can.

`work_inline` costs what PostgreSQL and the driver cost. `work_tasks` adds what any worker does for each job: a slot, a
row with all of its columns, decoded args, a task, a timeout, a stored outcome, and an event once it is durable. The
next fetch runs while the jobs of the last one do. Neither has a leader, retries, cancellation, back-pressure, hooks,
statistics or error handling, so neither can replace a worker.

The statements and planner settings are the best we know, some of them Millhand's own. The settings below were fixed
before the first measurement.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import asyncpg
import msgspec

from millhand.bench.workload import Noop, Tally
from millhand.db.driver.driver import PLANNER_SETTINGS

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
    Statement = asyncpg.prepared_stmt.PreparedStatement[asyncpg.Record]

FETCH_SIZE = 1_000
BASELINE_SLOTS = 4_000
INSERT_CONNECTIONS = 4
POLL_SECONDS = 1.0
TIMEOUT_SECONDS = 60.0

_COLUMNS = (
    "job.id, job.state::text, job.attempt, job.max_attempts, job.attempted_at, job.created_at, job.finalized_at, "
    "job.scheduled_at, job.priority, job.args::text, job.attempted_by, job.errors::text[], job.kind, "
    "job.metadata::text, job.queue, job.tags, job.unique_key, job.unique_states"
)
_FETCH = """
WITH locked AS MATERIALIZED (
    SELECT id
    FROM "{schema}".river_job
    WHERE state = 'available' AND queue = 'default' AND scheduled_at <= now()
    ORDER BY priority, scheduled_at, id
    LIMIT $1
    FOR UPDATE SKIP LOCKED
)

UPDATE "{schema}".river_job AS job
SET state = 'running', attempt = job.attempt + 1, attempted_at = now(), attempted_by = array_append(
    CASE WHEN cardinality(job.attempted_by) >= 100 THEN job.attempted_by[2:] ELSE job.attempted_by END, 'baseline'
)
WHERE job.id = ANY(ARRAY(SELECT id FROM locked))
RETURNING {columns}
"""
_COMPLETE = """
UPDATE "{schema}".river_job AS job
SET state = 'completed', finalized_at = ($2::timestamptz[])[width_bucket(job.id, $1::bigint[])]
WHERE job.id = ANY($1::bigint[]) AND (job.state = 'running') IS TRUE
"""
_INSERT = """
WITH inserted AS (
    INSERT INTO "{schema}".river_job AS job (args, kind, max_attempts, created_at, scheduled_at)
    VALUES ($1, 'noop', 25, $2, $2)
    RETURNING {columns}
)

SELECT inserted.*, pg_notify('{schema}.river_insert', '{{"queue": "default"}}') FROM inserted
"""
# The values that were sent are not returned, one row of arrays decodes faster than a row per job, and args are sent as one
# JSON array; see `job_insert_many_plain`.
_INSERT_MANY = """
WITH inserted AS (
    INSERT INTO "{schema}".river_job AS job (args, kind, max_attempts, created_at, scheduled_at)
    SELECT args, 'noop', 25, $2, $2
    FROM jsonb_array_elements($1::text::jsonb) AS args
    RETURNING job.id, job.args, job.metadata, job.created_at, job.scheduled_at
)

SELECT
    array_agg(id), array_agg(args::text),
    CASE WHEN bool_or(metadata <> '{{}}') THEN (SELECT array_agg(metadata::text) FROM inserted) END,
    CASE WHEN bool_or(created_at <> $2) THEN (SELECT array_agg(created_at) FROM inserted) END,
    CASE WHEN bool_or(scheduled_at <> $2) THEN (SELECT array_agg(scheduled_at) FROM inserted) END
FROM inserted
"""


class BaselineInserter:
    """
    Inserts with prepared statements.

    A bulk insert returns only the values that the database adds, as the driver's lists. It builds no rows and notifies no
    worker, so it does less than a usable insert.
    """

    def __init__(self, ones: Sequence[Statement], many: Statement) -> None:
        self._encode = msgspec.json.Encoder().encode
        self._many = many
        self._ones = list(ones)

    async def insert(self, n: int) -> None:
        one = self._ones.pop()
        await one.fetch(self._encode(Noop(n)).decode(), datetime.now(UTC))
        self._ones.append(one)

    async def insert_many(self, numbers: Sequence[int]) -> None:
        args = ",".join([self._encode(Noop(n)).decode() for n in numbers])
        await self._many.fetch(f"[{args}]", datetime.now(UTC))


@contextlib.asynccontextmanager
async def baseline_inserter(url: str, schema: str) -> AsyncIterator[BaselineInserter]:
    """Open an inserter that allows `INSERT_CONNECTIONS` single inserts at once."""
    async with contextlib.AsyncExitStack() as stack:
        connections = [await _connected(stack, url) for _ in range(INSERT_CONNECTIONS)]
        ones = [await _prepared(connection, _INSERT, schema) for connection in connections]
        yield BaselineInserter(ones, await _prepared(connections[0], _INSERT_MANY, schema))


@contextlib.asynccontextmanager
async def work_inline(url: str, schema: str, slots: int, tally: Tally) -> AsyncIterator[None]:
    """Fetch, call and complete; each completion runs beside the next fetch, on a connection of its own."""
    del slots
    async with contextlib.AsyncExitStack() as stack:
        wake = await _listening(stack, url, schema)
        fetch = await _prepared(await _connected(stack, url), _FETCH, schema, "job.id, job.args::text")
        complete = await _prepared(await _connected(stack, url), _COMPLETE, schema)
        group = await stack.enter_async_context(asyncio.TaskGroup())
        working = group.create_task(_work_inline(group, fetch, complete, wake, tally))
        stack.callback(working.cancel)
        yield


async def _work_inline(
    group: asyncio.TaskGroup, fetch: Statement, complete: Statement, wake: asyncio.Event, tally: Tally
) -> None:
    decode = msgspec.json.Decoder(Noop).decode
    completing: asyncio.Task[None] | None = None

    async def write(ids: Sequence[int]) -> None:
        await complete.fetch(sorted(ids), [datetime.now(UTC)] * len(ids))
        tally.complete(len(ids))

    while True:
        wake.clear()
        rows = await fetch.fetch(FETCH_SIZE)
        for _, args in rows:
            tally.begin(decode(args).n)
        if completing is not None:
            await completing
            completing = None
        if rows:
            completing = group.create_task(write([row[0] for row in rows]))
        if len(rows) < FETCH_SIZE:
            await _wait(wake)


@contextlib.asynccontextmanager
async def work_tasks(
    url: str,
    schema: str,
    slots: int,
    tally: Tally,
    *,
    fetch_size: int = FETCH_SIZE,
    wait_seconds: float = 0.0,
) -> AsyncIterator[None]:
    """Run each job in a task; each job sleeps `wait_seconds`."""
    async with contextlib.AsyncExitStack() as stack:
        wake = await _listening(stack, url, schema)
        fetch = await _prepared(await _connected(stack, url), _FETCH, schema)
        complete = await _prepared(await _connected(stack, url), _COMPLETE, schema)
        group = await stack.enter_async_context(asyncio.TaskGroup())
        worker = _TaskWorker(fetch, complete, wake, slots, tally, min(fetch_size, slots), wait_seconds)
        stack.callback(worker.due_at.close)
        for service in (worker.fetch_all(group), worker.complete_all(), worker.count_events()):
            stack.callback(group.create_task(service).cancel)
        yield


class BaselineJob(msgspec.Struct):
    """A row with all of its columns."""

    id: int
    state: str
    attempt: int
    max_attempts: int
    attempted_at: datetime
    created_at: datetime
    finalized_at: datetime | None
    scheduled_at: datetime
    priority: int
    args: str
    attempted_by: Sequence[str]
    errors: Sequence[str] | None
    kind: str
    metadata: str
    queue: str
    tags: Sequence[str]
    unique_key: bytes | None
    unique_states: object


class _TaskWorker:
    def __init__(
        self,
        fetch: Statement,
        complete: Statement,
        inserted: asyncio.Event,
        slots: int,
        tally: Tally,
        size: int,
        wait_seconds: float,
    ) -> None:
        self._complete = complete
        self._decode = msgspec.json.Decoder(Noop).decode
        self._ended = asyncio.Event()
        self._events: asyncio.Queue[tuple[str, BaselineJob]] = asyncio.Queue()
        self._fetch = fetch
        self._has_completed = asyncio.Event()
        self._completed: list[tuple[BaselineJob, datetime]] = []
        self._inserted = inserted
        self._num_running = 0
        self._size = size
        self._slots = slots
        self._tally = tally
        self._wait_seconds = wait_seconds
        self.due_at = _Timeouts()

    async def fetch_all(self, group: asyncio.TaskGroup) -> None:
        """Fetch when a whole batch has room, and send the next fetch before the jobs of this one start."""
        ahead: asyncio.Task[list[asyncpg.Record]] | None = None
        while True:
            self._inserted.clear()
            rows = await (self._fetch.fetch(self._size) if ahead is None else ahead)
            self._num_running += len(rows)
            more, ahead = len(rows) == self._size, None
            if more and self._has_room():
                ahead = group.create_task(self._fetch.fetch(self._size))
                await asyncio.sleep(0)
            for row in rows:
                group.create_task(self._execute(BaselineJob(*row)))
            if not more:
                await _wait(self._inserted)
            while not self._has_room():
                self._ended.clear()
                await self._ended.wait()

    async def complete_all(self) -> None:
        """Write the jobs that completed during the last write."""
        while True:
            await self._has_completed.wait()
            self._has_completed.clear()
            batch, self._completed = self._completed, []
            pairs = sorted((job.id, at) for job, at in batch)
            await self._complete.fetch([id for id, _ in pairs], [at for _, at in pairs])
            for job, _ in batch:
                self._events.put_nowait(("completed", job))

    async def count_events(self) -> None:
        """Count each event as a subscriber would."""
        while True:
            await self._events.get()
            self._tally.complete()

    async def _execute(self, job: BaselineJob) -> None:
        self.due_at.add(job.id)
        try:
            await self._noop(job, self._decode(job.args))
        finally:
            self.due_at.discard(job.id)
            self._num_running -= 1
            self._ended.set()
        self._completed.append((job, datetime.now(UTC)))
        self._has_completed.set()

    async def _noop(self, job: BaselineJob, args: Noop) -> None:
        del job
        self._tally.begin(args.n)
        if self._wait_seconds:
            await asyncio.sleep(self._wait_seconds)

    def _has_room(self) -> bool:
        return self._slots - self._num_running >= self._size


class _Timeouts:
    """One timer for all jobs, because all have the same timeout."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._due_at: dict[int, float] = {}

    def add(self, id: int) -> None:
        due_at = self._due_at[id] = self._loop.time() + TIMEOUT_SECONDS
        if self._timer is None:
            self._timer = self._loop.call_at(due_at, self._expire)

    def discard(self, id: int) -> None:
        del self._due_at[id]

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self) -> None:
        self._timer = None
        due_at = next(iter(self._due_at.values()), None)
        if due_at is None:
            return
        if due_at <= self._loop.time():
            raise TimeoutError(f"a no-op must end within {TIMEOUT_SECONDS:g} s, got one that still runs")
        self._timer = self._loop.call_at(due_at, self._expire)


async def _wait(wake: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(POLL_SECONDS):
            await wake.wait()


async def _connected(stack: contextlib.AsyncExitStack, url: str) -> Connection:
    settings = {"application_name": "millhand bench", **PLANNER_SETTINGS}
    connection: Connection = await asyncpg.connect(url, server_settings=settings)
    stack.push_async_callback(connection.close)
    return connection


async def _prepared(connection: Connection, sql: str, schema: str, columns: str = _COLUMNS) -> Statement:
    statement: Statement = await connection.prepare(sql.format(schema=schema, columns=columns))
    return statement


async def _listening(stack: contextlib.AsyncExitStack, url: str, schema: str) -> asyncio.Event:
    wake = asyncio.Event()
    listener = await _connected(stack, url)
    await listener.add_listener(f"{schema}.river_insert", lambda *_: wake.set())
    return wake
