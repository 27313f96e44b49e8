"""A client's row: its contents, its lifetime, and a client without the table."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any

import pytest

from factory import qualified
from held_driver import HeldPool
from millhand.core.client_row import ClientRow, ClientState
from millhand.core.clock import SystemClock
from millhand.core.errors import MillhandError
from millhand.core.job import ClientId
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.migrator import Migrator
from millhand.engine import client_heartbeat
from millhand.engine.client_heartbeat import ClientHeartbeat, QueueUse
from millhand.engine.registration import Registration
from millhand.engine.store.client import client_list
from millhand.testing import ManualClock, Probe

TOUCHED = datetime(2024, 5, 1, 10, 34, 56, 789_123, UTC)
WAITS_FOR_FIVE_DEADLINES = """
SELECT FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE NOT granted AND query LIKE '-- name: client_heartbeat%' AND datname = current_database()
    AND clock_timestamp() - query_start > '0.1 s'
"""


class Heartbeats:
    """Heartbeats of clients on one schema."""

    def __init__(self, driver: AsyncpgDriver, stack: AsyncExitStack) -> None:
        self.driver = driver
        self.known: list[bool] = []
        self.queues: dict[str, QueueUse] = {}
        self.stack = stack

    def heartbeat(self, id: str = "a", **settings: Any) -> tuple[ClientHeartbeat, Probe]:
        settings = {"clock": SystemClock(), "interval": timedelta(hours=1), "kinds": ("act",), **settings}
        registration = Registration()
        heartbeat = ClientHeartbeat(
            self.driver.pool,
            ClientId(id),
            on_registration=lambda: self.known.append(registration.is_active),
            queues=lambda: dict(self.queues),
            registration=registration,
            **settings,
        )
        self.stack.push_async_callback(heartbeat.stop)
        return heartbeat, Probe(heartbeat)

    async def rows(self) -> list[ClientRow]:
        return await self.driver.pool.run(client_list())

    async def execute(self, sql: str) -> None:
        await self.driver.pool.fetch(qualified(sql, self.driver.pool))


@pytest.fixture
async def heartbeats(schema_driver: AsyncpgDriver) -> AsyncIterator[Heartbeats]:
    async with AsyncExitStack() as stack:
        yield Heartbeats(schema_driver, stack)


async def test_start_writes_the_row_and_stop_marks_it(heartbeats: Heartbeats) -> None:
    """A start writes the client's row; a stop keeps it, with the time."""
    heartbeats.queues["mail"] = QueueUse(7, TOUCHED)
    heartbeat, _ = heartbeats.heartbeat(interval=timedelta(seconds=5))

    await heartbeat.start()
    [row] = await heartbeats.rows()
    await heartbeat.stop()
    [stopped] = await heartbeats.rows()

    assert row == ClientRow(
        id=ClientId("a"),
        hostname=socket.gethostname(),
        kinds=("act",),
        language="python",
        last_seen_at=row.last_seen_at,
        pid=os.getpid(),
        queues={"mail": 7},
        heartbeat_interval=timedelta(seconds=5),
        started_at=row.started_at,
        state=ClientState.WORKING,
        version=version("millhand"),
    )
    assert row.started_at is not None
    assert timedelta(0) <= row.last_seen_at - row.started_at < timedelta(seconds=5)
    assert (stopped.state, stopped.stopped_at) == (ClientState.STOPPED, stopped.last_seen_at)
    assert heartbeats.known == [True]


