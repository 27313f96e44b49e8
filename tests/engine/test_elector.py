"""Elections on a real database: one leader at a time, by term."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from factory import GENEROUS_SECONDS, golden, qualified
from millhand.core.clock import Clock, SystemClock
from millhand.core.errors import PoolClosed
from millhand.core.job import ClientId
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.engine import elector as defaults
from millhand.engine.elector import Elector, Term
from millhand.engine.store.leader import (
    LeaderRow,
    leader_attempt_elect,
    leader_get,
    leader_request_resign,
    leader_resign,
)
from millhand.testing import ManualClock, Probe
from repeats import first_of

NEVER = 3600.0


@dataclass
class Electors:
    """Electors on one schema, and their calls of `on_term` in order."""

    driver: AsyncpgDriver
    stack: AsyncExitStack
    said: list[tuple[str, Term | None]] = field(default_factory=list)
    begun: asyncio.Queue[Term] = field(default_factory=asyncio.Queue)

    def elector(self, name: str, *, clock: Clock | None = None, **settings: float) -> tuple[Elector, Probe]:
        """Return an elector that bids and renews when woken, and its probe."""
        settings = {"interval_seconds": NEVER, "jitter_seconds": 0.0, **settings}
        elector = Elector(
            self.driver.pool,
            ClientId(name),
            clock=clock or SystemClock(),
            on_term=lambda term: self.keep(name, term),
            **settings,
        )
        self.stack.push_async_callback(elector.stop)
        return elector, Probe(elector)

    async def leader(self, name: str, **settings: float) -> tuple[Elector, Probe, Term]:
        """Return an elector that leads."""
        elector, probe = self.elector(name, **settings)
        await elector.start()
        return elector, probe, await probe.wait("gained")

    def keep(self, name: str, term: Term | None) -> None:
        self.said.append((name, term))
        if term is not None:
            self.begun.put_nowait(term)

    async def row(self) -> LeaderRow | None:
        return await self.driver.pool.run(leader_get())

    async def expire_in(self, seconds: float) -> None:
        """Let the term of a dead leader end then."""
        sql = f"UPDATE /* schema */river_leader SET expires_at = clock_timestamp() + interval '{seconds} s'"
        await self.driver.pool.fetch(qualified(sql, self.driver.pool))


@pytest.fixture
async def electors(schema_driver: AsyncpgDriver) -> AsyncIterator[Electors]:
    async with AsyncExitStack() as stack:
        yield Electors(schema_driver, stack)


def test_defaults_are_those_of_river() -> None:
    """All clients of a fleet must agree on the seconds of a term."""
    recorded = golden("leader")["constants_seconds"]

    assert recorded == {
        "elect_interval": defaults.INTERVAL_SECONDS,
        "follower_jitter_max": defaults.JITTER_SECONDS,
        "safety_margin": defaults.MARGIN_SECONDS,
        "statement_deadline": defaults.STATEMENT_SECONDS,
        "ttl": defaults.TTL_SECONDS,
    }


async def test_elector_leads_without_another_leader(
    electors: Electors, caplog: pytest.LogCaptureFixture
) -> None:
    """The first bid gets a term of fifteen seconds, dated by the database, and a log line."""
    caplog.set_level(logging.INFO)

    elector, _, term = await electors.leader("a")

    row = await electors.row()
    assert row is not None
    assert (term, elector.term, elector.is_leader) == (Term(ClientId("a"), row.elected_at), term, True)
    assert row.expires_at - row.elected_at == timedelta(seconds=15)
    assert electors.said == [("a", term)]
    assert lines(caplog) == [("leadership gained", "a", term.elected_at.isoformat())]


async def test_elector_follows_while_another_leads(electors: Electors) -> None:
    """A bid during a term is lost."""
    _, _, term = await electors.leader("a")
    follower, probe = electors.elector("b")

    await follower.start()
    won = await probe.wait("bid")

    assert (won, follower.term, electors.said) == (False, None, [("a", term)])


async def test_elector_renews_its_term(electors: Electors) -> None:
    """A renewal moves the end of the term and keeps its beginning."""
    elector, probe, term = await electors.leader("a")
    before = await electors.row()

    elector.wake_event.set()
    await probe.wait("renewed")

    after = await electors.row()
    assert before is not None
    assert after is not None
    assert after.elected_at == before.elected_at == term.elected_at
    assert after.expires_at > before.expires_at


async def test_elector_resigns_when_stopped_and_followers_bid_at_once(
    electors: Electors, caplog: pytest.LogCaptureFixture
) -> None:
    """A stop ends the term at once, and notified followers need not wait for its expiry."""
    caplog.set_level(logging.INFO)
    leader, _, old = await electors.leader("a")
    follower, probe = electors.elector("b")
    await follower.start()
    await probe.wait("bid")

    async with heard_by(electors.driver, follower):
        await leader.stop()
        new = await probe.wait("gained")

    assert electors.said == [("a", old), ("a", None), ("b", new)]
    assert new.elected_at > old.elected_at
    of_leader, of_follower = ([line for line in lines(caplog) if line[1] == name] for name in ("a", "b"))
    assert of_leader == [
        ("leadership gained", "a", old.elected_at.isoformat()),
        ("leadership resigned", "a", old.elected_at.isoformat()),
    ]
    # The follower may hear of the resignation before the leader has its answer.
    assert of_follower == [("leadership gained", "b", new.elected_at.isoformat())]


async def test_elector_leaves_no_row_when_stopped_alone(electors: Electors) -> None:
    """After an orderly stop no row of a term remains."""
    elector, _, _ = await electors.leader("a")

    await elector.stop()

    assert (await electors.row(), elector.term) == (None, None)


@pytest.mark.slow
async def test_elector_takes_over_when_a_dead_leaders_term_expired(electors: Electors) -> None:
    """A follower leads after the killed leader's term has expired by PostgreSQL's clock, and not before."""
    killed, _, old = await electors.leader("a", ttl_seconds=1.0, margin_seconds=0.1)
    await kill(killed)  # at once: it resigns if it could not renew its term in time
    last = await electors.row()
    follower, probe = electors.elector("b", interval_seconds=0.02)

    await follower.start()
    new = await probe.wait("gained")

    assert last is not None
    assert new.elected_at > last.expires_at
    assert electors.said == [("a", old), ("a", None), ("b", new)]


async def test_elector_with_a_dead_leaders_id_waits_for_the_term_to_expire(electors: Electors) -> None:
    """
    leadership_same_client_id_term_replacement.

    A client that restarts with its id does not inherit the term.
    """
    id = ClientId("a")
    await electors.driver.pool.run(leader_attempt_elect(leader_id=id, ttl=timedelta(hours=1)))
    elector, probe = electors.elector("a")

    await elector.start()
    first = await probe.wait("bid")
    await electors.expire_in(0.0)
    left = await electors.row()
    elector.wake_event.set()
    term = await probe.wait("gained")

    assert left is not None
    assert first is False
    assert term.elected_at > left.expires_at


async def test_request_to_resign_lets_another_client_lead(
    electors: Electors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leader resigns on request and lets other clients bid first."""
    # So much time for the others, of which the follower takes none.
    monkeypatch.setattr(defaults, "RESIGNED_SPREAD_SECONDS", GENEROUS_SECONDS)
    monkeypatch.setattr(defaults, "_random_up_to", lambda _seconds: 0.0)
    leader, leader_probe, old = await electors.leader("a")
    follower, probe = electors.elector("b")
    await follower.start()
    await probe.wait("bid")

    async with heard_by(electors.driver, leader, follower):
        await electors.driver.pool.run(leader_request_resign())
        new = await probe.wait("gained")

    assert await leader_probe.wait("resigned") is True
    assert electors.said == [("a", old), ("a", None), ("b", new)]


