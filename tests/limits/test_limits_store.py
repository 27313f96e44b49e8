"""Statements for limits and their partitions."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta

import msgspec
import pytest

from factory import GENEROUS_SECONDS, qualified
from millhand.core.errors import NotFound
from millhand.core.job import Json
from millhand.core.limit import Limit, PartitionStatus, QueueLimit, Rate
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.engine.store.queue import queue_create_or_set_updated_at, queue_get, queue_update
from millhand.limits.store import (
    limit_declare,
    limit_list,
    limit_partition_hold,
    limit_partition_list,
    limit_partition_release,
    limit_partition_set,
    limit_remove,
    limit_remove_for_form,
    limit_set,
)
from topic_recorder import TopicRecorder

FULL = Limit(
    at_once=3,
    at_once_per_client=2,
    total=50,
    by_args=["tenant_id", "region"],
    by_kind=True,
    rate=Rate(100, per=timedelta(seconds=1.5), burst=10),
    note="as the API of maps allows",
)
FORM: Json = {"global_limit": 3, "local_limit": 0, "partition": {"by_args": None, "by_kind": None}}


async def run(tx: Executor, sql: str, *params: object) -> list[dict[str, object]]:
    return await tx.fetch(qualified(sql, tx), list(params))


async def the_limit(tx: Executor, queue: str) -> QueueLimit | None:
    listed = await tx.run(limit_list(queue=queue))
    return listed[0].row if listed else None


async def put_partition(
    tx: Executor, queue: str, key: str, *, running: int, is_open: bool, turn: float = 0
) -> None:
    await run(
        tx,
        "INSERT INTO /* schema */millhand_limit_partition (queue, partition_key, running, is_open, turn) "
        "VALUES ($1, $2, $3, $4, $5)",
        queue, key, running, is_open, turn,
    )  # fmt: skip


async def partitions(tx: Executor, queue: str, columns: str) -> list[tuple[object, ...]]:
    rows = await run(
        tx,
        f"SELECT {columns} FROM /* schema */millhand_limit_partition WHERE queue = $1 ORDER BY partition_key",
        queue,
    )
    return [tuple(row.values()) for row in rows]


@pytest.mark.parametrize("limit", [FULL, Limit(at_once=1, shared=True), Limit(in_order=True, by_args=["a"])])
async def test_limit_is_read_as_it_was_set(tx: Executor, limit: Limit) -> None:
    """Every value of a limit survives the table, both as what is in force and as what was declared."""
    await tx.run(limit_declare({"mail": limit}))

    found = await the_limit(tx, "mail")

    assert found is not None
    assert (found.queue, found.limit, found.declared, found.num_running) == ("mail", limit, limit, 0)


@pytest.mark.slow
async def test_declaration_replaces_only_another_declaration(tx: Executor) -> None:
    """What was set at run time stays until code declares another limit."""
    one, two, at_run_time = Limit(at_once=1), Limit(at_once=2, total=9), Limit(at_once=5)
    await tx.run(limit_declare({"mail": one}))
    await tx.run(limit_set("mail", at_run_time))

    same = await tx.run(limit_declare({"mail": one}))
    other = await tx.run(limit_declare({"mail": two, "reports": one}))

    assert [(row.limit, row.declared) for row in same] == [(at_run_time, one)]
    assert {row.queue: (row.limit, row.declared) for row in other} == {
        "mail": (two, two),
        "reports": (one, one),
    }


async def test_set_keeps_what_was_declared(tx: Executor) -> None:
    """A limit set at run time has no declaration, or keeps the one that it has."""
    new = await tx.run(limit_set("mail", FULL))
    await tx.run(limit_declare({"mail": Limit(at_once=1)}))
    changed = await tx.run(limit_set("mail", FULL))

    assert (new.limit, new.declared) == (FULL, None)
    assert (changed.limit, changed.declared) == (FULL, Limit(at_once=1))


async def test_new_total_counts_the_slots_that_are_taken(tx: Executor) -> None:
    """Slots are counted when a limit gets a total, kept while it has one, and forgotten with it."""
    await put_partition(tx, "mail", '["a"]', running=2, is_open=True)
    await put_partition(tx, "mail", '["b"]', running=3, is_open=False)
    await put_partition(tx, "other", '["a"]', running=7, is_open=True)

    counts = [
        (await tx.run(limit_set("mail", limit))).num_running
        for limit in (
            Limit(at_once=1), Limit(at_once=1, total=4), Limit(at_once=1, total=9), Limit(at_once=2),
            Limit(total=8),
        )
    ]  # fmt: skip

    assert counts == [0, 5, 5, 0, 5]


async def test_change_opens_the_partitions_that_were_full(tx: Executor) -> None:
    """A changed limit opens partitions that were closed with jobs, behind those that are open; not idle or held ones."""
    await tx.run(limit_set("mail", Limit(at_once=1)))
    await put_partition(tx, "mail", '["full"]', running=1, is_open=False, turn=1)
    await put_partition(tx, "mail", '["idle"]', running=0, is_open=False)
    await put_partition(tx, "mail", '["open"]', running=0, is_open=True, turn=5)
    await put_partition(tx, "mail", '["held"]', running=1, is_open=False)
    await tx.run(limit_partition_hold("mail", ["held"], timedelta(hours=1)))

    await tx.run(limit_set("mail", Limit(at_once=2)))

    found = await partitions(tx, "mail", "partition_key, is_open, opened, turn")
    assert found == [
        ('["full"]', True, 2, 5.0),
        ('["held"]', False, 1, 0.0),
        ('["idle"]', False, 1, 0.0),
        ('["open"]', True, 2, 5.0),
    ]


async def test_change_waits_for_an_admission_with_the_old_limit(schema_driver: AsyncpgDriver) -> None:
    """A partition that a concurrent admission closes as full, by the old limit, is open after the change."""
    pool = schema_driver.pool
    await pool.run(limit_set("mail", Limit(at_once=1)))
    await put_partition(pool, "mail", "[]", running=0, is_open=True)
    is_waiting = """
        SELECT EXISTS (
            SELECT FROM pg_stat_activity
            WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0
        ) AS it
    """

    async with asyncio.timeout(GENEROUS_SECONDS):
        async with pool.begin() as admission:
            sql = "UPDATE /* schema */millhand_limit_partition SET running = 1, is_open = false"
            await run(admission, sql)
            change = asyncio.create_task(pool.run(limit_set("mail", Limit(at_once=2))))
            while not (await run(pool, is_waiting))[0]["it"]:  # noqa: ASYNC110 - the database does not notify
                await asyncio.sleep(0)
        await change

    async with pool.begin() as tx:
        assert await partitions(tx, "mail", "running, is_open, opened") == [(1, True, 2)]


async def test_list_has_the_forms_of_queues_without_a_limit(tx: Executor) -> None:
    """A queue is listed if it has a limit, or metadata with a concurrency setting."""
    for name in ("a", "b", "c"):
        await tx.run(queue_create_or_set_updated_at(name))
    await tx.run(queue_update("a", metadata={"concurrency": FORM}))
    await tx.run(queue_update("b", metadata={"concurrency": None}))
    await tx.run(limit_set("c", Limit(at_once=1), form=FORM))

    listed = await tx.run(limit_list())

    assert [(one.queue, one.row and one.row.limit, one.form, one.obeyed_form) for one in listed] == [
        ("a", None, FORM, None),
        ("c", Limit(at_once=1), None, FORM),
    ]


async def test_invalid_row_is_listed_with_its_fault(tx: Executor) -> None:
    """A row that another program wrote does not hide the other limits."""
    await tx.run(limit_set("bad", Limit(at_once=1)))
    await tx.run(limit_set("good", Limit(at_once=1)))
    await run(tx, "UPDATE /* schema */millhand_limit SET at_once = -1 WHERE queue = 'bad'")

    bad, good = await tx.run(limit_list())

    assert (bad.row, bad.fault) == (None, "at_once must be between 1 and 2,147,483,647, got -1")
    assert good.row is not None


async def test_declaration_of_a_later_release_is_left_out(tx: Executor) -> None:
    """A declaration that this release cannot read is no error."""
    await tx.run(limit_declare({"mail": Limit(at_once=1)}))
    await run(tx, "UPDATE /* schema */millhand_limit SET declared = '{\"rate\": 7}'")

    found = await the_limit(tx, "mail")

    assert (found and found.limit, found and found.declared) == (Limit(at_once=1), None)


async def test_remove_deletes_the_limit_and_clears_the_form(tx: Executor) -> None:
    """A removed limit does not come back by what River UI's form said; other metadata stays."""
    await tx.run(queue_create_or_set_updated_at("mail"))
    await tx.run(queue_update("mail", metadata={"concurrency": FORM, "team": "x"}))
    await tx.run(limit_set("mail", Limit(at_once=1)))

    await tx.run(limit_remove("mail"))

    assert await tx.run(limit_list()) == []
    assert (await tx.run(queue_get("mail"))).metadata == {"team": "x"}
    with pytest.raises(NotFound) as raised:
        await tx.run(limit_remove("mail"))
    assert str(raised.value) == "limit of queue must exist, found none with name 'mail'"


