"""Faults planted into a fleet's rows: each is found, and nothing else; a healthy fleet has none."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import pytest
from doctor_worlds import HEALTHY, context_on, examined, found, plant

from millhand.core.periodic import every
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.doctor.context import Context, Deployed
from millhand.doctor.deploy_checks import UnworkableJobs
from stuck_flow import FLOW

pytestmark = pytest.mark.slow

AREAS = ("fleet", "queues", "kinds", "jobs", "flows")
JOB = "INSERT INTO /* schema */river_job (kind, args, max_attempts, state, queue, {}) VALUES ('send', '{{}}', 25, {})"
CLIENT = """
    INSERT INTO /* schema */millhand_client (
        id, language, version, hostname, pid, kinds, queues, queue_updates, heartbeat_interval, started_at, last_seen_at
    ) VALUES ('b', 'python', '{}', 'h', 2, '{{send}}', '{{"mail": 5}}', '{{}}', '{}', now() - interval '1 hour', {})
"""
STATS = """
    INSERT INTO /* schema */millhand_job_stats
    SELECT step, at, 'send', '*', {}, 0, 0, {}, 0, 0, '{{}}', '{{0,9}}', 1
    FROM (VALUES ({})) AS given (step, at)
"""
THIS_MINUTE = "60, date_trunc('minute', now()) - interval '1 minute'"
USUAL_HOUR = "3600, date_trunc('hour', now()) - interval '3 days'"
OLD_HISTORY = """
    INSERT INTO /* schema */millhand_history (holder, expires_at, counted_to)
    VALUES ('a', now(), now() - interval '1 hour') ON CONFLICT DO NOTHING;
    UPDATE /* schema */millhand_history SET counted_to = now() - interval '1 hour';
"""
LATE = """
    INSERT INTO /* schema */river_job (kind, args, max_attempts, state, queue, metadata, created_at, finalized_at)
    SELECT 'send', '{}', 1, 'completed', 'mail', '{"river:periodic_job_id": "tick"}', at, at
    FROM generate_series(now() - interval '90 minutes', now() - interval '30 minutes', interval '10 minutes') AS at
    ORDER BY at;
"""
WAITS = """
    UPDATE /* schema */river_job SET scheduled_at = now() - interval '20 minutes' WHERE state = 'available';
    INSERT INTO /* schema */millhand_queue_depth
    VALUES (3600, date_trunc('hour', now()) - interval '3 days', 'mail', 1, 0, 0, 0, 1000, FALSE);
"""
HALTED = """
    INSERT INTO /* schema */millhand_limit (queue, at_once, by_args, by_kind, in_order, is_shared, halt)
    VALUES ('accounts', 1, '{}', FALSE, TRUE, FALSE, TRUE);
    INSERT INTO /* schema */millhand_limit_partition (
        queue, partition_key, is_open, opens_at, held_until, halted_by, halted_at
    )
    VALUES (
        'accounts', '[]', FALSE, '9999-12-31 23:59:59Z', '9999-12-31 23:59:59Z', 17, now() - interval '2 hours'
    );
"""
WAITING = """
    INSERT INTO /* schema */millhand_limited_job (job_id, queue, partition_key, priority, due_at)
    VALUES ({}, 'accounts', '[]', 1, '-infinity');
"""
HELD = """
    INSERT INTO /* schema */millhand_limit (queue, at_once, by_args, by_kind, in_order, is_shared)
    VALUES ('accounts', 1, '{{}}', FALSE, FALSE, FALSE);
    INSERT INTO /* schema */millhand_limit_partition (queue, partition_key, is_open, opens_at, held_until)
    VALUES ('accounts', '[]', FALSE, now() + interval '{0}', now() + interval '{0}');
    INSERT INTO /* schema */river_job (id, kind, args, max_attempts, state, queue, scheduled_at)
    VALUES (2001, 'send', '{{}}', 25, 'pending', 'accounts', now() - interval '{1}');
    UPDATE /* schema */millhand_client SET queues = '{{"accounts": 5, "mail": 5}}';
