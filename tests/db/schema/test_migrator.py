from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from millhand.core.errors import ConfigError, MigrationError, SchemaError
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.executor import DelegatingExecutor
from millhand.db.driver.protocol import Executor, Query
from millhand.db.schema.migrator import (
    Direction,
    MigrationStatus,
    MigrationStep,
    Migrator,
    lines,
    migration_sql,
    migrations,
    require_schema,
)
from repeats import first_of
from schema_catalog import catalog


def versions(steps: Iterable[MigrationStep]) -> list[int]:
    return [step.version for step in steps]


async def refusal(migrating: object) -> str:
    with pytest.raises(MigrationError) as denied:
        await migrating  # type: ignore[misc]
    return str(denied.value)


async def test_up_and_down_return_their_steps(bare_driver: AsyncpgDriver) -> None:
    """A step has its line, version, name, direction, time and SQL."""
    [up] = await Migrator(bare_driver).up(target=1)
    [down] = await Migrator(bare_driver).down()

    assert (up.line, up.version, up.name, up.direction) == ("main", 1, "create river migration", Direction.UP)
    assert (down.line, down.version, down.name, down.direction) == (
        "main", 1, "create river migration", Direction.DOWN,
    )  # fmt: skip
    assert up.duration > timedelta(0) < down.duration
    assert up.sql.startswith("CREATE TABLE river_migration (")


async def test_up_stops_at_target_and_max_steps(bare_driver: AsyncpgDriver) -> None:
    """Up stops at the target or after max_steps, and otherwise at the last version."""
    migrator = Migrator(bare_driver)

    assert versions(await migrator.up(target=2)) == [1, 2]
    assert versions(await migrator.up(max_steps=2)) == [3, 4]
    assert versions(await migrator.up(target=8, max_steps=1)) == [5]
    assert versions(await migrator.up(max_steps=0)) == []
    assert versions(await migrator.up()) == [6, 7, 8]
    assert versions(await migrator.up()) == []


async def test_up_to_an_applied_target_does_nothing(bare_driver: AsyncpgDriver) -> None:
    """With an applied target nothing is done, even if later versions are missing."""
    migrator = Migrator(bare_driver)
    await migrator.up(target=4)

    assert await migrator.up(target=4) == await migrator.up(target=2) == ()


@pytest.mark.slow
async def test_down_makes_one_step_by_default(bare_driver: AsyncpgDriver) -> None:
    """Down undoes one version, or those above the target, or all above 0; with none applied it does nothing."""
    migrator = Migrator(bare_driver)
    await migrator.up()

    assert versions(await migrator.down()) == [8]
    assert versions(await migrator.down(max_steps=2)) == [7, 6]
    assert versions(await migrator.down(target=4)) == [5]
    assert versions(await migrator.down(target=0, max_steps=1)) == [4]
    assert versions(await migrator.down(target=0)) == [3, 2, 1]
    assert versions(await migrator.down(target=0)) == versions(await migrator.down()) == []


async def test_down_to_a_target_that_is_not_applied_is_an_error(bare_driver: AsyncpgDriver) -> None:
    """The target of a migration down must be applied."""
    migrator = Migrator(bare_driver)
    await migrator.up(target=4)

    assert await refusal(migrator.down(target=5)) == (
        "target of a migration down must be applied, got version 5 of line 'main'"
    )


@pytest.mark.parametrize("target", [9, -1])
async def test_unknown_target_is_an_error(bare_driver: AsyncpgDriver, target: int) -> None:
    """A version that this release does not have is an invalid target, up, down and for validation."""
    migrator = Migrator(bare_driver)
    expected = f"target must be a version of line 'main', 1 to 8, got {target}"

    for asked in (migrator.up, migrator.down, migrator.validate):
        with pytest.raises(ConfigError) as denied:
            await asked(target=target)
        assert str(denied.value) == expected


async def test_negative_max_steps_is_an_error(bare_driver: AsyncpgDriver) -> None:
    """A negative number of steps is an error."""
    assert await refusal(Migrator(bare_driver).up(max_steps=-1)) == "max_steps must not be negative, got -1"


@pytest.mark.slow
async def test_dry_run_changes_nothing(bare: asyncpg.Connection, bare_driver: AsyncpgDriver) -> None:
    """A dry run returns the steps with their SQL, and does not change the database."""
    migrator = Migrator(bare_driver)
    await migrator.up(target=3)
    before = await catalog(bare, "public")

    up = await migrator.up(dry_run=True)
    down = await migrator.down(target=0, dry_run=True)

    assert (versions(up), versions(down)) == ([4, 5, 6, 7, 8], [3, 2, 1])
    assert await catalog(bare, "public") == before
    assert {step.duration for step in up} == {timedelta(0)}
    assert versions(await migrator.up()) == versions(up)


