"""Of the conformance suite: a connection that listens."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest
from conformance_words import GENEROUS_SECONDS, num_jobs, pids_before

from millhand.driver.protocol import Driver
from millhand.errors import ConnectionLost, DriverError
from millhand.store.job_insert import job_notify_insert
from millhand.store.queue import queue_pause


class ListenerConformance:
    async def test_listener_hears_its_schema_s_topics(self, database: Driver) -> None:
        """What is said on a topic of the driver's schema is heard, in order, and nothing of other topics."""
        heard: asyncio.Queue[str] = asyncio.Queue()
        listener = database.listener()
        await listener.connect()
        await listener.listen("river_insert", heard.put_nowait)
        await listener.ping()

        with contextlib.suppress(DriverError):
            await database.pool.run(queue_pause("*"))
        await database.pool.run(job_notify_insert(["a", "b"]))

        async with asyncio.timeout(GENEROUS_SECONDS):
            assert [json.loads(await heard.get()) for _ in range(2)] == [{"queue": "a"}, {"queue": "b"}]
        await listener.close()
        assert heard.empty()

    async def test_listener_tells_once_that_it_was_lost(self, database: Driver) -> None:
        """A connection that the server ended is noticed without being asked; after it, nothing can be done with it."""
        lost, rings = asyncio.Event(), []
        listener = database.listener()
        listener.on_lost(lambda: (rings.append(1), lost.set()))  # type: ignore[arg-type, return-value, func-returns-value]
        await listener.connect()
        pids = await pids_before(database, listener)

        await database.pool.fetch("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid", [pids])

        async with asyncio.timeout(GENEROUS_SECONDS):
            await lost.wait()
        assert (listener.is_lost, rings) == (True, [1])
        with pytest.raises(ConnectionLost):
            await listener.ping()
        with pytest.raises(ConnectionLost):
            await listener.listen("river_insert", print)
        await listener.close()

    async def test_listener_closed_by_us_was_not_lost(self, database: Driver) -> None:
        """Closing is no loss; it may be done twice, and before connecting; the pool is whole afterwards."""
        rings: list[int] = []
        listener = database.listener()
        listener.on_lost(lambda: rings.append(1))
        await listener.close()
        await listener.connect()
        await listener.listen("river_insert", print)

        await listener.close()
        await listener.close()

        assert rings == []
        assert await asyncio.gather(*(num_jobs(database.pool) for _ in range(20))) == [0] * 20
