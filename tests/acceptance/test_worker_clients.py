"""Claims about the client rows of real worker processes."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from worker_harness import GENEROUS_SECONDS, started_worker

from millhand.client import Client
from millhand.core.client_row import ClientRow, ClientState
from millhand.core.config import Config
from millhand.db.driver.asyncpg import AsyncpgDriver

pytestmark = pytest.mark.slow


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(GENEROUS_SECONDS):
        while not await condition():
            pass


async def test_killed_worker_stops_its_heartbeat_and_returns_after_a_restart(
    tmp_path: Path, schema_driver: AsyncpgDriver, postgres_url: str
) -> None:
    """A killed client misses heartbeats; a restarted client has a new row, and its stop is recorded."""
    environment = {
        "DATABASE_URL": postgres_url,
        "MILLHAND_DATABASE_SCHEMA": schema_driver.schema,
        "MILLHAND_WORKER_CLIENT_ID": "mortal",
        "MILLHAND_WORKER_CLIENT_HEARTBEAT_INTERVAL": "200ms",
    }
    async with Client(postgres_url, Config(schema=schema_driver.schema)) as watcher:

        async def mortal() -> ClientRow:
            [row] = await watcher.clients.list()
            return row

        async def is_silent() -> bool:
            return (await mortal()).state is ClientState.UNRESPONSIVE

        async def is_working() -> bool:
            return (await mortal()).state is ClientState.WORKING

        async with started_worker(tmp_path, environment=environment) as worker:
            await worker.line("worker started")
            await _until(is_working)  # a busy machine misses heartbeats of such an interval
            alive = await mortal()
            worker.signal(signal.SIGKILL)
            await worker.wait()
        await _until(is_silent)
        killed = await mortal()
        async with started_worker(tmp_path, environment=environment) as worker:
            await worker.line("worker started")
            await _until(is_working)
            back = await mortal()
            code = await worker.stop()
        stopped = await mortal()

    assert killed.stopped_at is None
    assert alive.pid == killed.pid != back.pid
    assert alive.started_at == killed.started_at != back.started_at
    assert (code, stopped.state, stopped.started_at) == (0, ClientState.STOPPED, back.started_at)