"""
STUCK_FLOW = {("flows.stuck", "broken", "flow 7")}
PLANTED = {
    "a flow that waits for a job": (FLOW.format("available", "NULL"), set()),
    "a flow whose task has just ended": (FLOW.format("completed", "now() - interval '1 minute'"), set()),
    "a flow whose task ended and was not counted": (
        FLOW.format("completed", "now() - interval '20 minutes'"),
        STUCK_FLOW,
    ),
    "a flow whose job was deleted and not counted": (
        FLOW.format("available", "NULL") + "DELETE FROM /* schema */river_job WHERE id = 1001",
        STUCK_FLOW,
    ),
    "a flow whose task may start and was not released": (
        FLOW.format("completed", "now() - interval '20 minutes'")
        + "UPDATE /* schema */millhand_flow_task SET state = 'completed' WHERE job_id = 1001;"
        "UPDATE /* schema */millhand_flow_join SET num_open = 0; UPDATE /* schema */millhand_flow SET num_open = 1",
        STUCK_FLOW,
    ),
    "a flow whose tasks wait for nothing": (
        FLOW.format("completed", "now() - interval '20 minutes'")
        + "UPDATE /* schema */millhand_flow_task SET state = 'completed' WHERE job_id = 1001",
        STUCK_FLOW,
    ),
    "a flow whose job nothing makes available": (FLOW.format("pending", "NULL"), STUCK_FLOW),
    "a flow whose job waits for a slot": (
        FLOW.format("pending", "NULL") + HELD.format("-1 minute", "1 minute") + WAITING.format(1001),
        set(),
    ),
    "a flow whose job waits in a halted partition": (
        FLOW.format("pending", "NULL") + HALTED + WAITING.format(1001),
        {("flows.stuck", "harmful", "flow 7"), ("queues.halted", "harmful", "queue accounts")},
    ),
    "a partition held for long": (
        HELD.format("2 hours", "1 minute") + WAITING.format(2001),
        {("queues.held", "notable", "queue accounts")},
    ),
    "a partition held again and again": (
        HELD.format("1 minute", "2 hours") + WAITING.format(2001),
        {("queues.held", "harmful", "queue accounts")},
    ),
    "a partition held for a while": (HELD.format("1 minute", "10 minutes") + WAITING.format(2001), set()),
    "a partition held for long without jobs": (HELD.format("2 hours", "1 minute"), set()),
    "a partition halted yesterday": (
        HALTED.replace("2 hours", "25 hours") + WAITING.format(18),
        {("queues.halted", "broken", "queue accounts")},
    ),
    "no leader": (
        "UPDATE /* schema */river_leader SET expires_at = now() - interval '31 seconds'",
        {("fleet.leader", "broken", "leader role river")},
    ),
    "no periodic leader": (
        "DELETE FROM /* schema */millhand_leader",
        {("fleet.leader", "broken", "leader role periodic")},
    ),
    "a term that has just ended": (
        "UPDATE /* schema */river_leader SET expires_at = now() - interval '5 seconds'",
        set(),
    ),
    "a client that does not respond": (
        CLIENT.format("0.2.0", "5 seconds", "now() - interval '1 minute'"),
        {("fleet.unresponsive", "notable", "client b")},
    ),
    "a client that was killed while it ran a job": (
        CLIENT.format("0.2.0", "5 seconds", "now() - interval '1 minute'")
        + "; "
        + JOB.format(
            "attempt, attempted_at, attempted_by", "'running', 'mail', 1, now() - interval '2 minutes', '{b}'"
        ),
        {("fleet.unresponsive", "harmful", "client b")},
    ),
    "two versions": (CLIENT.format("0.1.0", "1 hour", "now()"), {("fleet.versions", "notable", "versions")}),
    "a late periodic job": (LATE, {("fleet.periodic", "harmful", "periodic job tick")}),
    "an old history": (OLD_HISTORY, {("fleet.history", "notable", "history")}),
    "a queue without clients": (
        JOB.format("scheduled_at", "'available', 'nobody', now()"),
        {("queues.unworked", "broken", "queue nobody")},
    ),
    "a pause of today": (
        "UPDATE /* schema */river_queue SET paused_at = now() - interval '3 hours'",
        {("queues.paused", "harmful", "queue mail")},
    ),
    "a pause of now": (
        "UPDATE /* schema */river_queue SET paused_at = now() - interval '1 minute'",
        {("queues.paused", "notable", "queue mail")},
    ),
    "a halted partition": (HALTED, {("queues.halted", "notable", "queue accounts")}),
    "a halted partition with jobs": (
        HALTED + WAITING.format(18),
        {("queues.halted", "harmful", "queue accounts")},
    ),
    "a queue that waits unusually long": (WAITS, {("queues.behind", "harmful", "queue mail")}),
    "an unknown kind": (
        "UPDATE /* schema */river_job SET kind = 'gone' WHERE state = 'available'",
        {("kinds.unknown", "broken", "kind gone")},
    ),
    "a kind that fails": (STATS.format(10, 90, THIS_MINUTE), {("kinds.failing", "harmful", "kind send")}),
    "a job that is due and stays": (
        JOB.format("scheduled_at", "'retryable', 'mail', now() - interval '2 minutes'"),
        {("jobs.overdue", "broken", "queue mail")},
    ),
    "a job that runs for long": (
        STATS.format(990, 10, USUAL_HOUR)
        + "; UPDATE /* schema */river_job SET attempted_at = now() - interval '9 minutes' WHERE state = 'running'",
        {("jobs.slow", "notable", "job")},
    ),
    "a job of a client that stopped": (
        CLIENT.format("0.2.0", "5 seconds", "now() - interval '1 hour'")
        + "; UPDATE /* schema */millhand_client SET stopped_at = last_seen_at WHERE id = 'b'; "
        + JOB.format(
            "attempt, attempted_at, attempted_by", "'running', 'mail', 1, now() - interval '2 hours', '{b}'"
        ),
        {("jobs.stranded", "harmful", "client b")},
    ),
    "discarded jobs": (
        JOB.format("finalized_at", "'discarded', 'mail', now() - interval '1 hour'"),
        {("jobs.discarded", "notable", "kind send")},
    ),
    "jobs discarded long ago": (
        JOB.format("finalized_at", "'discarded', 'mail', now() - interval '2 days'"),
        set(),
    ),
    "completed jobs that stay": (
        JOB.format("finalized_at", "'completed', 'mail', now() - interval '3 days'"),
        {("jobs.cleanup", "harmful", "table river_job")},
    ),
}


def fleet_context(driver: AsyncpgDriver) -> Context:
    return context_on(driver, retention=timedelta(hours=24))


async def test_healthy_fleet_has_no_finding(schema_driver: AsyncpgDriver) -> None:
    """Rows of a client that leads and works, with a job that waits and one that runs, have no fault."""
    await plant(schema_driver, HEALTHY)

    assert found(await examined(fleet_context(schema_driver), *AREAS)) == set()


@pytest.mark.parametrize("name", PLANTED)
async def test_each_fault_of_a_fleet_is_found_and_only_that(schema_driver: AsyncpgDriver, name: str) -> None:
    """One fault among healthy rows is found by one check, with its level and subject."""
    sql, expected = PLANTED[name]
    await plant(schema_driver, HEALTHY)
    await plant(schema_driver, sql)

    report = await examined(fleet_context(schema_driver), *AREAS)

    shown = {
        (check, level, "job" if subject.startswith("job ") else subject)
        for check, level, subject in found(report)
    }
    assert shown == expected


async def test_thousand_queues_without_clients_are_one_fault(schema_driver: AsyncpgDriver) -> None:
    """Ten queues are named, and the others are counted."""
    await plant(
        schema_driver,
        "INSERT INTO /* schema */river_job (kind, args, max_attempts, queue) "
        "SELECT 'k', '{}', 1, 'q' || n FROM generate_series(1, 1200) AS n",
    )

    report = await examined(fleet_context(schema_driver), "queues")

    [result] = [one for one in report.results if one.check == "queues.unworked"]
    assert (len(result.findings), result.num_more) == (10, 990)
    assert [one.reason for one in result.unseen] == ["Only the first 1,000 queues by name were checked."]


@dataclass
class Tick:
    kind: ClassVar[str] = "tick"


@pytest.fixture
async def deployed_on(schema_driver: AsyncpgDriver) -> Context:
    """A healthy fleet, and a configuration with a periodic job that cannot work one queued job."""

    async def check_queued(executor: Executor) -> list[UnworkableJobs]:
        del executor
        return [
            UnworkableJobs(kind="send", num_jobs=1, example_id=1, has_worker=True, message="no field `to`")
        ]

    await plant(schema_driver, HEALTHY)
    jobs = [every(timedelta(minutes=10), Tick(), id="tick")]
    deployed = Deployed(name="shop:config", check_queued=check_queued, periodic_jobs=jobs)
    return context_on(schema_driver, retention=timedelta(hours=24), deployed=deployed)


async def test_configuration_is_checked_before_its_deploy(
    schema_driver: AsyncpgDriver, deployed_on: Context
) -> None:
    """Jobs that do not fit are broken, and a periodic job whose last run is too old is harmful."""
    metadata = """'{"river:periodic_job_id": "tick"}'"""
    at = datetime.now(UTC) - timedelta(minutes=25)
    await plant(
        schema_driver,
        "INSERT INTO /* schema */river_job (kind, args, max_attempts, state, queue, metadata, created_at, finalized_at) "
        f"VALUES ('tick', '{{}}', 1, 'completed', 'mail', {metadata}, '{at}', '{at}')",
    )

    report = await examined(deployed_on, "deploy")

    assert found(report) == {
        ("deploy.kinds", "broken", "kind send"),
        ("deploy.periodic", "harmful", "periodic job tick"),
    }
