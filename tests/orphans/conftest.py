"""Applications for the orphan cleanup: each with its own schema and an empty directory."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from posts import TABLE as POSTS_TABLE
from world import (
    KEPT,
    LOCKED,
    PLAIN,
    VERSIONED,
    World,
    avatars_source,
    generous,
    provide_tables,
    uploads_source,
)

from lent_schema import lent
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.storage import open_store

sys.path.append(str(Path(__file__).parents[1] / "storage"))  # for the S3 servers
from servers import CREDENTIALS, seaweed
from stores import bucket_of, wait_until_ready


@pytest.fixture(scope="session")
async def drivers_with_tables(postgres_url: str) -> AsyncIterator[list[AsyncpgDriver]]:
    """Drivers that are lent out by `schema_driver`; the tables of `world` stay in their schemas."""
    drivers: list[AsyncpgDriver] = []
    yield drivers
    for driver in drivers:
        await driver.close()


@pytest.fixture
async def schema_driver(
    drivers_with_tables: list[AsyncpgDriver], postgres_url: str
) -> AsyncIterator[AsyncpgDriver]:
    """As everywhere, but the tables of `world` are emptied and kept."""
    async with lent(drivers_with_tables, postgres_url, keep=KEPT) as driver:
        yield driver


@pytest.fixture
async def world(schema_driver: AsyncpgDriver, tmp_path: Path) -> World:
    """An application without rows and objects. Each test starts with an empty schema."""
    schema = schema_driver.schema
    await provide_tables(schema_driver.pool, schema)
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


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    """An S3 server with a plain bucket, one with versions, and one with locks. A module meets nothing that another left."""
    with pytest.MonkeyPatch.context() as patch, seaweed() as address:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        bucket = bucket_of(open_store(f"s3://{PLAIN}?endpoint_url={address}"))
        for name in (PLAIN, VERSIONED):
            bucket.client.create_bucket(Bucket=name)
        bucket.client.create_bucket(Bucket=LOCKED, ObjectLockEnabledForBucket=True)
        bucket.client.put_bucket_versioning(Bucket=VERSIONED, VersioningConfiguration={"Status": "Enabled"})
        wait_until_ready(bucket)
        bucket.close()
        yield address


@pytest.fixture
async def versioned(world: World, s3_endpoint: str, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """The application with its objects in a bucket with versions."""
    name = request.node.name.replace("[", "-").rstrip("]")
    store = open_store(f"s3://{VERSIONED}/{name}?endpoint_url={s3_endpoint}")
    yield replace(world, store=store)
    await store.aclose()


@pytest.fixture
async def locked(world: World, s3_endpoint: str, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """The application with its objects in a bucket with object locks."""
    store = open_store(f"s3://{LOCKED}/{request.node.name}?endpoint_url={s3_endpoint}")
    yield replace(world, store=store)
    await store.aclose()


@pytest.fixture
async def plain(
    world: World, s3_endpoint: str, request: pytest.FixtureRequest, schema_driver: AsyncpgDriver
) -> AsyncIterator[World]:
    """The application with multipart uploads, whose ids its rows hold."""
    await schema_driver.pool.fetch(
        f"ALTER TABLE {world.schema}.uploads ADD COLUMN IF NOT EXISTS upload_id text"
    )
    name = request.node.name.replace("[", "-").rstrip("]")
    store = open_store(f"s3://{PLAIN}/{name}?endpoint_url={s3_endpoint}")
    source = uploads_source(world.schema, upload_id="upload_id")
    yield replace(world, store=store, config=replace(world.config, sources=(source,)))
    await store.aclose()
