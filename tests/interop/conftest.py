"""River's program, built and started once, and a room for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from interop_room import Room
from migrators import Migrators
from river_program import RiverProgram, built_river, started_river

from millhand.driver.asyncpg import AsyncpgDriver


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
    """River's program on this process's database; what is told by it goes into the room of the test that runs."""
    async with started_river(river_path, postgres_url) as program:
        yield program


@pytest.fixture
async def room(
    river: RiverProgram, river_path: Path, schema_driver: AsyncpgDriver, postgres_url: str
) -> AsyncIterator[Room]:
    """A schema of this test's own, and both languages at work in it."""
    connection = await asyncpg.connect(postgres_url)
    room = Room(connection, schema_driver, river, river_path, postgres_url)
    await room.open()
    yield room
    await room.close()
    await connection.close()


@pytest.fixture
async def migrators(river: RiverProgram, postgres_url: str) -> AsyncIterator[Migrators]:
    """Both migrators, and schemas of this test's own."""
    connection = await asyncpg.connect(postgres_url)
    migrators = Migrators(connection, river, postgres_url)
    yield migrators
    await migrators.close()
    await connection.close()
