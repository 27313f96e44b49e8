"""Both migrators, on schemas that exist for one test."""

from __future__ import annotations

import json
import secrets
from typing import Any

import asyncpg
from interop_harness import Language
from river_program import RiverProgram

from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.migrator import LINE_MAIN, Migrator
from schema_catalog import catalog

VERSIONS = tuple(range(1, 9))
OTHER: dict[Language, Language] = {"go": "python", "python": "go"}


class Migrators:
    """Both migrators, on one database. At the end, each driver of `drivers` is closed and its schema dropped."""

    def __init__(self, connection: asyncpg.Connection, program: RiverProgram, url: str) -> None:
        self.connection = connection
        self.drivers: dict[str, AsyncpgDriver] = {}
        self.program = program
        self.url = url

    async def new_schema(self, prefix: str = "interop") -> str:
        """Make an empty schema; its name needs quotes if `prefix` does."""
        schema = f"{prefix}_{secrets.token_hex(6)}"
        await self.connection.execute(f'CREATE SCHEMA "{schema}"')
        self.drivers[schema] = AsyncpgDriver(self.url, schema)
        await self.drivers[schema].open()
        return schema

    async def close(self) -> None:
        """Drop the schemas."""
        for schema, driver in self.drivers.items():
            await driver.close()
            if schema:
                await self.connection.execute(f'DROP SCHEMA "{schema}" CASCADE')

    def ours(self, schema: str, line: str = LINE_MAIN) -> Migrator:
        return Migrator(self.drivers[schema], line)

    async def up(self, language: Language, schema: str, target: int | None = None) -> list[int]:
        """Return the versions that were applied."""
        if language == "python":
            return [step.version for step in await self.ours(schema).up(target=target)]
        return await self.call("migrate", schema, direction="up", target=target or 0)

    async def down(self, language: Language, schema: str, target: int | None = None) -> list[int]:
        """Revert one version, or all above `target`, and return them."""
        if language == "python":
            return [step.version for step in await self.ours(schema).down(target=target)]
        return await self.call("migrate", schema, direction="down", target=target or 0)

    async def call(self, op: str, schema: str, **parameters: Any) -> Any:
        return await self.program.call(op, schema=schema, **parameters)

    async def catalog(self, schema: str) -> Any:
        """Return the objects of a schema, without its name."""
        name = schema or "public"
        return json.loads(json.dumps(await catalog(self.connection, name)).replace(name, "schema"))

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
        sql = f'SELECT {", ".join(columns)} FROM "{schema}".river_migration ORDER BY {", ".join(columns)}'
        return [tuple(row) for row in await self.connection.fetch(sql)]
