"""The two leader roles of clients, and what their leaders do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

import asyncpg
import pytest

from client_harness import GENEROUS, Act, ClientHarness
from millhand.client import Client
from millhand.core.client_row import ClientState
from millhand.core.job import ClientId
from millhand.core.periodic import every
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.db.schema.migrator import Migrator
from millhand.engine.elector import Elector
from millhand.engine.store.leader import LeaderRole, leader_attempt_elect, leader_get
from millhand.testing import Probe

UNREGISTERED = ClientId("unregistered")


@dataclass(frozen=True)
class Tick:
    kind: ClassVar[str] = "tick"


def workers() -> Workers:
    workers = Workers()

    @workers.add()
    async def tick(job: Job[Tick]) -> None:
        pass

    @workers.add()
    async def act(job: Job[Act]) -> None:
        pass

    return workers


def client(harness: ClientHarness, id: str, **settings: Any) -> Client:
    return harness.client(workers(), client_id=id, **{"leader_election": True, **settings})


async def leaders(harness: ClientHarness) -> tuple[str | None, str | None]:
    rows = [await harness.driver.pool.run(leader_get(leader_role=leader_role)) for leader_role in LeaderRole]
    river, periodic = (None if row is None else row.leader_id for row in rows)
    return river, periodic


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(GENEROUS):
        while not await condition():
            pass


async def has_leaders(harness: ClientHarness, river: str | None, periodic: str | None) -> None:
    async def condition() -> bool:
        return await leaders(harness) == (river, periodic)

    await until(condition)


async def holds_both_roles(harness: ClientHarness, client: Client, id: str) -> None:
    """Wait until a client leads, and knows it: the rows come first, and then it reads the answers of its bids."""

    async def condition() -> bool:
        return await leaders(harness) == (id, id) and client.is_leader and client.is_periodic_leader

    await until(condition)


async def has_bid(client: Client) -> None:
    """Wait until a client has tried to lead in each role."""

    async def condition() -> bool:
        await asyncio.sleep(0)
        return all(elector.has_bid for elector in client._engine.leadership.electors)  # type: ignore[union-attr]

    await until(condition)


async def ticks(harness: ClientHarness, number: int) -> None:
    async def condition() -> bool:
        return len([row for row in await harness.rows() if row.kind == "tick"]) >= number

    await until(condition)


def periodic() -> dict[str, Any]:
    return {"periodic_jobs": [every(timedelta(hours=1), Tick(), id="tick", run_on_start=True)]}


@pytest.mark.slow
async def test_single_client_holds_both_leader_roles(harness: ClientHarness) -> None:
    """From its start to its stop, and its properties show that."""
    async with client(harness, "a") as alone:
        await holds_both_roles(harness, alone, "a")

    assert await leaders(harness) == (None, None)
    assert (alone.is_leader, alone.is_periodic_leader) == (False, False)


@pytest.mark.slow
async def test_periodic_jobs_continue_under_any_leader(harness: ClientHarness) -> None:
    """An unregistered client that holds River's role does not stop Millhand's periodic jobs."""
    await harness.driver.pool.run(leader_attempt_elect(leader_id=UNREGISTERED, ttl=timedelta(hours=1)))

    async with client(harness, "a", **periodic()) as registered:
        await ticks(harness, 1)
        held = registered.is_leader, registered.is_periodic_leader
        who = await leaders(harness)

    assert (held, who) == ((False, True), ("unregistered", "a"))


@pytest.mark.slow
async def test_one_client_inserts_periodic_jobs(
    harness: ClientHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of several clients holds the periodic role; when it stops, another one takes over at once."""
    # Without a notification a follower would wait until the test has failed.
    monkeypatch.setattr(Elector, "_pause_seconds", lambda _: 3600.0)
    async with client(harness, "a", **periodic()) as first:
        await holds_both_roles(harness, first, "a")
        await ticks(harness, 1)
        async with client(harness, "b", **periodic()) as second:
            await has_bid(second)
            before = len(await harness.rows())
            await first.stop()
            await has_leaders(harness, "b", "b")
            await ticks(harness, 2)

    assert before == 1


