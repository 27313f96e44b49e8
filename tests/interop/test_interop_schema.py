"""Both migrators on one schema."""

from __future__ import annotations

import re

import pytest
from interop_harness import LANGUAGES, Language
from migrators import OTHER, VERSIONS, Migrators
from river_program import RiverError

from millhand.core.errors import MigrationError
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.migrator import Migrator


async def test_millhand_migrates_to_the_same_schema_as_river(migrators: Migrators) -> None:
    """1: River validates Millhand's schema, and its catalog equals that of a schema which River migrated."""
    ours, theirs = await migrators.new_schema(), await migrators.new_schema()

    assert await migrators.up("python", ours) == list(VERSIONS)
    assert await migrators.up("go", theirs) == list(VERSIONS)

    assert (await migrators.call("validate", ours))["ok"] is True
    assert await migrators.ours(theirs).validate() == ()
    assert await migrators.catalog(ours) == await migrators.catalog(theirs)
    assert await migrators.records(ours) == await migrators.records(theirs)


@pytest.mark.parametrize("first", LANGUAGES)
@pytest.mark.parametrize("version", VERSIONS)
async def test_migrator_continues_from_the_other_s_version(
    migrators: Migrators, first: Language, version: int
) -> None:
    """
    2: historical_migration_down_up.

    From each version that one migrator applied, the other migrates to the newest.
    """
    schema = await migrators.new_schema()

    applied = await migrators.up(first, schema, version)
    applied += await migrators.up(OTHER[first], schema)

    assert applied == list(VERSIONS)
    assert await migrators.records(schema) == [("main", one) for one in VERSIONS]
    assert (await migrators.call("validate", schema))["ok"] is True
    assert await migrators.ours(schema).validate() == ()


@pytest.mark.parametrize("language", LANGUAGES)
async def test_up_to_an_applied_version_changes_nothing(migrators: Migrators, language: Language) -> None:
    """2: Migrating up to an applied version changes nothing, although later versions are pending."""
    schema = await migrators.new_schema()
    await migrators.up(OTHER[language], schema, 5)

    assert await migrators.up(language, schema, 3) == []
    assert await migrators.records(schema) == [("main", one) for one in range(1, 6)]


async def test_migrator_reverts_the_other_s_migrations(migrators: Migrators) -> None:
    """2: Each migrator reverts the other's migrations step by step, and both schemas stay equal."""
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


async def test_migrators_refuse_a_schema_that_does_not_exist(migrators: Migrators) -> None:
    """2: Neither migrator creates the schema itself."""
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


async def test_validators_report_the_same_missing_versions(migrators: Migrators) -> None:
    """3: At every version both validators report the same missing versions, and River lists Millhand's."""
    schema = await migrators.new_schema()

    for version in VERSIONS:
        await migrators.up("python", schema, version)
        validated = await migrators.call("validate", schema)
        missing = [int(number) for text in validated["messages"] or () for number in re.findall(r"\d+", text)]

        assert list(await migrators.ours(schema).validate()) == missing == list(range(version + 1, 9))
        assert validated["ok"] is (version == 8)
        assert await migrators.call("versions", schema) == list(range(1, version + 1))