async def test_validate_returns_missing_versions(bare_driver: AsyncpgDriver) -> None:
    """At every version the later ones are missing, up to the target if there is one."""
    migrator = Migrator(bare_driver)

    for version in range(9):
        assert await migrator.validate() == tuple(range(version + 1, 9))
        assert await migrator.validate(target=4) == tuple(range(version + 1, 5))
        await migrator.up(max_steps=1)


@pytest.mark.slow
async def test_list_returns_all_versions(bare: asyncpg.Connection, bare_driver: AsyncpgDriver) -> None:
    """Known versions come with their state; one of a newer release has no name."""
    migrator = Migrator(bare_driver)
    await migrator.up(target=7)
    await bare.execute("INSERT INTO river_migration (line, version) VALUES ('main', 42)")

    listed = await migrator.list()

    assert [(one.version, one.is_applied, one.is_known) for one in listed] == [
        *((version, True, True) for version in range(1, 8)), (8, False, True), (42, True, False),
    ]  # fmt: skip
    assert listed[0] == MigrationStatus(version=1, name="create river migration", is_applied=True)


async def test_unknown_versions_are_ignored(bare: asyncpg.Connection, bare_driver: AsyncpgDriver) -> None:
    """A version of a newer release prevents nothing, and is not undone."""
    migrator = Migrator(bare_driver)
    await migrator.up(target=7)
    await bare.execute("INSERT INTO river_migration (line, version) VALUES ('main', 42)")

    assert versions(await migrator.up()) == [8]
    assert await migrator.validate() == ()
    assert versions(await migrator.down()) == [8]
    assert await bare.fetchval("SELECT count(*) FROM river_migration WHERE version = 42") == 1


@pytest.mark.slow
@pytest.mark.parametrize("num_migrators", first_of(2, 5))
async def test_concurrent_migrators_share_the_steps(bare_driver: AsyncpgDriver, num_migrators: int) -> None:
    """Of concurrent migrators exactly one makes each step, and none fails."""
    up = await asyncio.gather(*(Migrator(bare_driver).up() for _ in range(num_migrators)))
    down = await asyncio.gather(*(Migrator(bare_driver).down(target=0) for _ in range(num_migrators)))

    assert sorted(version for steps in up for version in versions(steps)) == list(range(1, 9))
    assert sorted(version for steps in down for version in versions(steps)) == list(range(1, 9))


class Overtaken(DelegatingExecutor):
    """Lets another migrator act once, just before the versions are read."""

    def __init__(self, driver: AsyncpgDriver, act: Callable[[Migrator], Awaitable[object]]) -> None:
        self._act: Callable[[Migrator], Awaitable[object]] | None = act
        self._driver = driver

    async def run(self, query: Query[Any]) -> Any:
        if query.name.startswith("migration_get_versions") and self._act is not None:
            act, self._act = self._act, None
            await act(Migrator(self._driver))
        return await self._driver.pool.run(query)

    def _enter(self, operation: str, timeout_seconds: float | None) -> AbstractAsyncContextManager[Executor]:
        return contextlib.nullcontext(self._driver.pool)


@pytest.mark.slow
@pytest.mark.parametrize("target", [4, 0])
async def test_migrator_reads_again_what_another_has_changed(bare_driver: AsyncpgDriver, target: int) -> None:
    """If another migrator drops a column or the table between two reads, both finish: no error, and no step twice."""
    undone: list[MigrationStep] = []

    async def act(other: Migrator) -> None:
        undone.extend(await other.down(target=target))

    await Migrator(bare_driver).up()
    steps = await Migrator(Overtaken(bare_driver, act)).down(target=0)

    assert versions(undone) == list(range(8, target, -1))
    assert versions(steps) == list(range(target, 0, -1))


@pytest.mark.slow
@pytest.mark.parametrize("target", [4, 0])
async def test_check_of_the_schema_reads_again_what_a_migrator_has_changed(
    bare_driver: AsyncpgDriver, target: int
) -> None:
    """A client that starts while a migrator undoes versions gets the missing ones, and not an error of the table."""
    await Migrator(bare_driver).up()
    with pytest.raises(SchemaError) as missing:
        await require_schema(Overtaken(bare_driver, lambda other: other.down(target=target)))

    assert list(missing.value.missing) == list(range(target + 1, 9))


