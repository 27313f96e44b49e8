from __future__ import annotations

import pytest

from millhand.core.errors import MigrationError
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.autovacuum import TABLES, TUNINGS, Change, apply, changes, plan, sql, statements
from millhand.db.schema.migrator import Migrator

TUNED = {name: tuning.value for name, tuning in TUNINGS.items()}


def test_tuned_table_needs_no_changes() -> None:
    """A table with all values is unchanged by a tuning, and an untuned one by a reset."""
    assert changes(TUNED, is_reset=False) == []
    assert changes({"fillfactor": "90"}, is_reset=True) == []


@pytest.mark.parametrize("value", ["off", "false", "no", "0"])
def test_equal_values_of_a_boolean_are_no_change(value: str) -> None:
    """PostgreSQL keeps a value as written, so every form of `off` counts as set."""
    assert changes({**TUNED, "vacuum_truncate": value}, is_reset=False) == []


def test_changes_have_the_old_and_the_new_value() -> None:
    """Only parameters that differ are changed; a reset returns those that are set to the server's defaults."""
    found = {"autovacuum_vacuum_threshold": "50", "fillfactor": "90"}

    planned = {one.name: one for one in changes(found, is_reset=False)}
    assert planned["autovacuum_vacuum_threshold"] == Change("autovacuum_vacuum_threshold", "50", "20000")
    assert planned["vacuum_truncate"] == Change("vacuum_truncate", None, "off")
    assert changes(found, is_reset=True) == [Change("autovacuum_vacuum_threshold", "50", None)]


def test_sql_is_one_statement_for_a_table_without_comments() -> None:
    """The SQL sets or resets all parameters of a table at once, and is empty without changes."""
    assert sql([Change("vacuum_truncate", None, "off")], "shop") == (
        'ALTER TABLE "shop".river_job SET (vacuum_truncate = off);'
    )
    assert sql([Change("vacuum_truncate", "off", None)], "") == (
        "ALTER TABLE river_job RESET (vacuum_truncate);"
    )
    both = [
        Change("vacuum_truncate", None, "off"),
        Change("vacuum_truncate", None, "off", "millhand_limit_arrival"),
    ]
    assert sql(both, "") == (
        "ALTER TABLE river_job SET (vacuum_truncate = off);\n"
        "ALTER TABLE millhand_limit_arrival SET (vacuum_truncate = off);"
    )
    assert (sql([], "shop"), statements([])) == ("", [])


async def test_plan_is_empty_once_it_is_applied(schema_driver: AsyncpgDriver) -> None:
    """After `apply` nothing is left to change, and a reset undoes exactly what was set."""
    await apply(schema_driver, await plan(schema_driver))
    tuned = await plan(schema_driver)
    reset = await plan(schema_driver, is_reset=True)
    await apply(schema_driver, reset)

    assert (tuned, {one.name for one in reset}) == ([], set(TUNED))
    assert {one.before for one in await plan(schema_driver)} == {None}
    assert {one.table for one in reset} == set(TABLES)


@pytest.mark.slow
async def test_plan_is_of_the_tables_that_are_there(bare_driver: AsyncpgDriver) -> None:
    """Before version 10 of line millhand, or without that line, there are no tables of limits to tune."""
    await Migrator(bare_driver).up()

    await apply(bare_driver, planned := await plan(bare_driver))

    assert {one.table for one in planned} == {"river_job"}
    assert await plan(bare_driver) == []


async def test_limit_partitions_are_vacuumed_after_fewer_dead_rows(schema_driver: AsyncpgDriver) -> None:
    """The jobs that wait may be as many as jobs; partitions and arrivals are few rows that change as often."""
    thresholds = {
        one.table: one.after for one in await plan(schema_driver) if one.name == "autovacuum_vacuum_threshold"
    }

    assert thresholds == {
        "river_job": "20000",
        "millhand_limited_job": "20000",
        "millhand_limit_arrival": "1000",
        "millhand_limit_partition": "1000",
    }


async def test_plan_without_a_job_table_is_an_error(postgres_url: str) -> None:
    """A schema that is not migrated is an error with the command to run."""
    driver = AsyncpgDriver(postgres_url, "not_migrated")
    await driver.open()

    with pytest.raises(MigrationError) as missing:
        await plan(driver)
    await driver.close()

    assert str(missing.value) == (
        "table river_job must exist to be tuned, found none in schema 'not_migrated'; run: millhand migrate up"
    )
