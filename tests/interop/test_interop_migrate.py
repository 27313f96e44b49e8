"""Each migrator on the other's schema, with Millhand's line beside River's, and both languages on the result."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from interop_harness import BOTH_WAYS, LANGUAGES, Harness, Language
from migrators import OTHER, VERSIONS, Migrators
from river_program import RiverError, started_river

from cli_runner import Result, millhand
from millhand.client import Client
from millhand.core.config import Config
from millhand.core.errors import MigrationError, SchemaError
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema import search_indexes
from millhand.db.schema.migrator import lines

# The schema of the search path, one that is named, and one whose name is another without quotes.
GROUNDS = ("public", "interop", "InterOp")


@dataclass(frozen=True)
class Ground:
    """An empty schema with both migrators and clients."""

    migrators: Migrators
    program_path: Path
    schema: str

    async def up(self, language: Language, target: int | None = None) -> list[int]:
        return await self.migrators.up(language, self.schema, target)

    async def down(self, language: Language, target: int | None = None) -> list[int]:
        return await self.migrators.down(language, self.schema, target)

    async def call(self, op: str, **parameters: Any) -> Any:
        return await self.migrators.call(op, self.schema, **parameters)

    async def listed(self, language: Language) -> list[dict[str, Any]]:
        """Return the versions of line main as a migrator lists them."""
        if language == "go":
            listed: list[dict[str, Any]] = await self.call("migrations")
            return listed
        return [
            {"version": one.version, "name": one.name, "is_applied": one.is_applied}
            for one in await self.migrators.ours(self.schema).list()
        ]

    async def is_valid(self) -> bool:
        """Return the validation of both migrators."""
        ours = await self.migrators.ours(self.schema).validate() == ()
        theirs: bool = (await self.call("validate"))["ok"]
        assert ours == theirs
        return ours

    async def photo(self) -> tuple[Any, ...]:
        """Return the catalog and the recorded versions of Millhand's line."""
        prefix = f'"{self.schema}".' if self.schema else ""
        sql = f"SELECT version, created_at FROM {prefix}river_migration WHERE line = 'millhand' ORDER BY version"
        rows = await self.migrators.connection.fetch(sql)
        return await self.migrators.catalog(self.schema), [tuple(row) for row in rows]

    async def execute(self, sql: str) -> None:
        prefix = f'"{self.schema}".' if self.schema else ""
        await self.migrators.connection.execute(sql.replace("/* schema */", prefix))

    async def migrate_and_work(self, migrator: Language, worker: Language) -> None:
        """Migrate to the newest version, and work jobs of both languages."""
        assert await self.up(migrator) == list(VERSIONS)
        assert await self.is_valid()
        async with self.harness() as harness:
            await work(harness, worker)

    @contextlib.asynccontextmanager
    async def harness(self) -> AsyncIterator[Harness]:
        """Yield a harness on this schema."""
        migrators = self.migrators
        driver = migrators.drivers[self.schema]
        harness = Harness(migrators.connection, driver, migrators.program, self.program_path, migrators.url)
        await harness.open()
        try:
            yield harness
        finally:
            await harness.close()


