"""Inserts: one or many, in the caller's transaction or not, refused or skipped."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta

import asyncpg
import msgspec
import pytest

from client_harness import GENEROUS, Act, ClientHarness
from factory import qualified
from millhand.client import Client
from millhand.core.errors import (
    ConfigError,
    ConnectionLost,
    DriverError,
    InvalidJob,
    OperationTimeout,
    SchemaError,
    UnknownKind,
)
from millhand.core.hooks import Hook, Middleware
from millhand.core.insert_opts import InsertOpts, InsertParams, InsertResult
from millhand.core.job import JobState
from millhand.core.unique import UniqueOpts
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.engine.inserter import DEADLOCKS_MAX
from millhand.testing import ManualClock


def _inserter(**settings: object) -> dict[str, object]:
    return {"queues": {}, **settings}


async def _insert_and_roll_back(client: Client, connection: asyncpg.Connection, queue: str) -> None:
    transaction = connection.transaction()
    await transaction.start()
    await client.insert(Act("gone"), InsertOpts(queue=queue), tx=connection)
    await transaction.rollback()


LOCK = "LOCK TABLE /* schema */river_job IN EXCLUSIVE MODE"
# Other test processes use the same server, each with a database of its own.
KILL = (
    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted AND mode = 'RowExclusiveLock' "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


async def test_insert_without_an_answer_says_that_the_outcome_is_unknown(
    harness: ClientHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of an insert that is not answered in time, or whose connection breaks, has a note with the remedy."""
    monkeypatch.setattr("millhand.db.query.TIMEOUT_SECONDS", 0.05)
    errors = []
    async with harness.client(Workers(), **_inserter()) as client, harness.driver.pool.begin() as other:
        await other.fetch(qualified(LOCK, harness.driver.pool))
        with pytest.raises(OperationTimeout) as late:
            await client.insert(Act("x"))
        errors.append(late.value)
        bulk = asyncio.create_task(client.insert_many_fast([Act("x")]))
        async with asyncio.timeout(GENEROUS):
            while not bulk.done():
                await other.fetch(KILL)
        with pytest.raises(ConnectionLost) as lost:
            await bulk
        errors.append(lost.value)

    notes = [note for error in errors for note in error.__notes__]
    assert [note.partition(" before ")[0] for note in notes] == [
        "The jobs may have been inserted. Look for them"
    ] * 2


DEADLOCKS = """
CREATE SEQUENCE /* schema */insert_number;
CREATE FUNCTION /* schema */detect_deadlock() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('/* schema */insert_number') <= {num_deadlocks} THEN
        RAISE EXCEPTION 'deadlock detected' USING ERRCODE = 'deadlock_detected';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER deadlocks BEFORE INSERT ON /* schema */river_job FOR EACH ROW EXECUTE FUNCTION /* schema */detect_deadlock()
"""
NO_DEADLOCKS = """
DROP TRIGGER deadlocks ON /* schema */river_job;
DROP FUNCTION /* schema */detect_deadlock;
DROP SEQUENCE /* schema */insert_number
"""


@pytest.mark.parametrize("num_deadlocks", [DEADLOCKS_MAX, DEADLOCKS_MAX + 1])
async def test_insert_that_a_deadlock_ends_is_repeated(harness: ClientHarness, num_deadlocks: int) -> None:
    """Nothing was written, so it is repeated a few times; the counter of the trigger outlives the rollbacks."""
    pool, error = harness.driver.pool, None
    await pool.execute_script(qualified(DEADLOCKS.format(num_deadlocks=num_deadlocks), pool))
    try:
        async with harness.client(Workers(), **_inserter()) as client:
            try:
                await client.insert(Act("a"))
            except DriverError as raised:
                error = raised
    finally:
        await pool.execute_script(qualified(NO_DEADLOCKS, pool))

    jobs = await pool.fetch(qualified("SELECT FROM /* schema */river_job", pool))
    if num_deadlocks > DEADLOCKS_MAX:
        assert (str(error), len(jobs)) == ("job_insert must succeed, got deadlock detected", 0)
    else:
        assert (error, len(jobs)) == (None, 1)


async def test_insert_in_a_transaction_that_a_deadlock_ends_is_not_repeated(harness: ClientHarness) -> None:
    """The whole transaction has failed, and only the caller can repeat it."""
    pool = harness.driver.pool
    await pool.execute_script(qualified(DEADLOCKS.format(num_deadlocks=1), pool))
    try:
        async with harness.client(Workers(), **_inserter()) as client:
            with pytest.raises(DriverError, match="deadlock detected") as raised:
                async with pool.begin() as tx:
                    await client.insert(Act("a"), tx=tx)
    finally:
        await pool.execute_script(qualified(NO_DEADLOCKS, pool))

    assert raised.value.retryable


