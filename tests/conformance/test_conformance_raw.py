"""Methods that read and change tables beside River's rules."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from factory import GENEROUS_SECONDS, insert_job
from millhand.core.job import ClientId, JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.store.leader import leader_attempt_elect, leader_get_seconds_left
from river_adapter import Adapter, code_of
from river_conformance.session import with_application_name


async def test_stored_texts_are_those_of_postgresql(adapter: Adapter) -> None:
    """unique_column_bytes; columns are as PostgreSQL prints them, keys in upper-case hexadecimal."""
    job = await adapter.call(
        "insert",
        message="m",
        opts={"metadata": {"n": 1}, "scheduled_at": "2099-01-01T00:00:01.12Z", "unique": {"by_args": True}},
    )

    row = await adapter.call("raw_job_row", id=job["id"])
    timestamps = await adapter.call("raw_job_timestamps", id=job["id"])

    assert row["args"] == '{"message": "m", "behavior": "", "duration_ms": 0}'
    assert (row["metadata"], row["tags"], row["unique_states"]) == ('{"n": 1}', "{}", "11110101")
    assert row["unique_key"] == job["unique_key"].upper()
    assert timestamps == {name: row[name] for name in ("created_at", "scheduled_at")}
    assert timestamps["scheduled_at"].startswith("2099-01-01 ")
    for method in ("raw_job_row", "raw_job_timestamps"):
        assert await code_of(adapter, method, id=job["id"] + 1) == "not_found"


async def test_running_job_is_finalized_by_force(adapter: Adapter, schema_driver: AsyncpgDriver) -> None:
    """A running job gets the state and the metadata; another one is rejected and stays."""
    running = await insert_job(schema_driver.pool, JobState.RUNNING, metadata='{"a": 1}')

    done = await adapter.call("raw_finalize", id=running.id, state="discarded", metadata={"b": 2})

    assert (done["state"], done["metadata"], done["attempt"]) == ("discarded", {"a": 1, "b": 2}, 1)
    assert done["finalized_at"] is not None
    assert done["errors"] == [
        {
            "at": "2026-02-03T04:05:06.789Z",
            "attempt": 1,
            "error": "external discard",
            "trace": "external trace",
        }
    ]
    assert await code_of(adapter, "raw_finalize", id=running.id, state="completed") == "rejected"
    assert await code_of(adapter, "raw_finalize", id=running.id + 1, state="completed") == "not_found"
    assert await code_of(adapter, "raw_finalize", id=running.id, state="cancelled") == "invalid_params"


async def test_leader_s_term_is_ended_by_force(adapter: Adapter, schema_driver: AsyncpgDriver) -> None:
    """The term has expired afterwards, and its row is still there."""
    elect = leader_attempt_elect(leader_id=ClientId("l"), ttl=timedelta(minutes=1))
    await schema_driver.pool.run(elect)

    await adapter.call("fault_expire_leader")

    seconds = await schema_driver.pool.run(leader_get_seconds_left())
    assert seconds is not None
    assert seconds < 0
    assert (await adapter.call("leader"))["leader_id"] == "l"


async def test_connections_of_one_adapter_are_counted_and_cut(
    postgres_url: str, schema_driver: AsyncpgDriver
) -> None:
    """Another adapter's connections are cut by its name, and it connects again; other names are invalid."""
    names = ("river-conformance-python-cut", "river-conformance-python-cutter")
    victim, cutter = (
        Adapter(with_application_name(postgres_url, name), schema=schema_driver.schema) for name in names
    )
    await victim.call("insert")
    count = (await victim.call("connection_count"))["count"]

    cut = await cutter.call("fault_disconnect_application", application_name=names[0])

    assert cut["count"] == count > 0
    assert (
        await code_of(cutter, "fault_disconnect_application", application_name="millhand") == "invalid_params"
    )
    async with asyncio.timeout(GENEROUS_SECONDS):
        while await code_of(victim, "insert"):
            pass
    assert len((await victim.call("list"))["jobs"]) == 2
    await victim.session.close()
    await cutter.session.close()


