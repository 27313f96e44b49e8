"""
The conformance tests of a driver; each driver's own tests inherit them and provide the fixtures.

`database` is an open driver on a migrated schema of the test's own, with a pool of at least two connections.
`connected` makes a user's own connection, as `executor(tx)` accepts it, in an open transaction.
"""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from conformance_caller import CallerConformance
from conformance_copy import CopyConformance
from conformance_listener import ListenerConformance
from conformance_values import (
    KILL_ME,
    Connected,
    is_over,
    is_running,
    kinds,
    num_jobs,
    params,
    table,
    wait_for,
)

from millhand.core.errors import ConnectionLost, DriverError, OperationTimeout, PoolClosed
from millhand.core.job import ClientId
from millhand.core.transition import Failed, settle
from millhand.db.driver.protocol import Driver
from millhand.engine.store.job import (
    job_get_available,
    job_get_available_counted,
    job_get_by_id,
    job_set_state_if_running_many,
)
from millhand.engine.store.job_insert import job_insert_many
from millhand.engine.store.queue import queue_get


class DriverConformance(CallerConformance, CopyConformance, ListenerConformance):
    @pytest.fixture
    def database(self) -> Driver:
        raise NotImplementedError

    @pytest.fixture
    def connected(self) -> Connected:
        raise NotImplementedError

    # -- queries

    async def test_query_is_run_and_parsed(self, database: Driver) -> None:
        """`run` returns what the query's parser makes of the rows."""
        [result] = await database.pool.run(job_insert_many([params(tags=("one", "two"))]))

        assert await database.pool.run(job_get_by_id(result.job.id)) == result.job
        assert (result.job.args, result.job.metadata, result.job.tags) == ({"n": 1}, {"m": 1}, ("one", "two"))

    async def test_json_is_stored_as_json(self, database: Driver) -> None:
        """Args, metadata and errors are objects in the database, whatever codecs the application has for jsonb."""
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

    async def test_fetch_counts_what_it_reads(self, database: Driver) -> None:
        """The counters of one session are read before and after the search, in one statement."""
        await database.pool.run(job_insert_many([params()]))
        fetch = job_get_available(queue="default", limit=3, client_id=ClientId("me"))
        counted = await database.pool.run(job_get_available_counted(fetch))

        assert (len(counted.jobs), counted.num_entries >= 1, counted.num_blocks >= 1) == (1, True, True)

    async def test_more_queries_than_connections_are_all_run(self, database: Driver) -> None:
        """A query without a free connection waits for one."""
        results = await asyncio.gather(*(database.pool.run(job_insert_many([params()])) for _ in range(50)))

        assert len({one.job.id for [one] in results}) == 50

    # -- deadlines

    async def test_late_answer_is_a_timeout_with_the_query_s_name(self, database: Driver) -> None:
        """A late query raises with its name, changes nothing, and does not harm the pool."""
        async with database.pool.begin() as other:
            await other.fetch(f"LOCK TABLE {table(database)}")
            with pytest.raises(OperationTimeout) as late:
                await database.pool.run(job_insert_many([params(), params()]).within(0.1))

        assert (late.value.operation, late.value.seconds) == ("job_insert_many_plain", 0.1)
        assert await num_jobs(database.pool) == 0

    async def test_late_answer_in_a_transaction_is_a_timeout(self, database: Driver) -> None:
        """In a transaction a deadline ends the query, and the transaction is rolled back."""
        with pytest.raises(
            OperationTimeout, match=r"^SELECT pg_sleep\(30\) must answer within 0\.1 s, got no answer$"
        ):
            async with database.pool.begin() as tx:
                await tx.fetch("SELECT pg_sleep(30)", timeout_seconds=0.1)

        assert await num_jobs(database.pool) == 0

    async def test_cancelled_query_does_not_harm_the_pool(self, database: Driver) -> None:
        """After a cancelled query all connections of the pool work."""
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
    async def test_server_error_is_a_driver_error(
        self, database: Driver, sqlstate: str, retryable: bool
    ) -> None:
        """An error of the server is raised with its SQLSTATE, its message, and whether a retry may help."""
        sql = f"DO $$ BEGIN RAISE EXCEPTION 'no way' USING ERRCODE = '{sqlstate}', DETAIL = 'secret args'; END $$"

        with pytest.raises(DriverError) as refused:
            await database.pool.execute_script(sql)

        error = refused.value
        assert (type(error), error.sqlstate, error.retryable) == (DriverError, sqlstate, retryable)
        assert str(error) == f"{sql[:60]} must succeed, got no way"
        assert error.__cause__ is not None

    @pytest.mark.parametrize("sqlstate", ["08006", "25006", "57P01", "57P03", "53300"])
    async def test_server_error_that_ends_a_connection_is_connection_lost(
        self, database: Driver, sqlstate: str
    ) -> None:
        """An SQLSTATE of a closed connection, a read-only server or no free slot is a lost connection."""
        with pytest.raises(ConnectionLost) as lost:
            await database.pool.execute_script(
                f"DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{sqlstate}'; END $$"
            )

        assert (lost.value.sqlstate, lost.value.retryable) == (sqlstate, True)

    async def test_constraint_is_named(self, database: Driver) -> None:
        """The error has the violated constraint, and its text does not show the row."""
        with pytest.raises(DriverError) as refused:
            await database.pool.run(
                job_insert_many([params(priority=5, encoded_args='{"password":"secret"}')])
            )

        assert (refused.value.operation, refused.value.constraint) == ("job_insert", "priority_in_range")
        assert "secret" not in str(refused.value)

    async def test_broken_connection_is_lost_and_not_used_again(self, database: Driver) -> None:
        """A connection that the server ended raises once; later queries get working ones."""
        for _ in range(3):
            with pytest.raises(ConnectionLost):
                await database.pool.fetch(KILL_ME)

        assert await asyncio.gather(*(num_jobs(database.pool) for _ in range(20))) == [0] * 20

    async def test_connections_broken_while_idle_are_replaced(self, database: Driver) -> None:
        """Connections that were lost while idle raise at most once each, and are replaced."""
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
        """Others see the changes of a transaction after its end, and not before."""
        async with database.pool.begin() as tx:
            await tx.run(job_insert_many([params()]))
            inside, outside = await num_jobs(tx), await num_jobs(database.pool)

        assert (inside, outside, await num_jobs(database.pool)) == (1, 0, 1)

    async def test_transaction_is_rolled_back_by_an_exception(self, database: Driver) -> None:
        """The exception is raised unchanged, and the transaction changes nothing."""
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block raises
            async with database.pool.begin() as tx:
                await tx.run(job_insert_many([params()]))
                raise ZeroDivisionError

        assert await num_jobs(database.pool) == 0

    async def test_failed_statement_rolls_its_transaction_back(self, database: Driver) -> None:
        """After an error that is not caught nothing is changed, and the connection works again."""
        for _ in range(5):
            with pytest.raises(DriverError):  # noqa: PT012 - as above
                async with database.pool.begin() as tx:
                    await tx.run(job_insert_many([params()]))
                    await tx.fetch("SELECT 1/0")

        assert await num_jobs(database.pool) == 0

    async def test_savepoint_is_rolled_back_alone(self, database: Driver) -> None:
        """Inside a transaction `begin` makes a savepoint at any depth; its rollback keeps earlier changes."""
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

    async def test_failed_commit_is_a_driver_error(self, database: Driver) -> None:
        """An error that the server raises at the commit is raised by the end of the block."""
        deferred = "CREATE TEMPORARY TABLE t (a int UNIQUE DEFERRABLE INITIALLY DEFERRED) ON COMMIT DROP"

        with pytest.raises(DriverError) as refused:
            async with database.pool.begin() as tx:
                await tx.execute_script(f"{deferred}; INSERT INTO t VALUES (1), (1)")

        assert (refused.value.operation, refused.value.sqlstate) == ("commit", "23505")

    # -- life

    async def test_open_and_close_may_be_repeated(self, database: Driver) -> None:
        """A driver may be opened and closed twice, and opened again; closed, it raises PoolClosed."""
        await database.open()
        await database.close()
        await database.close()

        with pytest.raises(PoolClosed):
            await database.pool.run(queue_get("x"))

        await database.open()
        assert await num_jobs(database.pool) == 0
