from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest
from conformance_values import GENEROUS_SECONDS, num_jobs, params

from millhand.core.errors import ConnectionLost, OperationTimeout
from millhand.core.insert_opts import InsertParams
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.psycopg import PsycopgDriver
from millhand.engine.store.job_copy import job_copy
from millhand.engine.store.job_insert import job_insert_many
from proxy import Proxy, proxied


@pytest.mark.slow
async def test_deadline_of_psycopg_holds_without_a_network(
    schema_driver: AsyncpgDriver, postgres_url: str
) -> None:
    """On a network that drops everything a query is late, and does not wait for its cancellation."""
    async with proxied(postgres_url) as proxy, asyncio.timeout(GENEROUS_SECONDS):
        driver = PsycopgDriver(proxy.url, schema_driver.schema, pool_size=1)
        await driver.open()
        proxy.stop_up()
        with pytest.raises((OperationTimeout, ConnectionLost)):
            await driver.pool.run(job_insert_many([params()]).within(0.1))
        proxy.restore()
        await driver.pool.run(job_insert_many([params()]))
        await driver.close()

    assert await num_jobs(schema_driver.pool) >= 1


async def begun(driver: PsycopgDriver, proxy: Proxy) -> None:
    proxy.stop_up()
    async with driver.pool.begin():
        pass


async def committed(driver: PsycopgDriver, proxy: Proxy) -> None:
    async with driver.pool.begin() as tx:
        await num_jobs(tx)
        proxy.stop_up()


async def rolled_back(driver: PsycopgDriver, proxy: Proxy) -> None:
    async with driver.pool.begin() as tx:
        await num_jobs(tx)
        proxy.stop_up()
        raise ConnectionLost("inside", "the first error")


async def copied(driver: PsycopgDriver, proxy: Proxy) -> None:
    async def rows() -> AsyncIterator[list[InsertParams]]:
        yield [params()]
        proxy.stop_up()
        yield [params()]

    await driver.pool.copy(msgspec.structs.replace(job_copy(rows()), timeout_seconds=1.0))


async def copied_of_a_broken_source(driver: PsycopgDriver, proxy: Proxy) -> None:
    async def rows() -> AsyncIterator[list[InsertParams]]:
        yield [params()]
        proxy.stop_up()
        raise ConnectionLost("source", "the first error")

    await driver.pool.copy(msgspec.structs.replace(job_copy(rows()), timeout_seconds=1.0))


async def listened(driver: PsycopgDriver, proxy: Proxy) -> None:
    listener = driver.listener()
    await listener.connect()
    proxy.stop_up()
    try:
        await listener.ping()
    finally:
        lost = listener.is_lost
        await listener.close()
        assert lost


@pytest.mark.slow
async def test_every_deadline_of_psycopg_holds_without_a_network(
    schema_driver: AsyncpgDriver, postgres_url: str
) -> None:
    """Ends of transactions, copies and listeners are late too, also with the oldest psycopg."""
    operations = (begun, committed, rolled_back, copied, copied_of_a_broken_source, listened)

    async def fails(operate: Callable[[PsycopgDriver, Proxy], Awaitable[None]]) -> None:
        async with proxied(postgres_url) as proxy:
            driver = PsycopgDriver(proxy.url, schema_driver.schema, pool_size=1)
            await driver.open()
            try:
                await operate(driver, proxy)
            except (OperationTimeout, ConnectionLost):
                return
            finally:
                proxy.restore()
                await driver.close()
        raise AssertionError(f"{operate.__name__} must fail")

    async with asyncio.timeout(3 * GENEROUS_SECONDS):
        await asyncio.gather(*map(fails, operations))

    assert await num_jobs(schema_driver.pool) == 0
