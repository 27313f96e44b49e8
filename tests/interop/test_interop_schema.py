"""Two migrators, one schema."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from interop_room import LANGUAGES, Language
from river_program import RiverError, RiverProgram

from migrate.catalog import catalog
from millhand.driver.asyncpg import AsyncpgDriver
from millhand.errors import MigrationError
from millhand.migrate import Migrator

VERSIONS = tuple(range(1, 9))
OTHER: dict[Language, Language] = {"go": "python", "python": "go"}


class Migrators:
    """Both migrators, on schemas that are made for the test."""

    def __init__(self, connection: asyncpg.Connection, program: RiverProgram, url: str) -> None:
        self.connection = connection
        self.drivers: dict[str, AsyncpgDriver] = {}
        self.program = program
        self.url = url

    async def new_schema(self) -> str:
        schema = f"interop_{secrets.token_hex(6)}"
        await self.connection.execute(f"CREATE SCHEMA {schema}")
        self.drivers[schema] = AsyncpgDriver(self.url, schema)
        await self.drivers[schema].open()
        return schema

    def ours(self, schema: str) -> Migrator:
        return Migrator(self.drivers[schema])

    async def up(self, language: Language, schema: str, target: int | None = None) -> list[int]:
        """Return the versions that were applied."""
        if language == "python":
            return [step.version for step in await self.ours(schema).up(target=target)]
        return await self.call("migrate", schema, direction="up", target=target or 0)

    async def down(self, language: Language, schema: str) -> list[int]:
        """Take one version back."""
        if language == "python":
            return [step.version for step in await self.ours(schema).down()]
        return await self.call("migrate", schema, direction="down")

    async def call(self, op: str, schema: str, **parameters: Any) -> Any:
        return await self.program.call(op, schema=schema, **parameters)

    async def catalog(self, schema: str) -> Any:
        """Return what is in a schema, told without its name."""
        return json.loads(json.dumps(await catalog(self.connection, schema)).replace(schema, "schema"))

    async def records(self, schema: str) -> list[tuple[Any, ...]]:
        """Return the versions that are recorded, with their lines where there are any."""
        columns = [
            row[0]
            for row in await self.connection.fetch(
                "SELECT column_name FROM information_schema.columns "
                "WHERE table_schema = $1 AND table_name = 'river_migration' AND column_name IN ('line', 'version') "
                "ORDER BY 1",
                schema,
            )
        ]
        if not columns:
            return []
        sql = f"SELECT {', '.join(columns)} FROM {schema}.river_migration ORDER BY version"
        return [tuple(row) for row in await self.connection.fetch(sql)]


@pytest.fixture
async def migrators(river: RiverProgram, postgres_url: str) -> AsyncIterator[Migrators]:
    connection = await asyncpg.connect(postgres_url)
    migrators = Migrators(connection, river, postgres_url)
    yield migrators
    for schema, driver in migrators.drivers.items():
        await driver.close()
        await connection.execute(f"DROP SCHEMA {schema} CASCADE")
    await connection.close()


async def test_schema_that_we_migrate_is_the_one_that_river_migrates(migrators: Migrators) -> None:
    """1: River validates our schema, and its catalog is that of a schema which River migrated."""
    ours, theirs = await migrators.new_schema(), await migrators.new_schema()

    assert await migrators.up("python", ours) == list(VERSIONS)
    assert await migrators.up("go", theirs) == list(VERSIONS)

    assert (await migrators.call("validate", ours))["ok"] is True
    assert await migrators.ours(theirs).validate() == ()
    assert await migrators.catalog(ours) == await migrators.catalog(theirs)
    assert await migrators.records(ours) == await migrators.records(theirs)


@pytest.mark.parametrize("first", LANGUAGES)
@pytest.mark.parametrize("version", VERSIONS)
async def test_one_migrator_goes_on_where_the_other_stopped(
    migrators: Migrators, first: Language, version: int
) -> None:
    """2: historical_migration_down_up; from any version that one left the other goes on to the end."""
    schema = await migrators.new_schema()

    applied = await migrators.up(first, schema, version)
    applied += await migrators.up(OTHER[first], schema)

    assert applied == list(VERSIONS)
    assert await migrators.records(schema) == [("main", one) for one in VERSIONS]
    assert (await migrators.call("validate", schema))["ok"] is True
    assert await migrators.ours(schema).validate() == ()


@pytest.mark.parametrize("language", LANGUAGES)
async def test_target_that_is_applied_is_reached_although_more_is_pending(
    migrators: Migrators, language: Language
) -> None:
    """2: Up to a version that is applied changes nothing."""
    schema = await migrators.new_schema()
    await migrators.up(OTHER[language], schema, 5)

    assert await migrators.up(language, schema, 3) == []
    assert await migrators.records(schema) == [("main", one) for one in range(1, 6)]


async def test_each_takes_back_what_the_other_made(migrators: Migrators) -> None:
    """2: Step by step down, each on the other's schema, and after each step the schemas are the same."""
    ours, theirs = await migrators.new_schema(), await migrators.new_schema()
    await migrators.up("python", ours)
    await migrators.up("go", theirs)

    for version in reversed(VERSIONS):
        assert await migrators.down("go", ours) == [version]
        assert await migrators.down("python", theirs) == [version]
        assert await migrators.catalog(ours) == await migrators.catalog(theirs)
        assert await migrators.records(ours) == await migrators.records(theirs)

    assert await migrators.down("go", ours) == []
    assert await migrators.down("python", theirs) == []


async def test_schema_that_does_not_exist_is_refused_by_both(migrators: Migrators) -> None:
    """2: Nobody makes the schema itself."""
    nowhere = AsyncpgDriver(migrators.url, "interop_nowhere")
    await nowhere.open()
    try:
        with pytest.raises(MigrationError, match="schema must exist before it is migrated"):
            await Migrator(nowhere).up()
    finally:
        await nowhere.close()
    with pytest.raises(RiverError) as refused:
        await migrators.call("migrate", "interop_nowhere", direction="up")

    assert refused.value.sqlstate == "3F000"


async def test_both_miss_the_same_versions_at_every_level(migrators: Migrators) -> None:
    """3: At every level both validators name the same versions, and River lists those that we applied."""
    schema = await migrators.new_schema()

    for version in VERSIONS:
        await migrators.up("python", schema, version)
        validated = await migrators.call("validate", schema)
        missing = [int(number) for text in validated["messages"] or () for number in re.findall(r"\d+", text)]

        assert list(await migrators.ours(schema).validate()) == missing == list(range(version + 1, 9))
        assert validated["ok"] is (version == 8)
        assert await migrators.call("versions", schema) == list(range(1, version + 1))
