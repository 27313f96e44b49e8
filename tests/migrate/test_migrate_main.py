from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from catalog import catalog

from millhand.driver.asyncpg import AsyncpgDriver
from millhand.schema.migrator import Direction, Migrator, migration_sql, migrations

RECORDED = json.loads((Path(__file__).parents[1] / "fixtures/river/schema.json").read_text())["data"]
AFTER_UP = {step["version"]: step["catalog"] for step in RECORDED["steps"] if step["direction"] == "up"}
AFTER_DOWN = {step["version"]: step["catalog"] for step in RECORDED["steps"] if step["direction"] == "down"}


def test_versions_and_names_are_river_s() -> None:
    """Line main has River's versions under River's names."""
    assert [{"name": one.name, "version": one.version} for one in migrations()] == RECORDED["versions"]


async def test_every_version_makes_river_s_schema(
    bare: asyncpg.Connection, bare_driver: AsyncpgDriver
) -> None:
    """After each version up, and after each down, the catalog and the record are to the letter those of River."""
    migrator = Migrator(bare_driver)

    for version, expected in AFTER_UP.items():
        await migrator.up(target=version)
        assert await catalog(bare, "public") == expected, f"up to {version}"
    for version, expected in AFTER_DOWN.items():
        await migrator.down()
        assert await catalog(bare, "public") == expected, f"down from {version}"


async def test_way_up_after_a_way_down_ends_the_same(
    bare: asyncpg.Connection, bare_driver: AsyncpgDriver
) -> None:
    """Whatever was migrated before, all the way up is the same schema, from the label that stays behind on."""
    migrator = Migrator(bare_driver)
    for version in AFTER_UP:
        await migrator.up()
        await migrator.down(target=version)

        await migrator.up()

        assert await catalog(bare, "public") == AFTER_UP[8], f"from {version}"


async def test_schema_of_another_name_is_river_s(bare: asyncpg.Connection, bare_url: str) -> None:
    """In a schema that the search path does not name, everything is made there and nothing elsewhere."""
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
    """Run by hand, the SQL of all versions makes River's schema with its record, and takes it all away again."""
    await bare.execute("CREATE SCHEMA other_schema")

    await bare.execute(migration_sql(schema=schema))
    made = await catalog(bare, schema or "public")
    await bare.execute(migration_sql(schema=schema, direction=Direction.DOWN))

    assert made == (RECORDED["other_schema"] if schema else AFTER_UP[8])
    assert await catalog(bare, schema or "public") == AFTER_DOWN[1]


async def test_bitmask_function_tells_river_s_truth(
    bare: asyncpg.Connection, bare_driver: AsyncpgDriver
) -> None:
    """For every bit and every state, the function says what River's says; no mask and no state say nothing true."""
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


async def test_what_was_made_beforehand_is_taken(
    bare: asyncpg.Connection, bare_driver: AsyncpgDriver
) -> None:
    """Columns and indexes that an operator made before versions 5 and 6, without keeping anybody waiting, are used."""
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


async def test_old_rows_are_carried_up_and_down(bare: asyncpg.Connection, bare_driver: AsyncpgDriver) -> None:
    """Rows of version 2 keep what they say, and get empty args and tags for those that they lack."""
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


async def test_record_keeps_its_instants(bare: asyncpg.Connection, bare_driver: AsyncpgDriver) -> None:
    """When a version was applied is remembered through the rebuilding of the record, up and down."""
    migrator = Migrator(bare_driver)
    await migrator.up(target=4)
    sql = "SELECT version, created_at FROM river_migration WHERE version <= 4 ORDER BY version"
    before = await bare.fetch(sql)

    await migrator.up()
    up = await bare.fetch(sql)
    await migrator.down(target=4)

    assert before == up == await bare.fetch(sql)


async def test_trigger_of_versions_2_and_3_announces(
    bare: asyncpg.Connection, bare_driver: AsyncpgDriver
) -> None:
    """In the days of the trigger the database itself announced available jobs, and no others, to old clients."""
    heard: list[object] = []
    await bare.add_listener("river_insert", lambda *one: heard.append(one[-1]))
    await Migrator(bare_driver).up(target=3)

    await bare.execute("""
        INSERT INTO river_job (args, kind, max_attempts, queue, state) VALUES
            ('{}', 'a', 1, 'q1', 'available'), ('{}', 'a', 1, 'q2', 'scheduled')
    """)
    await bare.fetch("SELECT 1")

    assert [json.loads(str(payload)) for payload in heard] == [{"queue": "q1"}]
    await bare.reset()