async def test_insert_returns_the_row_with_the_options(harness: ClientHarness) -> None:
    """The result has the row as it is in the table."""
    at = datetime(2040, 1, 2, tzinfo=UTC)
    opts = InsertOpts(
        max_attempts=3,
        metadata={"a": 1},
        priority=2,
        queue="high",
        scheduled_at=at,
        tags=["one-two", "three"],
    )

    async with harness.client(Workers(), **_inserter()) as client:
        result = await client.insert(Act("x"), opts)

    row = result.job
    assert await harness.row(row.id) == row
    assert not result.unique_skipped_as_duplicate
    assert (
        row.state,
        row.max_attempts,
        row.metadata,
        row.priority,
        row.queue,
        row.scheduled_at,
        row.tags,
    ) == (JobState.SCHEDULED, 3, {"a": 1}, 2, "high", at, ("one-two", "three"))


async def test_insert_many_returns_results_in_order(harness: ClientHarness) -> None:
    """A thousand jobs of one call come back in their order."""
    async with harness.client(Workers(), **_inserter()) as client:
        results = await client.insert_many((Act(str(n)), InsertOpts(priority=1 + n % 4)) for n in range(1000))

    assert [result.job.args["what"] for result in results] == [str(n) for n in range(1000)]
    assert [result.job.priority for result in results[:4]] == [1, 2, 3, 4]


async def test_insert_many_refuses_an_empty_list(harness: ClientHarness) -> None:
    """An empty list raises."""
    async with harness.client(Workers(), **_inserter()) as client:
        with pytest.raises(InvalidJob, match=r"^jobs to insert must be at least one, got none$"):
            await client.insert_many([])


async def test_insert_in_a_transaction_is_gone_with_its_rollback(harness: ClientHarness) -> None:
    """With `tx` the job is part of the caller's transaction."""
    async with harness.client(Workers(), **_inserter()) as client:
        connection = await asyncpg.connect(harness.url)
        try:
            async with connection.transaction():
                kept = await client.insert(Act("kept"), tx=connection)
            await _insert_and_roll_back(client, connection, "default")
        finally:
            await connection.close()

    assert [row.id for row in await harness.rows()] == [kept.job.id]


async def test_insert_refuses_an_unsupported_tx(harness: ClientHarness) -> None:
    """The error lists the supported types."""
    async with harness.client(Workers(), **_inserter()) as client:
        with pytest.raises(TypeError, match=r"^tx must be an asyncpg\.Connection, .*, got builtins\.str$"):
            await client.insert(Act("x"), tx="session")


async def test_insert_notifies_on_commit_only(harness: ClientHarness) -> None:
    """
    transactional_insert_notification_commit_only.

    A queue is announced at the commit, not after a rollback, and not for scheduled jobs.
    """
    received: asyncio.Queue[str] = asyncio.Queue()
    listener = await asyncpg.connect(harness.url)
    connection = await asyncpg.connect(harness.url)
    await listener.add_listener("public.river_insert", lambda *args: received.put_nowait(args[-1]))
    try:
        async with harness.client(Workers(), **_inserter()) as client:
            await _insert_and_roll_back(client, connection, "rolled_back")
            await client.insert(
                Act("x"), InsertOpts(queue="scheduled", scheduled_at=datetime.now(UTC) + timedelta(days=1))
            )
            async with connection.transaction():
                await client.insert(Act("x"), InsertOpts(queue="in_tx"), tx=connection)
            await client.insert(Act("x"), InsertOpts(queue="alone"))
            payloads = [json.loads(await asyncio.wait_for(received.get(), GENEROUS)) for _ in range(2)]
    finally:
        await connection.close()
        await listener.close()

    assert payloads == [{"queue": "in_tx"}, {"queue": "alone"}]


@pytest.mark.slow
async def test_insert_held_back_by_the_limiter_is_announced_after_the_window(harness: ClientHarness) -> None:
    """A burst sends one notification at once, one at the end of the window, and no more."""
    received: asyncio.Queue[str] = asyncio.Queue()
    listener = await asyncpg.connect(harness.url)
    await listener.add_listener("public.river_insert", lambda *args: received.put_nowait(args[-1]))
    try:
        clock = ManualClock()
        settings = _inserter(clock=clock, fetch_cooldown=timedelta(milliseconds=300))
        async with harness.client(Workers(), **settings) as client:
            for _ in range(20):
                await client.insert(Act("x"))
            await asyncio.wait_for(received.get(), GENEROUS)
            clock.advance(0.6)  # one window to the next announcement, and one for another insert to make it
            await asyncio.wait_for(received.get(), GENEROUS)
    finally:
        await listener.close()

    assert received.empty()


