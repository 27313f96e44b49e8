"""What clients of ours do for all: two leadership, and whoever holds them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

import asyncpg
import pytest

from client_harness import GENEROUS, Act, ClientHarness
from millhand.client import Client
from millhand.client_row import ClientState
from millhand.job import ClientId, Job
from millhand.periodic import every
from millhand.schema.migrator import Migrator
from millhand.store.leader import LeaderRole, leader_attempt_elect, leader_get
from millhand.worker import Workers

STRANGER = ClientId("stranger")


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
    return harness.client(workers(), client_id=id, **settings)


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


async def ticks(harness: ClientHarness, number: int) -> None:
    async def condition() -> bool:
        return len([row for row in await harness.rows() if row.kind == "tick"]) >= number

    await until(condition)


def periodic() -> dict[str, Any]:
    return {"periodic_jobs": [every(timedelta(hours=1), Tick(), id="tick", run_on_start=True)]}


async def test_client_alone_holds_both_offices(harness: ClientHarness) -> None:
    """From its start to its stop, and it knows."""
    async with client(harness, "a") as alone:
        await has_leaders(harness, "a", "a")
        held = alone.is_leader, alone.is_periodic_leader

    assert held == (True, True)
    assert await leaders(harness) == (None, None)
    assert (alone.is_leader, alone.is_periodic_leader) == (False, False)


async def test_periodic_jobs_go_on_whoever_leads(harness: ClientHarness) -> None:
    """A stranger that holds River's leader_role does not keep ours from inserting their periodic jobs."""
    await harness.driver.pool.run(leader_attempt_elect(leader_id=STRANGER, ttl=timedelta(hours=1)))

    async with client(harness, "a", **periodic()) as ours:
        await ticks(harness, 1)
        held = ours.is_leader, ours.is_periodic_leader
        who = await leaders(harness)

    assert (held, who) == ((False, True), ("stranger", "a"))


async def test_periodic_jobs_are_inserted_by_one(harness: ClientHarness) -> None:
    """Of several clients one holds the leader_role; when it stops, another one takes over at once."""
    async with client(harness, "a", **periodic()) as first:
        await ticks(harness, 1)
        async with client(harness, "b", **periodic()):
            await has_leaders(harness, "a", "a")
            before = len(await harness.rows())
            async with asyncio.timeout(4):  # a bid is due after five seconds: who is faster was told
                await first.stop()
                await has_leaders(harness, "b", "b")
            await ticks(harness, 2)

    assert before == 1


async def test_client_without_election_holds_no_office(harness: ClientHarness) -> None:
    """It works, is listed, and inserts nothing by schedule."""
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


async def test_request_to_resign_is_for_both_offices(harness: ClientHarness) -> None:
    """Whoever asks wants another one to lead, in whatever there is to lead."""
    async with client(harness, "a") as first, client(harness, "b") as second:
        await has_leaders(harness, "a", "a")

        await second.request_resign()
        await has_leaders(harness, "b", "b")
        held = first.is_leader, second.is_leader, first.is_periodic_leader, second.is_periodic_leader

    assert held == (False, True, False, True)


async def test_request_to_resign_is_part_of_a_transaction(harness: ClientHarness) -> None:
    """What is rolled back was never asked; what is committed was."""
    async with client(harness, "a") as first, client(harness, "b"):
        await has_leaders(harness, "a", "a")
        asked: list[str] = []
        listener = harness.driver.listener()
        await listener.connect()
        for topic in ("river_leadership", "millhand_leader"):
            await listener.listen(topic, lambda payload, topic=topic: asked.append(f"{topic} {payload}"))
        connection = await asyncpg.connect(harness.url)
        transaction = connection.transaction()
        await transaction.start()
        await first.request_resign(tx=connection)
        await transaction.rollback()
        before = list(asked)
        async with connection.transaction():
            await first.request_resign(tx=connection)
        await connection.close()
        await has_leaders(harness, "b", "b")
        await listener.close()

    request = '{"action":"request_resign","leader_id":""}'
    assert before == []
    assert asked[:2] == [f"river_leadership {request}", f"millhand_leader {request}"]


