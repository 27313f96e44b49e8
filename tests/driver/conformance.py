"""
What a driver must do to be one; a driver's own tests inherit these and say how it is made.

`database` is a driver, open, on a migrated schema that is the test's alone, with a pool of at least two connections.
`connected` makes what the driver's users have: a connection of their own, as `executor(tx)` takes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from millhand.driver.protocol import Driver, Executor
from millhand.errors import ConnectionLost, DriverError, OperationTimeout, PoolClosed
from millhand.insert_opts import InsertParams
from millhand.job import ClientId, JobId, JobRow, JobState
from millhand.store.job import (
    job_count_by_state,
    job_get_available,
    job_get_by_id,
    job_insert_many,
    job_notify_insert,
    job_set_state_if_running_many,
)
from millhand.store.job_copy import job_copy
from millhand.store.job_list import JobListParams, job_list
from millhand.store.job_row import ZERO_TIME
from millhand.store.queue import queue_get, queue_pause
from millhand.transition import Failed, settle

GENEROUS_SECONDS = 20.0
KILL_ME = "SELECT pg_terminate_backend(pg_backend_pid())"

Connected = Callable[[], AbstractAsyncContextManager[Any]]


def params(**said: Any) -> InsertParams:
    plain = {
        "kind": "act",
        "encoded_args": '{"n":1}',
        "max_attempts": 25,
        "encoded_metadata": '{"m":1}',
        "priority": 1,
        "queue": "default",
        "state": JobState.AVAILABLE,
    }
    return InsertParams(**{**plain, **said})


async def batches(*batches: list[InsertParams]) -> AsyncIterator[list[InsertParams]]:
    for batch in batches:
        yield batch


def plain(job: JobRow) -> JobRow:
    """Return a row that does not know its place."""
    return msgspec.structs.replace(job, id=JobId(0), created_at=ZERO_TIME, scheduled_at=ZERO_TIME)


async def num_jobs(executor: Executor) -> int:
    return sum((await executor.run(job_count_by_state())).values())


async def wait_for(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return when the database says so."""
    async with asyncio.timeout(GENEROUS_SECONDS):
        while not await condition():
            pass


