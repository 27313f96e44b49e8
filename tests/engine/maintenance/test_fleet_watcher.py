"""Claims about the metrics that a leader reads from the database."""

from __future__ import annotations

from datetime import timedelta

import pytest

from factory import NOW, insert_job, qualified
from millhand.core.client_row import ClientRow, ClientState
from millhand.core.errors import DriverError
from millhand.core.job import ClientId, JobState
from millhand.core.limit import Limit
from millhand.core.metrics.definitions import FLEET_METRICS
from millhand.core.metrics.points import Points
from millhand.db.driver.protocol import Executor
from millhand.engine.client_metrics import ClientMetrics
from millhand.engine.fleet import Fleet
from millhand.engine.maintenance.fleet_watcher import FleetWatcher, client_points, unworked_points
from millhand.engine.store.queue import queue_create_or_set_updated_at, queue_pause
from millhand.engine.store.queue_load import DueKind
from millhand.limits.job_store import limited_job_collect
from millhand.limits.store import limit_declare
from millhand.limits.waiting_jobs import WAITING_JOBS
from millhand.orphans.report.orphan_points import read_orphan_points
from millhand.testing import ManualClock

HOUR = timedelta(hours=1)


def values(page: list[Points] | tuple[Points, ...]) -> dict[str, dict[tuple[str, ...], float]]:
    return {
        one.metric.name.removeprefix("millhand_"): {
            point.labels: float(point.value)  # type: ignore[arg-type]
            for point in one.points
        }
        for one in page
    }


async def test_watcher_reads_queues_clients_tables_and_orphan_runs(tx: Executor) -> None:
    """A leader whose metrics are collected exposes queues, clients, tables and orphan runs."""
    await tx.run(queue_create_or_set_updated_at("idle"))
    await tx.run(queue_pause("idle"))
    await insert_job(tx, queue="mail", kind="send", scheduled_at=NOW - HOUR)
    await insert_job(tx, JobState.RETRYABLE, queue="mail", scheduled_at=NOW + HOUR)
    await tx.fetch(
        qualified(
            "INSERT INTO /* schema */millhand_orphan_run (bucket, mode, fingerprint, started_at, heartbeat_at, is_ordered, "
            "finished_at, state, totals) VALUES ('s3://b', 'report', 'f', $1, $1, true, $1, 'completed', "
            """'{"orphan_objects": 3, "orphan_bytes": 70, "removed": 1, "alerts": 0}')""",
            tx,
        ),
        [NOW],
    )
    metrics = ClientMetrics()
    watcher = FleetWatcher(tx, clock=ManualClock(NOW), metrics=metrics, more=[read_orphan_points])

    metrics.collect()
    await watcher.run_once()

    found = values([*metrics.fleet])
    assert found["queue_jobs"]["mail", "available"] == found["queue_jobs"]["mail", "retryable"] == 1
    assert found["queue_oldest_available_seconds"] == {("idle",): 0, ("mail",): 3600}
    assert found["queue_paused"] == {("idle",): 1, ("mail",): 0}
    assert found["queue_unworked_jobs"] == {("mail", "send"): 1}
    assert ("river_job", "live") in found["table_rows"]
    assert found["table_bytes"]["river_job", "table"] > 0
    assert found["index_bytes"]["river_job_pkey",] > 0
    assert found["oldest_transaction_seconds"][()] >= 0
    assert found["orphan_objects"] == {("s3://b",): 3}
    assert found["orphan_finished_timestamp_seconds"] == {("s3://b",): NOW.timestamp()}
    assert found["orphan_completed_timestamp_seconds"] == {("s3://b",): NOW.timestamp()}
    assert {*found} == {metric.name.removeprefix("millhand_") for metric in FLEET_METRICS}


async def test_time_of_a_completed_orphan_run_outlasts_runs_that_abort_and_fail(tx: Executor) -> None:
    """While runs abort or fail, the time of the last completed run stays, and a bucket without one has 0."""
    runs = {"s3://a": ("completed", "aborted", "failed", "aborted", "aborted"), "s3://b": ("aborted",)}
    for bucket, states in runs.items():
        for hours, state in enumerate(states):
            await tx.fetch(
                qualified(
                    "INSERT INTO /* schema */millhand_orphan_run (bucket, mode, fingerprint, started_at, heartbeat_at, "
                    "finished_at, state) VALUES ($1, 'report', 'f', $2, $2, $2, $3)",
                    tx,
                ),
                [bucket, NOW + hours * HOUR, state],
            )

    found = values([*await read_orphan_points(tx)])

    assert found["orphan_completed_timestamp_seconds"] == {("s3://a",): NOW.timestamp(), ("s3://b",): 0}
    assert found["orphan_finished_timestamp_seconds"] == {
        ("s3://a",): (NOW + 4 * HOUR).timestamp(),
        ("s3://b",): NOW.timestamp(),
    }