@pytest.fixture(params=GROUNDS)
async def ground(
    request: pytest.FixtureRequest, migrators: Migrators, postgres_server_url: str, river_path: Path
) -> AsyncIterator[Ground]:
    """Each kind of schema in turn. The search path's schema is in its own database."""
    if request.param != "public":
        yield Ground(migrators, river_path, await migrators.new_schema(request.param))
        return
    name = f"interop_{secrets.token_hex(6)}"
    await migrators.connection.execute(f"CREATE DATABASE {name}")
    url = urlunsplit(urlsplit(postgres_server_url)._replace(path=f"/{name}"))
    connection = await asyncpg.connect(url)
    async with started_river(river_path, url) as program:
        own = Migrators(connection, program, url)
        own.drivers[""] = AsyncpgDriver(url)
        await own.drivers[""].open()
        yield Ground(own, river_path, "")
        await own.close()
        await connection.close()
    await migrators.connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def work(harness: Harness, worker: Language, id: str = "") -> None:
    """Let one language lead and work jobs of both: they complete, fail, are scheduled and unique."""
    ids, failing = [], []
    for language in LANGUAGES:
        control = harness.control(language)
        acts = [["output", f"{language}, {worker}, {id}"]]
        job = {"kind": "act", "args": {"do": acts}, "opts": {"unique": {"by_args": True}}}
        [first], [second] = await control.insert_many([job]), await control.insert_many([job])
        assert (first["skipped"], second) == (False, {"id": first["id"], "skipped": True})
        failing.append(await control.insert(["retry_in", 0], ["fail_before", 2], tags=["abc"]))
        ids += [first["id"], await control.insert(scheduled_at=datetime.now(UTC).isoformat())]
    async with harness.working(worker, id, leads=True):
        for one in ids + failing:
            await harness.until_state(one, "completed")
    for one in failing:
        row = await harness.row(one)
        assert (row["attempt"], len(row["errors"]), row["tags"]) == (2, 1, ["abc"])


@pytest.mark.parametrize(("migrator", "worker"), BOTH_WAYS)
@pytest.mark.parametrize("ground", ["public"], indirect=True)
async def test_language_works_jobs_where_the_other_migrated(
    ground: Ground, migrator: Language, worker: Language
) -> None:
    """
    40: candidate_migrator_reference_runtime, reference_migrator_candidate_runtime.

    Each language works jobs of both in a schema found by the search path.
    """
    await ground.migrate_and_work(migrator, worker)


@pytest.mark.parametrize(("migrator", "worker"), BOTH_WAYS)
@pytest.mark.parametrize("ground", ["interop"], indirect=True)
async def test_language_works_jobs_in_a_named_schema_that_the_other_migrated(
    ground: Ground, migrator: Language, worker: Language
) -> None:
    """
    40: custom_schema_candidate_migrate_reference_work, custom_schema_reference_migrate_candidate_work.

    Each language works jobs of both in a schema that the configuration names.
    """
    await ground.migrate_and_work(migrator, worker)


@pytest.mark.parametrize(("migrator", "worker"), BOTH_WAYS)
@pytest.mark.parametrize("ground", ["InterOp"], indirect=True)
async def test_language_works_jobs_in_a_schema_whose_name_needs_quotes(
    ground: Ground, migrator: Language, worker: Language
) -> None:
    """40: migration_mixed_case_schema; channels, tables and records use the schema's name exactly as it is written."""
    await ground.migrate_and_work(migrator, worker)


@pytest.mark.parametrize("version", [0, 4, 5, 8])
async def test_migrators_list_plan_and_validate_alike(
    migrators: Migrators, river_path: Path, version: int
) -> None:
    """40: At each version both migrators list the same versions and plan the same steps up and down."""
    ground = Ground(migrators, river_path, await migrators.new_schema("InterOp"))
    ours = migrators.ours(ground.schema)
    if version:
        await ground.up("python", version)

    planned = {
        "up": [step.version for step in await ours.up(dry_run=True)],
        "down": [step.version for step in await ours.down(dry_run=True)],
    }
    validated = [(await ground.call("validate_to", target=target))["ok"] for target in VERSIONS]

    assert await ground.listed("python") == await ground.listed("go")
    assert planned == {way: await ground.call("migrate_dry", direction=way) for way in planned}
    assert [not await ours.validate(target=target) for target in VERSIONS] == validated
    assert await migrators.records(ground.schema) == ([] if not version else _recorded(version))


def _recorded(version: int) -> list[tuple[Any, ...]]:
    has_line = version >= 5
    return [("main", one) if has_line else (one,) for one in range(1, version + 1)]