class DriverConformance:
    @pytest.fixture
    def database(self) -> Driver:
        raise NotImplementedError

    @pytest.fixture
    def connected(self) -> Connected:
        raise NotImplementedError

    # -- queries

    async def test_query_is_run_and_parsed(self, database: Driver) -> None:
        """What a query's rows say is what `run` returns."""
        [result] = await database.pool.run(job_insert_many([params(tags=("one", "two"))]))

        assert await database.pool.run(job_get_by_id(result.job.id)) == result.job
        assert (result.job.args, result.job.metadata, result.job.tags) == ({"n": 1}, {"m": 1}, ("one", "two"))

    async def test_json_is_stored_as_json(self, database: Driver) -> None:
        """Args, metadata and errors are objects in the database, whatever the application does with jsonb itself."""
        await database.pool.run(job_insert_many([params(), params()]))
        await database.pool.run(job_insert_many([params()]))
        jobs = await database.pool.run(job_get_available(queue="default", limit=3, client_id=ClientId("me")))
        failed = Failed("boom", retry_at=jobs[0].created_at)
        changes = [settle(job, failed, now=job.created_at, started_at=job.created_at) for job in jobs]
        rows = await database.pool.run(job_set_state_if_running_many(changes))

        types = await database.pool.fetch(
            "SELECT DISTINCT jsonb_typeof(args) AS args, jsonb_typeof(metadata) AS metadata, "
            f"jsonb_typeof(errors[1]) AS error FROM {table(database)}"
        )
        assert types == [{"args": "object", "metadata": "object", "error": "object"}]
        assert [(row.args, row.metadata, row.errors[0].error) for row in rows] == [
            ({"n": 1}, {"m": 1}, "boom")
        ] * 3

    async def test_more_queries_than_connections_are_all_run(self, database: Driver) -> None:
        """Whoever finds no connection free waits for one."""
        results = await asyncio.gather(*(database.pool.run(job_insert_many([params()])) for _ in range(50)))

        assert len({one.job.id for [one] in results}) == 50

    # -- deadlines

    async def test_late_answer_is_a_timeout_with_the_query_s_name(self, database: Driver) -> None:
        """A query past its deadline raises, says which it was, and has not happened; the pool goes on working."""
        async with database.pool.begin() as other:
            await other.fetch(f"LOCK TABLE {table(database)}")
            with pytest.raises(OperationTimeout) as late:
                await database.pool.run(job_insert_many([params(), params()]).within(0.1))

        assert (late.value.operation, late.value.seconds) == ("job_insert_many", 0.1)
        assert await num_jobs(database.pool) == 0

    async def test_late_answer_in_a_transaction_is_a_timeout(self, database: Driver) -> None:
        """In a transaction, a deadline ends the query, and the transaction can be rolled back in order."""
        with pytest.raises(
            OperationTimeout, match=r"^SELECT pg_sleep\(30\) must answer within 0\.1 s, got no answer$"
        ):
            async with database.pool.begin() as tx:
                await tx.fetch("SELECT pg_sleep(30)", timeout_seconds=0.1)

        assert await num_jobs(database.pool) == 0

    async def test_cancelled_query_leaves_the_pool_whole(self, database: Driver) -> None:
        """A task cancelled while it waits for the database takes nothing with it."""
        sql = f"SELECT pg_sleep(30) /* {database.schema} */"
        waiting = asyncio.ensure_future(database.pool.fetch(sql))
        await wait_for(lambda: is_running(database.pool, sql))

        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

        await wait_for(lambda: is_over(database.pool, sql))
        assert await asyncio.gather(*(num_jobs(database.pool) for _ in range(20))) == [0] * 20

    # -- errors

    @pytest.mark.parametrize(
        ("sqlstate", "retryable"),
        [
            ("22012", False), ("42P01", False), ("23514", False), ("40001", True), ("40P01", True), ("55P03", True),
            ("57014", True), ("53100", True), ("28000", False),
        ],
    )  # fmt: skip
    async def test_refusal_is_a_driver_error(self, database: Driver, sqlstate: str, retryable: bool) -> None:
        """What the database refuses is raised with its state, its words, and whether it may go better another time."""
        sql = f"DO $$ BEGIN RAISE EXCEPTION 'so there' USING ERRCODE = '{sqlstate}', DETAIL = 'secret args'; END $$"

        with pytest.raises(DriverError) as refused:
            await database.pool.execute_script(sql)

        error = refused.value
        assert (type(error), error.sqlstate, error.retryable) == (DriverError, sqlstate, retryable)
        assert str(error) == f"{sql[:60]} must succeed, got so there"
        assert error.__cause__ is not None

    @pytest.mark.parametrize("sqlstate", ["08006", "25006", "57P01", "57P03", "53300"])
    async def test_refusal_that_ends_a_connection_is_a_lost_one(
        self, database: Driver, sqlstate: str
    ) -> None:
        """States that tell of a connection's end, of a server that only reads, or of none at all are connections lost."""
        with pytest.raises(ConnectionLost) as lost:
            await database.pool.execute_script(
                f"DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{sqlstate}'; END $$"
            )

        assert (lost.value.sqlstate, lost.value.retryable) == (sqlstate, True)

    async def test_constraint_is_named(self, database: Driver) -> None:
        """Whose constraint was violated is on the error; the row, with its args, is not in its text."""
        with pytest.raises(DriverError) as refused:
            await database.pool.run(
                job_insert_many([params(priority=5, encoded_args='{"password":"secret"}')])
            )

        assert (refused.value.operation, refused.value.constraint) == ("job_insert", "priority_in_range")
        assert "secret" not in str(refused.value)

    async def test_broken_connection_is_lost_and_not_handed_out_again(self, database: Driver) -> None:
        """A connection that the server ended raises once; after it, every query finds a good one."""
        for _ in range(3):
            with pytest.raises(ConnectionLost):
                await database.pool.fetch(KILL_ME)

        assert await asyncio.gather(*(num_jobs(database.pool) for _ in range(20))) == [0] * 20

    async def test_connections_broken_while_idle_are_not_handed_out(self, database: Driver) -> None:
        """Connections that died while nobody used them are replaced, at the latest when somebody has met them once."""
        await asyncio.gather(*(num_jobs(database.pool) for _ in range(20)))
        others = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%job_count_by_state%'"
        )
        await database.pool.fetch(others)

        async def all_answer() -> bool:
            queries = (num_jobs(database.pool) for _ in range(20))
            answers = await asyncio.gather(*queries, return_exceptions=True)
            assert {type(answer) for answer in answers} <= {int, ConnectionLost}
            return answers == [0] * 20

        await wait_for(all_answer)

    # -- transactions

    async def test_transaction_is_committed_at_its_end(self, database: Driver) -> None:
        """What was done in a transaction is seen by others when it has ended, and not before."""
        async with database.pool.begin() as tx:
            await tx.run(job_insert_many([params()]))
            inside, outside = await num_jobs(tx), await num_jobs(database.pool)

        assert (inside, outside, await num_jobs(database.pool)) == (1, 0, 1)

    async def test_transaction_is_rolled_back_by_what_is_raised(self, database: Driver) -> None:
        """An exception goes through as it is, and nothing was done."""
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - what is raised inside is what comes out
            async with database.pool.begin() as tx:
                await tx.run(job_insert_many([params()]))
                raise ZeroDivisionError

        assert await num_jobs(database.pool) == 0

    async def test_refused_statement_rolls_its_transaction_back(self, database: Driver) -> None:
        """After a refusal that is not caught, nothing of the transaction is left, and its connection is fit again."""
        for _ in range(5):
            with pytest.raises(DriverError):  # noqa: PT012 - as above
                async with database.pool.begin() as tx:
                    await tx.run(job_insert_many([params()]))
                    await tx.fetch("SELECT 1/0")

        assert await num_jobs(database.pool) == 0

    async def test_savepoint_is_undone_alone(self, database: Driver) -> None:
        """Within a transaction, `begin` is a savepoint at any depth: undone, what was done before it stands."""
        async with database.pool.begin() as tx:
            await tx.run(job_insert_many([params(kind="first")]))
            async with tx.begin() as savepoint:
                await savepoint.run(job_insert_many([params(kind="second")]))
                with contextlib.suppress(DriverError):
                    async with savepoint.begin() as deeper:
                        await deeper.run(job_insert_many([params(kind="third")]))
                        await deeper.fetch("SELECT 1/0")
            with contextlib.suppress(ZeroDivisionError):
                async with tx.begin() as savepoint:
                    await savepoint.run(job_insert_many([params(kind="fourth")]))
                    raise ZeroDivisionError

        assert await kinds(database) == ["first", "second"]

    async def test_commit_that_is_refused_is_a_driver_error(self, database: Driver) -> None:
        """What the database refuses only at the end is raised at the end."""
        deferred = "CREATE TEMPORARY TABLE t (a int UNIQUE DEFERRABLE INITIALLY DEFERRED) ON COMMIT DROP"

        with pytest.raises(DriverError) as refused:
            async with database.pool.begin() as tx:
                await tx.execute_script(f"{deferred}; INSERT INTO t VALUES (1), (1)")

        assert (refused.value.operation, refused.value.sqlstate) == ("commit", "23505")

    # -- the caller's own

    async def test_executor_works_in_the_caller_s_transaction(
        self, database: Driver, connected: Connected
    ) -> None:
        """On the caller's connection everything is in his transaction, and is gone with it."""
        async with connected() as tx:
            executor = database.executor(tx)
            await executor.run(job_insert_many([params()], notify_queues=["default"]))
            inside = await num_jobs(executor)
            with contextlib.suppress(DriverError):
                async with executor.begin() as savepoint:
                    await savepoint.run(job_insert_many([params()]))
                    await savepoint.fetch("SELECT 1/0")
            after_savepoint = await num_jobs(executor)

        assert (inside, after_savepoint, await num_jobs(database.pool)) == (1, 1, 0)

    async def test_executor_takes_its_own_transactions(self, database: Driver) -> None:
        """The executor of a transaction that this driver began is as good as a connection."""
        async with database.pool.begin() as tx:
            await database.executor(tx).run(job_insert_many([params()]))

        assert await num_jobs(database.pool) == 1

    @pytest.mark.parametrize("tx", [None, "postgresql://", object()])
    async def test_executor_refuses_what_it_does_not_know(self, database: Driver, tx: object) -> None:
        """Anything else is an error that lists what is accepted and what was given."""
        with pytest.raises(TypeError) as refused:
            database.executor(tx)

        assert str(refused.value).startswith("tx must be ")
        assert str(refused.value).endswith(f"got {type(tx).__module__}.{type(tx).__qualname__}")

    # -- SQL that is not ours

    async def test_foreign_sql_gives_rows_by_name(self, database: Driver, connected: Connected) -> None:
        """SQL of the user's is run with numbered parameters, on the pool and in a transaction."""
        sql = "SELECT $1::int AS a, $2::text AS b UNION ALL SELECT 2, 'y' ORDER BY a"
        expected = [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]

        async with connected() as tx:
            assert await database.executor(tx).fetch(sql, [1, "x"]) == expected
        assert await database.pool.fetch(sql, [1, "x"]) == expected

    async def test_script_is_several_statements_in_one_transaction(self, database: Driver) -> None:
        """A script is run whole or not at all, in the driver's schema."""
        insert = "INSERT INTO /* schema */river_job (kind, args) VALUES ('act', '{}')"

        with pytest.raises(DriverError):
            await database.pool.execute_script(f"{insert}; SELECT 1/0")
        none = await num_jobs(database.pool)
        await database.pool.execute_script(f"{insert}; {insert}")

        assert (none, await num_jobs(database.pool)) == (0, 2)

    # -- copying

    async def test_copy_writes_the_rows_of_an_insert(self, database: Driver, connected: Connected) -> None:
        """Rows that are copied, on the pool or in a transaction, are those that an insert would have written."""
        rows = [
            params(),
            params(kind="a\tb\\N\r\n", encoded_args='{"b":"\\\\ \\" é"}', tags=("null", 'a"\\b')),
        ]
        inserted = await database.pool.run(job_insert_many(rows))

        num_copied = await database.pool.copy(job_copy(batches(rows[:1], rows[1:])))
        async with connected() as tx:
            copied = await database.executor(tx).copy(job_copy(batches(rows)))
            in_tx = await database.executor(tx).run(job_list(JobListParams()))

        jobs = await database.pool.run(job_list(JobListParams()))
        assert (num_copied, copied, len(jobs), len(in_tx)) == (2, 2, 4, 6)
        assert [plain(job) for job in jobs] == [plain(one.job) for one in inserted] * 2
        assert jobs[2].created_at == jobs[2].scheduled_at == jobs[3].created_at > jobs[0].created_at

    async def test_copy_raises_what_its_source_raises(self, database: Driver, connected: Connected) -> None:
        """An error of the source is no error of the wire, though it looks like one; nothing stays copied."""
        error = OSError("the file is gone")

        async def broken() -> AsyncIterator[list[InsertParams]]:
            yield [params()]
            raise error

        with pytest.raises(OSError, match="gone") as raised:
            await database.pool.copy(job_copy(broken()))
        async with connected() as tx:
            with pytest.raises(OSError, match="gone"):
                await database.executor(tx).copy(job_copy(broken()))
            with pytest.raises(DriverError) as aborted:
                await num_jobs(database.executor(tx))

        assert (raised.value, aborted.value.sqlstate) == (error, "25P02")
        assert await asyncio.gather(*(num_jobs(database.pool) for _ in range(20))) == [0] * 20

    async def test_copy_that_the_server_refuses_copies_nothing(self, database: Driver) -> None:
        """One row that cannot be takes the others with it, and the pool goes on."""
        with pytest.raises(DriverError) as refused:
            await database.pool.copy(job_copy(batches([params()], [params(priority=7)], [params()] * 1000)))

        assert (refused.value.operation, refused.value.constraint) == ("job_copy", "priority_in_range")
        assert await num_jobs(database.pool) == 0

    async def test_copy_waits_for_its_source_but_not_for_the_server(self, database: Driver) -> None:
        """The deadline is the server's: a source may take longer, a lock that is held may not."""

        async def slow() -> AsyncIterator[list[InsertParams]]:
            yield [params()]
            await database.pool.fetch("SELECT pg_sleep(0.3)")
            yield [params()]

        copied = await database.pool.copy(replace(job_copy(slow()), timeout_seconds=0.2))
        async with database.pool.begin() as other:
            await other.fetch(f"LOCK TABLE {table(database)}")
            with pytest.raises(
                OperationTimeout, match=r"^job_copy must answer within 0\.1 s, got no answer$"
            ):
                await database.pool.copy(replace(job_copy(batches([params()])), timeout_seconds=0.1))

        assert (copied, await num_jobs(database.pool)) == (2, 2)

    async def test_copy_whose_connection_is_lost_says_so(self, database: Driver) -> None:
        """A server that goes away while rows are on their way is a connection lost, whatever the source still has."""
        asked = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE state = 'active' AND query LIKE 'COPY \"' || $1 || '\"%'"
        )

        async def is_killed() -> bool:
            return bool(await database.pool.fetch(asked, [database.schema]))

        async def mortal() -> AsyncIterator[list[InsertParams]]:
            yield [params()]
            await wait_for(is_killed)
            for _ in range(1000):
                yield [params()] * 1000

        with pytest.raises(ConnectionLost):
            await database.pool.copy(job_copy(mortal()))

        assert await num_jobs(database.pool) == 0

    # -- listening

    async def test_listener_hears_its_schema_s_topics(self, database: Driver) -> None:
        """What is said on a topic of the driver's schema is heard, in order, and nothing of other topics."""
        heard: asyncio.Queue[str] = asyncio.Queue()
        listener = database.listener()
        await listener.connect()
        await listener.listen("river_insert", heard.put_nowait)
        await listener.ping()

        with contextlib.suppress(DriverError):
            await database.pool.run(queue_pause("*"))
        await database.pool.run(job_notify_insert(["a", "b"]))

        async with asyncio.timeout(GENEROUS_SECONDS):
            assert [json.loads(await heard.get()) for _ in range(2)] == [{"queue": "a"}, {"queue": "b"}]
        await listener.close()
        assert heard.empty()

    async def test_listener_tells_once_that_it_was_lost(self, database: Driver) -> None:
        """A connection that the server ended is noticed without being asked; after it, nothing can be done with it."""
        lost, rings = asyncio.Event(), []
        listener = database.listener()
        listener.on_lost(lambda: (rings.append(1), lost.set()))  # type: ignore[arg-type, return-value, func-returns-value]
        await listener.connect()
        pids = await pids_before(database, listener)

        await database.pool.fetch("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid", [pids])

        async with asyncio.timeout(GENEROUS_SECONDS):
            await lost.wait()
        assert (listener.is_lost, rings) == (True, [1])
        with pytest.raises(ConnectionLost):
            await listener.ping()
        with pytest.raises(ConnectionLost):
            await listener.listen("river_insert", print)
        await listener.close()

    async def test_listener_closed_by_us_was_not_lost(self, database: Driver) -> None:
        """Closing is no loss; it may be done twice, and before connecting; the pool is whole afterwards."""
        rings: list[int] = []
        listener = database.listener()
        listener.on_lost(lambda: rings.append(1))
        await listener.close()
        await listener.connect()
        await listener.listen("river_insert", print)

        await listener.close()
        await listener.close()

        assert rings == []
        assert await asyncio.gather(*(num_jobs(database.pool) for _ in range(20))) == [0] * 20

    # -- life

    async def test_open_and_close_may_be_repeated(self, database: Driver) -> None:
        """A driver may be opened twice, closed twice, and opened again; closed, it says so."""
        await database.open()
        await database.close()
        await database.close()

        with pytest.raises(PoolClosed):
            await database.pool.run(queue_get("x"))

        await database.open()
        assert await num_jobs(database.pool) == 0


def table(driver: Driver) -> str:
    return f'"{driver.schema}".river_job'


async def kinds(driver: Driver) -> Sequence[str]:
    return [row["kind"] for row in await driver.pool.fetch(f"SELECT kind FROM {table(driver)} ORDER BY id")]


async def is_running(executor: Executor, sql: str) -> bool:
    asked = (
        "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND wait_event = 'PgSleep' AND query = $1"
    )
    return bool(await executor.fetch(asked, [sql]))


async def is_over(executor: Executor, sql: str) -> bool:
    return not await is_running(executor, sql)


async def pids_before(driver: Driver, listener: Any) -> list[int]:
    """Return the process that serves `listener`, known by what it said last."""
    await listener.listen("a_topic_of_its_own", print)
    asked = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN %a_topic_of_its_own%'"
    return [row["pid"] for row in await driver.pool.fetch(asked)]
