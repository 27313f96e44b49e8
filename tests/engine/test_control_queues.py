"""Commands for queues, and their notifications."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
import pytest

from factory import GENEROUS_SECONDS, golden, insert_job
from millhand.capabilities import JOB_CHANGES
from millhand.core.errors import NotFound
from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.engine.control import JobControl, QueueControl
from millhand.engine.store.queue import queue_create_or_set_updated_at
from millhand.testing import ManualClock

Command = Callable[[], Awaitable[object]]


async def test_pause_and_resume_change_one_queue(
    driver: AsyncpgDriver, tx: Executor, connection: asyncpg.Connection
) -> None:
    """One queue is paused and resumed, and others stay as they are."""
    control = QueueControl(driver, ManualClock())
    for name in ("a", "b"):
        await tx.run(queue_create_or_set_updated_at(name))

    await control.pause("a", tx=connection)
    paused = await control.get("a", tx=connection)
    await control.pause("a", tx=connection)
    again = await control.get("a", tx=connection)
    other = await control.get("b", tx=connection)
    await control.resume("a", tx=connection)
    resumed = await control.get("a", tx=connection)

    assert (paused.is_paused, other.is_paused, resumed.is_paused) == (True, False, False)
    assert again == paused


async def test_pause_of_all_needs_no_queue(driver: AsyncpgDriver, connection: asyncpg.Connection) -> None:
    """`*` pauses every known queue, and does not raise if there is none."""
    control = QueueControl(driver, ManualClock())

    await control.pause("*", tx=connection)

    assert await control.list(tx=connection) == []


@pytest.mark.parametrize("command", ["get", "pause", "resume", "update"])
async def test_command_raises_not_found_when_the_queue_is_not_known(
    driver: AsyncpgDriver, connection: asyncpg.Connection, command: str
) -> None:
    """An unknown name raises."""
    with pytest.raises(NotFound) as raised:
        await getattr(QueueControl(driver, ManualClock()), command)("nowhere", tx=connection)

    assert str(raised.value) == "queue must exist, found none with name 'nowhere'"


async def test_list_gives_queues_by_name(
    driver: AsyncpgDriver, tx: Executor, connection: asyncpg.Connection
) -> None:
    """Queues are listed by name, page by page."""
    for name in ("b", "c", "a"):
        await tx.run(queue_create_or_set_updated_at(name))
    control = QueueControl(driver, ManualClock())

    first = await control.list(limit=2, tx=connection)
    rest = await control.list(after_name="b", tx=connection)

    assert [queue.name for queue in first] == ["a", "b"]
    assert [queue.name for queue in rest] == ["c"]


async def test_update_replaces_metadata_unless_there_is_none(
    driver: AsyncpgDriver, tx: Executor, connection: asyncpg.Connection
) -> None:
    """Metadata is replaced and not merged; without any, only `updated_at` changes."""
    await tx.run(queue_create_or_set_updated_at("a"))
    control = QueueControl(driver, ManualClock())

    await control.update("a", metadata={"x": 1}, tx=connection)
    updated = await control.update("a", metadata={"y": 2}, tx=connection)
    renewed = await control.update("a", metadata={}, tx=connection)

    assert (updated.metadata, renewed.metadata) == ({"y": 2}, {"y": 2})


async def test_commands_notify_as_rivers_do(schema_driver: AsyncpgDriver) -> None:
    """Each command sends the notifications of River's client, and none if it changed nothing."""
    jobs, queues = (
        JobControl(schema_driver, ManualClock(), changes=JOB_CHANGES),
        QueueControl(schema_driver, ManualClock()),
    )
    pool = schema_driver.pool
    running = await insert_job(pool, JobState.RUNNING, queue="work")
    finalized = await insert_job(pool, JobState.COMPLETED)
    cancelled = await insert_job(pool, JobState.CANCELLED)
    await pool.run(queue_create_or_set_updated_at("work"))
    metadata = {"b": [1, 2.0], "a": "<é>&"}
    steps: dict[str, Command] = {
        "cancel a running job": lambda: jobs.cancel(running.id),
        "cancel a finalized job": lambda: jobs.cancel(finalized.id),
        "retry a cancelled job": lambda: jobs.retry(cancelled.id),
        "delete a job": lambda: jobs.delete(finalized.id),
        "pause a queue": lambda: queues.pause("work"),
        "pause it again": lambda: queues.pause("work"),
        "resume a queue": lambda: queues.resume("work"),
        "pause all": lambda: queues.pause("*"),
        "resume all": lambda: queues.resume("*"),
        "queue metadata changed": lambda: queues.update("work", metadata=metadata),
        "queue updated without metadata": lambda: queues.update("work"),
    }
    recorded = {step["step"]: step["notifications"] for step in golden("notifications") if not step["schema"]}

    async with listening(schema_driver) as received:
        for name, command in steps.items():
            await command()
            payloads = [without_id(payload) for payload in await received()]

            assert payloads == [without_id(each["payload"]) for each in recorded[name]], name


@asynccontextmanager
async def listening(driver: AsyncpgDriver) -> AsyncIterator[Callable[[], Awaitable[list[str]]]]:
    """Yield a function that returns the payloads received on the control channel since its last call."""
    listener = driver.listener()
    await listener.connect()
    payloads: asyncio.Queue[str] = asyncio.Queue()
    await listener.listen("river_control", payloads.put_nowait)

    async def received() -> list[str]:
        # What was sent before is delivered before.
        await driver.pool.fetch("SELECT pg_notify($1 || '.river_control', 'end')", [driver.schema])
        found = []
        while (payload := await asyncio.wait_for(payloads.get(), GENEROUS_SECONDS)) != "end":
            found.append(payload)
        return found

    yield received
    await listener.close()


def without_id(payload: str) -> dict[str, object]:
    """Return a payload without its ids, which differ in each recording."""
    parsed: dict[str, object] = json.loads(payload)
    return {key: value for key, value in parsed.items() if key != "job_id"}
