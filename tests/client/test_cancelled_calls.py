"""A caller that cancels a call at any moment leaves the pool whole and the log silent."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

import pytest

from client_harness import Act, ClientHarness
from millhand.client import Client
from millhand.config import Config
from millhand.driver.asyncpg import AsyncpgDriver
from millhand.driver.psycopg import PsycopgDriver

POOL_SIZE = 3
TURNS_MAX = 60  # of the event loop: longer than each call takes
LONG = 20.0


# psycopg's oldest version itself logs a transaction whose begin was cancelled.
@pytest.mark.parametrize("driver_type", [AsyncpgDriver, pytest.param(PsycopgDriver, marks=pytest.mark.slow)])
@pytest.mark.parametrize("num_calls", [60, pytest.param(1_000, marks=pytest.mark.slow)])
async def test_pool_is_whole_after_calls_that_were_cancelled(
    harness: ClientHarness,
    caplog: pytest.LogCaptureFixture,
    num_calls: int,
    driver_type: type[AsyncpgDriver | PsycopgDriver],
) -> None:
    """Inserts of all kinds and reads are cancelled at random moments; all connections can be used afterwards."""
    driver = driver_type(harness.url, pool_size=POOL_SIZE)
    client = Client(driver, Config())
    await driver.open()
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: client.insert(Act("x")),
        lambda: client.insert_many([(Act("x"), None)] * 20),
        lambda: client.insert_many_fast([Act("x" * 1_000)] * 500),
        client.jobs.list,
        client.queues.list,
        lambda: client.queues.pause("*"),
    ]
    chosen = random.Random(num_calls)  # noqa: S311 - a test
    ends = set()
    with caplog.at_level(logging.WARNING):
        for _ in range(num_calls):
            call = asyncio.ensure_future(chosen.choice(calls)())
            if chosen.random() < 0.5:
                for _ in range(chosen.randrange(TURNS_MAX)):
                    await asyncio.sleep(0)
            else:
                await asyncio.wait([call], timeout=chosen.random() * 0.01)
            call.cancel()
            [end] = await asyncio.gather(call, return_exceptions=True)
            ends.add(type(end) if isinstance(end, BaseException) else None)
        async with asyncio.timeout(LONG):
            await asyncio.gather(*[client.jobs.list() for _ in range(4 * POOL_SIZE)])
    await driver.close()

    assert ends == {asyncio.CancelledError, None}
    assert [record.getMessage() for record in caplog.records] == []