async def test_client_lists_who_works_with_it(harness: ClientHarness) -> None:
    """Its own queues with what they take, its kinds, who leads; and a stranger by the job that it works."""
    async with client(harness, "a", queues={"default": 10, "mail": 5}) as ours:
        await has_leaders(harness, "a", "a")
        await harness.execute(
            "INSERT INTO river_job (kind, args, max_attempts, state, attempt, attempted_at, attempted_by) "
            "VALUES ('theirs', '{}', 25, 'running', 1, now(), '{stranger}')"
        )

        async def has_queues() -> bool:
            return bool((await ours.clients.list())[0].queues)

        await until(has_queues)
        own, stranger = await ours.clients.list()
        await harness.execute("DELETE FROM river_job")

    assert (own.id, own.state, own.queues, own.kinds) == (
        "a",
        ClientState.WORKING,
        {"default": 10, "mail": 5},
        ("act", "tick"),
    )
    assert (own.is_leader, own.is_periodic_leader) == (True, True)
    assert (stranger.id, stranger.state, stranger.language) == ("stranger", ClientState.UNREGISTERED, None)


async def test_stranger_that_leads_is_listed(harness: ClientHarness) -> None:
    """A client that works nothing at the moment is known by its term."""
    await harness.driver.pool.run(leader_attempt_elect(leader_id=STRANGER, ttl=timedelta(seconds=15)))

    async with client(harness, "a") as ours:
        rows = await ours.clients.list()

    assert [(row.id, row.is_leader) for row in rows] == [("a", False), ("stranger", True)]


async def test_queue_of_ours_is_never_taken_for_a_strangers(harness: ClientHarness) -> None:
    """Whatever touches its row, a start, a pause, a resume by whomever: a client that works it owns up to it."""
    interval = timedelta(milliseconds=100)
    settings = {"client_heartbeat_interval": interval}
    async with client(harness, "a", **settings) as ours, client(harness, "b", **settings):
        await ours.queues.pause("default")
        await ours.queues.resume("default")

        async def is_owned() -> bool:
            rows = await harness.driver.pool.fetch(
                "SELECT FROM river_queue AS queue, millhand_client AS client "
                "WHERE (client.queue_updates ->> queue.name)::timestamptz = queue.updated_at "
                "AND queue.updated_at > (SELECT min(started_at) FROM millhand_client) AND queue.paused_at IS NULL"
            )
            return bool(rows)

        await until(is_owned)


async def test_kinds_of_others_are_told_once(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that meets due jobs which it cannot work says that it leaves them; and leaves them."""
    caplog.set_level(logging.INFO)
    for kind in ("theirs", "others", "theirs"):
        await harness.insert_raw(kind, "{}")

    async with client(harness, "a") as ours:
        watcher = ours._engine._kind_watcher  # type: ignore[union-attr]
        assert watcher is not None
        await watcher.run_once()
        await harness.work(ours, Act("x"))
        rows = [(row.kind, row.attempt) for row in await harness.rows()]

    told = [record for record in caplog.records if record.message == "kinds left to others"]
    assert [(record.client_id, record.kinds) for record in told] == [("a", "others,theirs")]  # type: ignore[attr-defined]
    assert rows == [("theirs", 0), ("others", 0), ("theirs", 0), ("act", 1)]


async def test_client_that_fetches_all_kinds_leaves_none(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """Who was told to take what it does not know does not claim to leave it."""
    async with client(harness, "a", fetch_only_known_kinds=False) as ours:
        engine = ours._engine
        assert engine is not None
        assert engine._kind_watcher is None


async def test_periodic_jobs_run_under_rivers_office_without_the_migration(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """As in River: whoever leads inserts. When the migration is made, the client goes over to the leader_role for them."""
    caplog.set_level(logging.INFO)
    await Migrator(harness.driver, "millhand").down(target=1)
    try:
        interval = timedelta(milliseconds=100)
        async with client(harness, "a", client_heartbeat_interval=interval, **periodic()) as ours:
            await ticks(harness, 1)
            held = ours.is_leader, ours.is_periodic_leader
            await Migrator(harness.driver, "millhand").up()
            await has_leaders(harness, "a", "a")
            await ticks(harness, 2)  # a term of its own begins anew
    finally:
        await Migrator(harness.driver, "millhand").up()

    assert held == (True, False)
    warnings = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == ["periodic jobs depend on who leads"]


async def test_periodic_jobs_wait_for_river_s_office_without_the_migration(harness: ClientHarness) -> None:
    """A client that cannot have the leader_role of our own inserts nothing while a stranger leads."""
    await Migrator(harness.driver, "millhand").down(target=1)
    try:
        await harness.driver.pool.run(leader_attempt_elect(leader_id=STRANGER, ttl=timedelta(hours=1)))
        async with client(harness, "a", **periodic()) as ours:
            event = await harness.work(ours, Act("x"))
            rows = [row.kind for row in await harness.rows()]
    finally:
        await Migrator(harness.driver, "millhand").up()

    assert event.job is not None
    assert rows == ["act"]
