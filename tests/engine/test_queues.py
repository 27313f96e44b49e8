"""The queues of one client: added, removed, and controlled by notifications."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from client_harness import Act, ClientHarness
from millhand.core.config import Config, QueueConfig
from millhand.core.errors import ConfigError
from millhand.core.insert_opts import InsertOpts
from millhand.core.job import ClientId, JobState
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.db.driver.protocol import Executor
from millhand.engine.queues import WorkedQueues
from millhand.engine.subscription import Subscriptions


@pytest.fixture
async def queues(tx: Executor) -> WorkedQueues:
    """Two queues, not started."""
    queues = WorkedQueues(
        Config(),
        tx,
        client_id=ClientId("me"),
        execute=lambda _: pytest.fail("no job is fetched"),
        subscriptions=Subscriptions(),
    )
    for name, max_workers in (("default", 10), ("mail", 5)):
        queues.add(name, QueueConfig(max_workers=max_workers))
    return queues


def paused(queues: WorkedQueues) -> Iterator[bool]:
    return (producer.is_paused for producer in queues.producers.values())


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"queue": "mail", "action": "pause"}, [False, True]),
        ({"queue": "*", "action": "pause"}, [True, True]),
        ({"queue": "other", "action": "pause"}, [False, False]),
        ({"queue": "*", "action": "cancel", "job_id": 1}, [False, False]),
        ({"queue": "mail"}, [False, False]),
    ],
    ids=lambda value: "" if isinstance(value, list) else json.dumps(value),
)
async def test_control_notification_pauses_the_queues_it_names(
    queues: WorkedQueues, payload: dict[str, Any], expected: list[bool]
) -> None:
    """`*` names every queue for a pause and a resume, and for no other action."""
    queues.on_control(json.dumps(payload))

    assert list(paused(queues)) == expected


async def test_uses_are_the_slots_of_each_queue(queues: WorkedQueues) -> None:
    """A heartbeat writes them; a queue has no update before its start."""
    uses = queues.uses()

    assert {name: (use.max_workers, use.updated_at) for name, use in uses.items()} == {
        "default": (10, None),
        "mail": (5, None),
    }


async def test_queue_that_was_replaced_meanwhile_is_not_removed(queues: WorkedQueues) -> None:
    """Two removals of one queue, with an add in between, leave the added queue."""
    first, poller = queues.producers["mail"], queues.pollers["mail"]
    second, _ = queues.add("mail", QueueConfig(max_workers=1))

    await queues.end(first, poller)

    assert queues.producers["mail"] is second


async def test_queue_can_be_added_and_removed_while_the_client_runs(harness: ClientHarness) -> None:
    """
    dynamic_queue_add_reconfigure_remove.

    An added queue is worked at once, a removed one is not worked any more, and mistakes raise.
    """
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None: ...

    async with harness.client(workers) as client:
        with client.subscribe() as events:
            await client.insert(Act("x"), InsertOpts(queue="later"))
            await client.add_queue("later", 5)
            event = await harness.next(events)
            with pytest.raises(ConfigError, match=r"^queue must not be worked yet to be added, got 'later'"):
                await client.add_queue("later", QueueConfig(max_workers=1))
            await client.remove_queue("later")
            with pytest.raises(ConfigError, match=r"^queue must be worked to be removed, got 'later'$"):
                await client.remove_queue("later")
            left = await client.insert(Act("y"), InsertOpts(queue="later"))
            await client.insert(Act("z"))
            await harness.next(events)

    assert event.queue == "later"
    assert (await harness.row(left.job.id)).state is JobState.AVAILABLE