@pytest.mark.slow
async def test_insert_unique_is_skipped_as_duplicate(harness: ClientHarness) -> None:
    """The second of two equal jobs returns the row of the first and is marked as a duplicate."""
    opts = InsertOpts(unique=UniqueOpts(by_args=True))

    async with harness.client(Workers(), **_inserter()) as client:
        first = await client.insert(Act("x"), opts)
        second = await client.insert(Act("x"), opts)
        other = await client.insert(Act("y"), opts)

    assert (second.unique_skipped_as_duplicate, second.job.id) == (True, first.job.id)
    assert not other.unique_skipped_as_duplicate


async def test_insert_refuses_a_kind_without_worker(harness: ClientHarness) -> None:
    """A client with workers refuses other kinds, and the error names its own."""
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None: ...

    async with harness.client(workers) as client:
        with pytest.raises(
            UnknownKind, match=r"^no worker is registered for kind 'foreign'; known kinds: 'act'$"
        ):
            await client.insert(harness.args_of_kind("foreign"))

    assert await harness.rows() == []


async def test_insert_hooks_and_middleware_change_and_refuse(harness: ClientHarness) -> None:
    """Middleware runs outermost first; a hook may change a job or refuse the whole insert."""
    emitted: list[str] = []

    class Around(Middleware):
        def __init__(self, name: str) -> None:
            self.name = name

        async def insert(
            self,
            params: Sequence[InsertParams],
            call_next: Callable[[Sequence[InsertParams]], Awaitable[Sequence[InsertResult]]],
        ) -> Sequence[InsertResult]:
            emitted.append(f"{self.name} before {len(params)}")
            results = await call_next(params)
            emitted.append(f"{self.name} after {len(results)}")
            return results

    class Tagger(Hook):
        async def insert_begin(self, params: InsertParams) -> InsertParams:
            if "refuse" in params.encoded_args:
                raise ValueError("refused")
            return msgspec.structs.replace(params, tags=("tagged",))

    settings = _inserter(middleware=[Around("outer"), Around("inner")], hooks=[Tagger()])
    async with harness.client(Workers(), **settings) as client:
        result = await client.insert(Act("x"))
        with pytest.raises(ValueError, match=r"^refused$"):
            await client.insert_many([Act("good"), Act("refuse")])

    assert result.job.tags == ("tagged",)
    assert emitted == [
        "outer before 1",
        "inner before 1",
        "inner after 1",
        "outer after 1",
        "outer before 2",
        "inner before 2",
    ]
    assert len(await harness.rows()) == 1


async def test_insert_hook_that_returns_none_is_named_in_the_error(harness: ClientHarness) -> None:
    """The error names the class of a hook that returns None."""

    class Look(Hook):
        async def insert_begin(self, params: InsertParams) -> InsertParams:
            return None  # type: ignore[return-value]

    async with harness.client(Workers(), **_inserter(hooks=[Look()])) as client:
        with pytest.raises(
            TypeError, match=r"^insert_begin of Look must return the params of the insert, got None$"
        ):
            await client.insert(Act("x"))

    assert await harness.rows() == []


async def test_insert_of_two_equal_unique_jobs_in_one_call_is_refused(harness: ClientHarness) -> None:
    """The database inserts neither of two new jobs with one key."""
    opts = InsertOpts(unique=UniqueOpts(by_args=True))

    async with harness.client(Workers(), **_inserter()) as client:
        with pytest.raises(DriverError) as raised:
            await client.insert_many([(Act("x"), opts), (Act("x"), opts)])

    assert raised.value.sqlstate == "21000"
    assert await harness.rows() == []


async def test_start_refuses_a_schema_without_migrations(harness: ClientHarness) -> None:
    """The error names the command to run, and no connection stays open."""
    with pytest.raises(SchemaError, match=r"run: millhand migrate up --schema nowhere$"):
        await harness.client(Workers(), **_inserter(schema="nowhere")).start()


async def test_start_refuses_queues_without_workers(harness: ClientHarness) -> None:
    """A client with queues and without workers raises."""
    with pytest.raises(ConfigError, match=r"^workers must hold at least one worker, got none"):
        await harness.client(Workers()).start()


def test_client_refuses_an_unsupported_database() -> None:
    """The error lists the supported types."""
    databases: Sequence[object] = [None, 3, object()]
    for database in databases:
        with pytest.raises(ConfigError, match=r"^database must be a URL, an asyncpg\.Pool, .*, got "):
            Client(database)  # type: ignore[arg-type]
