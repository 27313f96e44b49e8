"""Claims about the warnings of `millhand job insert`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cli_runner import millhand

from millhand.driver.asyncpg import AsyncpgDriver
from millhand.job import ClientId
from millhand.schema.migrator import Migrator
from millhand.store.client import ClientHeartbeatParams, client_heartbeat

pytestmark = pytest.mark.usefixtures("project")


async def _client(driver: AsyncpgDriver, id: str, *kinds: str, age: timedelta = timedelta(0)) -> None:
    report = ClientHeartbeatParams(
        id=ClientId(id),
        hostname="here",
        kinds=kinds,
        pid=42,
        queue_updates={},
        queues={"mail": 5, "default": 10},
        heartbeat_interval=timedelta(seconds=5),
        version="1.2.3",
    )
    await driver.pool.run(client_heartbeat(report, started_at=None, now=datetime.now(UTC) - age))


def _warning(what: str, name: str, near: str) -> str:
    return f"warning: no registered client of the last day works {what} {name!r}; did you mean {near!r}?\n"


async def test_job_insert_warns_about_a_kind_or_queue_that_looks_like_a_typo(
    schema_driver: AsyncpgDriver,
) -> None:
    """The job is inserted, its id is the only output, and the warning names what the clients of the last day work."""
    await _client(schema_driver, "a", "slow", "heartbeat")
    await _client(schema_driver, "stopped", "resize", age=timedelta(hours=3))
    kind, queue = _warning("kind", "slwo", "slow"), _warning("queue", "mial", "mail")

    for arguments, warnings in {
        ("slwo",): kind,
        ("slow", "--queue", "mial"): queue,
        ("slwo", "--queue", "mial"): kind + queue,
        ("slow", "--queue", "mail"): "",
        ("resize",): "",
        ("of_a_go_program", "--queue", "bulk"): "",
        ("slow", "--queue", "defualt"): _warning("queue", "defualt", "default"),
    }.items():
        result = await millhand("job", "insert", *arguments)
        assert (result.code, len(result.lines), result.err) == (0, 1, warnings), arguments
        assert (await millhand("job", "show", result.lines[0][0])).code == 0
    # Of a queue that nobody named, no typing error is assumed.
    await schema_driver.pool.fetch(
        f"UPDATE {schema_driver.schema}.millhand_client SET queues = '{{\"defualt\": 1}}'"
    )
    assert (await millhand("job", "insert", "slow")).err == ""
    result = await millhand("job", "insert", "slwo", "--json")
    assert (result.json["kind"], result.err) == ("slwo", kind)


async def test_job_insert_is_silent_where_no_client_lists_its_kinds(schema_driver: AsyncpgDriver) -> None:
    """Without a client of the last day that lists kinds, and without the table of clients, there is no warning."""
    silent = [(await millhand("job", "insert", "slwo"))]
    await _client(schema_driver, "kindless")
    silent.append(await millhand("job", "insert", "slwo"))
    await _client(schema_driver, "away", "slow", age=timedelta(hours=3))
    assert (await millhand("job", "insert", "slwo")).err == _warning("kind", "slwo", "slow")
    migrator = Migrator(schema_driver, "millhand")
    await migrator.down(target=1)
    try:
        silent.append(await millhand("job", "insert", "slwo"))
    finally:
        await migrator.up()

    assert [(result.code, len(result.lines), result.err) for result in silent] == [(0, 1, "")] * 3
