"""Methods for jobs. `Adapter.call` checks each request and result against the schemas of the contract."""

from __future__ import annotations

from typing import Any

from millhand.db.driver.asyncpg import AsyncpgDriver
from river_adapter import CONTRACT, Adapter, code_of
from river_suite import upstream

FULL_ONLY = CONTRACT["methods_without_schemas"]
UNIQUE = upstream("unique_keys")


async def test_insert_has_all_options(adapter: Adapter) -> None:
    """A job has the args of the suite with every key, and its options; what is not given has River's defaults."""
    plain = await adapter.call("insert", message="m")
    full = await adapter.call(
        "insert",
        behavior="sleep",
        duration_ms=5,
        opts={
            "max_attempts": 3,
            "metadata": {"n": 1},
            "priority": 2,
            "queue": "other",
            "scheduled_at": "2099-01-01T00:00:01.120Z",
            "tags": ["one_tag"],
            "unique": {"by_args": True, "by_period_ms": 60_000, "by_queue": True},
        },
    )

    assert plain["args"] == {"behavior": "", "duration_ms": 0, "message": "m"}
    assert (plain["kind"], plain["queue"], plain["priority"], plain["max_attempts"], plain["state"]) == (
        *("conformance_echo", "default", 1, 25, "available"),
    )
    assert full["args"] == {"behavior": "sleep", "duration_ms": 5, "message": ""}
    assert {
        name: full[name] for name in ("max_attempts", "metadata", "priority", "queue", "state", "tags")
    } == {
        "max_attempts": 3,
        "metadata": {"n": 1},
        "priority": 2,
        "queue": "other",
        "state": "scheduled",
        "tags": ["one_tag"],
    }
    assert full["scheduled_at"] == "2099-01-01T00:00:01.12Z"
    states = ["available", "completed", "pending", "retryable", "running", "scheduled"]
    assert full["unique_states"] == states
    assert await adapter.call("get", id=full["id"]) == full


async def test_insert_many_reports_duplicates_and_inserts_all_or_none(adapter: Adapter) -> None:
    """typed_batch_insertion; results are in order, a duplicate is the first job, and one invalid job stops all."""
    unique = {"message": "u", "opts": {"unique": {"by_args": True}}}
    first = await adapter.call("insert", **unique)

    results = (
        await adapter.call("insert_many", jobs=[{"message": "a"}, unique, {"opts": {"pending": True}}])
    )["results"]

    assert [one["unique_skipped_as_duplicate"] for one in results] == [False, True, False]
    assert results[1]["job"] == first
    assert results[2]["job"]["state"] == "pending"
    assert await code_of(adapter, "insert_many", jobs=[]) == "rejected"
    invalid = [{"opts": {"tags": ["lost"]}}, {"opts": {"priority": 99}}]
    assert await code_of(adapter, "insert_many", jobs=invalid) == "rejected"
    assert await code_of(
        adapter, "insert_many", jobs=[{"message": "r", "opts": {"unique": {"by_args": True}}}] * 2
    )
    assert (await adapter.call("list", tags_all=["lost"]))["jobs"] == []
    assert await code_of(adapter, "insert", opts={"unique": {"exclude_kind": True}}) == "rejected"
    times = await adapter.call("benchmark_enqueue", jobs=3)
    assert times["duration_ns"] >= times["p95_ns"] > 0


async def test_job_commands_change_one_job(adapter: Adapter) -> None:
    """differential_job_crud; output, cancel, retry and delete return the row that is read afterwards."""
    job = await adapter.call("insert", message="crud")
    id = job["id"]

    assert await adapter.call("update", id=id) == job
    updated = await adapter.call("update", id=id, output={"n": None})
    cancelled = await adapter.call("cancel", id=id)
    retried = await adapter.call("retry", id=id)
    deleted = await adapter.call("delete", id=id)

    assert updated["metadata"] == {"output": {"n": None}}
    assert (cancelled["state"], retried["state"], retried["finalized_at"]) == ("cancelled", "available", None)
    assert deleted == retried
    for method in ("get", "update", "cancel", "retry", "delete"):
        assert await code_of(adapter, method, id=id) == "not_found", method


async def test_list_pages_have_cursors_and_filters(adapter: Adapter) -> None:
    """differential_job_list_filters_and_cursors; pages continue after the last job; an empty filter filters nothing."""
    jobs = [
        await adapter.call(
            "insert",
            opts={
                "metadata": {"page": "x"},
                "priority": number,
                "scheduled_at": f"2099-01-01T00:00:0{number}Z",
                "tags": ["page_jobs"],
            },
        )
        for number in (1, 2, 3)
    ]
    await adapter.call("insert", message="excluded")
    params: dict[str, Any] = {
        "direction": "desc",
        "ids": [],
        "kinds": ["conformance_echo"],
        "limit": 2,
        "metadata": {"page": "x"},
        "order_by": "scheduled_at",
        "priorities": [1, 2, 3],
        "queues": ["default"],
        "states": ["scheduled"],
        "tags_all": ["page_jobs"],
        "tags_any": ["page_jobs", "other"],
    }

    first = await adapter.call("list", **params)
    second = await adapter.call("list", **params, after=first["cursor"])
    third = await adapter.call("list", **params, after=second["cursor"])

    assert first["jobs"] == [jobs[2], jobs[1]]
    assert second["jobs"] == [jobs[0]]
    assert second["cursor"] is not None
    assert third == {"cursor": None, "jobs": []}
    assert len((await adapter.call("list"))["jobs"]) == 4
    assert await code_of(adapter, "list", after="no cursor") == "rejected"
    assert await code_of(adapter, "list", order_by="kind") == "invalid_params"


async def test_delete_many_needs_a_filter_or_all(adapter: Adapter) -> None:
    """bulk_delete_safety; the ids that are named are deleted, and without filters nothing is, except with `all`."""
    ids = [(await adapter.call("insert"))["id"] for _ in range(3)]

    deleted = await adapter.call("delete_many", ids=ids[:2])

    assert [job["id"] for job in deleted["jobs"]] == ids[:2]
    assert await code_of(adapter, "delete_many") == "rejected"
    assert await code_of(adapter, "delete_many", all=True, ids=ids) == "rejected"
    assert len((await adapter.call("delete_many", all=True))["jobs"]) == 1
    assert (await adapter.call("delete_many", kinds=["k"], queues=["q"], states=["completed"], limit=1))[
        "jobs"
    ] == []


async def test_job_ids_keep_all_digits(adapter: Adapter, schema_driver: AsyncpgDriver) -> None:
    """unsafe_int64_job_ids_rpc_list_cursors; an id above 2^53 is read, listed and continued exactly."""
    id = 2**63 - 2
    sql = f"INSERT INTO \"{schema_driver.schema}\".river_job (id, kind, max_attempts, args) VALUES ($1, 'k', 1, '{{}}')"
    await schema_driver.pool.fetch(sql, [id])
    await schema_driver.pool.fetch(sql, [id + 1])

    page = await adapter.call("list", ids=[id, id + 1], limit=1)
    following = await adapter.call("list", ids=[id, id + 1], limit=1, after=page["cursor"])

    assert (await adapter.call("get", id=id))["id"] == page["jobs"][0]["id"] == id
    assert following["jobs"][0]["id"] == id + 1