async def test_numbers_keep_all_digits_in_args_and_metadata(adapter: Adapter) -> None:
    """job_row_round_trip_all_fields; no digit is lost, also after Millhand has changed the metadata."""
    metadata = (
        '{"negative":-9223372036854775808,"big_integer":123456789012345678901234567890,'
        '"beyond_float":1e400,"long_decimal":0.1000000000000000055511151231257827}'
    )
    id = (await adapter.call("raw_insert_exact_json", metadata_json=metadata))["id"]
    plain = (await adapter.call("raw_insert_exact_json", id=2**53 + 1))["id"]

    stored = await adapter.call("raw_job_exact_json", id=id)
    await adapter.call("update", id=id, output="preserved")

    assert stored == await adapter.call("raw_job_exact_json", id=id)
    assert stored == {
        "big_integer": "123456789012345678901234567890",
        "beyond_float": f"1{400 * '0'}",
        "decimal": "0.12345678901234567890123456789",
        "integer": "9223372036854775807",
        "long_decimal": "0.1000000000000000055511151231257827",
        "negative": "-9223372036854775808",
    }
    assert plain == 2**53 + 1
    assert (await adapter.call("raw_job_exact_json", id=plain)).keys() == {"decimal", "integer", "negative"}
    assert await code_of(adapter, "raw_job_exact_json", id=1) in ("not_found", "")


async def test_full_row_has_a_value_in_each_column(adapter: Adapter) -> None:
    """job_row_round_trip_all_fields; every column is read as it was written."""
    job = await adapter.call("raw_insert_full_row")

    assert await adapter.call("get", id=job["id"]) == job
    assert job == {
        "args": {"nested": {"enabled": True}, "values": [1, "two", None]},
        "attempt": 3,
        "attempted_at": "2026-01-02T03:04:06.123456Z",
        "attempted_by": ["go-client", "candidate-client"],
        "created_at": "2026-01-02T03:04:05.6789Z",
        "errors": [
            {
                "at": "2026-01-02T03:04:06.123456Z",
                "attempt": 3,
                "error": 'worker failed: escaped "detail"',
                "trace": "frame one\nframe two",
            }
        ],
        "finalized_at": "2026-01-02T03:04:07.000001Z",
        "id": job["id"],
        "kind": "conformance_full_row",
        "max_attempts": 4,
        "metadata": {"output": {"ok": True}, "river:rescue_count": 2, "user": "metadata"},
        "priority": 2,
        "queue": "priority_jobs",
        "scheduled_at": "2026-01-02T03:04:05.999999Z",
        "state": "discarded",
        "tags": ["alpha_tag", "beta_tag"],
        "unique_key": "ab" * 32,
        "unique_states": ["available", "completed", "pending", "retryable", "running", "scheduled"],
    }


@pytest.mark.slow
async def test_job_without_a_notification_is_found_by_a_poll(adapter: Adapter) -> None:
    """lost_notification_poll_recovery; the insert sends nothing, and the next poll finds the job."""
    job = await adapter.call(
        "raw_insert_no_notify",
        kind="conformance_unregistered",
        opts={"max_attempts": 1, "metadata": {"n": 1}, "priority": 2, "queue": "q", "tags": ["one_tag"]},
    )
    scheduled = await adapter.call("raw_insert_no_notify", opts={"scheduled_at": "2099-01-01T00:00:00Z"})
    echo = await adapter.call("raw_insert_no_notify", message="poll")

    done = [await adapter.call("work", id=one["id"]) for one in (job, echo)]

    assert [one["state"] for one in done] == ["discarded", "completed"]
    assert (job["kind"], job["queue"], job["priority"], job["tags"]) == (
        *("conformance_unregistered", "q", 2, ["one_tag"]),
    )
    assert (scheduled["state"], echo["max_attempts"]) == ("scheduled", 25)
    unique = {"opts": {"unique": {"by_args": True}}}
    assert await code_of(adapter, "raw_insert_no_notify", **unique) == "unsupported"
