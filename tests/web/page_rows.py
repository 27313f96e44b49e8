"""Rows of a fleet for the tests of the page."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from millhand.core.job import ClientId
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.store.client import ClientHeartbeatParams, HeartbeatResult, client_heartbeat


async def put_client(
    driver: AsyncpgDriver, id: str, kinds: Sequence[str], queues: dict[str, int]
) -> HeartbeatResult:
    """Write the heartbeat of a client that works now."""
    heartbeat = ClientHeartbeatParams(
        id=ClientId(id), hostname="here", kinds=kinds, pid=42, queue_updates={}, queues=queues,
        heartbeat_interval=timedelta(seconds=5), version="1.2.3",
    )  # fmt: skip
    return await driver.pool.run(client_heartbeat(heartbeat, started_at=None))
