"""With `keep_completed=False`, a job that succeeds is deleted, once, and nothing else."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Any

import pytest

from client_harness import GENEROUS, Act, ClientHarness, until
from millhand.core.config import QueueConfig
from millhand.core.errors import JobCancel, JobSnooze
from millhand.core.event import EventKind
from millhand.core.insert_opts import InsertOpts
from millhand.core.job import JobState
from millhand.core.unique import UniqueOpts
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from proxy import Direction, proxied

BLOCKED = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
    "AND query LIKE '%job_delete_completed_many%'"
)
FETCHED_AGAIN = "UPDATE river_job SET attempt = 2, attempted_at = attempted_at + interval '1 second'"
RECORDED = """UPDATE river_job SET metadata = metadata || '{"output": 7}'"""


def held() -> tuple[Workers, asyncio.Event, asyncio.Event]:
    """Return workers whose job waits: it has begun, and it may go on."""
    begun, go_on, workers = asyncio.Event(), asyncio.Event(), Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        begun.set()
        await go_on.wait()

    return workers, begun, go_on


async def test_only_plain_successes_are_deleted(harness: ClientHarness) -> None:
    """A job with an output, an error, a cancel, a snooze or a unique key has a row, and so has one whose worker keeps it."""
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        match job.args.what:
            case "output":
                job.record_output(1)
            case "error":
                raise ValueError("boom")
            case "cancel":
                raise JobCancel
            case "snooze":
                raise JobSnooze(timedelta(hours=1))

    @workers.add(kind="kept", keep_completed=True)
    async def kept(job: Job[Any]) -> None: ...

    whats = ["plain", "output", "plain", "error", "cancel", "snooze", "unique"]
    by_args = InsertOpts(unique=UniqueOpts(by_args=True))
    async with harness.client(workers, keep_completed=False) as client:
        with client.subscribe() as events:
            for what in whats:
                await client.insert(Act(what), opts=by_args if what == "unique" else None)
            await client.insert(harness.args_of_kind("kept"))
            emitted = [await harness.next(events) for _ in range(8)]

    assert sorted((row.args.get("what", row.kind), row.state.value) for row in await harness.rows()) == [
        ("cancel", "cancelled"), ("error", "available"), ("kept", "completed"), ("output", "completed"),
        ("snooze", "scheduled"), ("unique", "completed"),
    ]  # fmt: skip
    completed = [event.job for event in emitted if event.kind is EventKind.JOB_COMPLETED and event.job]
    assert sorted(row.args.get("what", row.kind) for row in completed) == [
        "kept", "output", "plain", "plain", "unique",
    ]  # fmt: skip
    assert all(row.state is JobState.COMPLETED and row.finalized_at for row in completed)


async def test_queue_that_is_added_to_a_running_client_may_delete(harness: ClientHarness) -> None:
    """The jobs of the other queue are kept."""
    workers, _, go_on = held()
    go_on.set()
    async with harness.client(workers) as client:
        await client.add_queue("quick", QueueConfig(max_workers=2, keep_completed=False))
        with client.subscribe() as events:
            await client.insert(Act("kept"))
            await client.insert(Act("deleted"), opts=InsertOpts(queue="quick"))
            await harness.next(events)
            await harness.next(events)

    assert [row.args for row in await harness.rows()] == [{"what": "kept"}]


@pytest.mark.parametrize(
    ("change", "state", "messages"),
    [(FETCHED_AGAIN, "running", ["outcome came too late"]), (RECORDED, "completed", [])],
)
async def test_row_that_changed_meanwhile_is_not_deleted(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture, change: str, state: str, messages: list[str]
) -> None:
    """One that was fetched again stays running; one whose output another program recorded is completed."""
    workers, begun, go_on = held()
    with caplog.at_level(logging.WARNING, "millhand.engine.completer"):
        async with harness.client(workers, keep_completed=False) as client:
            inserted = await client.insert(Act("x"))
            await asyncio.wait_for(begun.wait(), GENEROUS)
            await harness.execute(change)
            go_on.set()

    assert (await harness.row(inserted.job.id)).state.value == state
    assert [record.msg for record in caplog.records] == messages


async def test_row_to_which_another_table_refers_is_kept(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """A foreign key refuses the deletion; the jobs of that batch are completed instead, and the log has it once."""
    workers, begun, go_on = held()
    with caplog.at_level(logging.WARNING, "millhand.engine"):
        async with harness.client(workers, keep_completed=False) as client:
            with client.subscribe() as events:
                inserted = await client.insert(Act("x"))
                await asyncio.wait_for(begun.wait(), GENEROUS)
                await harness.execute("CREATE TABLE import (job_id bigint REFERENCES river_job (id))")
                await harness.execute(f"INSERT INTO import VALUES ({inserted.job.id})")
                go_on.set()
                events_kinds = [(await harness.next(events)).kind]
                events_kinds.append((await harness.work(client, Act("y"))).kind)

    assert events_kinds == [EventKind.JOB_COMPLETED] * 2
    [row] = await harness.rows()
    assert (row.id, row.state) == (inserted.job.id, JobState.COMPLETED)
    [record] = caplog.records
    assert record.msg == "completed jobs kept"
    assert "import" in record.error
    assert record.num_jobs == 1


@pytest.mark.slow
async def test_deletion_whose_answer_is_lost_counts_once(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """The job's row is gone when the client asks again: its event is emitted once, and no outcome came too late."""
    workers, begun, go_on = held()
    with caplog.at_level(logging.WARNING, "millhand.engine.completer"):
        async with (
            proxied(harness.url) as proxy,
            harness.client(workers, database=proxy.url, keep_completed=False) as client,
        ):
            with client.subscribe() as events:
                await client.insert(Act("x"))
                await asyncio.wait_for(begun.wait(), GENEROUS)
                async with harness.driver.pool.begin() as tx:
                    await tx.fetch("SELECT id FROM river_job FOR UPDATE")
                    go_on.set()
                    async with asyncio.timeout(GENEROUS):
                        while not await harness.driver.pool.fetch(BLOCKED):
                            pass
                    proxy.stop_up([Direction.TO_CLIENT])
                async with asyncio.timeout(GENEROUS):
                    while await harness.rows():
                        pass
                proxy.break_off()
                proxy.restore()
                emitted = [await harness.next(events)]
                await client.stop()
                emitted += [event async for event in events]

    assert [event.kind for event in emitted] == [EventKind.JOB_COMPLETED]
    assert "outcome came too late" not in [record.msg for record in caplog.records]


