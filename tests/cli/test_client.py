"""Claims about `millhand client`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from cli_runner import millhand
from factory import insert_job
from millhand.core.job import ClientId, JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.migrator import Migrator
from millhand.engine.store.client import ClientHeartbeatParams, client_heartbeat
from millhand.engine.store.leader import LeaderRole, leader_attempt_elect

pytestmark = pytest.mark.usefixtures("project")


async def _report(driver: AsyncpgDriver, id: str, *, seconds_ago: float = 0) -> None:
    report = ClientHeartbeatParams(
        id=ClientId(id),
        hostname="here",
        kinds=("act", "tick"),
        pid=42,
        queue_updates={},
        queues={"mail": 5, "default": 10},
        heartbeat_interval=timedelta(minutes=5),
        version="1.2.3",
    )
    now = datetime.now(UTC) - timedelta(seconds=seconds_ago)
    await driver.pool.run(client_heartbeat(report, started_at=None, now=now))


async def test_client_list_has_a_line_for_each(schema_driver: AsyncpgDriver) -> None:
    """Clients in Python have all columns; clients in other languages have only their id."""
    pool = schema_driver.pool
    await _report(schema_driver, "a")
    for id, leader_role in (("go", LeaderRole.RIVER), ("a", LeaderRole.PERIODIC)):
        await pool.run(
            leader_attempt_elect(leader_id=ClientId(id), ttl=timedelta(seconds=15), leader_role=leader_role)
        )

    result = await millhand("client", "list")

    assert (result.code, result.err) == (0, "")
    assert [line[:8] for line in result.lines] == [
        ["a", "working", "periodic", "python", "here", "42", "default:10,mail:5", "act,tick"],
        ["go", "unregistered", "river", "", "", "", "", ""],
    ]


@pytest.mark.slow
async def test_client_list_has_working_clients_first_and_stopped_ones_on_demand(
    schema_driver: AsyncpgDriver,
) -> None:
    """Unresponsive clients follow the working ones; stopped ones are counted, and listed last with `--all`."""
    pool = schema_driver.pool
    for id, seconds_ago in (("stopped", 4_000), ("unresponsive", 3_000), ("working", 0), ("gone", 2_000)):
        await _report(schema_driver, id, seconds_ago=seconds_ago)
    for id in ("stopped", "gone"):
        await pool.fetch(
            f"UPDATE {schema_driver.schema}.millhand_client SET stopped_at = now() WHERE id = '{id}'"
        )
    few, every = ["working", "unresponsive"], ["working", "unresponsive", "stopped", "gone"]

    lines, all_lines = [await millhand("client", "list", *more) for more in ((), ("--all",))]
    as_json, all_json = [await millhand("client", "list", "--json", *more) for more in ((), ("--all",))]

    assert [[line[0] for line in result.lines] for result in (lines, all_lines)] == [few, every]
    assert [[row["id"] for row in result.json] for result in (as_json, all_json)] == [few, every]
    left_out = "2 stopped clients are left out; --all lists them\n"
    assert [result.err for result in (lines, as_json, all_lines, all_json)] == [left_out, left_out, "", ""]


async def test_client_list_is_json_for_programs(schema_driver: AsyncpgDriver) -> None:
    """`--json` prints every field; unknown fields of a client in another language are null."""
    await _report(schema_driver, "a")
    [row] = await schema_driver.pool.fetch("SELECT now() AS now")
    await insert_job(
        schema_driver.pool, JobState.RUNNING, attempted_at=row["now"], attempted_by=["go"], queue="theirs"
    )

    ours, other = (await millhand("client", "list", "--json")).json

    instants = {name: ours.pop(name) for name in ("started_at", "last_seen_at")}
    assert all(instants.values())
    assert ours == {
        "id": "a",
        "state": "working",
        "is_leader": False,
        "is_periodic_leader": False,
        "language": "python",
        "version": "1.2.3",
        "hostname": "here",
        "pid": 42,
        "queues": {"default": 10, "mail": 5},
        "kinds": ["act", "tick"],
        "heartbeat_interval": 300.0,
        "stopped_at": None,
    }
    assert {name for name, value in other.items() if value} == {"id", "state", "last_seen_at"}
    assert (other["id"], other["state"]) == ("go", "unregistered")


@pytest.mark.slow
async def test_client_list_needs_no_migration_of_ours(schema_driver: AsyncpgDriver) -> None:
    """Without our tables the list shows River's leader."""
    await Migrator(schema_driver, "millhand").down(target=1)
    try:
        await schema_driver.pool.run(
            leader_attempt_elect(leader_id=ClientId("go"), ttl=timedelta(seconds=15))
        )
        result = await millhand("client", "list")
    finally:
        await Migrator(schema_driver, "millhand").up()

    assert (result.code, [line[:3] for line in result.lines]) == (0, [["go", "unregistered", "river"]])


async def test_client_list_shows_no_leader_whose_term_is_over(schema_driver: AsyncpgDriver) -> None:
    """A killed client does not lead any more, although its row remains."""
    await schema_driver.pool.run(leader_attempt_elect(leader_id=ClientId("go"), ttl=timedelta(seconds=-1)))

    assert (await millhand("client", "list")).out == ""
