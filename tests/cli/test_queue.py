"""Claims about `millhand queue`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cli_runner import millhand
from factory import insert_job
from millhand.core.job import ClientId, JobState
from millhand.core.limit import Limit
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.migrator import Migrator
from millhand.engine.queue_report import UNKNOWN_KINDS_REMEDY, QueueReport, QueueWaitReason
from millhand.engine.store.client import ClientHeartbeatParams, client_heartbeat
from millhand.engine.store.queue import queue_create_or_set_updated_at
from millhand.limits.job_store import limited_job_collect
from millhand.limits.store import limit_declare
from millhand.shells.cli.name_warnings import unworked_texts
from millhand.shells.cli.output import num_text

pytestmark = pytest.mark.usefixtures("project")


async def _queues(driver: AsyncpgDriver, *names: str) -> None:
    for name in names:
        await driver.pool.run(queue_create_or_set_updated_at(name))


async def _states() -> dict[str, str]:
    return {line[0]: line[1] for line in (await millhand("queue", "list")).lines}


@pytest.mark.slow
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
    """An unknown queue is an error that names the queue which it resembles, and the others are paused."""
    await _queues(schema_driver, "mail")

    result = await millhand("queue", "pause", "mial", "bulk", "mail")

    assert result.code == 1
    assert result.err == (
        "paused queue mail\nerror: queue must exist, found none named 'mial', 'bulk'; did you mean 'mail'?\n"
    )


async def test_queue_pause_of_a_name_that_resembles_none_names_the_list(schema_driver: AsyncpgDriver) -> None:
    """Without a near match the error says where the queues are."""
    result = await millhand("queue", "pause", "bulk")

    assert result.err == "error: queue must exist, found none named 'bulk'; see: millhand queue list\n"


async def test_queue_list_is_json_for_programs(schema_driver: AsyncpgDriver) -> None:
    """`--json` prints every column."""
    await _queues(schema_driver, "mail")

    (row,) = (await millhand("queue", "list", "--json")).json

    assert (row["name"], row["paused_at"], row["metadata"]) == ("mail", None, {})


@pytest.mark.slow
async def test_queue_list_says_how_many_jobs_wait_for_a_limit(schema_driver: AsyncpgDriver) -> None:
    """Once a queue has a limit, the list has a column of the jobs that wait for it; other queues have none there."""
    pool = schema_driver.pool
    await _queues(schema_driver, "mail", "reports")
    before = (await millhand("queue", "list")).lines
    await pool.run(limit_declare({"reports": Limit(at_once=1)}))
    for _ in range(3):
        await insert_job(pool, queue="reports")
    await pool.run(limited_job_collect("reports"))

    table = (await millhand("queue", "list")).lines
    rows = (await millhand("queue", "list", "--json")).json

    assert [(line[0], line[-1]) for line in table] == [("mail", ""), ("reports", "3")]
    assert {len(line) for line in table} == {len(before[0]) + 1}
    assert {row["name"]: (row["num_waiting"], row["limit"]) for row in rows} == {
        "mail": (None, None),
        "reports": (3, "no_client"),
    }


@pytest.mark.slow
async def test_queue_list_has_the_numbers_of_the_runbook(schema_driver: AsyncpgDriver) -> None:
    """Jobs are counted by state; a queue without a living client has no slots; the limit says why jobs wait."""
    pool = schema_driver.pool
    await _queues(schema_driver, "idle", "mail")
    for id, seen, queues in (
        ("a", 0, {"mail": 5}),
        ("b", 0, {"mail": 7}),
        ("dead", 3, {"mail": 9, "idle": 1}),
    ):
        report = ClientHeartbeatParams(
            id=ClientId(id), hostname="here", kinds=("act",), pid=42, queue_updates={}, queues=queues,
            heartbeat_interval=timedelta(minutes=5), version="1.2.3",
        )  # fmt: skip
        at = datetime.now(UTC) - timedelta(hours=seen)
        await pool.run(client_heartbeat(report, started_at=None, now=at))
    for queue, hour, priority in (("mail", 11, 1), ("mail", 10, 4), ("tpyo", 9, 1)):
        at = datetime(2024, 5, 1, hour, tzinfo=UTC)
        await insert_job(pool, queue=queue, kind="other", scheduled_at=at, priority=priority)
    for state in (JobState.SCHEDULED, JobState.RETRYABLE, JobState.RUNNING):
        await insert_job(pool, state, queue="mail")

    listed = await millhand("queue", "list")
    listed_json = (await millhand("queue", "list", "--json")).json

    assert listed.err == (
        "warning: no client of queue 'mail' works kind 'other'; add a worker with @workers.add(), in the module of the "
        "configuration or with workers.include(…) of another module's, or let a client that knows the kind work the queue\n"
        "warning: no client works queue 'tpyo'; clients work 'mail'\n"
    )
    assert [line[:10] for line in listed.lines] == [
        ["idle", "active", "0", "", "0", "0", "0", "0", "0", ""],
        ["mail", "active", "2", "2024-05-01T10:00:00Z", "1", "1", "1", "12", "2", "unknown kinds"],
        ["tpyo", "active", "1", "2024-05-01T09:00:00Z", "0", "0", "0", "0", "0", "no client"],
    ]
    picked = (
        "num_available",
        "oldest_available_at",
        "num_running",
        "slots",
        "clients",
        "limit",
        "unknown_kinds",
    )
    assert {name: listed_json[1][name] for name in picked} == {
        "num_available": 2, "oldest_available_at": "2024-05-01T10:00:00Z", "num_running": 1, "slots": 12,
        "clients": ["a", "b"], "limit": "unknown_kinds", "unknown_kinds": ["other"],
    }  # fmt: skip


def _report(name: str, limit: QueueWaitReason | None, *unknown_kinds: str, slots: int = 0) -> QueueReport:
    return QueueReport(
        name=name, num_available=1, num_retryable=0, num_running=0, num_scheduled=0, slots=slots, limit=limit,
        unknown_kinds=unknown_kinds,
    )  # fmt: skip


UNWORKED = _report("mial", QueueWaitReason.NO_CLIENT, "act")
WORKED = _report("mail", None, slots=1)


@pytest.mark.parametrize(
    ("reports", "texts"),
    [
        ([UNWORKED], []),
        ([UNWORKED, WORKED], ["no client works queue 'mial'; did you mean 'mail'?"]),
        (
            [_report("mail", None, *"gfedcba", slots=1)],
            ["no client of queue 'mail' works kinds 'a', 'b', 'c', 'd', 'e' and 2 more; "],
        ),
        ([_report("mail", QueueWaitReason.SLOTS, slots=1)], []),
    ],
)
def test_queue_list_names_what_no_client_works(reports: list[QueueReport], texts: list[str]) -> None:
    """The first few kinds are named, and the queue that a mistyped one resembles."""
    assert [text.removesuffix(UNKNOWN_KINDS_REMEDY) for text in unworked_texts(reports)] == texts


@pytest.mark.parametrize(("number", "shown"), [(10_000, 10_000), (10_001, "10,000+")])
def test_number_beyond_the_count_is_shown_as_at_least(number: int, shown: object) -> None:
    """A number that was not counted to its end is not shown as if it were exact."""
    assert num_text(number) == shown


@pytest.mark.slow
async def test_queue_list_needs_no_migration_of_ours(schema_driver: AsyncpgDriver) -> None:
    """Without our tables the clients of a queue are unknown, not none."""
    await _queues(schema_driver, "mail")
    migrator = Migrator(schema_driver, "millhand")
    await migrator.down(target=1)
    try:
        listed = await millhand("queue", "list")
    finally:
        await migrator.up()

    assert (listed.code, listed.lines[0][:10]) == (
        0, ["mail", "active", "0", "", "0", "0", "0", "", "", ""]
    )  # fmt: skip


@pytest.mark.slow
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
