"""Databases that go away, rows that are locked, workers that pay no heed, processes that are killed."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from interop_room import BOTH_WAYS, LANGUAGES, Language, Room
from river_program import GENEROUS_SECONDS, started_river
from scripted_worker import ScriptedWorkers
from told_logs import telling_logs

from millhand.client import Client
from millhand.config import Config
from millhand.job import Job
from millhand.worker import Workers
from proxy import Direction, Proxy, proxied

RESCUED = "Stuck job rescued by JobRescuer"
FAULTS = ("cut", "stopped up")

# What a trigger does to the first completions, as often as it is told: nothing of it is undone with their transaction.
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
async def behind(room: Room, proxy: Proxy) -> AsyncIterator[Room]:
    """Give the same room to clients that come by a proxy; what happens there is told in the room itself."""
    async with started_river(room._program_path, proxy.url) as program:
        away = Room(room.connection, room.driver, program, room._program_path, proxy.url)
        away.told = program.told = room.told
        yield away


@contextlib.asynccontextmanager
async def installed(room: Room, sql: str, undo: str) -> AsyncIterator[None]:
    """Have something in the schema for a while."""
    await room.driver.pool.execute_script(sql, timeout_seconds=GENEROUS_SECONDS)
    try:
        yield
    finally:
        await room.driver.pool.execute_script(undo, timeout_seconds=GENEROUS_SECONDS)


@contextlib.asynccontextmanager
async def another_transaction(room: Room) -> AsyncIterator[asyncpg.Connection]:
    """Open a transaction of somebody else's, which is committed in the end."""
    connection = await asyncpg.connect(room.url)
    try:
        async with connection.transaction():
            yield connection
    finally:
        await connection.close()


@pytest.mark.parametrize(("away", "here"), BOTH_WAYS)
@pytest.mark.parametrize("fault", FAULTS)
async def test_client_recovers_while_the_other_language_works_on(
    room: Room, away: Language, here: Language, fault: str
) -> None:
    """
    database_unavailable_reconnect.

    A client that loses its database loses no job and works none twice; afterwards it works the new jobs.
    """
    hand = room.hand(here)
    async with (
        proxied(room.url) as proxy,
        behind(room, proxy) as beyond,
        room.working(here, "here", queues={"here": 5}),
        beyond.working(away, "away", queues={"away": 5}) as member,
    ):
        held = await hand.insert(["hold"], queue="away")
        await room.told.wait("held", job=held)
        proxy.cut() if fault == "cut" else proxy.stop_up()
        waiting = [await hand.insert(queue="away") for _ in range(5)]
        for _ in range(5):
            await room.told.wait("job_completed", job=await hand.insert(queue="here"), client="here")
        await member.release(held)
        during = {row["state"] for row in await room.rows("WHERE queue = 'away'")}
        proxy.mend()
        for id in (held, *waiting):
            await room.told.wait("job_completed", job=id, client="away")

    rows = await room.rows("WHERE queue = 'away'")
    assert during == {"running", "available"}
    assert {(row["state"], row["attempt"], row["errors"]) for row in rows} == {("completed", 1, None)}
    assert len(room.told.all("begun", client="away")) == len(rows)


@pytest.mark.parametrize("language", LANGUAGES)
async def test_client_on_a_slow_connection_works_each_job_once(room: Room, language: Language) -> None:
    """16, 25: On a connection with 20 ms of delay, a client works each job once and receives a cancel."""
    hand = room.hand("go" if language == "python" else "python")
    async with (
        proxied(room.url) as proxy,
        behind(room, proxy) as beyond,
        beyond.working(language, "slow", poll_seconds=60.0),
    ):
        proxy.slow(0.02)
        held = await hand.insert(["hold"])
        ids = [await hand.insert(["output", n]) for n in range(20)]
        for id in ids:
            await room.told.wait("job_completed", job=id, client="slow")
        await hand.cancel(held)
        await room.told.wait("job_cancelled", job=held, client="slow")
        proxy.mend()

    rows = await room.rows("WHERE id = ANY($1)", ids)
    assert [(row["state"], row["attempt"], row["metadata"]) for row in rows] == [
        ("completed", 1, {"output": n}) for n in range(20)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("away", "here"), BOTH_WAYS)
