from __future__ import annotations

import asyncio

import pytest
from conformance_values import GENEROUS_SECONDS

from millhand.core.errors import ConnectionLost
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.psycopg import PsycopgDriver
from proxy import proxied


@pytest.mark.slow
async def test_listener_is_lost_when_psycopg_closes_its_connection(
    schema_driver: AsyncpgDriver, postgres_url: str
) -> None:
    """A late ping that cannot be cancelled makes the listener lost, and raises no psycopg error."""
    lost = asyncio.Event()
    async with proxied(postgres_url) as proxy, asyncio.timeout(GENEROUS_SECONDS):
        listener = PsycopgDriver(proxy.url, schema_driver.schema).listener()
        listener.on_lost(lost.set)
        await listener.connect()
        proxy.forget()
        proxy.refuse()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await listener.ping()
        await lost.wait()

        assert listener.is_lost
        with pytest.raises(ConnectionLost):
            await listener.ping()
        await listener.close()
