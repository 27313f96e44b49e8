"""Conformance tests: listeners."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest
from conformance_values import GENEROUS_SECONDS, num_jobs, pids_of

from millhand.core.errors import ConnectionLost, DriverError
from millhand.db.driver.protocol import Driver
from millhand.engine.store.job_insert import job_notify_insert
from millhand.engine.store.queue import queue_pause


class ListenerConformance:
    async def test_listener_receives_its_schema_s_topics(self, database: Driver) -> None:
        """Payloads on a topic of the driver's schema are received in order, and none of other topics."""
        notified: asyncio.Queue[str] = asyncio.Queue()
        listener = database.listener()
        await listener.connect()
        await listener.listen("river_insert", notified.put_nowait)
        await listener.ping()

        with contextlib.suppress(DriverError):
            await database.pool.run(queue_pause("*"))
        await database.pool.run(job_notify_insert(["a", "b"]))

        async with asyncio.timeout(GENEROUS_SECONDS):
            assert [json.loads(await notified.get()) for _ in range(2)] == [{"queue": "a"}, {"queue": "b"}]
        await listener.close()
        assert notified.empty()

    async def test_listener_reports_once_that_it_was_lost(self, database: Driver) -> None:
        """A connection that the server ended is detected without a statement, and cannot be used again."""
        lost, wakes = asyncio.Event(), []
        listener = database.listener()
        listener.on_lost(lambda: (wakes.append(1), lost.set()))  # type: ignore[arg-type, return-value, func-returns-value]
        await listener.connect()
        pids = await pids_of(database, listener)

        await database.pool.fetch("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid", [pids])

        async with asyncio.timeout(GENEROUS_SECONDS):
            await lost.wait()
        assert (listener.is_lost, wakes) == (True, [1])
        with pytest.raises(ConnectionLost):
            await listener.ping()
        with pytest.raises(ConnectionLost):
            await listener.listen("river_insert", print)
        await listener.close()

    async def test_closed_listener_is_not_lost(self, database: Driver) -> None:
        """`close` is no loss; it may be repeated, or come before `connect`, and the pool still works."""
        wakes: list[int] = []
        listener = database.listener()
        listener.on_lost(lambda: wakes.append(1))
        await listener.close()
        await listener.connect()
        await listener.listen("river_insert", print)

        await listener.close()
        await listener.close()

        assert wakes == []
        assert await asyncio.gather(*(num_jobs(database.pool) for _ in range(20))) == [0] * 20