async def test_remove_for_form_spares_limits_of_others(tx: Executor) -> None:
    """When the form is cleared, only a limit that it made and that was not changed since is deleted."""
    await tx.run(limit_set("form", Limit(at_once=1), form=FORM))
    await tx.run(limit_set("set", Limit(at_once=1)))
    await tx.run(limit_declare({"declared": Limit(at_once=1)}))
    await tx.run(limit_set("declared", Limit(at_once=2), form=FORM))

    removed = {
        name: await tx.run(limit_remove_for_form(name, obeyed_form=FORM))
        for name in ("form", "set", "declared", "none")
    }

    assert removed == {"form": True, "set": False, "declared": False, "none": False}


async def test_partition_keeps_what_a_change_does_not_name(tx: Executor) -> None:
    """A partition's row is made by its first setting; each change leaves the others."""
    first = await tx.run(limit_partition_set("mail", ["acme"], at_once=20))
    await tx.run(limit_partition_set("mail", ["acme"], weight=3))
    held = await tx.run(limit_partition_hold("mail", ["acme"], timedelta(hours=1)))
    released = await tx.run(limit_partition_release("mail", ["acme"]))
    reset = await tx.run(limit_partition_set("mail", ["acme"], at_once=None))

    assert first == PartitionStatus(
        queue="mail",
        key='["acme"]',
        running=0,
        waiting=0,
        weight=1,
        at_once=20,
        held_until=None,
        next_start_at=None,
        halted_by=None,
        halted_at=None,
    )
    assert (held.at_once, held.weight) == (20, 3)
    assert held.held_until is not None
    assert held.held_until == held.next_start_at
    assert released == msgspec.structs.replace(held, held_until=None, next_start_at=None)
    assert (reset.at_once, reset.weight) == (None, 3)


