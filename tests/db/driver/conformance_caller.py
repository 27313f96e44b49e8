"""
Conformance tests: the connections and transactions of a driver's users, whatever their settings.

`connected` makes a connection with an open transaction, `committing` one with autocommit. `cursor` opens a server-side
cursor of the library, and yields a function that fetches from it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from conformance_values import Connected, batches, num_jobs, params, table

from millhand.core.errors import DriverError
from millhand.db.driver.protocol import Driver
from millhand.engine.store.job_copy import job_copy
from millhand.engine.store.job_insert import job_insert_many

# Numbers from 1, one row each.
NUMBERS = "SELECT generate_series(1, 1000)"
Fetched = Callable[[], Awaitable[int]]
Cursor = Callable[[Any], AbstractAsyncContextManager[Fetched]]


class CallerConformance:
    # Objects that the error for an unknown one must name.
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
        """On the caller's connection everything is part of its transaction, and is rolled back with it."""
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

    async def test_executor_accepts_its_own_transactions(self, database: Driver) -> None:
        """The executor of a transaction that this driver began is accepted like a connection."""
        async with database.pool.begin() as tx:
            await database.executor(tx).run(job_insert_many([params()]))

        assert await num_jobs(database.pool) == 1

    @pytest.mark.parametrize("tx", [None, "postgresql://", object()])
    async def test_executor_rejects_unknown_objects(self, database: Driver, tx: object) -> None:
        """Anything else is an error that lists what is accepted and names what was given."""
        with pytest.raises(TypeError) as refused:
            database.executor(tx)

        accepted, _, given = str(refused.value).removeprefix("tx must be ").rpartition(", got ")
        assert given == f"{type(tx).__module__}.{type(tx).__qualname__}"
        assert self.ACCEPTED
        assert [name for name in self.ACCEPTED if name not in accepted] == []

    async def test_json_is_json_on_the_caller_s_connection(
        self, database: Driver, connected: Connected
    ) -> None:
        """Whatever codecs the connection has for jsonb, args and metadata are written and read as objects."""
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

    async def test_insert_in_a_read_only_transaction_is_an_error(
        self, database: Driver, connected: Connected
    ) -> None:
        """The error has PostgreSQL's SQLSTATE; after a rollback to the savepoint the transaction continues."""
        async with connected() as tx:
            executor = database.executor(tx)
            with pytest.raises(DriverError) as refused:  # noqa: PT012 - the block raises
                async with executor.begin() as savepoint:
                    await savepoint.execute_script("SET TRANSACTION READ ONLY")
                    await savepoint.run(job_insert_many([params()]))
            await executor.run(job_insert_many([params()]))
            inside = await num_jobs(executor)

        assert (refused.value.sqlstate, refused.value.retryable, inside) == ("25006", True, 1)
        assert str(refused.value) == (
            "job_insert must succeed, got cannot execute INSERT in a read-only transaction; the server is a standby, or its "
            "transactions are read-only: name the primary in the database URL, or all servers with "
            "target_session_attrs=read-write"
        )

    async def test_cursor_of_the_caller_s_continues(
        self, database: Driver, connected: Connected, cursor: Cursor
    ) -> None:
        """An open server-side cursor continues after inserts and copies."""
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

    async def test_autocommit_connection_stays_as_it_is(
        self, database: Driver, committing: Connected
    ) -> None:
        """With autocommit a job is committed at once, and `begin` begins a transaction."""
        async with committing() as connection:
            executor = database.executor(connection)
            await executor.run(job_insert_many([params()]))
            at_once = await num_jobs(database.pool)
            with contextlib.suppress(ZeroDivisionError):
                async with executor.begin() as tx:
                    await tx.run(job_insert_many([params()]))
                    raise ZeroDivisionError

        assert (at_once, await num_jobs(database.pool)) == (1, 1)

    async def test_sql_from_outside_returns_rows_by_name(
        self, database: Driver, connected: Connected
    ) -> None:
        """The user's SQL runs with numbered params, on the pool and in a transaction."""
        sql = "SELECT $1::int AS a, $2::text AS b UNION ALL SELECT 2, 'y' ORDER BY a"
        expected = [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]

        async with connected() as tx:
            assert await database.executor(tx).fetch(sql, [1, "x"]) == expected
        assert await database.pool.fetch(sql, [1, "x"]) == expected

    async def test_script_is_several_statements_in_one_transaction(self, database: Driver) -> None:
        """A script runs completely or not at all, in the driver's schema."""
        insert = "INSERT INTO /* schema */river_job (kind, args) VALUES ('act', '{}')"

        with pytest.raises(DriverError):
            await database.pool.execute_script(f"{insert}; SELECT 1/0")
        none = await num_jobs(database.pool)
        await database.pool.execute_script(f"{insert}; {insert}")

        assert (none, await num_jobs(database.pool)) == (0, 2)