async def test_request_to_resign_leaves_a_lone_client_leading_again(electors: Electors) -> None:
    """Without another client the one that resigned leads again, in a new term."""
    leader, probe, old = await electors.leader("a")

    leader.on_notification('{"action": "request_resign", "leader_id": ""}')
    new = await probe.wait("gained")

    assert (new.leader_id, new.elected_at > old.elected_at) == ("a", True)


@pytest.mark.slow
async def test_request_for_an_old_term_leaves_the_new_one(electors: Electors) -> None:
    """
    leadership_same_client_id_term_replacement.

    A late request for an earlier term does not end the current one.
    """
    leader, probe, old = await electors.leader("a")
    leader.on_notification('{"action": "request_resign", "leader_id": ""}')
    new = await probe.wait("gained")

    leader.request_resign(old)
    resigned = await electors.driver.pool.run(
        leader_resign(leader_id=old.leader_id, elected_at=old.elected_at)
    )
    leader.wake_event.set()
    renewed = await probe.wait("renewed")

    assert (resigned, renewed, leader.term) == (False, True, new)


async def test_client_that_resigns_for_cause_does_not_bid_at_once(electors: Electors) -> None:
    """A leader that cannot work lets others bid for an interval."""
    leader, probe, term = await electors.leader("a")

    leader.request_resign(term)
    await probe.wait("resigned")
    follower, follower_probe = electors.elector("b")
    await follower.start()

    assert (await follower_probe.wait("gained")).leader_id == "b"


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "no json",
        "[]",
        "{}",
        '{"action": 1}',
        '{"action": "abdicate"}',
        '{"action": "resigned", "leader_id": "a"}',
    ],
)
async def test_elector_ignores_malformed_notifications(electors: Electors, payload: str) -> None:
    """A malformed payload changes nothing."""
    elector, probe, term = await electors.leader("a")

    elector.on_notification(payload)
    elector.wake_event.set()
    await probe.wait("renewed")

    assert elector.term == term