async def test_client_without_election_holds_no_leader_role(harness: ClientHarness) -> None:
    """It works jobs, is listed, and inserts no periodic job."""
    async with client(harness, "a", leader_election=False) as follower:
        await harness.work(follower, Act("x"))
        [row] = await follower.clients.list()
        who = await leaders(harness)

    assert who == (None, None)
    assert (row.id, row.state, row.is_leader, row.is_periodic_leader) == (
        "a",
        ClientState.WORKING,
        False,
        False,
    )


@asynccontextmanager
async def notified(harness: ClientHarness) -> AsyncIterator[list[str]]:
    """Yield the notifications of both roles, each after its topic, as they come."""
    found: list[str] = []
    listener = harness.driver.listener()
    await listener.connect()
    for topic in ("river_leadership", "millhand_leader"):
        await listener.listen(topic, lambda payload, topic=topic: found.append(f"{topic} {payload}"))
    try:
        yield found
    finally:
        await listener.close()


async def has_resigned(notifications: list[str], id: str) -> None:
    """Wait until a client has resigned the term of each role. Which client leads next is a matter of time."""

    async def condition() -> bool:
        await asyncio.sleep(0)
        resigned = {
            one.split(" ", 1)[0]
            for one in notifications
            if '"resigned"' in one and f'"leader_id":"{id}"' in one.replace(" ", "")
        }
        return len(resigned) == len(LeaderRole)

    await until(condition)


@pytest.mark.slow
async def test_request_to_resign_is_for_both_leader_roles(harness: ClientHarness) -> None:
    """`request_resign` makes the leader of each role resign."""
    async with client(harness, "a") as first:
        await holds_both_roles(harness, first, "a")
        async with client(harness, "b") as second, notified(harness) as notifications:
            before = [one for one in notifications if '"resigned"' in one]

            await second.request_resign()
            await has_resigned(notifications, "a")

    assert before == []


@pytest.mark.slow
async def test_request_to_resign_is_part_of_a_transaction(harness: ClientHarness) -> None:
    """A request that was rolled back has no effect; a committed one has."""
    async with client(harness, "a") as first:
        await holds_both_roles(harness, first, "a")
        async with client(harness, "b"), notified(harness) as notifications:
            connection = await asyncpg.connect(harness.url)
            transaction = connection.transaction()
            await transaction.start()
            await first.request_resign(tx=connection)
            await transaction.rollback()
            before = list(notifications)
            async with connection.transaction():
                await first.request_resign(tx=connection)
            await connection.close()
            await has_resigned(notifications, "a")

    request = '{"action":"request_resign","leader_id":""}'
    assert before == []
    assert notifications[:2] == [f"river_leadership {request}", f"millhand_leader {request}"]


@pytest.mark.slow
async def test_client_lists_the_clients_of_its_fleet(harness: ClientHarness) -> None:
    """The list has its own queues with slots, its kinds, the leaders, and an unregistered client by the job it works."""
    async with client(harness, "a", queues={"default": 10, "mail": 5}) as registered:
        await has_leaders(harness, "a", "a")
        await harness.execute(
            "INSERT INTO river_job (kind, args, max_attempts, state, attempt, attempted_at, attempted_by) "
            "VALUES ('unknown', '{}', 25, 'running', 1, now(), '{unregistered}')"
        )

        async def has_queues() -> bool:
            return bool((await registered.clients.list())[0].queues)

        await until(has_queues)
        own, unregistered = await registered.clients.list()
        await harness.execute("DELETE FROM river_job")

    assert (own.id, own.state, own.queues, own.kinds) == (
        "a",
        ClientState.WORKING,
        {"default": 10, "mail": 5},
        ("act", "tick"),
    )
    assert (own.is_leader, own.is_periodic_leader) == (True, True)
    assert (unregistered.id, unregistered.state, unregistered.language) == (
        "unregistered",
        ClientState.UNREGISTERED,
        None,
    )


@pytest.mark.slow
async def test_unregistered_leader_is_listed(harness: ClientHarness) -> None:
    """An unregistered client without jobs is listed by its term."""
    await harness.driver.pool.run(leader_attempt_elect(leader_id=UNREGISTERED, ttl=timedelta(hours=1)))

    async with client(harness, "a") as registered:
        rows = await registered.clients.list()

    assert [(row.id, row.is_leader) for row in rows] == [("a", False), ("unregistered", True)]