@pytest.mark.slow
async def test_failed_step_is_rolled_back(bare: asyncpg.Connection, bare_driver: AsyncpgDriver) -> None:
    """A conflicting table fails its step, which is rolled back; earlier steps stay, and a retry works."""
    migrator = Migrator(bare_driver)
    await migrator.up(target=1)
    await bare.execute("CREATE TABLE river_leader (mine int)")

    message = await refusal(migrator.up())

    assert message == (
        "version 2 (initial schema) of line 'main' must migrate up, got relation \"river_leader\" already exists; it was "
        "rolled back; check for other tables of these names and for another running migrator, and run it again"
    )
    assert [table["name"] for table in (await catalog(bare, "public"))["tables"]] == [
        "river_leader",
        "river_migration",
    ]
    assert await migrator.validate() == (2, 3, 4, 5, 6, 7, 8)
    await bare.execute("DROP TABLE river_leader")
    assert versions(await migrator.up()) == [2, 3, 4, 5, 6, 7, 8]


async def test_migration_table_of_another_program_is_an_error(
    bare: asyncpg.Connection, bare_driver: AsyncpgDriver
) -> None:
    """A river_migration that is not River's is an error and does not change."""
    await bare.execute("CREATE TABLE river_migration (mine int)")

    text = (
        "table 'river_migration' must be River's, got one without a column 'version' in schema 'public'; "
        "choose another schema"
    )
    assert await refusal(Migrator(bare_driver).up()) == text
    async with bare_driver.pool.begin() as tx:  # the failed statement ends it, so nothing more can be read
        assert await refusal(Migrator(tx).up()) == text


async def test_missing_schema_is_an_error(bare: asyncpg.Connection, bare_url: str) -> None:
    """The migrator creates no schema; the error shows how to."""
    driver = AsyncpgDriver(bare_url, "nowhere")
    await driver.open()

    message = await refusal(Migrator(driver).up())

    await driver.close()
    assert message == (
        "schema must exist before it is migrated, found none named 'nowhere'; run: CREATE SCHEMA \"nowhere\""
    )


async def test_search_path_without_a_schema_is_an_error(
    bare: asyncpg.Connection, bare_driver: AsyncpgDriver
) -> None:
    """Without any schema nothing is migrated."""
    await bare.execute("SET search_path TO nowhere")

    message = await refusal(Migrator(bare_driver.executor(bare)).up())

    assert message == "search path must name an existing schema, found none; set it, or set the schema"


async def test_line_millhand_needs_line_main(bare_driver: AsyncpgDriver) -> None:
    """Line millhand is recorded in a table that version 5 of line main creates."""
    await Migrator(bare_driver).up(target=4)

    assert await refusal(Migrator(bare_driver, "millhand").up()) == (
        "line 'millhand' needs line 'main' at version 5 or later; run: millhand migrate up --line main"
    )


@pytest.mark.slow
async def test_line_millhand_migrates_up_and_down(
    bare: asyncpg.Connection, bare_driver: AsyncpgDriver
) -> None:
    """Line millhand can be undone completely, with the record of its first version."""
    await Migrator(bare_driver).up()
    before = await catalog(bare, "public")
    millhand = Migrator(bare_driver, "millhand")

    up = await millhand.up()
    missing = await millhand.validate()
    down = await millhand.down(target=0)

    assert versions(up) == versions(down)[::-1] == [one.version for one in migrations("millhand")]
    assert missing == ()
    assert await catalog(bare, "public") == before


@pytest.mark.slow
async def test_line_main_stays_while_another_line_is_applied(
    bare: asyncpg.Connection, bare_driver: AsyncpgDriver
) -> None:
    """Below version 5 no other line can be recorded, so main cannot go there while one is applied."""
    await Migrator(bare_driver).up()
    await Migrator(bare_driver, "millhand").up()

    planned = await refusal(Migrator(bare_driver).down(target=0, dry_run=True))
    millhand = await refusal(Migrator(bare_driver).down(target=4))
    await Migrator(bare_driver, "millhand").down(target=0)
    await bare.execute("INSERT INTO river_migration (line, version) VALUES ('pro', 1)")
    theirs = await refusal(Migrator(bare_driver).down(target=4))

    end = "must be undone before line 'main' goes below version 5, got"
    assert (
        planned
        == millhand
        == (f"other lines {end} 'millhand'; run: millhand migrate down --line millhand --target-version 0")
    )
    assert theirs == f"other lines {end} 'pro'; undo it with the program that applied it"
    assert await Migrator(bare_driver).validate() == ()
    assert [step.version for step in await Migrator(bare_driver).down(target=5)] == [8, 7, 6]


async def test_unknown_line_is_an_error(bare_driver: AsyncpgDriver) -> None:
    """A line that does not exist is an error."""
    with pytest.raises(ConfigError, match=r"^migration line must be one of 'main', 'millhand', got 'pro'$"):
        Migrator(bare_driver, "pro")

    assert lines() == ("main", "millhand")