async def test_watcher_counts_jobs_that_wait_for_slots(tx: Executor) -> None:
    """A queue with a limit has one more number, and a kind that holds up a partition is unworked."""
    await tx.run(limit_declare({"mail": Limit(in_order=True)}))
    for _ in range(2):
        await insert_job(tx, queue="mail", kind="send")
    await insert_job(tx, queue="other")
    await tx.run(limited_job_collect("mail"))
    metrics = ClientMetrics()
    metrics.collect()

    await FleetWatcher(tx, clock=ManualClock(NOW), metrics=metrics, waiting=WAITING_JOBS).run_once()

    found = values([*metrics.fleet])
    assert {labels: value for labels, value in found["queue_jobs"].items() if value} == {
        ("mail", "waiting"): 2,
        ("other", "available"): 1,
    }
    assert found["queue_unworked_jobs"]["mail", "send"] == 1


async def test_watcher_asks_nothing_while_its_metrics_are_not_collected(tx: Executor) -> None:
    """A leader whose metrics nobody collects runs no statement, and exposes no figures of earlier."""
    metrics = ClientMetrics()
    metrics.fleet = (Points(FLEET_METRICS[0], []),)

    await FleetWatcher(None, clock=ManualClock(NOW), metrics=metrics).run_once()  # type: ignore[arg-type]

    assert metrics.fleet == ()


async def test_figures_that_can_no_longer_be_read_go_after_a_minute(tx: Executor) -> None:
    """Figures stay while passes fail for less than a minute, then go: a frozen age would alert nobody."""
    await insert_job(tx, queue="mail", scheduled_at=NOW - HOUR)
    metrics, clock = ClientMetrics(), ManualClock(NOW)
    metrics.collect()
    watcher = FleetWatcher(tx, clock=clock, metrics=metrics)
    passes = [await watcher.try_pass()]
    with pytest.raises(DriverError):  # then the transaction answers no statement
        await tx.fetch("SELECT 1 / 0")

    ages = []
    for seconds in (0, 45, 30):
        clock.advance(seconds)
        passes.append(await watcher.try_pass())
        ages.append(values([*metrics.fleet]).get("queue_oldest_available_seconds"))

    assert passes == [True, False, False, False]
    assert ages == [{("mail",): 3600}, {("mail",): 3600}, None]


async def test_figures_end_with_the_term(tx: Executor) -> None:
    """A watcher that is stopped removes its points, because the next leader exposes them."""
    metrics = ClientMetrics()
    metrics.collect()
    watcher = FleetWatcher(tx, clock=ManualClock(NOW), metrics=metrics)

    await watcher.start()
    metrics.fleet = (Points(FLEET_METRICS[0], []),)
    await watcher.stop()

    assert metrics.fleet == ()


def test_kinds_that_no_client_of_the_queue_works_are_counted() -> None:
    """Due jobs of a kind count as unworked if no registered client of their queue knows it, unless other languages do."""
    client = ClientRow(
        id=ClientId("a"),
        state=ClientState.WORKING,
        last_seen_at=NOW,
        language="python",
        kinds=("send",),
        queues={"mail": 1},
    )
    fleet = Fleet(clients=(client,), leaders={}, other_queues=frozenset({"go"}), is_registering=True)
    due = {
        "mail": [DueKind("mail", "send", 5, NOW), DueKind("mail", "print", 2, NOW)],
        "none": [DueKind("none", "send", 7, NOW)],
        "go": [DueKind("go", "print", 9, NOW)],
    }

    assert values([unworked_points(fleet, due)]) == {
        "queue_unworked_jobs": {("mail", "print"): 2, ("none", "send"): 7}
    }
    many = {"none": [DueKind("none", f"kind_{n}", 1, NOW) for n in range(130)]}
    [capped] = values([unworked_points(fleet, many)]).values()
    assert (len(capped), capped["_OTHER", "_OTHER"]) == (101, 30)
    assert values([client_points(fleet)]) == {"clients": {("python", "working"): 1}}
