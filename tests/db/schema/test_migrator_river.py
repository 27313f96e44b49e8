from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.migrator import Direction, Migrator, migration_sql, migrations
from schema_catalog import catalog

RECORDED = json.loads((Path(__file__).parents[2] / "fixtures/river/schema.json").read_text())["data"]
AFTER_UP = {step["version"]: step["catalog"] for step in RECORDED["steps"] if step["direction"] == "up"}
AFTER_DOWN = {step["version"]: step["catalog"] for step in RECORDED["steps"] if step["direction"] == "down"}


def test_versions_and_names_are_river_s() -> None:
    """Line main has River's versions under River's names."""
    assert [{"name": one.name, "version": one.version} for one in migrations()] == RECORDED["versions"]


@pytest.mark.slow
async def test_every_version_makes_river_s_schema(
    bare: asyncpg.Connection, bare_driver: AsyncpgDriver
) -> None:
    """After each version up and down, catalog and record equal River's exactly."""
    migrator = Migrator(bare_driver)

    for version, expected in AFTER_UP.items():
        await migrator.up(target=version)
        assert await catalog(bare, "public") == expected, f"up to {version}"
    for version, expected in AFTER_DOWN.items():
        await migrator.down()
        assert await catalog(bare, "public") == expected, f"down from {version}"


@pytest.mark.slow
async def test_migrating_down_and_up_again_ends_the_same(
    bare: asyncpg.Connection, bare_driver: AsyncpgDriver
) -> None:
    """From any version, a migration up makes the same schema, although an enum label stays after down."""
    migrator = Migrator(bare_driver)
    for version in AFTER_UP:
        await migrator.up()
        await migrator.down(target=version)

        await migrator.up()

        assert await catalog(bare, "public") == AFTER_UP[8], f"from {version}"


@pytest.mark.slow
async def test_schema_of_another_name_is_river_s(bare: asyncpg.Connection, bare_url: str) -> None:
    """In a schema outside the search path everything is created there, and nothing elsewhere."""
    await bare.execute("CREATE SCHEMA other_schema")
    driver = AsyncpgDriver(bare_url, "other_schema")
    await driver.open()

    await Migrator(driver).up()

    assert await catalog(bare, "other_schema") == RECORDED["other_schema"]
    assert (await catalog(bare, "public"))["tables"] == []
    await Migrator(driver).down(target=0)
    assert await catalog(bare, "other_schema") == AFTER_DOWN[1]
    await driver.close()


@pytest.mark.parametrize("schema", ["", "other_schema"])
async def test_emitted_sql_makes_the_same_schema(bare: asyncpg.Connection, schema: str) -> None:
    """The printed SQL of all versions makes River's schema with its record, and removes all of it again."""
    await bare.execute("CREATE SCHEMA other_schema")

    await bare.execute(migration_sql(schema=schema))
    made = await catalog(bare, schema or "public")
    await bare.execute(migration_sql(schema=schema, direction=Direction.DOWN))

    assert made == (RECORDED["other_schema"] if schema else AFTER_UP[8])
    assert await catalog(bare, schema or "public") == AFTER_DOWN[1]


async def test_bitmask_function_equals_river_s(bare: asyncpg.Connection, bare_driver: AsyncpgDriver) -> None:
    """For every bit and state the function returns River's result; null arguments are never true."""
    await Migrator(bare_driver).up()

    rows = await bare.fetch("""
        SELECT (128 >> position)::bit(8)::text AS mask, state::text,
            river_job_state_in_bitmask((128 >> position)::bit(8), state) AS result
        FROM generate_series(0, 7) AS position, unnest(enum_range(NULL::river_job_state)) AS state
        ORDER BY position, state
    """)
    nothing = await bare.fetchrow("""
        SELECT river_job_state_in_bitmask(NULL, 'available'), river_job_state_in_bitmask(B'11111111', NULL)
    """)

    assert [dict(row) for row in rows] == RECORDED["functions"]["bitmask"]
    assert True not in tuple(nothing or ())


@pytest.mark.slow
async def test_columns_and_indexes_made_beforehand_are_used(
    bare: asyncpg.Connection, bare_driver: AsyncpgDriver
) -> None:
    """Columns and indexes that an operator made before versions 5 and 6 are kept and used."""
    migrator = Migrator(bare_driver)
    await migrator.up(target=4)
    await bare.execute("ALTER TABLE river_job ADD COLUMN unique_key bytea")
    await bare.execute(
        "CREATE UNIQUE INDEX river_job_kind_unique_key_idx ON river_job (kind, unique_key) WHERE unique_key IS NOT NULL"
    )
    await migrator.up(target=5)
    await bare.execute("ALTER TABLE river_job ADD COLUMN unique_states bit(8)")

    await migrator.up()

    assert await catalog(bare, "public") == AFTER_UP[8]


OLD_JOB = """
INSERT INTO river_job (id, args, kind, max_attempts, metadata, state, tags, finalized_at)
VALUES (1, NULL, 'old', 3, '{"a": 1}', 'available', NULL, NULL), (2, '{"x": 1}', 'old', 3, '{}', 'completed', '{a}', now())
"""


@pytest.mark.slow
async def test_old_rows_survive_up_and_down(bare: asyncpg.Connection, bare_driver: AsyncpgDriver) -> None:
    """Rows of version 2 keep their values, and get empty args and tags where these were null."""
    migrator = Migrator(bare_driver)
    await migrator.up(target=2)
    await bare.execute(OLD_JOB)

    async def rows() -> list[dict[str, Any]]:
        sql = "SELECT id, args::text, metadata::text, state::text, tags FROM river_job ORDER BY id"
        return [dict(row) for row in await bare.fetch(sql)]

    await migrator.up()
    up = await rows()
    await migrator.down(target=2)

    assert (
        up
        == await rows()
        == [
            {"id": 1, "args": "{}", "metadata": '{"a": 1}', "state": "available", "tags": []},
            {"id": 2, "args": '{"x": 1}', "metadata": "{}", "state": "completed", "tags": ["a"]},
        ]
    )


@pytest.mark.slow
async def test_record_keeps_its_instants(bare: asyncpg.Connection, bare_driver: AsyncpgDriver) -> None:
    """The instant of each version survives when the migration table is rebuilt, up and down."""
    migrator = Migrator(bare_driver)
    await migrator.up(target=4)
    sql = "SELECT version, created_at FROM river_migration WHERE version <= 4 ORDER BY version"
    before = await bare.fetch(sql)

    await migrator.up()
    up = await bare.fetch(sql)
    await migrator.down(target=4)

    assert before == up == await bare.fetch(sql)


async def test_trigger_of_versions_2_and_3_notifies(
    bare: asyncpg.Connection, bare_driver: AsyncpgDriver
) -> None:
    """In these versions a trigger notifies old clients of available jobs, and of no others."""
    payloads: list[object] = []
    await bare.add_listener("river_insert", lambda *one: payloads.append(one[-1]))
    await Migrator(bare_driver).up(target=3)

    await bare.execute("""
        INSERT INTO river_job (args, kind, max_attempts, queue, state) VALUES
            ('{}', 'a', 1, 'q1', 'available'), ('{}', 'a', 1, 'q2', 'scheduled')
    """)
    await bare.fetch("SELECT 1")

    assert [json.loads(str(payload)) for payload in payloads] == [{"queue": "q1"}]
    await bare.reset()
