from __future__ import annotations

import asyncio

from millhand.db.driver.asyncpg import AsyncpgDriver


async def test_listener_without_a_schema_uses_the_search_path(driver: AsyncpgDriver) -> None:
    """Without a configured schema the topics are those of the current schema."""
    notified: asyncio.Queue[str] = asyncio.Queue()
    listener = driver.listener()
    await listener.connect()
    await listener.listen("river_insert", notified.put_nowait)

    await driver.pool.fetch("SELECT pg_notify('public.river_insert', 'x')")

    async with asyncio.timeout(20.0):
        assert await notified.get() == "x"
    await listener.close()
