"""Lost databases, locked rows, workers that ignore a cancel, and killed processes."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from interop_harness import BOTH_WAYS, LANGUAGES, Harness, Language
from recorded_logs import recording_logs
from river_program import GENEROUS_SECONDS, started_river
from scripted_worker import ScriptedWorkers

from millhand.client import Client
from millhand.core.config import Config
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from proxy import Direction, Proxy, proxied

RESCUED = "Stuck job rescued by JobRescuer"
FAULTS = ("cut", "stopped up")

# A trigger fails the first completions. A sequence counts them, because a rollback does not reset it.
FAIL_FIRST = """
CREATE SEQUENCE /* schema */refusals;
CREATE FUNCTION /* schema */refuse() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    IF NEW.state = 'completed' AND nextval('/* schema */refusals') <= 2 THEN
        RAISE EXCEPTION 'not now' USING ERRCODE = '40001';
    END IF;
    RETURN NEW;
END
$body$;
CREATE TRIGGER refuse BEFORE UPDATE ON /* schema */river_job FOR EACH ROW EXECUTE FUNCTION /* schema */refuse();
"""
FAIL_NO_MORE = "DROP FUNCTION /* schema */refuse CASCADE; DROP SEQUENCE /* schema */refusals"

COUNT = """
CREATE TABLE /* schema */written (num int);
CREATE FUNCTION /* schema */count_written() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    INSERT INTO /* schema */written SELECT count(*) FROM changed WHERE state = 'completed' HAVING count(*) > 0;
    RETURN NULL;
