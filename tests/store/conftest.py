from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from millhand.driver.asyncpg import AsyncpgDriver, AsyncpgListener

GENEROUS_SECONDS = 20.0


class Ears:
    """Hears all topics of a schema."""

    def __init__(self, driver: AsyncpgDriver, listener: AsyncpgListener) -> None:
        self._driver = driver
        self._listener = listener
        self._heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    async def open(self) -> None:
        await self._listener.connect()
        for topic in ("river_insert", "river_control", "river_leadership", "end"):
            await self._listen(topic)

    async def _listen(self, topic: str) -> None:
        await self._listener.listen(topic, lambda payload: self._heard.put_nowait((topic, payload)))

    async def hear(self) -> list[tuple[str, str]]:
        """Return what was said since the last time, in the order in which it was said."""
        await self._driver.pool.fetch("SELECT pg_notify($1 || '.end', '')", [self._driver.schema])
        heard: list[tuple[str, str]] = []
        async with asyncio.timeout(GENEROUS_SECONDS):
            while (one := await self._heard.get())[0] != "end":
                heard.append(one)
        return heard


@pytest.fixture
async def ears(schema_driver: AsyncpgDriver) -> AsyncIterator[Ears]:
    """What is said on the topics of the test's own schema."""
    listener = schema_driver.listener()
    ears = Ears(schema_driver, listener)
    await ears.open()
    yield ears
    await listener.close()
