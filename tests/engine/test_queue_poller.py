"""Polled settings of a queue apply unless a newer notification came."""

from __future__ import annotations

from typing import TypeVar

from client_harness import ClientHarness
from millhand.core.job import ClientId
from millhand.db.driver.protocol import Executor
from millhand.db.query import Query
from millhand.engine.producer import Producer
from millhand.engine.queue_poller import QueuePoller
from millhand.engine.subscription import Subscriptions

T = TypeVar("T")


class Late:
    """An executor whose answers arrive after a notification."""

    def __init__(self, executor: Executor, producer: Producer) -> None:
        self.executor = executor
        self.is_late = True
        self.producer = producer

    async def run(self, query: Query[T]) -> T:
        answer = await self.executor.run(query)
        if self.is_late:
            self.producer.on_paused(is_paused=False)
        return answer


def _producer(executor: Executor) -> Producer:
    return Producer(
        "default",
        executor,
        client_id=ClientId("me"),
        cooldown_seconds=1.0,
        execute=lambda attempt: attempt,
        kinds=None,
        max_workers=1,
        poll_seconds=1.0,
        subscriptions=Subscriptions(),
    )


async def test_poller_does_not_undo_a_newer_notification(harness: ClientHarness) -> None:
    """An answer that is older than a resume does not pause the queue; the next one applies."""
    producer = _producer(harness.driver.pool)
    late = Late(harness.driver.pool, producer)
    poller = QueuePoller(producer, late)  # type: ignore[arg-type]
    await harness.execute("INSERT INTO river_queue (name, paused_at) VALUES ('default', now())")

    await poller.poll_settings()
    is_paused_after_late = producer.is_paused
    late.is_late = False
    await poller.poll_settings()

    assert (is_paused_after_late, producer.is_paused) == (False, True)


async def test_poller_inserts_a_missing_row(harness: ClientHarness) -> None:
    """A queue whose row was deleted while it is worked gets a new one."""
    producer = _producer(harness.driver.pool)

    await QueuePoller(producer, harness.driver.pool).poll_settings()

    assert [row["name"] for row in await harness.driver.pool.fetch("SELECT name FROM river_queue")] == [
        "default"
    ]
