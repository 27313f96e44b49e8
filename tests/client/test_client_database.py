"""A client's database: how it is migrated from code, how many connections a URL gets, and what a cancelled insert leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from client_harness import GENEROUS, Act, ClientHarness
from millhand.client import Client
from millhand.core.config import Config
from millhand.core.errors import ConfigError, NotFound, SchemaError
from millhand.core.worker import Workers
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.migrator import lines, migrations


@pytest.mark.slow
async def test_client_migrates_before_its_start(postgres_url: str, schema_driver: AsyncpgDriver) -> None:
    """A client that cannot start migrates its schema, line by line or all of it, and can start then."""
    schema = f"{schema_driver.schema}_new"
    await schema_driver.pool.fetch(f"CREATE SCHEMA {schema}")
    client = Client(postgres_url, Config(schema=schema))
    with pytest.raises(SchemaError):
        await client.start()

    planned = await client.migrate("main", dry_run=True)
    first = await client.migrate("main", target=1)
    done = await client.migrate()
    async with client:
        again = await client.migrate()
        await client.insert(Act("x"))  # a migration leaves a started client open
    with pytest.raises(ConfigError, match=r"^migration line must be one of"):
        await client.migrate("mian")
    await schema_driver.pool.fetch(f"DROP SCHEMA {schema} CASCADE")

    assert [step.version for step in planned] == [one.version for one in migrations("main")]
    assert [(step.line, step.version) for step in first] == [("main", 1)]
    assert len(first) + len(done) == sum(len(migrations(line)) for line in lines())
    assert again == ()


async def test_migration_leaves_the_callers_pool_open(
    schema_driver: AsyncpgDriver, postgres_url: str
) -> None:
    """A migration through a pool of the caller's closes nothing."""
    async with asyncpg.create_pool(postgres_url, min_size=1, max_size=1) as pool:
        steps = await Client(pool, Config(schema=schema_driver.schema)).migrate()

        assert (steps, await pool.fetchval("SELECT 1")) == ((), 1)


@pytest.mark.slow
async def test_pool_of_a_url_has_as_many_connections_as_the_caller_says(harness: ClientHarness) -> None:
    """Statements at once use at most `pool_size` connections; a client without queues opens no other."""
    url = harness.url_as("pool_of_three")
    async with Client(url, pool_size=3) as client:
        await asyncio.gather(*(client.driver.pool.execute_script("SELECT pg_sleep(0.2)") for _ in range(20)))
        sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pool_of_three'"
        [row] = await harness.driver.pool.fetch(sql)

    assert row["count"] == 3


@pytest.mark.parametrize("is_in_transaction", [False, True])
async def test_cancelled_insert_leaves_no_lock_and_no_broken_connection(
    harness: ClientHarness, is_in_transaction: bool
) -> None:
    """An insert that is cancelled while it waits inserts nothing; a transaction must be rolled back, as after an error."""
    blocker, own = [await asyncpg.connect(harness.url) for _ in range(2)]
    async with harness.client(Workers(), queues={}) as client:
        lock, transaction = blocker.transaction(), own.transaction()
        await lock.start()
        await blocker.execute("LOCK TABLE river_job")
        await transaction.start()
        inserting = asyncio.create_task(client.insert(Act("x"), tx=own if is_in_transaction else None))
        async with asyncio.timeout(GENEROUS):
            while not await _waits_for_a_lock(harness):
                pass
        inserting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await inserting
        if is_in_transaction:
            with pytest.raises(asyncpg.InFailedSQLTransactionError):
                await own.execute("SELECT 1")
        await lock.rollback()
        await transaction.rollback()
        await client.insert(Act("after"))
        await client.insert(Act("after, on the same connection"), tx=own)
    await blocker.close()
    await own.close()

    assert [row.args["what"] for row in await harness.rows()] == ["after", "after, on the same connection"]  # type: ignore[call-overload,index]


async def _waits_for_a_lock(harness: ClientHarness) -> bool:
    sql = "SELECT FROM pg_locks WHERE NOT granted AND relation = 'river_job'::regclass"
    return bool(await harness.driver.pool.fetch(sql))


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg"])
async def test_id_that_no_row_can_have_is_not_found(schema: str, postgres_url: str, scheme: str) -> None:
    """A number beyond PostgreSQL's bigint raises NotFound, as any other id without a row does, with each driver."""
    async with Client(postgres_url.replace("postgresql", scheme, 1), Config(schema=schema)) as client:
        until = datetime.now(UTC) + timedelta(hours=1)
        jobs, dead, flows = client.jobs, client.dead, client.flows
        calls: list[Callable[[int], Awaitable[object]]] = [
            *(jobs.get, jobs.cancel, jobs.retry, jobs.delete, dead.get, dead.retry, dead.delete),
            *(flows.get, flows.tasks, flows.cancel, flows.retry),
            lambda number: jobs.snooze(number, until),
            lambda number: jobs.update_output(number, 1),
            lambda number: jobs.wait(number, timeout=timedelta(seconds=GENEROUS)),
        ]
        for call in calls:
            for id in (2**63, 10**30, -1):
                with pytest.raises(NotFound, match=rf"must exist, found none with id {id}$"):
                    await call(id)