@pytest.mark.slow
async def test_first_heartbeat_has_the_time_of_any_statement(
    heartbeats: Heartbeats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start does not fail on a server that needs longer than a later heartbeat may take."""
    monkeypatch.setattr(client_heartbeat, "STATEMENT_SECONDS", 0.02)
    heartbeat, _ = heartbeats.heartbeat()
    pool = heartbeats.driver.pool

    async with pool.begin() as transaction:
        await transaction.fetch(qualified("LOCK TABLE /* schema */millhand_client", pool))
        starting = asyncio.create_task(heartbeat.start())
        while not await pool.fetch(WAITS_FOR_FIVE_DEADLINES):
            assert not starting.done()
    await starting

    assert [row.state for row in await heartbeats.rows()] == [ClientState.WORKING]


@pytest.mark.slow
async def test_heartbeats_come_at_the_interval_and_when_woken(heartbeats: Heartbeats) -> None:
    """Each heartbeat has the queues at that time."""
    heartbeat, probe = heartbeats.heartbeat(interval=timedelta(milliseconds=100))
    await heartbeat.start()
    [first] = await heartbeats.rows()

    for _ in range(3):
        await probe.wait("heartbeat")
    heartbeats.queues["mail"] = QueueUse(7, TOUCHED)
    heartbeat.wake_event.set()
    await probe.wait("heartbeat")
    while not (last := (await heartbeats.rows())[0]).queues:
        await probe.wait("heartbeat")

    assert (last.started_at, last.queues) == (first.started_at, {"mail": 7})
    assert last.last_seen_at > first.last_seen_at


async def test_killed_client_leaves_its_row_unmarked(heartbeats: Heartbeats) -> None:
    """After `kill -9` only missing heartbeats show the end."""
    heartbeat, _ = heartbeats.heartbeat(interval=timedelta(milliseconds=100))
    await heartbeat.start()

    task = heartbeat._task
    assert task is not None
    task.cancel()
    await asyncio.wait([task])
    await heartbeats.execute(
        "UPDATE /* schema */millhand_client SET last_seen_at = now() - interval '301 ms'"
    )
    [row] = await heartbeats.rows()

    assert (row.state, row.stopped_at) == (ClientState.UNRESPONSIVE, None)


async def test_client_that_restarts_with_its_id_begins_another_life(heartbeats: Heartbeats) -> None:
    """The row is the same, and keeps the queue updates of the earlier life."""
    heartbeats.queues["mail"] = QueueUse(7, TOUCHED)
    first, _ = heartbeats.heartbeat()
    await first.start()
    [before] = await heartbeats.rows()
    await first.stop()
    heartbeats.queues.clear()

    second, probe = heartbeats.heartbeat()
    await second.start()
    reported = await probe.wait("heartbeat")
    [after] = await heartbeats.rows()

    assert reported.queue_updates == {"mail": TOUCHED}
    assert (after.state, after.queues, after.stopped_at) == (ClientState.WORKING, {}, None)
    assert after.started_at is not None
    assert before.started_at is not None
    assert after.started_at > before.started_at


async def test_two_clients_have_two_rows(heartbeats: Heartbeats, caplog: pytest.LogCaptureFixture) -> None:
    """Two ids have two rows and no warning."""
    caplog.set_level(logging.INFO)
    for id in ("a", "b"):
        await heartbeats.heartbeat(id)[0].start()

    rows = await heartbeats.rows()

    assert [(row.id, row.state) for row in rows] == [("a", ClientState.WORKING), ("b", ClientState.WORKING)]
    assert caplog.messages == []


async def test_id_that_is_used_twice_is_logged(
    heartbeats: Heartbeats, caplog: pytest.LogCaptureFixture
) -> None:
    """Each client logs it once, and the stop of one leaves the row of the other."""
    first, first_probe = heartbeats.heartbeat()
    second, second_probe = heartbeats.heartbeat()
    await first.start()
    await second.start()

    for _ in range(2):
        for heartbeat, probe in ((first, first_probe), (second, second_probe)):
            probe.forget("heartbeat")
            heartbeat.wake_event.set()
            await probe.wait("heartbeat")
    await first.stop()
    [row] = await heartbeats.rows()

    assert [(record.msg, record.client_id) for record in caplog.records] == [  # type: ignore[attr-defined]
        ("client id used twice", "a")
    ] * 2
    assert row.state is ClientState.WORKING


async def test_deleted_row_is_back_with_the_next_heartbeat(heartbeats: Heartbeats) -> None:
    """The life continues with all of its queue updates."""
    heartbeats.queues["mail"] = QueueUse(7, TOUCHED)
    heartbeat, probe = heartbeats.heartbeat()
    await heartbeat.start()
    [before] = await heartbeats.rows()
    await probe.wait("heartbeat")

    await heartbeats.execute("TRUNCATE /* schema */millhand_client")
    heartbeat.wake_event.set()
    reported = await probe.wait("heartbeat")
    [after] = await heartbeats.rows()

    assert (after.started_at, reported.queue_updates) == (before.started_at, {"mail": TOUCHED})


@pytest.mark.slow
async def test_client_without_the_migration_logs_that_once_and_registers_later(
    heartbeats: Heartbeats, caplog: pytest.LogCaptureFixture
) -> None:
    """One line names the effect and the remedy; after the migration the client registers without a restart."""
    caplog.set_level(logging.INFO)
    await Migrator(heartbeats.driver, "millhand").down(target=1)
    try:
        heartbeat, probe = heartbeats.heartbeat()
        await heartbeat.start()
        heartbeat.wake_event.set()
        reasons = [await probe.wait("inactive") for _ in range(2)]
        known_before = heartbeat._registration.is_active
    finally:
        await Migrator(heartbeats.driver, "millhand").up()
    heartbeat.wake_event.set()
    await probe.wait("heartbeat")

    assert (reasons, known_before, heartbeats.known) == (["the tables are not there"] * 2, False, [True])
    [warning, info] = caplog.records
    assert (warning.msg, warning.levelname) == ("client not registered", "WARNING")
    assert {
        name: getattr(warning, name) for name in ("client_id", "line", "expected", "reason", "remedy")
    } == {
        "client_id": "a",
        "line": "millhand",
        "expected": 5,
        "reason": "the tables are not there",
        "remedy": "run millhand migrate up, and grant its tables to this role",
    }
    assert (info.msg, info.levelname) == ("client heartbeat recovered", "INFO")


@pytest.mark.slow
async def test_client_continues_without_its_tables(
    heartbeats: Heartbeats, caplog: pytest.LogCaptureFixture
) -> None:
    """The next heartbeat after a downgrade logs the missing tables."""
    heartbeat, probe = heartbeats.heartbeat()
    await heartbeat.start()

    await Migrator(heartbeats.driver, "millhand").down(target=1)
    try:
        heartbeat.wake_event.set()
        await probe.wait("inactive")
    finally:
        await Migrator(heartbeats.driver, "millhand").up()

    assert heartbeats.known == [True, False]
    assert [record.msg for record in caplog.records] == ["client not registered"]
    assert "millhand_client" in caplog.records[0].reason  # type: ignore[attr-defined]


async def test_client_without_rights_learns_later_that_it_was_declared_dead(
    heartbeats: Heartbeats, postgres_url: str
) -> None:
    """With its rights back the client continues the same life, whose jobs are lost."""
    lost: list[datetime] = []
    table = qualified("/* schema */millhand_client", heartbeats.driver.pool)
    owned = heartbeats.driver
    role = f"millhand_refused_{os.getpid()}"
    await heartbeats.execute(f"CREATE ROLE {role}")
    try:
        await heartbeats.execute(f"GRANT USAGE ON SCHEMA {table.partition('.')[0]} TO {role}")
        await heartbeats.execute(f"GRANT SELECT, INSERT, UPDATE ON {table} TO {role}")
        await heartbeats.execute(
            f"GRANT SELECT ON /* schema */river_migration TO {role}"
        )  # as all roles have
        heartbeats.driver = AsyncpgDriver(
            f"{postgres_url}{'&' if '?' in postgres_url else '?'}role={role}", owned.schema
        )
        await heartbeats.driver.open()
        heartbeat, probe = heartbeats.heartbeat(on_lost=lost.append)
        await heartbeat.start()
        reported = await probe.wait("heartbeat")

        heartbeats.driver, refused = owned, heartbeats.driver
        await heartbeats.execute(f"REVOKE ALL ON {table} FROM {role}")
        heartbeat.wake_event.set()
        reason = await probe.wait("inactive")
        await heartbeats.execute("UPDATE /* schema */millhand_client SET lost_at = now()")
        await heartbeats.execute(f"GRANT SELECT, INSERT, UPDATE ON {table} TO {role}")
        heartbeat.wake_event.set()
        again = await probe.wait("heartbeat")
        await heartbeat.stop()
        await refused.close()
    finally:
        await owned.pool.execute_script(f"DROP OWNED BY {role}; DROP ROLE {role}")

    assert reason == "permission denied for table millhand_client"
    assert (again.started_at, lost) == (reported.started_at, [again.lost_at])


async def test_failed_heartbeat_is_logged_once_and_retried(
    heartbeats: Heartbeats, caplog: pytest.LogCaptureFixture
) -> None:
    """A database that is unreachable neither ends the heartbeats nor fills the log."""
    driver = AsyncpgDriver(heartbeats.driver._url or "", heartbeats.driver.schema)
    await driver.open()
    heartbeats.driver = driver
    heartbeat, probe = heartbeats.heartbeat()
    await heartbeat.start()

    await driver.close()
    for _ in range(2):
        heartbeat.wake_event.set()
        await probe.wait("failed")
    await heartbeat.stop()

    assert [record.msg for record in caplog.records if record.levelno >= logging.WARNING] == [
        "client heartbeat failed"
    ]
    assert heartbeat._registration.is_active


async def test_client_that_was_declared_dead_learns_that_once(
    heartbeats: Heartbeats, caplog: pytest.LogCaptureFixture
) -> None:
    """The next heartbeat calls `on_lost` with the time; losses of an earlier life are ignored."""
    lost: list[datetime] = []
    heartbeat, probe = heartbeats.heartbeat(on_lost=lost.append)
    await heartbeat.start()
    give_up = "UPDATE /* schema */millhand_client SET lost_at = now() RETURNING lost_at"

    await heartbeats.execute(give_up)
    for _ in range(2):
        heartbeat.wake_event.set()
        await probe.wait("heartbeat")
    [first] = lost
    await heartbeat.stop()
    another, _ = heartbeats.heartbeat(on_lost=lost.append)
    await another.start()

    assert lost == [first]
    assert [record.msg for record in caplog.records] == ["client was declared dead"]
    assert another._registration.steady_since is not None
    assert first < another._registration.steady_since


async def test_client_that_was_declared_dead_long_ago_lost_later_fetches_too(heartbeats: Heartbeats) -> None:
    """Jobs fetched without heartbeats are lost, except those younger than the time until a client counts as dead."""
    lost: list[datetime] = []
    settings = {"clock": ManualClock(), "interval": timedelta(hours=1)}  # the answers take no time
    heartbeat, probe = heartbeats.heartbeat(on_lost=lost.append, **settings)
    await heartbeat.start()
    await probe.wait("heartbeat")

    reports = []
    for age in ("1 day", "1 hour"):
        await heartbeats.execute(f"UPDATE /* schema */millhand_client SET lost_at = now() - interval '{age}'")
        heartbeat.wake_event.set()
        reports.append(await probe.wait("heartbeat"))

    assert lost == [reports[0].seen_at - timedelta(hours=2, seconds=1), reports[1].lost_at]


async def test_heartbeats_are_steady_since_the_first_one_in_time(heartbeats: Heartbeats) -> None:
    """A failed heartbeat, a late one, and a clock that was set back restart it."""
    heartbeat, probe = heartbeats.heartbeat(interval=timedelta(hours=1))
    await heartbeat.start()
    since = [heartbeat._registration.steady_since]

    async def after(change: str) -> None:
        await heartbeats.execute(change)
        await heartbeat.run_once()
        await probe.wait("heartbeat")
        since.append(heartbeat._registration.steady_since)

    await after("SELECT 1")
    heartbeat._record_failed(MillhandError("away"))
    during = heartbeat._registration.steady_since
    await after("SELECT 1")
    assert heartbeat._seen_at is not None
    heartbeat._seen_at -= timedelta(hours=2, seconds=2)
    await after("SELECT 1")
    heartbeat._seen_at += timedelta(seconds=10)
    await after("SELECT 1")

    assert during is None
    assert since[0] == since[1]
    assert since[1:] == sorted({one for one in since[1:] if one is not None})


async def test_failed_heartbeat_is_retried_soon(heartbeats: Heartbeats) -> None:
    """One lost answer must not make a client a suspect."""
    heartbeat, _ = heartbeats.heartbeat(interval=timedelta(seconds=5))
    pauses = [heartbeat._pause_seconds()]

    for _ in range(9):
        heartbeat._record_failed(MillhandError("away"))
        pauses.append(heartbeat._pause_seconds())

    assert (pauses[0], round(max(pauses))) == (5.0, 5)
    assert pauses[1] <= 1.0


@pytest.mark.parametrize(("seconds", "expected"), [(5, [True, False]), (6, [False, False])])
async def test_client_is_alone_until_another_one_starts(
    heartbeats: Heartbeats, seconds: int, expected: list[bool]
) -> None:
    """A client with a long interval never counts as alone: it would learn of others too late."""
    heartbeat, _ = heartbeats.heartbeat(interval=timedelta(seconds=seconds))
    await heartbeat.start()
    alone = [heartbeat._registration.is_alone]
    other, _ = heartbeats.heartbeat("b")
    await other.start()

    await heartbeat.run_once()

    assert [*alone, heartbeat._registration.is_alone] == expected


async def test_client_lost_what_was_given_away_while_its_heartbeat_was_written(
    heartbeats: Heartbeats,
) -> None:
    """Others give its jobs away until the heartbeat is committed, so the time for its answer counts as lost, too."""
    lost: list[datetime] = []
    clock = ManualClock()
    heartbeat, probe = heartbeats.heartbeat(clock=clock, on_lost=lost.append, interval=timedelta(hours=1))
    await heartbeat.start()
    await probe.wait("heartbeat")
    await heartbeats.execute("UPDATE /* schema */millhand_client SET lost_at = now() - interval '1 day'")

    pool = heartbeat._pool = HeldPool(heartbeats.driver.pool, ["client_heartbeat"])  # type: ignore[assignment]
    heartbeat.wake_event.set()
    await pool.is_held.wait()
    clock.advance(timedelta(seconds=2))
    pool.let_go.set()
    reported = await probe.wait("heartbeat")

    assert lost == [reported.seen_at + timedelta(seconds=2) - timedelta(hours=2, seconds=1)]
