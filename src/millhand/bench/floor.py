"""
The floor: River's tables worked by bare asyncpg, as fast as a page of Python can.

`work_inline` is what PostgreSQL and the driver alone cost. `work_life` adds what any worker owes each job: a slot, a
row with all of its columns, decoded args, a task, a timeout, an outcome that is kept, and an event once it is durable;
the next fetch is on its way while the last one's jobs run. Neither has a leader, retries, cancellation, back-pressure,
hooks, statistics, or any idea of what to do when something fails: they are rulers, not workers.

Its statements and planner settings are the best known here, Millhand's own where those are. The settings below were
fixed before anything was counted.
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
from millhand.driver.planner import PLANNER_SETTINGS

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
    Statement = asyncpg.prepared_stmt.PreparedStatement[asyncpg.Record]

FETCH_SIZE = 1_000
FLOOR_SLOTS = 4_000
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
    CASE WHEN cardinality(job.attempted_by) >= 100 THEN job.attempted_by[2:] ELSE job.attempted_by END, 'floor'
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
# What was sent need not come back, and one row of lists is read sooner than a row a job; as `job_insert_many_plain`.
_INSERT_MANY = """
WITH inserted AS (
    INSERT INTO "{schema}".river_job AS job (args, kind, max_attempts, created_at, scheduled_at)
    SELECT args, 'noop', 25, $2, $2
    FROM unnest($1::jsonb[]) AS args
    RETURNING job.id, job.args, job.metadata, job.created_at, job.scheduled_at
)

SELECT
    array_agg(id), array_agg(args::text), array_agg(metadata::text),
    array_agg(nullif(created_at, $2)), array_agg(nullif(scheduled_at, $2))
FROM inserted
"""


class FloorInserter:
    """
    Inserts by statements that were prepared beforehand.

    What comes back of bulk is what the database alone knows, in lists as the driver gives them: no row is made of it, and
    bulk is not announced. So it is less than who wants each job's row, or has a worker that sleeps, could do with.
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
        await self._many.fetch([self._encode(Noop(n)).decode() for n in numbers], datetime.now(UTC))


@contextlib.asynccontextmanager
async def floor_inserter(url: str, schema: str) -> AsyncIterator[FloorInserter]:
    """Open the connections of an inserter, which takes as many single inserts at once."""
    async with contextlib.AsyncExitStack() as leaving:
        connections = [await _connected(leaving, url) for _ in range(INSERT_CONNECTIONS)]
        ones = [await _prepared(connection, _INSERT, schema) for connection in connections]
        yield FloorInserter(ones, await _prepared(connections[0], _INSERT_MANY, schema))


@contextlib.asynccontextmanager
async def work_inline(url: str, schema: str, slots: int, tally: Tally) -> AsyncIterator[None]:
    """Fetch, call and complete; the completion of one batch overlaps the fetch of the next, on its own connection."""
    del slots
    async with contextlib.AsyncExitStack() as leaving:
        wake = await _listening(leaving, url, schema)
        fetch = await _prepared(await _connected(leaving, url), _FETCH, schema, "job.id, job.args::text")
        complete = await _prepared(await _connected(leaving, url), _COMPLETE, schema)
        group = await leaving.enter_async_context(asyncio.TaskGroup())
        working = group.create_task(_work_inline(group, fetch, complete, wake, tally))
        leaving.callback(working.cancel)
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
async def work_life(
    url: str,
    schema: str,
    slots: int,
    tally: Tally,
    *,
    fetch_size: int = FETCH_SIZE,
    wait_seconds: float = 0.0,
) -> AsyncIterator[None]:
    """Give each job a whole life, of which it may wait a part."""
    async with contextlib.AsyncExitStack() as leaving:
        wake = await _listening(leaving, url, schema)
        fetch = await _prepared(await _connected(leaving, url), _FETCH, schema)
        complete = await _prepared(await _connected(leaving, url), _COMPLETE, schema)
        group = await leaving.enter_async_context(asyncio.TaskGroup())
        life = _Life(fetch, complete, wake, slots, tally, min(fetch_size, slots), wait_seconds)
        leaving.callback(life.due_at.close)
        for service in (life.fetch_all(group), life.complete_all(), life.count_events()):
            leaving.callback(group.create_task(service).cancel)
        yield


class FloorJob(msgspec.Struct):
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


class _Life:
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
        self._events: asyncio.Queue[tuple[str, FloorJob]] = asyncio.Queue()
        self._fetch = fetch
        self._has_completed = asyncio.Event()
        self._completed: list[tuple[FloorJob, datetime]] = []
        self._inserted = inserted
        self._num_running = 0
        self._size = size
        self._slots = slots
        self._tally = tally
        self._wait_seconds = wait_seconds
        self.due_at = _Timeouts()

    async def fetch_all(self, group: asyncio.TaskGroup) -> None:
        """Fetch whenever a whole batch has room, and send the next fetch before the jobs of this one are begun."""
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
                group.create_task(self._execute(FloorJob(*row)))
            if not more:
                await _wait(self._inserted)
            while not self._has_room():
                self._ended.clear()
                await self._ended.wait()

    async def complete_all(self) -> None:
        """Write what has gathered while the last batch was written."""
        while True:
            await self._has_completed.wait()
            self._has_completed.clear()
            batch, self._completed = self._completed, []
            pairs = sorted((job.id, at) for job, at in batch)
            await self._complete.fetch([id for id, _ in pairs], [at for _, at in pairs])
            for job, _ in batch:
                self._events.put_nowait(("completed", job))

    async def count_events(self) -> None:
        """Be the one who watches."""
        while True:
            await self._events.get()
            self._tally.complete()

    async def _execute(self, job: FloorJob) -> None:
        self.due_at.add(job.id)
        try:
            await self._noop(job, self._decode(job.args))
        finally:
            self.due_at.discard(job.id)
            self._num_running -= 1
            self._ended.set()
        self._completed.append((job, datetime.now(UTC)))
        self._has_completed.set()

    async def _noop(self, job: FloorJob, args: Noop) -> None:
        del job
        self._tally.begin(args.n)
        if self._wait_seconds:
            await asyncio.sleep(self._wait_seconds)

    def _has_room(self) -> bool:
        return self._slots - self._num_running >= self._size


class _Timeouts:
    """One timeout for all, so one timer for whichever job is due first."""

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
            raise TimeoutError(f"a no-op must end within {TIMEOUT_SECONDS:g} s, got one that runs")
        self._timer = self._loop.call_at(due_at, self._expire)


async def _wait(wake: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(POLL_SECONDS):
            await wake.wait()


async def _connected(leaving: contextlib.AsyncExitStack, url: str) -> Connection:
    settings = {"application_name": "millhand bench", **PLANNER_SETTINGS}
    connection: Connection = await asyncpg.connect(url, server_settings=settings)
    leaving.push_async_callback(connection.close)
    return connection


async def _prepared(connection: Connection, sql: str, schema: str, columns: str = _COLUMNS) -> Statement:
    statement: Statement = await connection.prepare(sql.format(schema=schema, columns=columns))
    return statement


async def _listening(leaving: contextlib.AsyncExitStack, url: str, schema: str) -> asyncio.Event:
    wake = asyncio.Event()
    listener = await _connected(leaving, url)
    await listener.add_listener(f"{schema}.river_insert", lambda *_: wake.set())
    return wake
