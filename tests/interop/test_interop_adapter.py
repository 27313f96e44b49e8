"""The adapter for River's conformance suite beside the real River: the scenarios of insert-only clients, and cursors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from interop_harness import Harness, Row
from storage_commands import command_runner

from river_adapter import Adapter

KIND = "conformance_echo"
OWN_FIELDS = ("id", "created_at", "scheduled_at")


@pytest.fixture
async def adapter(harness: Harness) -> AsyncIterator[Adapter]:
    """An adapter of the profile insert-only-v1, on the schema that River uses."""
    adapter = Adapter(harness.url, "insert-only-v1", schema=harness.schema)
    yield adapter
    await adapter.session.close()


async def inserted_by_river(harness: Harness, message: str, **opts: Any) -> Row:
    """Let River insert the job that the adapter inserts for the same message and options."""
    args = {"behavior": "", "duration_ms": 0, "message": message}
    text = json.dumps(args, separators=(",", ":"))
    [result] = await harness.control("go").insert_many([{"kind": KIND, "text": text, "opts": opts}])
    return await harness.row(result["id"])


def without_own_fields(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in OWN_FIELDS}


async def test_river_works_the_job_of_an_insert_only_client(harness: Harness, adapter: Adapter) -> None:
    """insert_only_insert_reference_work; rows are equal to those that River inserts, and River completes the job."""
    later = "2099-01-01T00:00:01.12Z"
    for opts in (
        {},
        {"max_attempts": 3, "metadata": {"a": 1}, "priority": 2, "queue": "other", "tags": ["one_tag"]},
        {"pending": True},
        {"scheduled_at": later},
    ):
        job = await adapter.call("insert", message="m", opts=opts)
        ours, theirs = await harness.row(job["id"]), await inserted_by_river(harness, "m", **opts)

        assert without_own_fields(ours) == without_own_fields(theirs), opts
        if "scheduled_at" in opts:
            assert ours["scheduled_at"] == theirs["scheduled_at"]
            assert job["scheduled_at"] == later

    async with harness.working("go", kinds=(KIND,), queues={"default": 1}):
        first = (await harness.rows())[0]["id"]
        done = await harness.until_state(first, "completed")
    assert done["attempted_by"] == ["go_a"]


async def test_insert_only_client_reports_the_duplicate_of_river_s_job(
    harness: Harness, adapter: Adapter
) -> None:
    """insert_only_typed_batch; results are in order, and the second is the job that River inserted."""
    unique = {"unique": {"by_args": True}}
    existing = await inserted_by_river(harness, "u", **unique)

    batch = [{"message": "a"}, {"message": "u", "opts": unique}, {"opts": {"pending": True}}]
    results = (await adapter.call("insert_many", jobs=batch))["results"]

    assert [one["unique_skipped_as_duplicate"] for one in results] == [False, True, False]
    assert results[1]["job"]["id"] == existing["id"]
    assert results[1]["job"]["unique_key"] == existing["unique_key"].removeprefix("\\x")
    assert results[2]["job"]["state"] == "pending"


@pytest.mark.parametrize("commit", [False, True])
async def test_insert_only_client_notifies_at_the_commit(
    harness: Harness, adapter: Adapter, commit: bool
) -> None:
    """insert_only_transactional_insert; other connections see and receive nothing before the commit."""
    notifications = await harness.on_inserts()
    await adapter.call("tx_begin", handle="h")

    await adapter.call("tx_insert", handle="h", job={"message": "a"})
    await adapter.call("tx_insert_many", handle="h", jobs=[{"message": "b"}])

    assert await harness.rows() == []
    await adapter.call("tx_commit" if commit else "tx_rollback", handle="h")
    assert len(await harness.rows()) == (2 if commit else 0)
    if commit:
        await harness.until_notified(notifications, 1)
    await asyncio.sleep(0)
    assert {one["queue"] for one in notifications} == ({"default"} if commit else set())


async def test_insert_of_an_insert_only_client_wakes_river(harness: Harness, adapter: Adapter) -> None:
    """insert_only_insert_notification; a River client that polls once in ten minutes completes the job at once."""
    async with harness.working("go", kinds=(KIND,), poll_seconds=600.0):
        job = await adapter.call("insert", message="m")

        await harness.until_state(job["id"], "completed")


@pytest.mark.parametrize(
    ("order_by", "states"),
    [
        ("id", []),
        ("scheduled_at", ["scheduled"]),
        ("time", ["scheduled"]),
        ("time", ["cancelled", "scheduled"]),
        ("finalized_at", ["cancelled"]),
    ],
)
@pytest.mark.parametrize("direction", ["asc", "desc"])
async def test_adapter_and_river_write_the_same_cursors(
    harness: Harness, order_by: str, states: list[str], direction: str
) -> None:
    """job_list_cursor_interchange; for each page the cursors are equal as texts, and each continues the other's list."""
    adapter = Adapter(harness.url, schema=harness.schema)
    for second in (1, 2, 3, 4):
        opts = {"scheduled_at": f"2099-01-01T00:00:0{second}.{second}2Z"}
        job = await adapter.call("insert", message="m", opts=opts)
        if second > 2:
            await adapter.call("cancel", id=job["id"])
    await harness.fetch("UPDATE /* schema */river_job SET kind = 'a<>&~~~' WHERE id % 2 = 0")
    river = command_runner(harness, "go")
    filters = {"states": states} if states else {}

    ours: str | None = None
    while True:
        after = {} if ours is None else {"after": ours}
        page = await adapter.call(
            "list", direction=direction, limit=1, order_by=order_by, states=states, **after
        )
        theirs = await river.ask(
            "job_list", descending=direction == "desc", limit=1, order_by=order_by, filters=filters, **after
        )
        assert ([job["id"] for job in page["jobs"]], page["cursor"]) == (theirs["ids"], theirs["cursor"])
        if not page["jobs"]:
            break
        ours = page["cursor"]
    await adapter.session.close()