async def test_leader_without_its_database_loses_its_term(room: Room, away: Language, here: Language) -> None:
    """
    database_unavailable_reconnect.

    A leader that cannot renew its term is replaced when the term expires, and follows when it reconnects.
    """
    async with (
        proxied(room.url) as proxy,
        behind(room, proxy) as beyond,
        beyond.working(away, "away", leads=True),
    ):
        await room.until_leader("away")
        async with room.working(here, "here", leads=True):
            proxy.stop_up()
            await room.until_leader("here")
            proxy.mend()
            await room.told.wait("job_completed", job=await room.hand(here).insert())
            assert await room.leader() == "here"
        # It knows that it does not lead, or it would not bid.
        await room.until_leader("away")


@pytest.mark.slow
@pytest.mark.parametrize("direction", Direction)
async def test_millhand_client_works_jobs_of_a_fetch_that_timed_out(
    room: Room, monkeypatch: pytest.MonkeyPatch, direction: Direction
) -> None:
    """
    database_unavailable_reconnect.

    If a fetch or its answer is lost, a Millhand client still works the fetched job, once.
    """
    # However slow the machine is, the same statement is asked again.
    monkeypatch.setattr("millhand.runtime.fetch_start.SLOW_SECONDS", 1e9)
    with telling_logs(room, "millhand.runtime.producer"):
        async with proxied(room.url) as proxy, speaking_on_one(room, proxy.url):
            await room.told.wait("job_completed", job=await room.hand("go").insert())
            proxy.stop_up([direction])
            id = await room.hand("go").insert()
            await room.told.wait("log", message="fetch failed")
            proxy.mend()
            await room.told.wait("job_completed", job=id, client="away")

    row = await room.row(id)
    assert (row["state"], row["attempt"], row["attempted_by"]) == ("completed", 1, ["away"])
    assert room.told.all("log", message="lost fetch found")


@contextlib.asynccontextmanager
async def speaking_on_one(room: Room, url: str) -> AsyncIterator[None]:
    """
    Start a client that listens on one connection and asks everything on one other, which has prepared what it was asked.

    Where a statement has yet to be prepared, a question that is lost is none that takes a job.
    """
    config = Config(
        client_id="away",
        client_heartbeat_interval=timedelta(hours=1),
        fetch_poll_interval=timedelta(seconds=1),
        leader_election=False,
        queues={"default": 10},
        schema=room.schema,
        skip_unknown_job_check=True,
        workers=ScriptedWorkers("away", room.told, is_quiet=False).workers(("act",), {}),
    )
    async with asyncpg.create_pool(url, min_size=2, max_size=2) as pool, asyncio.TaskGroup() as readers:
        client = Client(pool, config)
        readers.create_task(room._tell_events("away", client.subscribe()))
        async with client:
            yield


@pytest.mark.parametrize("language", LANGUAGES)
async def test_completion_waits_for_a_lock_of_its_row(room: Room, language: Language) -> None:
    """
    completion_row_lock_wait.

    While another transaction locks its row the job is running; then it completes, once.
    """
    async with room.working(language) as member:
        id = await room.hand(language).insert(["hold"])
        await room.told.wait("held", job=id)
        async with another_transaction(room) as other:
            sql = f"SELECT id FROM {room.prefix}river_job WHERE id = $1 FOR UPDATE"
            await other.fetch(sql, id)
            await member.release(id)
            await _wait_blocked_by(room, other)
            during = await room.row(id)
        await room.told.wait("job_completed", job=id)

    row = await room.row(id)
    assert (during["state"], during["finalized_at"]) == ("running", None)
    assert (row["state"], row["attempt"], row["errors"]) == ("completed", 1, None)
    assert len(room.told.all("job_completed", job=id)) == 1


async def _wait_blocked_by(room: Room, other: asyncpg.Connection) -> None:
    """Return when somebody waits for a lock of a connection."""
    sql = "SELECT FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid))"
    async with asyncio.timeout(GENEROUS_SECONDS):
        while not await room.connection.fetch(sql, other.get_server_pid()):
            pass


@pytest.mark.parametrize("language", LANGUAGES)
async def test_client_retries_a_completion_that_failed(room: Room, language: Language) -> None:
    """
    completion_transient_failure_retry.

    The completion succeeds at its third try, and no client works the job again.
    """
    async with installed(room, FAIL_FIRST, FAIL_NO_MORE), room.working(language):
        id = await room.hand(language).insert(["output", 1])
        await room.told.wait("job_completed", job=id)
        [num_tries] = await room.fetch("SELECT last_value FROM /* schema */refusals")

    row = await room.row(id)
    assert num_tries[0] >= 3
    assert (row["state"], row["attempt"], row["metadata"]) == ("completed", 1, {"output": 1})
    assert len(room.told.all("begun", job=id)) == 1


