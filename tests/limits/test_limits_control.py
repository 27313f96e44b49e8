"""Claims about `client.limits`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from factory import qualified
from limited_queue import LimitedQueue
from millhand.core.config import Config
from millhand.core.errors import ConfigError, NotFound
from millhand.core.job import JobState
from millhand.core.limit import Limit, Rate
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.engine.store.queue import queue_create_or_set_updated_at, queue_get, queue_update
from millhand.limits.control import LimitControl
from millhand.limits.store import limit_declare
from millhand.sync_client import SyncClient

RATE = Rate(10, per=timedelta(minutes=1), burst=2)
FORM = {"global_limit": 3, "local_limit": 0, "partition": {"by_args": None, "by_kind": None}}
HOUR = timedelta(hours=1)

Call = Callable[[LimitControl, Any], Awaitable[object]]


@pytest.fixture
def control(driver: AsyncpgDriver) -> LimitControl:
    return LimitControl(driver)


async def test_set_changes_the_values_that_it_names(
    control: LimitControl, connection: asyncpg.Connection
) -> None:
    """A value that is left out stays, and None removes a bound."""
    made = await control.set("mail", at_once=3, by_args=["tenant"], tx=connection)
    await control.set("mail", total=9, rate=RATE, tx=connection)
    changed = await control.set("mail", at_once=None, tx=connection)

    assert made.limit == Limit(at_once=3, by_args=["tenant"])
    assert changed.limit == Limit(total=9, rate=RATE, by_args=["tenant"])
    assert await control.get("mail", tx=connection) == changed
    assert await control.list(tx=connection) == [changed]


async def test_reset_returns_to_what_code_declares(
    control: LimitControl, tx: Executor, connection: asyncpg.Connection
) -> None:
    """All that was set at run time is undone, and only that."""
    declared = Limit(at_once=2, by_kind=True)
    await tx.run(limit_declare({"mail": declared}))
    await control.set("mail", at_once=7, total=3, tx=connection)

    reset = await control.reset("mail", tx=connection)

    assert (reset.limit, reset.declared) == (declared, declared)


async def test_form_counts_before_a_worker_obeys_it(
    control: LimitControl, tx: Executor, connection: asyncpg.Connection
) -> None:
    """What River UI's form says is read, changed and removed as the limit that it will be."""
    await tx.run(queue_create_or_set_updated_at("mail"))
    await tx.run(queue_update("mail", metadata={"concurrency": FORM}))

    found = await control.get("mail", tx=connection)
    changed = await control.set("mail", total=9, tx=connection)
    read = await control.get("mail", tx=connection)
    await control.remove("mail", tx=connection)

    assert found.limit == Limit(at_once=3)
    assert changed.limit == read.limit == Limit(at_once=3, total=9)
    assert await control.list(tx=connection) == []
    assert (await tx.run(queue_get("mail"))).metadata == {}


