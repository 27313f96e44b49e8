from __future__ import annotations

import pytest

from millhand.driver.asyncpg import AsyncpgDriver
from millhand.errors import MigrationError
from millhand.schema.autovacuum import TUNINGS, Change, apply, changes, plan, sql, statement

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


def test_sql_is_one_statement_without_comments() -> None:
    """The SQL sets or resets all parameters at once, and is empty without changes."""
    assert sql([Change("vacuum_truncate", None, "off")], "shop") == (
        'ALTER TABLE "shop".river_job SET (vacuum_truncate = off);'
    )
    assert sql([Change("vacuum_truncate", "off", None)], "") == (
        "ALTER TABLE river_job RESET (vacuum_truncate);"
    )
    assert (sql([], "shop"), statement([])) == ("", None)


async def test_plan_is_empty_once_it_is_applied(schema_driver: AsyncpgDriver) -> None:
    """After `apply` nothing is left to change, and a reset undoes exactly what was set."""
    await apply(schema_driver, await plan(schema_driver))
    tuned = await plan(schema_driver)
    reset = await plan(schema_driver, is_reset=True)
    await apply(schema_driver, reset)

    assert (tuned, {one.name for one in reset}) == ([], set(TUNED))
    assert {one.before for one in await plan(schema_driver)} == {None}


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