END
$body$;
CREATE TRIGGER count_written AFTER UPDATE ON /* schema */river_job REFERENCING NEW TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION /* schema */count_written();
"""
COUNT_NO_MORE = "DROP FUNCTION /* schema */count_written CASCADE; DROP TABLE /* schema */written"


@contextlib.asynccontextmanager
async def behind(harness: Harness, proxy: Proxy) -> AsyncIterator[Harness]:
    """Return a harness whose clients connect through a proxy, and whose events go into the given harness."""
    async with started_river(harness._program_path, proxy.url) as program:
        away = Harness(harness.connection, harness.driver, program, harness._program_path, proxy.url)
        away.events = program.events = harness.events
        yield away


@contextlib.asynccontextmanager
async def installed(harness: Harness, sql: str, undo: str) -> AsyncIterator[None]:
    """Install SQL objects in the schema for a while."""
    await harness.driver.pool.execute_script(sql, timeout_seconds=GENEROUS_SECONDS)
    try:
        yield
    finally:
        await harness.driver.pool.execute_script(undo, timeout_seconds=GENEROUS_SECONDS)


@contextlib.asynccontextmanager
async def another_transaction(harness: Harness) -> AsyncIterator[asyncpg.Connection]:
    """Open another transaction, which is committed at the end."""
    connection = await asyncpg.connect(harness.url)
    try:
        async with connection.transaction():
            yield connection
    finally:
        await connection.close()


@pytest.mark.parametrize(("away", "here"), BOTH_WAYS)
@pytest.mark.parametrize("fault", FAULTS)
async def test_client_recovers_while_the_other_language_works_on(
    harness: Harness, away: Language, here: Language, fault: str
) -> None:
    """
    database_unavailable_reconnect.

    A client that loses its database loses no job and works none twice; afterwards it works the new jobs.
    """
    control = harness.control(here)
    async with (
        proxied(harness.url) as proxy,
        behind(harness, proxy) as beyond,
        harness.working(here, "here", queues={"here": 5}),
        # The held job has the only slot, so no fetch is under way at the fault: River does not search for a lost one.
        beyond.working(away, "away", queues={"away": 1}) as member,
    ):
        held = await control.insert(["hold"], queue="away")
        await harness.events.wait("held", job=held)
        proxy.cut() if fault == "cut" else proxy.stop_up()
        waiting = [await control.insert(queue="away") for _ in range(5)]
        for _ in range(5):
            await harness.events.wait("job_completed", job=await control.insert(queue="here"), client="here")
        await member.release(held)
        during = {row["state"] for row in await harness.rows("WHERE queue = 'away'")}
        proxy.restore()
        for id in (held, *waiting):
            await harness.events.wait("job_completed", job=id, client="away")

    rows = await harness.rows("WHERE queue = 'away'")
    assert during == {"running", "available"}
    assert {(row["state"], row["attempt"], row["errors"]) for row in rows} == {("completed", 1, None)}
    assert len(harness.events.all("begun", client="away")) == len(rows)


@pytest.mark.parametrize("language", LANGUAGES)
async def test_client_on_a_slow_connection_works_each_job_once(harness: Harness, language: Language) -> None:
    """16, 25: On a connection with 20 ms of delay, a client works each job once and receives a cancel."""
    control = harness.control("go" if language == "python" else "python")
    async with (
        proxied(harness.url) as proxy,
        behind(harness, proxy) as beyond,
        beyond.working(language, "slow", poll_seconds=60.0),
    ):
        proxy.slow(0.02)
        held = await control.insert(["hold"])
        ids = [await control.insert(["output", n]) for n in range(20)]
        for id in ids:
            await harness.events.wait("job_completed", job=id, client="slow")
        await control.cancel(held)
        await harness.events.wait("job_cancelled", job=held, client="slow")
        proxy.restore()

    rows = await harness.rows("WHERE id = ANY($1)", ids)
    assert [(row["state"], row["attempt"], row["metadata"]) for row in rows] == [
        ("completed", 1, {"output": n}) for n in range(20)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("away", "here"), BOTH_WAYS)
async def test_leader_without_its_database_loses_its_term(
    harness: Harness, away: Language, here: Language
) -> None:
    """
    database_unavailable_reconnect.

    A leader that cannot renew its term is replaced when the term expires, and follows when it reconnects.
    """
    async with (
        proxied(harness.url) as proxy,
        behind(harness, proxy) as beyond,
        beyond.working(away, "away", leads=True),
    ):
        await harness.until_leader("away")
        async with harness.working(here, "here", leads=True):
            proxy.stop_up()
            await harness.until_leader("here")
            proxy.restore()
            await harness.events.wait("job_completed", job=await harness.control(here).insert())
            assert await harness.leader() == "here"
        # It knows that it does not lead, or it would not bid.
        await harness.until_leader("away")


@pytest.mark.slow
@pytest.mark.parametrize("direction", Direction)
async def test_millhand_client_works_jobs_of_a_fetch_that_timed_out(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, direction: Direction
) -> None:
    """
    database_unavailable_reconnect.

    If a fetch or its answer is lost, a Millhand client still works the fetched job, once.
    """
    # However slow the machine is, the same statement is asked again.
    monkeypatch.setattr("millhand.engine.fetch_start.SLOW_SECONDS", 1e9)
    monkeypatch.setattr("millhand.engine.fetch_start.VERY_SLOW_SECONDS", 1e9)
    # And no search for unknown kinds takes the connection before the fetch.
    monkeypatch.setattr("millhand.engine.kind_watcher.INSERT_SECONDS", 3_600.0)
    with recording_logs(harness, "millhand.engine.producer"):
        async with proxied(harness.url) as proxy, speaking_on_one(harness, proxy.url) as client:
            await harness.events.wait("job_completed", job=await harness.control("go").insert())
            proxy.stop_up([direction])
            id = await harness.control("go").insert()
            # It polls once an hour, so no fetch has begun before the job was inserted.
            client._engine.queues.producers["default"].request_fetch()
            await harness.events.wait("log", message="fetch failed")
            proxy.restore()
            await harness.events.wait("job_completed", job=id, client="away")

    row = await harness.row(id)
    assert (row["state"], row["attempt"], row["attempted_by"]) == ("completed", 1, ["away"])
    assert harness.events.all("log", message="lost fetch found")


@contextlib.asynccontextmanager
async def speaking_on_one(harness: Harness, url: str) -> AsyncIterator[Any]:
    """
    Start a client with one listening connection and one other, which has prepared its statements.

    Where a statement has yet to be prepared, a question that is lost is none that takes a job.
    """
    config = Config(
        client_id="away",
        client_heartbeat_interval=timedelta(hours=1),
        fetch_poll_interval=timedelta(hours=1),
        leader_election=False,
        heartbeat_interval=None,
        queues={"default": 10},
        schema=harness.schema,
        skip_unknown_job_check=True,
        workers=ScriptedWorkers("away", harness.events, is_quiet=False).workers(("act",), {}),
    )
    async with asyncpg.create_pool(url, min_size=2, max_size=2) as pool, asyncio.TaskGroup() as readers:
        client = Client(pool, config)
        readers.create_task(harness._record_events("away", client.subscribe()))
        async with client:
            yield client


@pytest.mark.parametrize("language", LANGUAGES)
async def test_completion_waits_for_a_lock_of_its_row(harness: Harness, language: Language) -> None:
    """
    completion_row_lock_wait.

    While another transaction locks its row the job is running; then it completes, once.
    """
    async with harness.working(language) as member:
        id = await harness.control(language).insert(["hold"])
        await harness.events.wait("held", job=id)
        async with another_transaction(harness) as other:
            sql = f"SELECT id FROM {harness.prefix}river_job WHERE id = $1 FOR UPDATE"
            await other.fetch(sql, id)
            await member.release(id)
            await _wait_blocked_by(harness, other)
            during = await harness.row(id)
        await harness.events.wait("job_completed", job=id)

    row = await harness.row(id)
    assert (during["state"], during["finalized_at"]) == ("running", None)
    assert (row["state"], row["attempt"], row["errors"]) == ("completed", 1, None)
    assert len(harness.events.all("job_completed", job=id)) == 1


async def _wait_blocked_by(harness: Harness, other: asyncpg.Connection) -> None:
    """Return when a statement waits for a lock of a connection."""
    sql = "SELECT FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid))"
    async with asyncio.timeout(GENEROUS_SECONDS):
        while not await harness.connection.fetch(sql, other.get_server_pid()):
            pass


@pytest.mark.parametrize("language", LANGUAGES)
async def test_client_retries_a_completion_that_failed(harness: Harness, language: Language) -> None:
    """
    completion_transient_failure_retry.

    The completion succeeds at its third try, and no client works the job again.
    """
    async with installed(harness, FAIL_FIRST, FAIL_NO_MORE), harness.working(language):
        id = await harness.control(language).insert(["output", 1])
        await harness.events.wait("job_completed", job=id)
        [num_tries] = await harness.fetch("SELECT last_value FROM /* schema */refusals")

    row = await harness.row(id)
    assert num_tries[0] >= 3
    assert (row["state"], row["attempt"], row["metadata"]) == ("completed", 1, {"output": 1})
    assert len(harness.events.all("begun", job=id)) == 1


@pytest.mark.parametrize("language", LANGUAGES)
async def test_listener_reconnects_and_receives_notifications(harness: Harness, language: Language) -> None:
    """
    listener_backend_disconnect_reconnect.

    With polls a minute apart, only a reconnected listener can wake the client, in either language.
    """
    async with harness.working(language, poll_seconds=60.0):
        control = harness.control(language)
        await harness.events.wait("job_completed", job=await control.insert())
        killed = await harness.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE query LIKE 'LISTEN \"' || $1 || '.%' AND pid <> pg_backend_pid()",
            harness.schema,
        )
        # Before it listens again, these wake no client. The first one that does makes it fetch the others too.
        async with asyncio.timeout(GENEROUS_SECONDS):
            while len(harness.events.all("job_completed")) < 2:
                await control.insert()
                with contextlib.suppress(AssertionError):
                    await harness.events.wait("job_completed", count=2, seconds=0.2)
        await harness.events.wait("job_completed", job=await control.insert())

    assert len(killed) >= 1
    assert {row["state"] for row in await harness.rows()} == {"completed"}


async def test_leader_rescues_a_job_whose_worker_ignored_the_stop(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ignored_cancellation_hard_abort; the stop returns and leaves the job running; a leader rescues it."""
    monkeypatch.setattr("millhand.engine.engine.ABANDON_SECONDS", 0.05)
    begun, end = threading.Event(), threading.Event()
    workers = Workers()

    @workers.add(kind="act")
    def act(job: Job[dict[str, Any]]) -> None:
        begun.set()
        end.wait()

    config = Config(
        client_id="deaf",
        heartbeat_interval=None,
        queues={"default": 1},
        schema=harness.schema,
        workers=workers,
    )
    client = Client(harness.url, config)
    await client.start()
    id = await harness.control("python").insert()
    await asyncio.to_thread(begun.wait, GENEROUS_SECONDS)
    async with asyncio.timeout(GENEROUS_SECONDS):
        await client.stop(soft_stop_timeout=timedelta(0))
    abandoned = await harness.row(id)
    end.set()
    await _let_two_hours_pass(harness)
    async with harness.working("go", leads=True):
        row = await harness.until_state(id, "retryable", "completed")

    assert (abandoned["state"], abandoned["errors"]) == ("running", None)
    assert [one["error"] for one in row["errors"]] == [RESCUED]


