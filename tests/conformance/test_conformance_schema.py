"""Methods for the schema and its leader."""

from __future__ import annotations

from datetime import timedelta

import pytest

from millhand.core.job import ClientId
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.store.leader import leader_attempt_elect
from river_adapter import CONTRACT, Adapter, code_of
from river_suite import upstream

FULL_ONLY = CONTRACT["methods_without_schemas"]
UNIQUE = upstream("unique_keys")


async def test_leader_is_read_and_asked_to_resign(adapter: Adapter, schema_driver: AsyncpgDriver) -> None:
    """Without a term the leader is null; with one, its id and start; a request to resign may be part of a transaction."""
    assert await adapter.call("leader") == {"elected_at": None, "leader_id": None}
    elect = leader_attempt_elect(leader_id=ClientId("l"), ttl=timedelta(minutes=1))
    await schema_driver.pool.run(elect)

    leader = await adapter.call("leader")

    assert leader["leader_id"] == "l"
    assert leader["elected_at"].endswith("Z")
    await adapter.call("request_resign")
    await adapter.call("tx_begin", handle="h")
    await adapter.call("request_resign", handle="h")
    await adapter.call("tx_rollback", handle="h")


@pytest.mark.slow
async def test_migrate_and_reset_work_on_any_schema(adapter: Adapter, schema_driver: AsyncpgDriver) -> None:
    """Versions are applied, planned and undone; a reset deletes jobs; a custom schema is migrated and used."""
    schema = f"{schema_driver.schema}_Other"
    await schema_driver.pool.execute_script(f'CREATE SCHEMA "{schema}"')
    every = [1, 2, 3, 4, 5, 6, 7, 8]

    planned = await adapter.call("migrate", schema=schema, dry_run=True)
    partly = await adapter.call("migrate", schema=schema, target_version=5)
    whole = await adapter.call("migrate", schema=schema)
    inserted = await adapter.call("insert", schema=schema)
    assert await adapter.call("get", schema=schema, id=inserted["id"]) == inserted
    await adapter.call("reset", schema=schema)
    assert await code_of(adapter, "get", schema=schema, id=inserted["id"]) == "not_found"
    down = await adapter.call("migrate", schema=schema, direction="down", max_steps=2)
    gone = await adapter.call("migrate", schema=schema, direction="down", target_version=-1)

    assert planned == {"applied": every, "existing": [], "valid": False}
    assert partly == {"applied": every[:5], "existing": every[:5], "valid": False}
    assert whole == {"applied": every[5:], "existing": every, "valid": True}
    assert down == {"applied": [8, 7], "existing": every[:6], "valid": False}
    assert gone == {"applied": [6, 5, 4, 3, 2, 1], "existing": [], "valid": False}
    await adapter.call("insert")
    await adapter.call("reset")
    assert (await adapter.call("list"))["jobs"] == []
    assert await code_of(adapter, "insert", schema="s" * 47) == "rejected"
    await schema_driver.pool.execute_script(f'DROP SCHEMA "{schema}" CASCADE')