@pytest.mark.parametrize(
    "call",
    [
        lambda control, tx: control.get("mail", tx=tx),
        lambda control, tx: control.reset("mail", tx=tx),
        lambda control, tx: control.remove("mail", tx=tx),
        lambda control, tx: control.partitions("mail", tx=tx),
        lambda control, tx: control.set_partition("mail", "acme", weight=2, tx=tx),
        lambda control, tx: control.hold("mail", "acme", HOUR, tx=tx),
        lambda control, tx: control.release("mail", "acme", tx=tx),
        lambda control, tx: control.halted("mail", tx=tx),
        lambda control, tx: control.resume("mail", "acme", tx=tx),
    ],
)
async def test_queue_without_a_limit_is_not_found(
    control: LimitControl, connection: asyncpg.Connection, call: Call
) -> None:
    """Every command but `set` names the queue that has no limit."""
    with pytest.raises(NotFound) as raised:
        await call(control, connection)

    assert str(raised.value) == "limit of queue must exist, found none with name 'mail'"


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda control, tx: control.set("A b", at_once=1, tx=tx), "queue must be 1 to "),
        (
            lambda control, tx: control.set("new", by_kind=True, tx=tx),
            "limit must have at_once, at_once_per_client, total, rate or in_order, got none; write at_once = 1",
        ),
        (lambda control, tx: control.set("mail", at_once=0, tx=tx), "at_once must be between 1 and "),
        (
            lambda control, tx: control.reset("mail", tx=tx),
            "limit of queue 'mail' must be declared in code to be reset, got one that was only set at run time; remove it",
        ),
        (
            lambda control, tx: control.partitions("mail", limit=0, tx=tx),
            "limit must be between 1 and 1,000, got 0",
        ),
        (
            lambda control, tx: control.set_partition("mail", "acme", tx=tx),
            "set_partition must change something, got neither at_once nor weight",
        ),
        (
            lambda control, tx: control.set_partition("mail", "acme", weight=0, tx=tx),
            "weight must be between 1 and 1,000, got 0",
        ),
        (
            lambda control, tx: control.set_partition("mail", "acme", at_once=True, tx=tx),
            "at_once must be between 1 and 2,147,483,647, got True",
        ),
        (
            lambda control, tx: control.hold("mail", "acme", timedelta(0), tx=tx),
            "duration must be a positive timedelta of at most 100 years, got datetime.timedelta(0)",
        ),
        (
            lambda control, tx: control.hold("mail", ["push", "acme"], HOUR, tx=tx),
            'key must have 1 value for a partition of queue \'mail\', tenant, got ["push", "acme"]',
        ),
        (
            lambda control, tx: control.hold("kinds", "acme", HOUR, tx=tx),
            "key must have 2 values for a partition of queue 'kinds', kind, tenant, got [\"acme\"]",
        ),
        (
            lambda control, tx: control.hold("one", "acme", HOUR, tx=tx),
            "key must be [] for the one partition of queue 'one', got [\"acme\"]",
        ),
        (
            lambda control, tx: control.set("mail", halt=True, tx=tx),
            "halt must be False without in_order, got True; write in_order = True",
        ),
        (lambda control, tx: control.halted(limit=0, tx=tx), "limit must be between 1 and 1,000, got 0"),
        (
            lambda control, tx: control.set_partition("ordered", "acme", at_once=2, tx=tx),
            "at_once must be 1 with in_order, got 2",
        ),
    ],
)
async def test_invalid_change_is_refused(
    control: LimitControl, connection: asyncpg.Connection, call: Call, text: str
) -> None:
    """An error names the value and the rule, and nothing is changed."""
    await control.set("mail", at_once=1, by_args=["tenant"], tx=connection)
    await control.set("kinds", at_once=1, by_args=["tenant"], by_kind=True, tx=connection)
    await control.set("one", at_once=1, tx=connection)
    await control.set("ordered", in_order=True, by_args=["tenant"], tx=connection)
    before = await control.list(tx=connection)

    with pytest.raises(ConfigError) as raised:
        await call(control, connection)

    assert str(raised.value).startswith(text)
    assert await control.list(tx=connection) == before
    assert await control.partitions("mail", tx=connection) == []


@pytest.mark.parametrize(
    ("key", "stored"),
    [
        ("acme", '["acme"]'),
        (["acme"], '["acme"]'),
        ('["acme"]', '["acme"]'),
        ([None], "[null]"),
        ([5], "[5]"),
        ("[5]", "[5]"),
        ("[5", '["[5"]'),
        ("é", '["é"]'),
    ],
)
async def test_key_names_the_partition_of_its_values(
    control: LimitControl, connection: asyncpg.Connection, key: Any, stored: str
) -> None:
    """A text is one value, or the array of values as it is listed; the partition is found again by its listed key."""
    await control.set("mail", at_once=1, by_args=["tenant"], tx=connection)

    held = await control.hold("mail", key, HOUR, tx=connection)
    [listed] = await control.partitions("mail", tx=connection)
    released = await control.release("mail", listed.key, tx=connection)

    assert (held.key, listed, released.key) == (stored, held, stored)
    assert (held.held_until is None, released.held_until) == (False, None)