@pytest.mark.slow
async def test_queue_of_a_registered_client_is_no_sighting(harness: ClientHarness) -> None:
    """A client that works a queue declares every update of its row: by a start, a pause or a resume."""
    interval = timedelta(milliseconds=100)
    settings = {"client_heartbeat_interval": interval}
    async with client(harness, "a", **settings) as registered, client(harness, "b", **settings):
        await registered.queues.pause("default")
        await registered.queues.resume("default")

        async def is_owned() -> bool:
            rows = await harness.driver.pool.fetch(
                "SELECT FROM river_queue AS queue, millhand_client AS client "
                "WHERE (client.queue_updates ->> queue.name)::timestamptz = queue.updated_at "
                "AND queue.updated_at > (SELECT min(started_at) FROM millhand_client) AND queue.paused_at IS NULL"
            )
            return bool(rows)

        await until(is_owned)


@pytest.mark.slow
async def test_jobs_of_unknown_kinds_are_left_and_logged_once(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that finds due jobs of kinds that no client knows warns of each kind once and leaves the jobs."""
    for kind in ("unknown", "others", "unknown"):
        await harness.insert_raw(kind, "{}")

    async with client(harness, "a") as registered:
        watcher = registered._engine._kind_watcher  # type: ignore[union-attr]
        assert watcher is not None
        for _ in range(3):
            await watcher.search()
        await harness.work(registered, Act("x"))
        rows = [(row.kind, row.attempt) for row in await harness.rows()]

    emitted = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [(record.msg, record.kinds, record.num_jobs) for record in emitted] == [  # type: ignore[attr-defined]
        ("jobs of unknown kinds wait", "others,unknown", 3)
    ]
    assert rows == [("unknown", 0), ("others", 0), ("unknown", 0), ("act", 1)]


@pytest.mark.slow
async def test_insert_makes_a_client_search_for_unknown_kinds_soon(
    harness: ClientHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that is notified of a job in its queue searches soon, not after the interval."""
    # On a busy machine a search may be slow; the rest after it is not the claim.
    monkeypatch.setattr("millhand.engine.kind_watcher.rest_seconds", lambda _, least=0.0: least)
    async with client(harness, "a") as registered:
        watcher = registered._engine._kind_watcher  # type: ignore[union-attr]
        assert watcher is not None
        watcher.interval_seconds = 3600.0
        await watcher.search()
        probe = Probe(watcher)
        await harness.insert_raw("unknown", "{}")

        async with asyncio.timeout(GENEROUS):
            while await probe.wait("searched") != ["unknown"]:
                pass


async def test_client_that_fetches_all_kinds_leaves_none(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that fetches all kinds does not log kinds as left to others."""
    async with client(harness, "a", fetch_only_known_kinds=False) as registered:
        engine = registered._engine
        assert engine is not None
        assert engine._kind_watcher is None


@pytest.mark.slow
async def test_periodic_jobs_run_under_rivers_role_without_the_migration(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """As in River, the leader inserts them. After the migration the client changes to the periodic role."""
    caplog.set_level(logging.INFO)
    await Migrator(harness.driver, "millhand").down(target=1)
    try:
        interval = timedelta(milliseconds=100)
        async with client(harness, "a", client_heartbeat_interval=interval, **periodic()) as registered:
            await ticks(harness, 1)
            held = registered.is_leader, registered.is_periodic_leader
            await Migrator(harness.driver, "millhand").up()
            await has_leaders(harness, "a", "a")
            await ticks(harness, 2)  # a term of its own starts afresh
    finally:
        await Migrator(harness.driver, "millhand").up()

    assert held == (True, False)
    warnings = [record.msg for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == ["client not registered"]


@pytest.mark.slow
async def test_periodic_jobs_wait_for_rivers_role_without_the_migration(harness: ClientHarness) -> None:
    """Without the tables a client inserts no periodic job while an unregistered client leads."""
    await Migrator(harness.driver, "millhand").down(target=1)
    try:
        await harness.driver.pool.run(leader_attempt_elect(leader_id=UNREGISTERED, ttl=timedelta(hours=1)))
        async with client(harness, "a", **periodic()) as registered:
            event = await harness.work(registered, Act("x"))
            rows = [row.kind for row in await harness.rows()]
    finally:
        await Migrator(harness.driver, "millhand").up()

    assert event.job is not None
    assert rows == ["act"]
