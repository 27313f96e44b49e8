"""Worlds to reconcile: a schema of one's own and an empty directory."""

from __future__ import annotations

from pathlib import Path

import pytest
from world import TABLES, World, avatars_source, generous, uploads_source

from millhand.driver.asyncpg import AsyncpgDriver
from millhand.storage import open_store


@pytest.fixture
async def world(schema_driver: AsyncpgDriver, tmp_path: Path) -> World:
    """An application without rows and objects; what it did is emptied with the schema."""
    schema = schema_driver.schema
    await schema_driver.pool.execute_script(TABLES.format(schema=schema))
    return World(
        executor=schema_driver.pool,
        store=open_store(str(tmp_path / "bucket"), create=True),
        schema=schema,
        config=generous([uploads_source(schema), avatars_source(schema)]),
    )