async def test_partition_has_settings_of_its_own(
    control: LimitControl, connection: asyncpg.Connection
) -> None:
    """A partition is listed with its own settings, also by the digest of a long key."""
    await control.set("mail", at_once=1, by_args=["tenant"], tx=connection)
    long = await control.set_partition("mail", "x" * 300, weight=3, tx=connection)

    changed = await control.set_partition("mail", long.key, at_once=20, tx=connection)

    assert (changed.key, changed.weight, changed.at_once) == (long.key, 3, 20)
    assert await control.partitions("mail", tx=connection) == [changed]


async def test_halted_partitions_are_listed_and_resumed(
    control: LimitControl, tx: Executor, connection: asyncpg.Connection
) -> None:
    """The list has all queues or one, the first halted first; a resume in a transaction opens one partition."""
    jobs = []
    for name in ("mail", "crm"):
        await control.set(name, in_order=True, halt=True, by_args=["tenant"], tx=connection)
        queue = LimitedQueue(tx, name)
        jobs += await queue.insert("acme")
        await queue.end(*await queue.fetch(), state=JobState.DISCARDED, finalized_at=queue.now)
    halted = await control.halted(tx=connection)
    one = await control.halted("crm", limit=1, tx=connection)

    resumed = await control.resume("mail", "acme", tx=connection)

    assert {(row.queue, row.key, row.halted_by) for row in halted} == {
        ("mail", '["acme"]', jobs[0].id),
        ("crm", '["acme"]', jobs[1].id),
    }
    assert all(row.halted_at is not None for row in halted)
    assert [row.queue for row in one] == ["crm"]
    assert (resumed.halted_by, await control.halted(tx=connection)) == (None, list(one))
    with pytest.raises(NotFound, match="halted partition of queue 'mail' must exist"):
        await control.resume("mail", "acme", tx=connection)


@pytest.mark.parametrize("changed", [{"by_args": []}, {"by_kind": True}, {"by_args": ["region", "tenant"]}])
async def test_partition_of_an_earlier_limit_is_resumed_and_released(
    control: LimitControl, tx: Executor, connection: asyncpg.Connection, changed: dict[str, Any]
) -> None:
    """After a change of what makes a partition, its key has another number of values, and is found as it is listed."""
    await control.set("mail", in_order=True, halt=True, by_args=["tenant"], tx=connection)
    queue = LimitedQueue(tx, "mail")
    await queue.insert("acme", "acme")
    await queue.end(*await queue.fetch(), state=JobState.DISCARDED, finalized_at=queue.now)
    await control.hold("mail", "other", HOUR, tx=connection)
    await control.set("mail", tx=connection, **changed)

    [listed] = await control.halted("mail", tx=connection)
    resumed = await control.resume("mail", listed.key, tx=connection)
    released = await control.release("mail", "other", tx=connection)
    with pytest.raises(ConfigError, match="key must "):
        await control.release("mail", "unknown", tx=connection)

    assert (resumed.key, resumed.halted_by, released.held_until) == ('["acme"]', None, None)
    assert len(await queue.fetch()) == 1


async def test_control_changes_limits_in_transactions_of_its_own(schema_driver: AsyncpgDriver) -> None:
    """Without a transaction of the caller's, each change is committed."""
    control = LimitControl(schema_driver)
    await control.set("mail", at_once=1)
    await control.hold("mail", [], HOUR)
    await control.set("mail", at_once=5)
    with pytest.raises(ConfigError):
        await control.reset("mail")
    count = qualified("SELECT count(*) AS n FROM /* schema */millhand_limit_partition", schema_driver.pool)

    assert (await control.get("mail")).limit == Limit(at_once=5)
    assert await schema_driver.pool.fetch(count) == [{"n": 1}]
    await control.remove("mail")
    assert await control.list() == []


def test_sync_client_has_the_same_limits(postgres_url: str, schema_driver: AsyncpgDriver) -> None:
    """The client for synchronous code sets, reads, holds and removes limits."""
    with SyncClient(postgres_url, Config(schema=schema_driver.schema)) as client:
        made = client.limits.set("mail", at_once=2)
        held = client.limits.hold("mail", [], HOUR)
        assert client.limits.get("mail") == made
        assert [one.key for one in client.limits.partitions("mail")] == [held.key]
        assert client.limits.release("mail", []).held_until is None
        client.limits.remove("mail")
        assert client.limits.list() == []