async def test_hold_closes_and_release_opens(tx: Executor) -> None:
    """A held partition stays closed through a change of its settings, until it is released or its time has come."""
    columns = "is_open, opened, opens_at IS NOT NULL AS is_closed_until, held_until IS NOT NULL AS is_held"
    seen = []
    for query in (
        limit_partition_hold("mail", [], timedelta(hours=1)),
        limit_partition_set("mail", [], weight=2),
        limit_partition_release("mail", []),
    ):
        await tx.run(query)
        seen += await partitions(tx, "mail", columns)

    assert seen == [(False, 1, True, True), (False, 1, True, True), (True, 2, False, False)]


async def test_release_of_an_unknown_partition_raises(tx: Executor) -> None:
    """A mistyped key is no new partition."""
    with pytest.raises(NotFound) as raised:
        await tx.run(limit_partition_release("mail", ["acne"]))

    assert str(raised.value) == """partition of queue 'mail' must exist, found none with name '["acne"]'"""
    assert await partitions(tx, "mail", "queue") == []


async def test_long_key_is_a_digest_by_which_it_is_found(tx: Executor) -> None:
    """A key of more than 200 bytes is stored as its digest, which names the partition too."""
    made = await tx.run(limit_partition_set("mail", ["é" * 100], weight=2))
    found = await tx.run(limit_partition_set("mail", made.key, weight=3))

    assert made.key.startswith("sha256:")
    assert len(made.key) == len("sha256:") + 64
    assert (found.key, await partitions(tx, "mail", "weight")) == (made.key, [(3,)])


