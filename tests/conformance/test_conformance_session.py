"""Transactions by handle, and the settings of the environment."""

from __future__ import annotations

import pytest

from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.store.queue import queue_create_or_set_updated_at
from river_adapter import CONTRACT, Adapter, code_of
from river_conformance.session import Settings, settings_of
from river_suite import upstream

FULL_ONLY = CONTRACT["methods_without_schemas"]
UNIQUE = upstream("unique_keys")


@pytest.mark.parametrize("commit", [False, True])
async def test_transaction_has_its_effects_at_its_commit(
    adapter: Adapter, schema_driver: AsyncpgDriver, commit: bool
) -> None:
    """
    transactional_crud_commit_rollback, transactional_queue_operations, transactional_batch_insertion.

    Each method in a transaction sees its changes, and others see them only after the commit.
    """
    await schema_driver.pool.run(queue_create_or_set_updated_at("q"))
    kept, gone = [await adapter.call("insert", message=text) for text in ("kept", "gone")]
    tx = {"handle": "h"}
    await adapter.call("tx_begin", **tx)

    inserted = await adapter.call("tx_insert", **tx, job={"message": "new"})
    await adapter.call("tx_insert_many", **tx, jobs=[{"message": "many"}])
    await adapter.call("tx_update", **tx, id=kept["id"], output=1)
    await adapter.call("tx_cancel", **tx, id=kept["id"])
    changed = await adapter.call("tx_retry", **tx, id=kept["id"])
    await adapter.call("tx_delete", **tx, id=gone["id"])
    await adapter.call("tx_delete_many", **tx, ids=[gone["id"]])
    await adapter.call("tx_queue_pause", **tx, name="q")
    await adapter.call("tx_queue_resume", **tx, name="q")
    queue = await adapter.call("tx_queue_update", **tx, name="q", metadata={"n": 1})

    assert await adapter.call("tx_get", **tx, id=inserted["id"]) == inserted
    assert len((await adapter.call("tx_list", **tx))["jobs"]) == 3
    assert await adapter.call("tx_queue_get", **tx, name="q") == queue
    assert (await adapter.call("tx_queue_list", **tx))["queues"] == [queue]
    assert [job["id"] for job in (await adapter.call("list"))["jobs"]] == [kept["id"], gone["id"]]
    await adapter.call("tx_commit" if commit else "tx_rollback", **tx)
    assert await adapter.call("get", id=kept["id"]) == (changed if commit else kept)
    assert len((await adapter.call("list"))["jobs"]) == (3 if commit else 2)
    assert (await adapter.call("queue_get", name="q"))["metadata"] == ({"n": 1} if commit else {})


@pytest.mark.slow
async def test_transaction_that_failed_accepts_only_its_end(adapter: Adapter) -> None:
    """transaction_abort_rollback_visibility; after a failure statements and the commit are errors of the database."""
    for handle, end in (("a", "tx_rollback"), ("b", "tx_commit")):
        await adapter.call("tx_begin", handle=handle)
        await adapter.call("tx_insert", handle=handle, job={"message": "lost"})
        assert await code_of(adapter, "tx_fail", handle=handle) == "database_error"

        assert await code_of(adapter, "tx_insert", handle=handle, job={}) == "database_error"
        assert await code_of(adapter, end, handle=handle) == (
            "" if end == "tx_rollback" else "database_error"
        )
        assert await code_of(adapter, end, handle=handle) == "not_found"
    assert (await adapter.call("list"))["jobs"] == []


async def test_transaction_handle_must_be_known_and_free(adapter: Adapter) -> None:
    """An unknown handle is not found, and one in use is rejected."""
    await adapter.call("tx_begin", handle="h")

    assert await code_of(adapter, "tx_begin", handle="h") == "rejected"
    assert await code_of(adapter, "tx_get", handle="other", id=1) == "not_found"
    assert await code_of(adapter, "tx_list", handle="") == "invalid_params"
    await adapter.session.close()


@pytest.mark.slow
async def test_transaction_whose_connection_is_lost_ends_with_an_error_of_the_database(
    adapter: Adapter, schema_driver: AsyncpgDriver
) -> None:
    """Each call is an error of the database, the end releases the handle, and the session still closes."""
    await adapter.call("start", client_id="c", queue="default")
    for handle in ("ended", "open"):
        await adapter.call("tx_begin", handle=handle)
        connection = adapter.session.transactions.get(handle)
        await schema_driver.pool.fetch(
            "SELECT pg_terminate_backend($1, 60000)", [connection.get_server_pid()]
        )

    for method, params in (("tx_get", {"id": 1}), ("tx_list", {}), ("tx_rollback", {})):
        assert await code_of(adapter, method, handle="ended", **params) == "database_error", method
    assert await code_of(adapter, "tx_rollback", handle="ended") == "not_found"
    await adapter.session.close()
    assert adapter.session.running is None


async def test_transaction_needs_a_database() -> None:
    """A database that cannot be reached is an error of the database, not a fault of the adapter."""
    adapter = Adapter("postgresql://127.0.0.1:1/none")

    assert await code_of(adapter, "tx_begin", handle="h") == "database_error"


def test_settings_come_from_the_environment() -> None:
    """The harness gives the database, a profile and a name, which replaces that of the URL."""
    given = {
        "RIVER_CONFORMANCE_APPLICATION_NAME": "river-conformance-python-7",
        "RIVER_CONFORMANCE_DATABASE_KIND": "postgres",
        "RIVER_CONFORMANCE_DATABASE_URL": "postgresql://h/d?application_name=x&sslmode=disable",
        "RIVER_CONFORMANCE_PROFILE": "insert-only-v1",
    }
    url = "postgresql://h/d?sslmode=disable&application_name="

    assert settings_of(given) == Settings(
        given_name="river-conformance-python-7",
        profile="insert-only-v1",
        url=f"{url}river-conformance-python-7",
    )
    only_url = {"RIVER_CONFORMANCE_DATABASE_URL": "postgresql://h/d?sslmode=disable"}
    assert settings_of(only_url) == Settings(
        given_name=None, profile="", url=f"{url}river-conformance-python"
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "RIVER_CONFORMANCE_DATABASE_URL must be the URL of a database of PostgreSQL, got none"),
        (
            {"RIVER_CONFORMANCE_DATABASE_URL": "x.db", "RIVER_CONFORMANCE_DATABASE_KIND": "sqlite"},
            "RIVER_CONFORMANCE_DATABASE_KIND must be postgres, got 'sqlite'",
        ),
    ],
)
def test_settings_need_a_database_of_postgresql(given: dict[str, str], message: str) -> None:
    """Without a URL, and for SQLite, the adapter does not start."""
    with pytest.raises(ValueError, match=f"^{message}$"):
        settings_of(given)
