"""The limits of a client as its engine obeys them: what is inserted, copied and ended by other statements."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from factory import NOW, ROW
from millhand.core.args.codec import RawArgs
from millhand.core.config import Config
from millhand.core.errors import DriverError
from millhand.core.event import EventKind
from millhand.core.insert_opts import InsertOpts, InsertParams, insert_params_many
from millhand.core.job import ClientId, JobId, JobState
from millhand.core.limit import Limit
from millhand.core.transition import StateChange
from millhand.db.driver.protocol import Executor
from millhand.engine.attempt import Attempt
from millhand.engine.capability import ClientContext
from millhand.engine.lock_wait import LockWaits
from millhand.engine.pending_change import Pending
from millhand.engine.store.job_insert import job_insert_many
from millhand.limits.rules import LimitRules
from millhand.limits.store import limit_remove


@pytest.fixture
async def rules(tx: Executor) -> LimitRules:
    """The rules of a client that has read a limit of queue `limited`, and none of `default`."""
    client = ClientContext(
        client_id=ClientId("me"),
        config=Config(),
        locks=LockWaits(tx),
        pool=tx,
        works=lambda _: True,
        on_rules_changed=lambda _: None,
    )
    rules = LimitRules(client)
    await rules.watcher.declare({"limited": Limit(at_once=1)})
    return rules


def inserts(*queues: str) -> Sequence[InsertParams]:
    jobs = [(RawArgs("push", "{}"), InsertOpts(queue=queue)) for queue in queues]
    return insert_params_many(jobs, now=NOW, default_max_attempts=1)


def ended(*queues: str) -> list[Pending]:
    batch = []
    for id, queue in enumerate(queues, 1):
        job = msgspec.structs.replace(ROW, id=JobId(id), queue=queue)
        change = StateChange(job.id, JobState.COMPLETED, EventKind.JOB_COMPLETED, finalized_at=NOW)
        batch.append(Pending(change, Attempt(job), 0.0, is_plain=True))
    return batch


async def test_only_inserts_of_limited_queues_have_their_statement(rules: LimitRules) -> None:
    """A statement with any job of such a queue is that of limits. It ends with the limit."""
    names = [
        rules.insert_query(inserts(*queues), notify_queues=()).name
        for queues in (["default"], ["default", "limited"])
    ]

    assert names == ["job_insert", "limited_job_insert_many"]


async def test_removed_limit_leaves_the_plain_insert(rules: LimitRules, tx: Executor) -> None:
    """Without any limit, an insert does not even look for one."""
    await tx.run(limit_remove("limited"))
    await rules.watcher.read()

    assert (rules.insert_query is job_insert_many, rules.waiting_jobs, [*rules.queues]) == (True, None, [])


async def test_jobs_are_not_copied_while_go_shares_a_queue(rules: LimitRules) -> None:
    """A Go worker would fetch an available job without a slot."""
    before = rules.can_copy
    await rules.watcher.declare({"shared": Limit(at_once=1, shared=True)})

    assert (before, rules.can_copy) == (True, False)


async def test_only_jobs_of_limited_queues_are_ended_by_their_statements(rules: LimitRules) -> None:
    """The other jobs of the batch are the completer's; a batch without limited jobs is all its."""
    part = rules.ended_by_rules(ended("default", "limited"))

    assert rules.ended_by_rules(ended("default")) is None
    assert part is not None
    assert [[one.attempt.row.queue for one in jobs] for jobs in (part.jobs, part.others)] == [
        ["limited"],
        ["default"],
    ]


async def test_jobs_are_ended_without_limits_while_their_tables_are_gone(rules: LimitRules) -> None:
    """A statement that misses a table, as between a migration down and up, must not keep the outcomes of jobs."""
    rules.on_refused(DriverError("limited_job_complete_many", "no table", sqlstate="42P01"))
    gone = rules.ended_by_rules(ended("limited"))
    rules.on_refused(DriverError("limited_job_complete_many", "a deadlock", sqlstate="40P01"))

    assert gone is None
    assert rules.ended_by_rules(ended("limited")) is not None