async def test_elector_stops_leading_when_its_row_is_gone(
    electors: Electors, caplog: pytest.LogCaptureFixture
) -> None:
    """A refused renewal ends the term at once, and no resignation is sent."""
    caplog.set_level(logging.INFO)
    elector, probe, old = await electors.leader("a")
    await electors.driver.pool.fetch(qualified("DELETE FROM /* schema */river_leader", electors.driver.pool))

    elector.wake_event.set()
    new = await probe.wait("gained")

    assert electors.said == [("a", old), ("a", None), ("a", new)]
    assert [line[0] for line in lines(caplog)] == [
        "leadership gained",
        "leadership lost",
        "leadership gained",
    ]


@pytest.mark.slow
async def test_elector_stops_leading_in_time_when_the_database_does_not_answer(electors: Electors) -> None:
    """A leader that cannot renew ends its term before the database would give it to another."""
    settings = {"interval_seconds": 0.1, "ttl_seconds": 31.0, "margin_seconds": 30.0}
    elector, probe, _ = await electors.leader("a", **settings)
    lock = qualified("LOCK TABLE /* schema */river_leader", electors.driver.pool)

    async with electors.driver.pool.begin() as tx:
        await tx.fetch(lock)
        probe.forget("ended")
        await probe.wait("ended")
        [row] = await tx.fetch(
            qualified("SELECT expires_at > clock_timestamp() AS runs FROM /* schema */river_leader", tx)
        )

    assert row["runs"]
    assert await probe.wait("gained")
    assert elector.is_leader


async def test_elector_trusts_its_term_for_fourteen_seconds_of_its_own_clock(electors: Electors) -> None:
    """A process that was stalled longer does not act as leader when it continues."""
    clock = ManualClock()
    elector, probe = electors.elector("a", clock=clock)
    await elector.start()
    await probe.wait("gained")

    clock.advance(13.9)
    just_before = elector.is_leader
    clock.advance(0.1)
    after = elector.is_leader
    elector.wake_event.set()
    await probe.wait("ended")

    assert (just_before, after) == (True, False)
    assert await probe.wait("resigned") is True


async def test_elector_resigns_when_its_renewal_came_too_late(electors: Electors) -> None:
    """A term whose end was called stays over, whatever the database answers later, and its row is deleted."""
    clock = ManualClock()
    elector, probe = electors.elector("a", clock=clock)
    await elector.start()
    old = await probe.wait("gained")

    async with electors.driver.pool.begin() as tx:
        await tx.fetch(qualified("LOCK TABLE /* schema */river_leader", tx))
        clock.advance(5)
        elector.wake_event.set()
        await until_waiting(tx)
        clock.advance(9)
        elector._end_unless_trusted()  # what the timer does by then
    renewed, resigned = await probe.wait("renewed"), await probe.wait("resigned")
    new = await probe.wait("gained")

    assert (renewed, resigned) == (True, True)
    assert electors.said == [("a", old), ("a", None), ("a", new)]


async def until_waiting(tx: Executor) -> None:
    """Return once another session waits for a lock of this transaction."""
    sql = "SELECT count(*) AS num FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
    async with asyncio.timeout(GENEROUS_SECONDS):
        while not (await tx.fetch(sql))[0]["num"]:
            pass


async def test_elector_survives_an_outage(electors: Electors, caplog: pytest.LogCaptureFixture) -> None:
    """Failed bids are logged and repeated; they neither end the elector nor delay its stop."""
    driver = AsyncpgDriver(electors.driver._url or "", electors.driver.schema)
    said: list[Term | None] = []
    elector = Elector(driver.pool, ClientId("a"), clock=SystemClock(), on_term=said.append)
    crashes: list[object] = []
    elector.on_crash = lambda *crash: crashes.append(crash)

    probe = Probe(elector)
    await elector.start()
    failure = await probe.wait("failed")
    await elector.stop()

    assert (said, crashes) == ([], [])
    assert isinstance(failure, PoolClosed)
    assert [record.msg for record in caplog.records] == ["leader election failed"]


