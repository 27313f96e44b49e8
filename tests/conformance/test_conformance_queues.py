"""Methods for queues."""

from __future__ import annotations

from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.store.queue import queue_create_or_set_updated_at
from river_adapter import CONTRACT, Adapter, code_of
from river_suite import upstream

FULL_ONLY = CONTRACT["methods_without_schemas"]
UNIQUE = upstream("unique_keys")


async def test_queue_commands_change_one_queue(adapter: Adapter, schema_driver: AsyncpgDriver) -> None:
    """differential_queue_crud; metadata, pause and resume are read afterwards; an unknown queue is not found."""
    for name in ("a", "b"):
        await schema_driver.pool.run(queue_create_or_set_updated_at(name))

    updated = await adapter.call("queue_update", name="a", metadata={"n": 1})
    unchanged = await adapter.call("queue_update", name="a")
    await adapter.call("queue_pause", name="a")
    paused = await adapter.call("queue_get", name="a")
    await adapter.call("queue_resume", name="*")
    queues = (await adapter.call("queue_list"))["queues"]

    assert updated["metadata"] == unchanged["metadata"] == {"n": 1}
    assert paused["paused_at"] is not None
    assert [(one["name"], one["paused_at"]) for one in queues] == [("a", None), ("b", None)]
    assert [one["name"] for one in (await adapter.call("queue_list", limit=1))["queues"]] == ["a"]
    for method in ("queue_get", "queue_pause", "queue_resume", "queue_update"):
        assert await code_of(adapter, method, name="none") == "not_found", method
