"""Completions are written once, in batches, through all failures of the database."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import asyncpg
import pytest

from client_harness import APPLICATION, GENEROUS, Act, ClientHarness, until
from millhand.client import Client
from millhand.core.event import EventKind
from millhand.core.job import JobId, JobState
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.db.driver.protocol import Executor
from millhand.engine.completer import BATCH_SIZE
from proxy import proxied

POISON = """
    CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN
        IF NEW.state = 'completed' AND NEW.args ->> 'what' = 'poison' THEN
            RAISE EXCEPTION 'poisoned' USING ERRCODE = '22000';
        END IF;
        RETURN NEW;
    END $$
"""


def _workers() -> Workers:
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None: ...

    return workers


@pytest.mark.slow
async def test_batch_with_a_row_that_is_refused_is_written_row_by_row(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """The refused row is logged and stays running; the other jobs of the batch are completed."""
    await harness.execute(POISON)
    await harness.execute(
        "CREATE TRIGGER poison BEFORE UPDATE ON river_job FOR EACH ROW EXECUTE FUNCTION poison()"
    )
    try:
        with caplog.at_level(logging.WARNING, "millhand.engine"):
            async with harness.client(_workers()) as client:
                with client.subscribe() as events:
                    await client.insert_many([Act("good"), Act("poison"), Act("good")])
                    emitted = [await harness.next(events) for _ in range(2)]
    finally:
        await harness.execute("DROP TRIGGER poison ON river_job")
        await harness.execute("DROP FUNCTION poison()")

    assert [event.kind for event in emitted] == [EventKind.JOB_COMPLETED] * 2
    assert sorted((row.args["what"], row.state) for row in await harness.rows()) == [
        ("good", JobState.COMPLETED),
        ("good", JobState.COMPLETED),
        ("poison", JobState.RUNNING),
    ]
    assert [record.msg for record in caplog.records] == ["completion refused"]


@pytest.mark.slow
async def test_rows_that_are_written_one_by_one_do_not_wait_one_by_one(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """If the database stops answering after a refused row, a stop waits for no other row and logs all."""
    num_jobs = 20
    go_on = asyncio.Event()
    refused = asyncio.Event()
    running = asyncio.Semaphore(0)
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        running.release()
        await go_on.wait()

    def keep(record: logging.LogRecord) -> bool:
        if record.msg == "completion refused":
            proxy.stop_up()
            refused.set()
        return True

    await harness.execute(POISON)
    await harness.execute(
        "CREATE TRIGGER poison BEFORE UPDATE ON river_job FOR EACH ROW EXECUTE FUNCTION poison()"
    )
    logger = logging.getLogger("millhand.engine.completer")
    logger.addFilter(keep)
    try:
        async with proxied(harness.url) as proxy:
            client = harness.client(workers, database=proxy.url, queues={"default": num_jobs})
            await client.start()
            await client.insert_many([Act("poison") for _ in range(num_jobs)])
            for _ in range(num_jobs):
                await asyncio.wait_for(running.acquire(), GENEROUS)
            go_on.set()
            await asyncio.wait_for(refused.wait(), GENEROUS)
            await asyncio.wait_for(client.stop(), 60)
    finally:
        logger.removeFilter(keep)
        await harness.execute("DROP TRIGGER poison ON river_job")
        await harness.execute("DROP FUNCTION poison()")

    emitted: dict[str, Any] = {record.msg: record for record in caplog.records}
    assert emitted["completions lost"].num_jobs == num_jobs - 1


async def test_job_is_held_until_its_outcome_is_written(harness: ClientHarness) -> None:
    """The own rescuer leaves the job alone, however long the write waits."""
    waiting = (
        "SELECT FROM pg_stat_activity WHERE datname = current_database() "
        "AND application_name = $1 AND wait_event_type = 'Lock'"
    )
    go_on = asyncio.Event()
    running = asyncio.Event()
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        running.set()
        await go_on.wait()

    async with harness.client(workers) as client:
        id = (await client.insert(Act("x"))).job.id
        await asyncio.wait_for(running.wait(), GENEROUS)
        engine = client._engine
        assert engine is not None
        async with harness.driver.pool.begin() as tx:
            await tx.fetch("SELECT FROM river_job FOR UPDATE")
            go_on.set()
            async with asyncio.timeout(GENEROUS):
                while not await harness.driver.pool.fetch(waiting, [APPLICATION]):
                    pass
            num_running, is_held = engine.num_running, engine._is_held(id)

    assert (num_running, is_held) == (0, True)
    assert (await harness.row(id)).state is JobState.COMPLETED


async def _work_beside_a_locked_row(
    harness: ClientHarness, tx: Executor, client: Client, go_on: asyncio.Event, running: asyncio.Semaphore
) -> JobId:
    """Let three jobs end while another transaction has locked the row of the one that is returned."""
    locked, *_ = [one.job.id for one in await client.insert_many([Act(str(n)) for n in range(3)])]
    for _ in range(3):
        await asyncio.wait_for(running.acquire(), GENEROUS)
    await tx.fetch("SELECT FROM river_job WHERE id = $1 FOR UPDATE", [locked])
    go_on.set()
    return locked


def _held_workers() -> tuple[Workers, asyncio.Event, asyncio.Semaphore]:
    workers, go_on, running = Workers(), asyncio.Event(), asyncio.Semaphore(0)

    @workers.add()
    async def act(job: Job[Act]) -> None:
        running.release()
        await go_on.wait()

    return workers, go_on, running


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [BATCH_SIZE, 1])
async def test_locked_row_delays_no_others(
    harness: ClientHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, batch_size: int
) -> None:
    """While one row is locked the others are completed, in batches without it, and later ones too."""
    monkeypatch.setattr("millhand.engine.completer.BATCH_SIZE", batch_size)
    caplog.set_level(logging.INFO, "millhand.engine")
    workers, go_on, running = _held_workers()

    async with harness.client(workers) as client:
        with client.subscribe() as events:
            async with harness.driver.pool.begin() as tx:
                locked = await _work_beside_a_locked_row(harness, tx, client, go_on, running)
                meanwhile = {(await harness.next(events)).job.id for _ in range(2)}
                await client.insert(Act("later"))
                meanwhile.add((await harness.next(events)).job.id)
                state = (await harness.row(locked)).state
            afterwards = (await harness.next(events)).job.id

    emitted = [record.msg for record in caplog.records if record.msg.startswith("completions")]
    assert (len(meanwhile), state, afterwards) == (3, JobState.RUNNING, locked)
    assert emitted == ["completions waiting", "completions locked", "completions recovered"]


@pytest.mark.slow
async def test_locked_row_costs_a_stop_no_other_outcome(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """A stop writes all other outcomes and logs the ids of the locked ones."""
    workers, go_on, running = _held_workers()
    client = harness.client(workers)
    await client.start()

    async with harness.driver.pool.begin() as tx:
        locked = await _work_beside_a_locked_row(harness, tx, client, go_on, running)
        await asyncio.wait_for(client.stop(), 3 * GENEROUS)
        rows = await harness.rows()

    emitted: dict[str, Any] = {record.msg: record for record in caplog.records}
    assert {row.state for row in rows if row.id != locked} == {JobState.COMPLETED}
    assert (emitted["completions locked"].job_ids, emitted["completions lost"].outcomes) == (
        str(locked),
        f"completed: {locked}",
    )


@pytest.mark.slow
async def test_full_backlog_keeps_slots_taken(
    harness: ClientHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While outcomes cannot be written attempts keep their slots, so no more jobs are fetched."""
    monkeypatch.setattr("millhand.engine.completer.BACKLOG_FULL", 4)
    workers = _workers()

    async with harness.client(workers, queues={"default": 10}) as client:
        with client.subscribe() as events:
            await client.insert_many([Act(str(n)) for n in range(40)])
            for _ in range(40):
                await harness.next(events)
            num_pending = len(client._engine.completer._backlog)

    assert num_pending == 0
    assert {row.state for row in await harness.rows()} == {JobState.COMPLETED}