async def test_schema_other_than_the_driver_s_is_an_error(bare_driver: AsyncpgDriver) -> None:
    """The driver's schema is migrated; another name is an error."""
    with pytest.raises(ConfigError, match=r"^schema must be the driver's '', got 'other'$"):
        Migrator(bare_driver, schema="other")


async def test_migration_is_part_of_the_caller_s_transaction(
    bare: asyncpg.Connection, bare_driver: AsyncpgDriver
) -> None:
    """In a caller's transaction the schema is committed or rolled back with it."""
    transaction = bare.transaction()
    await transaction.start()

    steps = await Migrator(bare_driver.executor(bare)).up(target=4)
    await transaction.rollback()

    assert versions(steps) == [1, 2, 3, 4]
    assert (await catalog(bare, "public"))["tables"] == []


async def test_schema_of_this_release_is_required(
    bare: asyncpg.Connection, bare_driver: AsyncpgDriver
) -> None:
    """A schema without a version is an error with the found and needed versions and the command."""
    errors = []
    for target in (0, 4, 6):
        if target:
            await Migrator(bare_driver).up(target=target)
        with pytest.raises(SchemaError) as denied:
            await require_schema(bare_driver.pool)
        errors.append((denied.value.found, str(denied.value)))

    await Migrator(bare_driver).up()
    await require_schema(bare_driver.pool)

    end = "of line 'main', this release needs 8; run: millhand migrate up"
    assert errors == [
        (
            None,
            (
                "Millhand's tables are missing in schema 'public' (this release needs version 8 of line main); "
                "run: millhand migrate up"
            ),
        ),
        (4, f"schema 'public' is at migration 4 {end}"),
        (6, f"schema 'public' is at migration 6 {end}"),
    ]


@pytest.mark.slow
async def test_line_millhand_is_required_where_needed(bare_driver: AsyncpgDriver) -> None:
    """Line millhand is missing until it is applied, even where no line can be recorded."""
    for target in (4, 8):
        await Migrator(bare_driver).up(target=target)
        with pytest.raises(SchemaError) as denied:
            await require_schema(bare_driver.pool, line="millhand")
        assert (denied.value.found, denied.value.line) == (None, "millhand")

    await Migrator(bare_driver, "millhand").up()
    await require_schema(bare_driver.pool, line="millhand")


def test_emitted_sql_has_the_given_versions() -> None:
    """Versions come in the direction's order, each in a transaction with its record."""
    up = migration_sql(versions=[8, 5], schema="other")
    down = migration_sql(versions=[5, 8], direction=Direction.DOWN)

    assert [
        line for line in up.splitlines() if line.startswith(("-- line", "BEGIN;", "COMMIT;", "INSERT INTO"))
    ] == [
        "-- line main, version 005 migration unique client, up",
        "BEGIN;",
        "INSERT INTO \"other\".river_migration (line, version) VALUES ('main', 5);",
        "COMMIT;",
        "-- line main, version 008 job id autoincrement, up",
        "BEGIN;",
        "INSERT INTO \"other\".river_migration (line, version) VALUES ('main', 8);",
        "COMMIT;",
    ]
    assert [line for line in down.splitlines() if line.startswith(("-- line", "DELETE"))] == [
        "-- line main, version 008 job id autoincrement, down",
        "DELETE FROM river_migration WHERE line = 'main' AND version = 8;",
        "-- line main, version 005 migration unique client, down",
        "DELETE FROM river_migration WHERE version = 5;",
    ]


def test_emitted_sql_of_an_unknown_version_is_an_error() -> None:
    """An unknown version has no SQL."""
    with pytest.raises(ConfigError, match=r"^version must be one of line 'main', 1 to 8, got 9$"):
        migration_sql(versions=[9])


@pytest.mark.parametrize(
    ("made", "named"),
    [
        ("TABLE river_job (mine integer)", "river_job"),
        ("TYPE river_job_state AS ENUM ('mine')", "river_job_state"),
    ],
)
async def test_conflicting_table_stops_up_before_the_first_step(
    bare: asyncpg.Connection, bare_driver: AsyncpgDriver, made: str, named: str
) -> None:
    """A table or type with one of River's names is found before the first step."""
    await bare.execute(f"CREATE {made}")

    with pytest.raises(MigrationError) as raised:
        await Migrator(bare_driver).up()

    assert str(raised.value) == (
        f"schema must have no tables or types with River's names before the first migration, got '{named}'; "
        "rename it, or choose another schema"
    )
    assert await bare.fetchval("SELECT to_regclass('river_migration') IS NULL")