@pytest.mark.slow
@pytest.mark.parametrize(("num_clients", "num_terms"), first_of((2, 8), (2, 20), (5, 20)))
async def test_terms_never_overlap(electors: Electors, num_clients: int, num_terms: int) -> None:
    """For any sequence of stops, deaths and requests, a term begins only after the one before has ended."""
    choice = random.Random(num_clients)  # noqa: S311 - the same story each time
    settings = {"interval_seconds": 0.02, "jitter_seconds": 0.02, "margin_seconds": 0.05, "ttl_seconds": 0.25}
    clients = [electors.elector(f"client_{n}", **settings)[0] for n in range(num_clients)]
    by_name = {str(client._client_id): client for client in clients}

    async with asyncio.timeout(60), heard_by(electors.driver, *clients):
        for client in clients:
            await client.start()
        for _ in range(num_terms):
            leader = by_name[(await electors.begun.get()).leader_id]
            match choice.choice(["stop", "kill", "ask"]):
                case "stop":
                    await leader.stop()
                case "kill":
                    await kill(leader)
                case _:
                    await electors.driver.pool.run(leader_request_resign())
            await leader.start()

    # The calls are in strict order: the end of a term comes before the beginning of the next one, and all terms differ.
    # The dates need not be in order: a bid is dated when it is sent, and may wait for a resignation; see the next test.
    begun, ended = electors.said[::2], electors.said[1::2]
    assert [name for name, _ in begun][: len(ended)] == [name for name, _ in ended]
    assert {term for _, term in ended} == {None}
    assert all(term is not None and term.leader_id == name for name, term in begun)
    assert len({term for _, term in begun}) == len(begun) >= num_terms


async def test_term_is_dated_when_its_bid_was_sent(electors: Electors) -> None:
    """A bid that waits for a resignation begins a term dated before the end of the former one."""
    leader, _, old = await electors.leader("a")
    follower, probe = electors.elector("b")
    async with electors.driver.pool.begin() as tx:
        await tx.run(leader_resign(leader_id=old.leader_id, elected_at=old.elected_at))
        await follower.start()
        await until_waiting(tx)
        begun_meanwhile = probe.num("gained")
        [row] = await tx.fetch("SELECT clock_timestamp() AS ended_at")
    new = await probe.wait("gained")

    assert begun_meanwhile == 0
    assert old.elected_at < new.elected_at < row["ended_at"]
    await kill(leader)


async def test_elector_withstands_starts_and_stops_at_once(electors: Electors) -> None:
    """However starts and stops interleave, the elector is stopped in the end and leads nothing."""
    elector, _ = electors.elector("a", interval_seconds=0.01)

    async def hammer() -> None:
        for _ in range(20):
            await elector.start()
            await elector.stop()

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(hammer())

    assert (elector.is_running, elector.term, await electors.row()) == (False, None, None)


class heard_by:  # noqa: N801 - used as a function
    """Pass notifications of leadership to electors, as a client's notifier does."""

    def __init__(self, driver: AsyncpgDriver, *electors: Elector) -> None:
        self.electors = electors
        self.listener = driver.listener()

    async def __aenter__(self) -> None:
        await self.listener.connect()
        await self.listener.listen("river_leadership", self.receive)

    async def __aexit__(self, *_: object) -> None:
        await self.listener.close()

    def receive(self, payload: str) -> None:
        for elector in self.electors:
            elector.on_notification(payload)


async def kill(elector: Elector) -> None:
    """End an elector without a resignation, as `kill -9` does."""
    task = elector._task
    if task is not None:
        task.cancel()
        await asyncio.wait([task])


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, str]]:
    return [
        (record.msg, record.client_id, record.elected_at)  # type: ignore[attr-defined]
        for record in caplog.records
        if record.name == "millhand.engine.elector"
    ]


@pytest.mark.slow
async def test_follower_that_bids_on_expiry_bids_when_the_term_expires(electors: Electors) -> None:
    """It makes no bid during a term, and bids at its expiry."""
    term = leader_attempt_elect(leader_id=ClientId("dead"), ttl=timedelta(hours=1))
    assert await electors.driver.pool.run(term) is not None
    elector, probe = electors.elector("heir", bids_on_expiry=True)

    await elector.start()
    bid = await probe.wait("bid")
    await electors.expire_in(0.4)
    elector.wake_event.set()  # it sees the new end, and needs no other wake-up
    gained = await probe.wait("gained")

    assert (bid, elector.term) == (False, gained)