@pytest.mark.slow
async def test_full_backlog_does_not_block_a_stop(
    harness: ClientHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Attempts that wait for the full backlog end with the stop, which logs all outcomes."""
    monkeypatch.setattr("millhand.engine.completer.BACKLOG_FULL", 2)
    monkeypatch.setattr("millhand.engine.completer.FLUSH_SECONDS", 0.1)
    running = asyncio.Semaphore(0)
    go_on = asyncio.Event()
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        running.release()
        await go_on.wait()

    async with proxied(harness.url) as proxy:
        client = harness.client(workers, database=proxy.url)
        await client.start()
        await client.insert_many([Act(str(n)) for n in range(5)])
        for _ in range(5):
            await asyncio.wait_for(running.acquire(), GENEROUS)
        proxy.cut()
        go_on.set()
        await asyncio.wait_for(client.stop(), GENEROUS)

    emitted: dict[str, Any] = {record.msg: record for record in caplog.records}
    assert emitted["completions lost"].num_jobs == 5
    assert "attempts abandoned" not in emitted


async def test_completion_survives_connections_that_are_killed(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """All connections are ended while jobs are worked: each job is worked once, and the log has the start and the end."""
    worked: list[str] = []
    go_on = asyncio.Event()
    started = asyncio.Event()
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        worked.append(job.args.what)
        started.set()
        await go_on.wait()

    with caplog.at_level(logging.INFO, "millhand.engine"):
        async with harness.client(workers) as client:
            with client.subscribe() as events:
                await client.insert_many([Act(str(n)) for n in range(5)])
                await asyncio.wait_for(started.wait(), GENEROUS)
                await _kill_all(harness)
                await until(lambda: "database unreachable" in [record.msg for record in caplog.records])
                go_on.set()
                emitted = [await harness.next(events) for _ in range(5)]
                event = await harness.work(client, Act("after"))
            # The listener may connect later than the statements; the outage lasts until then.
            await until(lambda: client.is_database_reachable)

    assert [one.kind for one in emitted] == [EventKind.JOB_COMPLETED] * 5
    assert event.kind is EventKind.JOB_COMPLETED
    assert sorted(worked) == ["0", "1", "2", "3", "4", "after"]
    emitted = [record.msg for record in caplog.records if not record.msg.startswith("leadership")]
    assert emitted == ["database unreachable", "database back"]


async def _kill_all(harness: ClientHarness) -> None:
    connection = await asyncpg.connect(harness.url)
    try:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = $1",
            APPLICATION,
        )
    finally:
        await connection.close()


async def test_job_that_another_client_finalized_keeps_its_state(harness: ClientHarness) -> None:
    """
    external_terminal_completion_race.

    A row that was completed by another client while it ran keeps that, and its event and metadata show it.
    """
    started, go_on = asyncio.Event(), asyncio.Event()
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        job.set_metadata("note", "mine")
        started.set()
        await go_on.wait()
        raise ValueError("too late")

    async with harness.client(workers) as client:
        with client.subscribe() as events:
            await client.insert(Act("x"))
            await asyncio.wait_for(started.wait(), GENEROUS)
            await harness.execute("UPDATE river_job SET state = 'completed', finalized_at = now()")
            go_on.set()
            event = await harness.next(events)

    row = event.job
    assert row is not None
    assert (event.kind, row.state, row.errors, row.metadata) == (
        EventKind.JOB_COMPLETED,
        JobState.COMPLETED,
        (),
        {"note": "mine"},
    )


async def test_success_after_another_client_cancelled_emits_cancelled(harness: ClientHarness) -> None:
    """
    external_terminal_completion_race.

    A worker that returns after its job was cancelled in the database emits the event of the cancelled row.
    """
    started, go_on = asyncio.Event(), asyncio.Event()
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        started.set()
        await go_on.wait()

    async with harness.client(workers) as client:
        with client.subscribe() as events:
            await client.insert(Act("x"))
            await asyncio.wait_for(started.wait(), GENEROUS)
            await harness.execute("UPDATE river_job SET state = 'cancelled', finalized_at = now()")
            go_on.set()
            event = await harness.next(events)

    [row] = await harness.rows()
    assert (event.kind, event.job) == (EventKind.JOB_CANCELLED, row)


@pytest.mark.slow
async def test_completion_whose_connection_dies_is_written_later(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """
    completion_transient_failure_retry.

    A write that is cut off is kept and retried; the log has one line at the beginning and one at the end.
    """
    started, go_on = asyncio.Event(), asyncio.Event()
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        started.set()
        await go_on.wait()

    with caplog.at_level(logging.INFO, "millhand.engine.outage"):
        async with harness.client(workers) as client:
            with client.subscribe() as events:
                await client.insert(Act("x"))
                await asyncio.wait_for(started.wait(), GENEROUS)
                blocker = await asyncpg.connect(harness.url)
                try:
                    async with blocker.transaction():
                        await blocker.execute("LOCK TABLE river_job IN SHARE ROW EXCLUSIVE MODE")
                        go_on.set()
                        await _kill_blocked_completion(harness)
                finally:
                    await blocker.close()
                event = await harness.next(events)

    assert event.kind is EventKind.JOB_COMPLETED
    assert [record.msg for record in caplog.records] == ["database unreachable", "database back"]
    assert [record.num_kept for record in caplog.records[1:]] == [1]


@pytest.mark.slow
async def test_completion_survives_a_stop_during_a_restart_of_the_database(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """A stop retries for a while: a write that is cut off four times succeeds with the fifth."""
    started, go_on = asyncio.Event(), asyncio.Event()
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        started.set()
        await go_on.wait()

    client = harness.client(workers)
    await client.start()
    await client.insert(Act("x"))
    await asyncio.wait_for(started.wait(), GENEROUS)
    with caplog.at_level(logging.ERROR, "millhand"):
        blocker = await asyncpg.connect(harness.url)
        try:
            async with blocker.transaction():
                await blocker.execute("LOCK TABLE river_job IN SHARE ROW EXCLUSIVE MODE")
                go_on.set()
                stopping = asyncio.create_task(client.stop())
                killed: set[int] = set()
                while len(killed) < 4:
                    killed |= await _kill_blocked_completion(harness)
        finally:
            await blocker.close()
        await asyncio.wait_for(stopping, GENEROUS)

    assert {row.state for row in await harness.rows()} == {JobState.COMPLETED}
    assert caplog.records == []


@pytest.mark.slow
async def test_completions_continue_while_workers_keep_the_pool_busy(harness: ClientHarness) -> None:
    """pool_pressure_completion; ten workers share the three connections that fetches and completions use."""
    workers = Workers()
    async with asyncpg.create_pool(harness.url_as(APPLICATION), min_size=1, max_size=4) as pool:

        @workers.add()
        async def act(job: Job[Act]) -> None:
            async with pool.acquire() as connection, connection.transaction():
                await connection.execute("SELECT pg_sleep(0.005)")

        async with harness.client(workers, database=pool) as client:
            with client.subscribe() as events:
                await client.insert_many([Act(str(n)) for n in range(60)])
                emitted = [(await harness.next(events)).kind for _ in range(60)]
            num_connections = pool.get_size()

    assert emitted == [EventKind.JOB_COMPLETED] * 60
    assert {(row.state, row.attempt) for row in await harness.rows()} == {(JobState.COMPLETED, 1)}
    assert num_connections <= 4


async def _kill_blocked_completion(harness: ClientHarness) -> set[int]:
    """Return the ids of the server processes whose connections were ended."""
    blocked = """
        SELECT pid, pg_terminate_backend(pid)
        FROM pg_stat_activity
        WHERE datname = current_database()
        AND wait_event_type = 'Lock'
        AND query LIKE '%state = ''completed''%'
    """
    async with asyncio.timeout(GENEROUS):
        while not (killed := await harness.driver.pool.fetch(blocked)):
            pass
    return {row["pid"] for row in killed}
