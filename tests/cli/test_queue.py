"""Claims about `millhand queue`."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_runner import millhand

from millhand.driver.asyncpg import AsyncpgDriver
from millhand.store.queue import queue_create_or_set_updated_at

pytestmark = pytest.mark.usefixtures("project")


async def _queues(driver: AsyncpgDriver, *names: str) -> None:
    for name in names:
        await driver.pool.run(queue_create_or_set_updated_at(name))


async def _states() -> dict[str, str]:
    return {line[0]: line[1] for line in (await millhand("queue", "list")).lines}


async def test_queue_pause_and_resume_change_the_queues_that_were_named(schema_driver: AsyncpgDriver) -> None:
    """A paused queue is listed as paused until it is resumed; `*` selects all."""
    await _queues(schema_driver, "default", "mail")

    paused = await millhand("queue", "pause", "mail")
    after_pause = await _states()
    await millhand("queue", "pause", "*")
    after_all = await _states()
    resumed = await millhand("queue", "resume", "*")

    assert (paused.code, paused.out, paused.err) == (0, "", "paused queue mail\n")
    assert after_pause == {"default": "active", "mail": "paused"}
    assert after_all == {"default": "paused", "mail": "paused"}
    assert (resumed.code, resumed.err) == (0, "resumed all queues\n")
    assert await _states() == {"default": "active", "mail": "active"}


async def test_queue_pause_names_unknown_queues(schema_driver: AsyncpgDriver) -> None:
    """An unknown queue is an error, and the others are paused."""
    await _queues(schema_driver, "mail")

    result = await millhand("queue", "pause", "mial", "mail")

    assert result.code == 1
    assert result.err == (
        "paused queue mail\nerror: queue must exist, found none named 'mial'; see: millhand queue list\n"
    )


async def test_queue_list_is_json_for_programs(schema_driver: AsyncpgDriver) -> None:
    """`--json` prints every column."""
    await _queues(schema_driver, "mail")

    (row,) = (await millhand("queue", "list", "--json")).json

    assert (row["name"], row["paused_at"], row["metadata"]) == ("mail", None, {})


async def test_queue_with_an_unusual_row_is_listed_and_paused(schema_driver: AsyncpgDriver) -> None:
    """A name with a newline stays one line, infinite instants are shown, and commands change the queue."""
    name = "mail\n"
    await _queues(schema_driver, "mail", name)
    sql = (
        f"UPDATE {schema_driver.schema}.river_queue SET created_at = '0044-03-15 BC', updated_at = 'infinity'"
    )
    await schema_driver.pool.fetch(sql)

    paused = await millhand("queue", "pause", name)
    listed = await millhand("queue", "list")
    listed_json = await millhand("queue", "list", "--json")

    assert (paused.code, listed.code, listed_json.code) == (0, 0, 0)
    assert len(listed.lines) == 2
    assert [(queue["name"], queue["paused_at"] is not None) for queue in listed_json.json] == [
        ("mail", False),
        (name, True),
    ]


async def test_queue_list_names_the_variable_of_a_wrong_schema(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of an impossible schema names its variable, also in commands that start no worker."""
    monkeypatch.setenv("MILLHAND_DATABASE_SCHEMA", 'a"b')

    result = await millhand("queue", "list")

    assert result.code == 2
    assert result.err.startswith("error: MILLHAND_DATABASE_SCHEMA: schema must be ")