@pytest.mark.slow
async def test_deletion_that_did_not_happen_is_forgotten_when_it_is_repeated(harness: ClientHarness) -> None:
    """A client that cannot reach the database remembers the jobs that it may have deleted, until it has deleted them."""
    workers, begun, go_on = held()
    async with (
        proxied(harness.url) as proxy,
        harness.client(workers, database=proxy.url, keep_completed=False) as client,
    ):
        assert client._engine is not None
        completer = client._engine.completer
        with client.subscribe() as events:
            inserted = await client.insert(Act("x"))
            await asyncio.wait_for(begun.wait(), GENEROUS)
            proxy.cut()
            go_on.set()
            await until(lambda: completer._perhaps_deleted)
            remembered = set(completer._perhaps_deleted)
            proxy.restore()
            event = await harness.next(events)

    assert (remembered, completer._perhaps_deleted) == ({inserted.job.id}, set())
    assert event.kind is EventKind.JOB_COMPLETED


@pytest.mark.slow
async def test_deleted_jobs_are_counted_by_minute_kind_and_queue(harness: ClientHarness) -> None:
    """What a client deleted before it stopped is in the table from which the history takes it."""
    workers, _, go_on = held()
    go_on.set()
    async with harness.client(workers, keep_completed=False) as client:
        with client.subscribe() as events:
            await client.insert_many([Act("x")] * 3)
            for _ in range(3):
                await harness.next(events)

    sql = "SELECT kind, queue, sum(completed) AS num FROM millhand_deleted_job_stats GROUP BY kind, queue"
    assert await harness.driver.pool.fetch(sql) == [{"kind": "act", "queue": "default", "num": 3}]