@pytest.mark.parametrize("language", LANGUAGES)
async def test_restarted_process_rescues_its_own_job(harness: Harness, language: Language) -> None:
    """
    process_kill_restart_and_rescue.

    A process that restarts under the same client ID rescues its job and completes it.
    """
    async with harness.killable(language, "same") as process:
        id = await harness.control(language).insert(["hold"])
        await harness.events.wait("held", job=id)
        await process.kill()
    await _let_two_hours_pass(harness)
    await harness.fetch("""UPDATE /* schema */river_job SET args = '{"do": []}'""")
    async with harness.killable(language, "same"):
        row = await harness.until_state(id, "completed")

    assert (row["attempt"], row["attempted_by"]) == (2, ["same", "same"])
    ours = "Job rescued by ClientRescuer: client 'same' restarted"
    assert [one["error"] for one in row["errors"]] == [RESCUED if language == "go" else ours]


async def _let_two_hours_pass(harness: Harness) -> None:
    """Make attempts and heartbeats two hours old, and end the leader's term."""
    await harness.fetch("UPDATE /* schema */river_job SET attempted_at = now() - interval '2 h'")
    await harness.fetch("DELETE FROM /* schema */river_leader")
    await harness.fetch("DELETE FROM /* schema */millhand_leader")
    await harness.fetch("UPDATE /* schema */millhand_client SET last_seen_at = now() - interval '2 h'")


@pytest.mark.parametrize("language", LANGUAGES)
async def test_client_writes_completions_in_batches(harness: Harness, language: Language) -> None:
    """completion_batching; a thousand jobs need fewer than a hundred statements, and each is completed once."""
    await harness.control(language).insert_many([{"kind": "act", "args": {"do": []}, "opts": {}}] * 1000)

    async with installed(harness, COUNT, COUNT_NO_MORE):
        async with harness.working(language, queues={"default": 1000}, is_quiet=True):
            await harness.until(lambda: _are_completed(harness, 1000), "a thousand completions")
        written = [row["num"] for row in await harness.fetch("SELECT num FROM /* schema */written")]

    assert sum(written) == 1000
    assert len(written) < 100


async def _are_completed(harness: Harness, num: int) -> bool:
    [found] = await harness.fetch("SELECT count(*) FROM /* schema */river_job WHERE state = 'completed'")
    return bool(found[0] == num)