@pytest.mark.parametrize("language", LANGUAGES)
async def test_listener_reconnects_and_receives_notifications(room: Room, language: Language) -> None:
    """
    listener_backend_disconnect_reconnect.

    With polls a minute apart, only a reconnected listener can wake the client, in either language.
    """
    async with room.working(language, poll_seconds=60.0):
        hand = room.hand(language)
        await room.told.wait("job_completed", job=await hand.insert())
        killed = await room.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE query LIKE 'LISTEN \"' || $1 || '.%' AND pid <> pg_backend_pid()",
            room.schema,
        )
        # Until it listens again, nobody hears of these; the first that is heard of takes the others along.
        async with asyncio.timeout(GENEROUS_SECONDS):
            while len(room.told.all("job_completed")) < 2:
                await hand.insert()
                with contextlib.suppress(AssertionError):
                    await room.told.wait("job_completed", count=2, seconds=0.2)
        await room.told.wait("job_completed", job=await hand.insert())

    assert len(killed) >= 1
    assert {row["state"] for row in await room.rows()} == {"completed"}


async def test_leader_rescues_a_job_whose_worker_ignored_the_stop(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ignored_cancellation_hard_abort; the stop returns and leaves the job running; a leader rescues it."""
    monkeypatch.setattr("millhand.engine.engine.ABANDON_SECONDS", 0.05)
    begun, end = threading.Event(), threading.Event()
    workers = Workers()

    @workers.add(kind="act")
    def act(job: Job[dict[str, Any]]) -> None:
        begun.set()
        end.wait()

    config = Config(client_id="deaf", queues={"default": 1}, schema=room.schema, workers=workers)
    client = Client(room.url, config)
    await client.start()
    id = await room.hand("python").insert()
    await asyncio.to_thread(begun.wait, GENEROUS_SECONDS)
    async with asyncio.timeout(GENEROUS_SECONDS):
        await client.stop(soft_stop_timeout=timedelta(0))
    abandoned = await room.row(id)
    end.set()
    await _let_two_hours_pass(room)
    async with room.working("go", leads=True):
        row = await room.until_state(id, "retryable", "completed")

    assert (abandoned["state"], abandoned["errors"]) == ("running", None)
    assert [one["error"] for one in row["errors"]] == [RESCUED]


@pytest.mark.parametrize("language", LANGUAGES)
async def test_restarted_process_rescues_its_own_job(room: Room, language: Language) -> None:
    """
    process_kill_restart_and_rescue.

    A process that restarts under the same client ID rescues its job and completes it.
    """
    async with room.mortal(language, "same") as process:
        id = await room.hand(language).insert(["hold"])
        await room.told.wait("held", job=id)
        await process.kill()
    await _let_two_hours_pass(room)
    await room.fetch("""UPDATE /* schema */river_job SET args = '{"do": []}'""")
    async with room.mortal(language, "same"):
        row = await room.until_state(id, "completed")

    assert (row["attempt"], row["attempted_by"]) == (2, ["same", "same"])
    ours = "Job rescued by ClientRescuer: client 'same' restarted"
    assert [one["error"] for one in row["errors"]] == [RESCUED if language == "go" else ours]


async def _let_two_hours_pass(room: Room) -> None:
    """For the rows that are running, for the term of whoever led, and for whoever reported."""
    await room.fetch("UPDATE /* schema */river_job SET attempted_at = now() - interval '2 h'")
    await room.fetch("DELETE FROM /* schema */river_leader")
    await room.fetch("DELETE FROM /* schema */millhand_leader")
    await room.fetch("UPDATE /* schema */millhand_client SET last_seen_at = now() - interval '2 h'")


@pytest.mark.parametrize("language", LANGUAGES)
async def test_client_writes_completions_in_batches(room: Room, language: Language) -> None:
    """completion_batching; a thousand jobs need fewer than a hundred statements, and each is completed once."""
    await room.hand(language).insert_many([{"kind": "act", "args": {"do": []}, "opts": {}}] * 1000)

    async with installed(room, COUNT, COUNT_NO_MORE):
        async with room.working(language, queues={"default": 1000}, is_quiet=True):
            await room.until(lambda: _are_completed(room, 1000), "a thousand completions")
        written = [row["num"] for row in await room.fetch("SELECT num FROM /* schema */written")]

    assert sum(written) == 1000
    assert len(written) < 100


async def _are_completed(room: Room, num: int) -> bool:
    [found] = await room.fetch("SELECT count(*) FROM /* schema */river_job WHERE state = 'completed'")
    return bool(found[0] == num)
