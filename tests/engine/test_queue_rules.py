"""The rules of a client whose capabilities have none."""

from __future__ import annotations

from millhand.core.clock import SystemClock
from millhand.core.config import Config, QueueConfig
from millhand.core.errors import DriverError
from millhand.core.job import ClientId
from millhand.db.driver.protocol import Executor
from millhand.engine.capability import Capability, ClientContext
from millhand.engine.lock_wait import LockWaits
from millhand.engine.queue_rules import QueueRules
from millhand.engine.services import queue_rules_of
from millhand.engine.store.job_insert import job_insert_many


def rules_of(pool: Executor) -> QueueRules:
    client = ClientContext(
        client_id=ClientId("me"),
        config=Config(),
        locks=LockWaits(pool),
        pool=pool,
        works=bool,
        on_rules_changed=print,
    )
    return queue_rules_of([Capability()], client)


async def test_client_without_rules_works_by_the_engines_own_statements(tx: Executor) -> None:
    """It inserts with the plain statement, may copy, has no service, and leaves each batch to the completer."""
    rules = rules_of(tx)

    await rules.add_queue("default", QueueConfig(max_workers=1))
    for event in (rules.on_insert, rules.on_queue_changed):
        event("default")
    rules.on_migrated()
    rules.on_refused(DriverError("job_complete_many", "a deadlock"))

    assert (rules.insert_query is job_insert_many, rules.can_copy, rules.service) == (True, True, None)
    assert (rules.ended_by_rules([]), rules.waiting_jobs, rules.leader_services(tx, SystemClock())) == (
        None,
        None,
        (),
    )


def test_producer_without_rules_has_nothing_to_fetch_by(tx: Executor) -> None:
    """No fetch is due for them, and none completes jobs."""
    rules = rules_of(tx)
    fetch = rules.queue_fetch("default", kinds=None, running_ids=list)

    fetch.give_back()

    assert (rules.queues, rules.fetched_queues) == ((), ())
    assert (fetch.completes, fetch.num_ended) == (False, 0)
    assert (fetch.has_available, fetch.is_collect_due) == (False, False)