@pytest.mark.parametrize("maker", LANGUAGES)
async def test_migrators_revert_and_apply_the_main_line_beside_millhand_s(
    ground: Ground, maker: Language
) -> None:
    """
    40: historical_migration_down_up.

    Each migrator reverts the other's schema and applies it again, and Millhand's line stays unchanged.
    """
    await ground.up(maker)
    await ground.migrators.ours(ground.schema, "millhand").up()
    other, before = OTHER[maker], await ground.photo()

    assert await ground.down(other, 5) == [8, 7, 6]
    assert not await ground.is_valid()
    assert (await ground.photo())[1] == before[1]
    assert await ground.up(other) == [6, 7, 8]

    assert await ground.is_valid()
    assert await ground.photo() == before
    async with ground.harness() as harness:
        for worker in LANGUAGES:
            await work(harness, worker, f"after_{worker}")


async def test_river_validates_the_main_line_at_each_version_of_millhand_s(ground: Ground) -> None:
    """40: River lists and validates its line at every version of Millhand's, on a schema that River migrated."""
    await ground.up("go")
    ours = ground.migrators.ours(ground.schema, "millhand")
    bare = await ground.photo()
    steps = [await ours.up(max_steps=1) for _ in await ours.list()]

    assert await ground.is_valid()
    assert await ground.call("versions") == list(VERSIONS)
    assert await ours.validate() == ()
    for _ in steps:
        await ours.down()
        assert await ground.is_valid()
        assert await ground.call("versions") == list(VERSIONS)
    assert await ground.photo() == bare


async def test_migrators_keep_the_record_of_millhand_s_line(ground: Ground) -> None:
    """40: Below version 5 only line main can be recorded: River fails at that step, and Millhand does not start it."""
    await ground.up("go")
    await ground.migrators.ours(ground.schema, "millhand").up()
    before = (await ground.photo())[1]

    with pytest.raises(MigrationError, match=r"^other lines must be undone before line 'main' goes below"):
        await ground.down("python", 4)
    assert await ground.is_valid()
    with pytest.raises(RiverError, match="Found non-main migration lines"):
        await ground.down("go", 4)

    assert await ground.call("versions") == [1, 2, 3, 4, 5]
    assert (await ground.photo())[1] == before
    assert await ground.up("python") == [6, 7, 8]


