"""Records what PostgreSQL notifies on the topics of a schema."""

from __future__ import annotations

import asyncio

from millhand.db.driver.asyncpg import AsyncpgDriver, AsyncpgListener

GENEROUS_SECONDS = 20.0


class TopicRecorder:
    """Records the notifications on all topics of a schema."""

    def __init__(self, driver: AsyncpgDriver, listener: AsyncpgListener) -> None:
        self._driver = driver
        self._listener = listener
        self._notifications: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    async def open(self) -> None:
        await self._listener.connect()
        for topic in ("river_insert", "river_control", "river_leadership", "end"):
            await self._listen(topic)

    async def _listen(self, topic: str) -> None:
        await self._listener.listen(topic, lambda payload: self._notifications.put_nowait((topic, payload)))

    async def received(self) -> list[tuple[str, str]]:
        """Return the notifications since the last call, in order."""
        await self._driver.pool.fetch("SELECT pg_notify($1 || '.end', '')", [self._driver.schema])
        notified: list[tuple[str, str]] = []
        async with asyncio.timeout(GENEROUS_SECONDS):
            while (one := await self._notifications.get())[0] != "end":
                notified.append(one)
        return notified
