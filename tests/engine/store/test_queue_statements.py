from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from store_rows import HOUR, NOW, notified

from millhand.core.errors import DriverError, NotFound
from millhand.core.queue import QueueRow
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.engine.store.queue import (
    queue_create_or_set_updated_at,
    queue_delete_expired,
    queue_get,
    queue_list,
    queue_pause,
    queue_resume,
    queue_update,
)

if TYPE_CHECKING:
    from conftest import TopicRecorder


async def put_queue(executor: Executor, name: str = "work", **given: Any) -> QueueRow:
    return await executor.run(queue_create_or_set_updated_at(name, **{"now": NOW, **given}))


def marked(at: datetime) -> datetime:
    """Return the instant that a command writes at `at`."""
    return at.replace(microsecond=at.microsecond // 1_000 * 1_000 + 1)


async def test_unknown_queue_is_created(tx: Executor) -> None:
    """A new queue is active and has no metadata."""
    queue = await put_queue(tx)

    assert queue == QueueRow("work", NOW, {}, None, NOW)
    assert await tx.run(queue_get("work")) == queue


async def test_known_queue_keeps_its_pause_and_metadata(tx: Executor) -> None:
    """Only the instant of a known queue is updated."""
    await put_queue(tx)
    await tx.run(queue_update("work", metadata={"a": 1}, now=NOW))
    await tx.run(queue_pause("work", now=NOW))

    queue = await put_queue(tx, now=NOW + HOUR)

    assert queue == QueueRow("work", NOW, {"a": 1}, NOW, NOW + HOUR)
    assert queue.is_paused


async def test_queues_come_by_name_and_page(tx: Executor) -> None:
    """Queues come by name, up to the limit, after the last one seen."""
    for name in ("b", "c", "a"):
        await put_queue(tx, name)

    first = await tx.run(queue_list(limit=2))
    second = await tx.run(queue_list(limit=2, after_name=first[-1].name))

    assert [[queue.name for queue in page] for page in (first, second)] == [["a", "b"], ["c"]]


async def test_paused_queue_keeps_its_instant(tx: Executor) -> None:
    """Pausing a paused queue, or resuming an active one, does not change its row."""
    await put_queue(tx)

    await tx.run(queue_pause("work", now=NOW + HOUR))
    paused = await tx.run(queue_get("work"))
    await tx.run(queue_pause("work", now=NOW + 2 * HOUR))
    paused_again = await tx.run(queue_get("work"))
    await tx.run(queue_resume("work", now=NOW + 3 * HOUR))
    resumed = await tx.run(queue_get("work"))
    await tx.run(queue_resume("work", now=NOW + 4 * HOUR))
    resumed_again = await tx.run(queue_get("work"))

    assert paused == paused_again == QueueRow("work", NOW, {}, NOW + HOUR, NOW + HOUR)
    assert resumed == resumed_again == QueueRow("work", NOW, {}, None, marked(NOW + 3 * HOUR))


@pytest.mark.parametrize("query", [queue_pause, queue_resume])
async def test_star_means_all_queues(tx: Executor, query: Any) -> None:
    """`*` pauses or resumes every queue and counts them; zero queues are no error."""
    none = await tx.run(query("*"))
    await put_queue(tx, "a")
    await put_queue(tx, "b")

    assert (none, await tx.run(query("*"))) == (0, 2)
    assert {queue.is_paused for queue in await tx.run(queue_list())} == {query is queue_pause}


@pytest.mark.parametrize("query", [queue_get, queue_pause, queue_resume, queue_update])
async def test_missing_queue_is_not_found(tx: Executor, query: Any) -> None:
    """A name without a queue is an error that contains it."""
    with pytest.raises(NotFound, match=r"^queue must exist, found none with name 'work'$"):
        await tx.run(query("work"))


async def test_control_notifications_are_river_s_byte_for_byte(
    schema_driver: AsyncpgDriver, topics: TopicRecorder
) -> None:
    """Each command sends River's payload on River's topic once, repeated or not."""
    run = schema_driver.pool.run
    await put_queue(schema_driver.pool)
    sent = {}
    for step, query in {
        "pause a queue": queue_pause("work"),
        "pause it again": queue_pause("work"),
        "resume a queue": queue_resume("work"),
        "pause all": queue_pause("*"),
        "resume all": queue_resume("*"),
        "queue metadata changed": queue_update("work", metadata={"b": [1, 2.0], "a": "<é>&"}),
        "queue updated without metadata": queue_update("work"),
    }.items():
        await run(query)
        sent[step] = await topics.received()

    assert sent == {step: notified(step) for step in sent}


async def test_command_for_a_missing_queue_notifies_nothing(
    schema_driver: AsyncpgDriver, topics: TopicRecorder
) -> None:
    """A missing name sends no notification."""
    for query in (
        queue_pause("missing"),
        queue_resume("missing"),
        queue_update("missing", metadata={"a": 1}),
    ):
        with pytest.raises(NotFound):
            await schema_driver.pool.run(query)

    assert await topics.received() == []


async def test_metadata_too_large_to_notify_is_not_written(schema_driver: AsyncpgDriver) -> None:
    """Metadata that exceeds PostgreSQL's limit for a notification is an error, and nothing is written."""
    await put_queue(schema_driver.pool)

    with pytest.raises(DriverError):
        await schema_driver.pool.run(queue_update("work", metadata={"a": "x" * 8000}))

    assert (await schema_driver.pool.run(queue_get("work"))).metadata == {}


async def test_queue_metadata_is_sanitized(tx: Executor) -> None:
    """A NUL in a queue's metadata becomes U+FFFD."""
    await put_queue(tx)

    queue = await tx.run(queue_update("work", metadata={"a": "\x00"}, now=NOW + HOUR))

    assert queue == QueueRow("work", NOW, {"a": "\ufffd"}, None, marked(NOW + HOUR))


async def test_expired_queues_are_deleted_by_name(tx: Executor) -> None:
    """Queues older than the horizon are deleted, paused or not, up to the limit by name."""
    for name in ("c", "b", "a"):
        await put_queue(tx, name)
    await tx.run(queue_pause("a", now=NOW))
    await put_queue(tx, "fresh", now=NOW + timedelta(microseconds=1))
    horizon = NOW + timedelta(microseconds=1)

    deleted = [await tx.run(queue_delete_expired(updated_at_horizon=horizon, limit=2)) for _ in range(2)]

    assert [sorted(names) for names in deleted] == [["a", "b"], ["c"]]
    assert [queue.name for queue in await tx.run(queue_list())] == ["fresh"]