async def command(ground: Ground, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> Result:
    """Run `millhand migrate` with the URL in the environment."""
    monkeypatch.setenv("DATABASE_URL", ground.migrators.url)
    option = ("--schema", ground.schema) if ground.schema else ()
    return await millhand("migrate", *arguments, *option)


async def test_millhand_migrate_commands_work_on_a_river_schema(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """40: The commands list, apply, revert and validate River's schema, and print the command to run."""
    await ground.up("go", 6)
    option = f" --schema {ground.schema}" if ground.schema else ""

    behind = await command(ground, monkeypatch, "validate")
    listed = await command(ground, monkeypatch, "list", "--line", "main")
    up = await command(ground, monkeypatch, "up")
    validated = await command(ground, monkeypatch, "validate")
    down = await command(ground, monkeypatch, "down", "--line", "main", "--target-version", 5, "--yes")

    missing = ", ".join(["main 7", "main 8", *(f"millhand {one}" for one in await _versions_of_ours(ground))])
    assert (behind.code, behind.err) == (
        1,
        f"error: all versions must be applied, missing: {missing}; run: millhand migrate up{option}\n",
    )
    assert [(line[1], line[2]) for line in listed.lines] == [
        (str(version), "true" if version <= 6 else "false") for version in VERSIONS
    ]
    assert [line.rpartition(" (")[0] for line in up.out.splitlines()][:2] == [
        "applied version 007 of line main: notification outbox sqlite jsonb and sql cleanup",
        "applied version 008 of line main: job id autoincrement",
    ]
    assert validated.code == 0
    assert [line.partition(" of ")[0] for line in down.out.splitlines()] == [
        f"reverted version 00{one}" for one in (8, 7, 6)
    ]
    assert await ground.call("versions") == [1, 2, 3, 4, 5]


async def _versions_of_ours(ground: Ground) -> list[int]:
    return [one.version for one in await ground.migrators.ours(ground.schema, lines()[1]).list()]


async def test_client_does_not_start_on_a_schema_that_is_behind(ground: Ground) -> None:
    """40: One migration behind, a client does not start and names the command; after that command it starts."""
    await ground.up("go", 7)
    config = Config(schema=ground.schema)
    option = f" --schema {ground.schema}" if ground.schema else ""

    with pytest.raises(SchemaError) as refused:
        await Client(ground.migrators.url, config).start()
    assert await ground.up("python") == [8]
    async with Client(ground.migrators.url, config):
        pass

    assert str(refused.value) == (
        f"schema {ground.schema or 'public'!r} is at migration 7 of line 'main', this release needs 8; "
        f"run: millhand migrate up{option}"
    )
    assert (refused.value.found, refused.value.missing) == (7, (8,))


async def test_clients_work_on_a_schema_with_a_newer_version(
    ground: Ground, caplog: pytest.LogCaptureFixture
) -> None:
    """40: A version of a newer River hinders neither language; Millhand logs and lists it and does not change it."""
    caplog.set_level(logging.INFO, "millhand.db.schema.migrator")
    await ground.up("go")
    await ground.execute("INSERT INTO /* schema */river_migration (line, version) VALUES ('main', 9)")

    assert await ground.is_valid()
    async with ground.harness() as harness:
        for worker in LANGUAGES:
            await work(harness, worker)

    reported = {
        (one.msg, one.found, one.expected)  # type: ignore[attr-defined]
        for one in caplog.records
        if one.name == "millhand.db.schema.migrator"
    }
    assert reported == {("schema is newer than this release", 9, 8)}
    assert (await ground.listed("python"))[-1] == {"version": 9, "name": "", "is_applied": True}
    # River's own list does not get over it.
    with pytest.raises(RiverError, match="migration 9 not found"):
        await ground.listed("go")
    for language in LANGUAGES:
        assert await ground.up(language) == []
    assert await ground.down("python", 8) == []
    assert ("main", 9) in await ground.migrators.records(ground.schema or "public")


async def test_migrators_can_run_at_once(migrators: Migrators) -> None:
    """40: A migration that fails beside the other language's leaves no change, and the next run completes it."""
    schemas = [await migrators.new_schema() for _ in range(5)]
    refusals: list[str] = []

    async def migrate(language: Language, schema: str) -> None:
        try:
            await migrators.up(language, schema)
        except RiverError:
            pass  # River's migrator has one error for all reasons; what counts is the state that it leaves
        except MigrationError as error:
            refusals.append(str(error))

    await asyncio.gather(*(migrate(language, schema) for schema in schemas for language in LANGUAGES))
    for schema in schemas:
        for language in LANGUAGES:
            await migrators.up(language, schema)

        assert await migrators.records(schema) == [("main", version) for version in VERSIONS]
        assert (await migrators.call("validate", schema))["ok"] is True
    for refusal in refusals:
        assert refusal.endswith("and for another running migrator, and run it again")


@pytest.mark.parametrize(("migrator", "other"), BOTH_WAYS)
@pytest.mark.parametrize("ground", ["InterOp"], indirect=True)
async def test_schema_without_search_indexes_is_valid_for_both(
    ground: Ground, migrator: Language, other: Language
) -> None:
    """40: Both migrators validate a schema whose search indexes were dropped, have nothing to do, and revert it all."""
    await ground.up(migrator)
    before = (await ground.photo())[0]
    driver = ground.migrators.drivers[ground.schema]
    for step in await search_indexes.plan(driver, is_wanted=False):
        await search_indexes.apply(driver, step)

    assert await ground.is_valid()
    assert [await ground.up(one) for one in LANGUAGES] == [[], []]
    async with ground.harness() as harness:
        for worker in LANGUAGES:
            await work(harness, worker)
    for step in await search_indexes.plan(driver, is_wanted=True):
        await search_indexes.apply(driver, step)
    assert (await ground.photo())[0] == before
    for step in await search_indexes.plan(driver, is_wanted=False):
        await search_indexes.apply(driver, step)
    # A version at a time, by the other language: none of them needs the indexes.
    assert await ground.down(other, 1) == [8, 7, 6, 5, 4, 3, 2]
    assert await ground.up(other) == [2, 3, 4, 5, 6, 7, 8]
    assert (await ground.photo())[0] == before
