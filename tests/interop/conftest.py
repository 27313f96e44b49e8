"""River's program, built and started once, and a harness for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from conformance_pair import Pair, built_adapter
from interop_harness import Harness
from migrators import Migrators
from river_program import RiverProgram, built_river, started_river

from millhand.db.driver.asyncpg import AsyncpgDriver


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("interop")


@pytest.fixture(scope="session")
def river_path() -> Path:
    """The path of River's program."""
    return built_river()


@pytest.fixture(scope="session")
async def river(river_path: Path, postgres_url: str) -> AsyncIterator[RiverProgram]:
    """River's program on this process's database. It records events in the harness of the running test."""
    async with started_river(river_path, postgres_url) as program:
        yield program


@pytest.fixture
async def harness(
    river: RiverProgram, river_path: Path, schema_driver: AsyncpgDriver, postgres_url: str
) -> AsyncIterator[Harness]:
    """A schema for this test, which both languages use."""
    connection = await asyncpg.connect(postgres_url)
    harness = Harness(connection, schema_driver, river, river_path, postgres_url)
    await harness.open()
    yield harness
    await harness.close()
    await connection.close()


@pytest.fixture
async def migrators(river: RiverProgram, postgres_url: str) -> AsyncIterator[Migrators]:
    """Both migrators, and schemas for this test."""
    connection = await asyncpg.connect(postgres_url)
    migrators = Migrators(connection, river, postgres_url)
    yield migrators
    await migrators.close()
    await connection.close()


@pytest.fixture(scope="session")
def adapter_path() -> Path:
    """The path of the Go adapter of River's conformance suite."""
    return built_adapter()


@pytest.fixture
async def pair(adapter_path: Path, schema_driver: AsyncpgDriver, postgres_url: str) -> AsyncIterator[Pair]:
    """Millhand's adapter and the Go adapter, on a schema for this test."""
    connection = await asyncpg.connect(postgres_url, server_settings={"search_path": schema_driver.schema})
    pair = Pair(connection, adapter_path, schema_driver.schema, postgres_url)
    try:
        await pair.open()
        yield pair
    finally:
        await pair.close()
        await connection.close()
