"""
Of the conformance suite: the connections and transactions of the driver's users, which are as they are.

`connected` makes one with a transaction open; `committing` one that commits each statement. `cursor` opens a cursor of
the library's own, on the server, and gives what fetches from it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from conformance_words import Connected, batches, num_jobs, params, table

from millhand.driver.protocol import Driver
from millhand.errors import DriverError
from millhand.store.job_copy import job_copy
from millhand.store.job_insert import job_insert_many

# What counts from 1, a number at a time.
NUMBERS = "SELECT generate_series(1, 1000)"
Fetched = Callable[[], Awaitable[int]]
Cursor = Callable[[Any], AbstractAsyncContextManager[Fetched]]


class CallerConformance:
    # What a refusal must name, of what a user of this driver may have in hand.
    ACCEPTED: tuple[str, ...] = ()

    @pytest.fixture
    def committing(self) -> Connected:
        raise NotImplementedError

    @pytest.fixture
    def cursor(self) -> Cursor:
        raise NotImplementedError

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

        accepted, _, given = str(refused.value).removeprefix("tx must be ").rpartition(", got ")
        assert given == f"{type(tx).__module__}.{type(tx).__qualname__}"
        assert self.ACCEPTED
        assert [name for name in self.ACCEPTED if name not in accepted] == []

    async def test_json_is_json_on_the_caller_s_connection(
        self, database: Driver, connected: Connected
    ) -> None:
        """Whatever the application makes of jsonb on its connection, args and metadata are objects, there and back."""
        asked = (
            f"SELECT jsonb_typeof(args) AS args, jsonb_typeof(metadata) AS metadata FROM {table(database)}"
        )

        async with connected() as tx:
            executor = database.executor(tx)
            [result] = await executor.run(job_insert_many([params()]))
            await executor.copy(job_copy(batches([params()])))
            types = await executor.fetch(asked)

        assert types == [{"args": "object", "metadata": "object"}] * 2
        assert (result.job.args, result.job.metadata) == ({"n": 1}, {"m": 1})

    async def test_read_only_transaction_refuses_a_job(self, database: Driver, connected: Connected) -> None:
        """Where the transaction may only read, an insert says so with PostgreSQL's state; undone, the rest goes on."""
        async with connected() as tx:
            executor = database.executor(tx)
            with pytest.raises(DriverError) as refused:  # noqa: PT012 - what is raised inside is what comes out
                async with executor.begin() as savepoint:
                    await savepoint.execute_script("SET TRANSACTION READ ONLY")
                    await savepoint.run(job_insert_many([params()]))
            await executor.run(job_insert_many([params()]))
            inside = await num_jobs(executor)

        assert (refused.value.sqlstate, refused.value.retryable, inside) == ("25006", True, 1)
        assert str(refused.value) == (
            "job_insert must succeed, got cannot execute INSERT in a read-only transaction"
        )

    async def test_cursor_of_the_caller_s_goes_on(
        self, database: Driver, connected: Connected, cursor: Cursor
    ) -> None:
        """A cursor that is open on the server, half read, is not lost by what is inserted and copied meanwhile."""
        async with connected() as tx:
            executor = database.executor(tx)
            async with cursor(tx) as fetched:
                read = [await fetched(), await fetched()]
                await executor.run(job_insert_many([params()]))
                await executor.copy(job_copy(batches([params()])))
                async with executor.begin() as savepoint:
                    await savepoint.run(job_insert_many([params()]))
                read += [await fetched(), await fetched()]
            inside = await num_jobs(executor)

        assert (read, inside) == ([1, 2, 3, 4], 3)

    async def test_connection_that_commits_each_word_is_taken_as_it_is(
        self, database: Driver, committing: Connected
    ) -> None:
        """With autocommit a job is there at once; and there `begin` begins a transaction."""
        async with committing() as connection:
            executor = database.executor(connection)
            await executor.run(job_insert_many([params()]))
            at_once = await num_jobs(database.pool)
            with contextlib.suppress(ZeroDivisionError):
                async with executor.begin() as tx:
                    await tx.run(job_insert_many([params()]))
                    raise ZeroDivisionError

        assert (at_once, await num_jobs(database.pool)) == (1, 1)

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
