"""Applications for the orphan cleanup: each with its own schema and an empty directory."""

from __future__ import annotations

from pathlib import Path

import pytest
from posts import TABLE as POSTS_TABLE
from world import TABLES, World, avatars_source, generous, uploads_source

from millhand.driver.asyncpg import AsyncpgDriver
from millhand.storage import open_store


@pytest.fixture
async def world(schema_driver: AsyncpgDriver, tmp_path: Path) -> World:
    """An application without rows and objects. Each test starts with an empty schema."""
    schema = schema_driver.schema
    await schema_driver.pool.execute_script(TABLES.format(schema=schema))
    return World(
        executor=schema_driver.pool,
        store=open_store(str(tmp_path / "bucket"), create=True),
        schema=schema,
        config=generous([uploads_source(schema), avatars_source(schema)]),
    )


@pytest.fixture
async def posts(world: World) -> World:
    """The application with an empty table of posts."""
    await world.sql(POSTS_TABLE)
    await world.sql("TRUNCATE {schema}.posts")
    return world