async def test_partitions_are_listed_by_their_jobs(tx: Executor) -> None:
    """The busiest partitions come first, with the jobs that wait for a slot; idle ones are left out."""
    for key, running in (("a", 1), ("b", 2), ("c", 1), ("idle", 0)):
        await put_partition(tx, "mail", json.dumps([key]), running=running, is_open=False)
    await run(
        tx,
        "INSERT INTO /* schema */millhand_limited_job "
        "(job_id, queue, partition_key, priority, due_at, is_later, admitted_at) "
        "VALUES (1, 'mail', '[\"c\"]', 1, now(), false, NULL), (2, 'mail', '[\"c\"]', 1, now(), true, NULL), "
        "(3, 'mail', '[\"c\"]', 1, now(), false, now()), (4, 'mail', '[\"a\"]', 1, now(), true, NULL)",
    )

    listed = await tx.run(limit_partition_list("mail"))
    first = await tx.run(limit_partition_list("mail", limit=1))

    assert [(one.key, one.running, one.waiting) for one in listed] == [
        ('["b"]', 2, 0), ('["c"]', 1, 1), ('["a"]', 1, 0),
    ]  # fmt: skip
    assert first == listed[:1]


async def test_each_change_notifies_clients_of_the_queue(
    schema_driver: AsyncpgDriver, topics: TopicRecorder
) -> None:
    """A change sends River's notification of changed metadata; what changes nothing, and no longer fits, sends less."""
    pool = schema_driver.pool
    await pool.run(queue_create_or_set_updated_at("mail"))
    await pool.run(queue_update("mail", metadata={"team": "x"}))
    await topics.received()
    seen = []
    for query in (
        limit_declare({"mail": Limit(at_once=1), "other": Limit(at_once=1)}),
        limit_declare({"mail": Limit(at_once=1)}),
        limit_set("mail", Limit(at_once=2)),
        limit_set("mail", Limit(at_once=2)),
        limit_partition_hold("mail", [], timedelta(hours=1)),
        limit_partition_release("mail", []),
        limit_remove("mail"),
    ):
        await pool.run(query)
        seen.append([(topic, json.loads(payload)) for topic, payload in await topics.received()])
    sql = "UPDATE /* schema */river_queue SET metadata = jsonb_build_object('long', repeat('x', 8000))"
    await run(pool, sql)
    await pool.run(limit_set("mail", Limit(at_once=2)))
    large = json.loads((await topics.received())[0][1])

    def notification(queue: str, metadata: Json) -> tuple[str, Json]:
        return "river_control", {"action": "metadata_changed", "metadata": metadata, "queue": queue}

    mail = notification("mail", {"team": "x"})
    both = [mail, notification("other", {})]
    assert [sorted(one, key=str) for one in seen] == [both, [], [mail], [], [mail], [mail], [mail]]
    assert large == {"action": "metadata_changed", "queue": "mail"}
