"""Claims about the warnings of `millhand job` about names that look like typing errors."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from cli_runner import millhand
from factory import insert_job
from millhand.core.job import ClientId, JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.migrator import Migrator
from millhand.engine.store.client import ClientHeartbeatParams, client_heartbeat

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


def _unworked(what: str, name: str, *known: str) -> str:
    return (
        f"warning: no registered client of the last day works {what} {name!r}; known: "
        f"{', '.join(map(repr, known))}\n"
    )


def _warning(what: str, name: str, near: str) -> str:
    return f"warning: no registered client of the last day works {what} {name!r}; did you mean {near!r}?\n"


@pytest.mark.slow
async def test_job_insert_warns_about_a_kind_or_queue_that_no_client_works(
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
        ("slow", "--queue", "bulk"): _unworked("queue", "bulk", "default", "mail"),
        ("charge",): _unworked("kind", "charge", "heartbeat", "resize", "slow"),
        ("slow", "--queue", "defualt"): _warning("queue", "defualt", "default"),
    }.items():
        result = await millhand("job", "insert", *arguments)
        assert (result.code, len(result.lines), result.err) == (0, 1, warnings), arguments
        assert (await millhand("job", "show", result.lines[0][0])).code == 0
    # A client in another language, which its attempt shows, may work any kind.
    await insert_job(
        schema_driver.pool, JobState.RUNNING, attempted_by=["go"], attempted_at=datetime.now(UTC)
    )
    assert (await millhand("job", "insert", "charge")).err == ""
    # Of a queue that nobody named, no typing error is assumed.
    await schema_driver.pool.fetch(
        f"UPDATE {schema_driver.schema}.millhand_client SET queues = '{{\"defualt\": 1}}'"
    )
    assert (await millhand("job", "insert", "slow")).err == ""
    result = await millhand("job", "insert", "slwo", "--json")
    assert (result.json["kind"], result.err) == ("slwo", kind)


@pytest.mark.slow
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


@pytest.mark.slow
async def test_job_filters_warn_about_a_kind_or_queue_that_looks_like_a_typo(
    schema_driver: AsyncpgDriver,
) -> None:
    """Where no job has a name of the filter, the command names the near match among the jobs, queues and clients."""
    await _client(schema_driver, "a", "resize")
    await insert_job(schema_driver.pool, kind="welcome_mail", queue="bulk")
    kind = "warning: no job has kind 'welcom_mail'; did you mean 'welcome_mail'?\n"

    for arguments, warnings in {
        "list --kind welcom_mail": kind,
        "list --kind welcome_mail,welcom_mail": kind,
        "list --kind rezise --queue buk": (
            "warning: no job has kind 'rezise'; did you mean 'resize'?\n"
            "warning: no job has queue 'buk'; did you mean 'bulk'?\n"
        ),
        "list --queue defalt --json": "warning: no job has queue 'defalt'; did you mean 'default'?\n",
        "list --state completed --kind welcome_mail": "",
        "list --kind of_a_go_program": "",
        "retry --state discarded --kind welcom_mail --yes": f"{kind}retried 0 jobs\n",
        "cancel --kind welcom_mail": f"{kind}cancelled 0 jobs\n",
        "delete --queue buk --yes": "warning: no job has queue 'buk'; did you mean 'bulk'?\ndeleted 0 jobs\n",
    }.items():
        result = await millhand("job", *arguments.split())
        assert (result.code, result.err) == (0, warnings), arguments
