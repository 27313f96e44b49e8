"""Elections for two leader roles, and beside clients in another language."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from factory import qualified
from millhand.core.clock import Clock, SystemClock
from millhand.core.job import ClientId
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.election_backoff import ElectionBackoff
from millhand.engine.elector import Elector, Term
from millhand.engine.registration import Registration
from millhand.engine.store.client import ClientHeartbeatParams, client_heartbeat
from millhand.engine.store.leader import (
    LeaderRole,
    LeaderRow,
    leader_attempt_elect,
    leader_get,
    leader_resign,
)
from millhand.testing import ManualClock, Probe

NEVER = 3600.0
GO = ClientId("go")
TTL = timedelta(seconds=15)
INTERVAL = 5.0
PATIENCE = 5.0 + 1.0 + 0.5


@dataclass
class Electors:
    """Electors of registered clients on one schema, and an unregistered client."""

    driver: AsyncpgDriver
    stack: AsyncExitStack
    said: list[tuple[str, Term | None]] = field(default_factory=list)

    async def elector(
        self, name: str, *, clock: Clock | None = None, is_last: bool = True, **settings: Any
    ) -> tuple[Elector, Probe]:
        """Return a started elector of a registered client; it bids when woken."""
        await self.report(name)
        elector = Elector(
            self.driver.pool,
            ClientId(name),
            clock=clock or SystemClock(),
            registration=Registration(is_active=is_last),
            on_term=lambda term: self.said.append((name, term)),
            **{"interval_seconds": INTERVAL, "jitter_seconds": 1.0, **settings},
        )
        self.stack.push_async_callback(elector.stop)
        probe = Probe(elector)
        await elector.start()
        return elector, probe

    async def report(self, name: str) -> None:
        report = ClientHeartbeatParams(
            id=ClientId(name),
            hostname="here",
            kinds=(),
            pid=1,
            queue_updates={},
            queues={},
            heartbeat_interval=timedelta(seconds=5),
            version="0",
        )
        await self.driver.pool.run(client_heartbeat(report, started_at=None))

    async def go_leads(self) -> LeaderRow:
        """Make an unregistered client lead for a term."""
        row = await self.driver.pool.run(leader_attempt_elect(leader_id=GO, ttl=TTL))
        assert row is not None
        return row

    async def go_resigns(self, row: LeaderRow) -> None:
        await self.driver.pool.run(leader_resign(leader_id=row.leader_id, elected_at=row.elected_at))

    async def leader(self, leader_role: LeaderRole = LeaderRole.RIVER) -> str | None:
        row = await self.driver.pool.run(leader_get(leader_role=leader_role))
        return None if row is None else row.leader_id

    async def execute(self, sql: str) -> None:
        await self.driver.pool.fetch(qualified(sql, self.driver.pool))


@pytest.fixture
async def electors(schema_driver: AsyncpgDriver) -> AsyncIterator[Electors]:
    async with AsyncExitStack() as stack:
        yield Electors(schema_driver, stack)


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [
        (record.msg, getattr(record, "leader_id", None) or record.client_id)  # type: ignore[attr-defined]
        for record in caplog.records
        if record.name == "millhand.engine.elector"
    ]


RESIGNED = '{"leader_id": "go", "action": "resigned"}'


async def test_elector_is_elected_at_once_among_registered_clients(electors: Electors) -> None:
    """The first bid wins a vacant role."""
    _, probe = await electors.elector("a")

    term = await probe.wait("gained")

    assert (term.leader_id, probe.num("bid")) == ("a", 1)


async def test_elector_backs_off_while_an_unregistered_client_leads(
    electors: Electors, caplog: pytest.LogCaptureFixture
) -> None:
    """It logs the leader once, however often it checks."""
    caplog.set_level(logging.INFO)
    await electors.go_leads()
    elector, probe = await electors.elector("a")

    bids = [await probe.wait("bid")]
    elector.wake_event.set()
    bids.append(await probe.wait("bid"))

    assert bids == [False, False]
    assert lines(caplog) == [("leadership left to others", "go")]


async def test_elector_waits_after_an_unregistered_client_resigns(electors: Electors) -> None:
    """It waits as long as other clients may take to bid."""
    clock = ManualClock()
    row = await electors.go_leads()
    elector, probe = await electors.elector("a", clock=clock)
    await probe.wait("bid")

    await electors.go_resigns(row)
    elector.on_notification(RESIGNED)
    at_once = await probe.wait("bid")
    clock.advance(PATIENCE - 0.1)
    elector.wake_event.set()
    before = await probe.wait("bid")
    clock.advance(0.1)
    elector.wake_event.set()
    after = await probe.wait("bid")

    assert (at_once, before, after) == (False, False, True)
    assert elector.backoff_before_term == ElectionBackoff(
        other_leader_id=GO, vacant_since=elector._clock.monotonic() - PATIENCE
    )


@pytest.mark.slow
async def test_elector_restarts_its_wait_when_an_unregistered_client_leads_again(electors: Electors) -> None:
    """Each term of an unregistered client is followed by the whole wait."""
    clock = ManualClock()
    row = await electors.go_leads()
    elector, probe = await electors.elector("a", clock=clock)
    await probe.wait("bid")
    await electors.go_resigns(row)
    elector.on_notification(RESIGNED)
    await probe.wait("bid")

    clock.advance(PATIENCE - 0.1)
    elector.on_notification(RESIGNED)  # of a term that this follower never saw
    await probe.wait("bid")
    clock.advance(PATIENCE - 0.1)
    elector.wake_event.set()
    too_early = await probe.wait("bid")
    clock.advance(0.1)
    elector.wake_event.set()

    assert (too_early, await probe.wait("bid")) == (False, True)


async def test_elector_waits_after_the_term_of_an_unregistered_client_expired(electors: Electors) -> None:
    """The wait counts from the end of the term, also for a client that starts later."""
    clock = ManualClock()
    await electors.go_leads()
    await electors.execute("UPDATE /* schema */river_leader SET expires_at = now() - interval '3 s'")
    elector, probe = await electors.elector("a", clock=clock)
    before = await probe.wait("bid")

    clock.advance(PATIENCE - 3.0)
    elector.wake_event.set()

    assert (before, await probe.wait("bid"), await electors.leader()) == (False, True, "a")


@pytest.mark.slow
async def test_elector_bids_at_the_end_of_its_wait(electors: Electors) -> None:
    """It needs no wake-up."""
    row = await electors.go_leads()
    elector, probe = await electors.elector("a", interval_seconds=0.05, jitter_seconds=0.05)
    await probe.wait("bid")
    await electors.go_resigns(row)

    term = await probe.wait("gained")

    assert term.leader_id == "a"
    assert elector.backoff_before_term is not None


@pytest.mark.slow
async def test_registered_clients_bid_at_once_when_one_resigns(electors: Electors) -> None:
    """Earlier terms of unregistered clients do not delay that."""
    clock = ManualClock()
    row = await electors.go_leads()
    first, first_probe = await electors.elector("a", clock=clock)
    second, second_probe = await electors.elector("b", clock=clock)
    await first_probe.wait("bid")
    await second_probe.wait("bid")
    await electors.go_resigns(row)
    first.on_notification(RESIGNED)
    await first_probe.wait("bid")
    clock.advance(PATIENCE)
    first.wake_event.set()
    await first_probe.wait("gained")
    second.wake_event.set()
    await second_probe.wait("bid")

    await first.stop()
    second.on_notification('{"leader_id": "a", "action": "resigned"}')

    assert (await second_probe.wait("gained")).leader_id == "b"
    assert second.backoff_before_term is None


async def test_elector_without_a_backoff_bids_at_once(electors: Electors) -> None:
    """Without `prefer_other_leaders` the fastest bid follows the term of an unregistered client."""
    row = await electors.go_leads()
    elector, probe = await electors.elector("a", is_last=False)
    await probe.wait("bid")

    await electors.go_resigns(row)
    elector.on_notification(RESIGNED)

    assert (await probe.wait("gained")).leader_id == "a"


async def test_step_down_makes_all_registered_clients_back_off(
    electors: Electors, caplog: pytest.LogCaptureFixture
) -> None:
    """The term is resigned and announced, and no registered client bids before the others had time."""
    caplog.set_level(logging.INFO)
    clock = ManualClock()
    leader, leader_probe = await electors.elector("a", clock=clock)
    await leader_probe.wait("gained")
    follower, follower_probe = await electors.elector("b", clock=clock)
    await follower_probe.wait("bid")
    leader_probe.forget("bid")

    leader.step_down()
    await leader_probe.wait("resigned")
    own = await leader_probe.wait("bid")
    follower.on_notification('{"leader_id": "a", "action": "resigned"}')
    others = await follower_probe.wait("bid")
    vacant = await electors.leader()

    assert (own, others, vacant) == (False, False, None)
    assert [line for line, _ in lines(caplog)] == [
        "leadership gained",
        "leadership offered to others",
        "leadership resigned",
    ]
    await electors.execute(
        "UPDATE /* schema */millhand_client SET stepped_down_at = now() - interval '6.5 s'"
    )
    clock.advance(PATIENCE)
    leader.wake_event.set()
    await leader_probe.wait("gained")
    assert leader.backoff_before_term is not None
    assert leader.backoff_before_term.other_leader_id is None


async def test_unregistered_client_takes_the_term_after_a_step_down(electors: Electors) -> None:
    """It gets the term and keeps it."""
    leader, probe = await electors.elector("a")
    await probe.wait("gained")
    probe.forget("bid")

    leader.step_down()
    await probe.wait("resigned")
    await electors.go_leads()
    leader.wake_event.set()
    await probe.wait("left")

    assert (leader.term, await electors.leader()) == (None, "go")


async def test_leader_roles_are_separate(electors: Electors) -> None:
    """An unregistered client in River's role does not prevent the periodic role."""
    await electors.go_leads()
    _, river = await electors.elector("a")
    _, periodic = await electors.elector("a", leader_role=LeaderRole.PERIODIC, is_last=False)

    await river.wait("bid")
    await periodic.wait("gained")

    assert (await electors.leader(), await electors.leader(LeaderRole.PERIODIC)) == ("go", "a")


async def test_closed_elector_resigns_and_does_not_bid(electors: Electors) -> None:
    """Opened again, it bids."""
    elector, probe = await electors.elector(
        "a", leader_role=LeaderRole.PERIODIC, is_last=False, is_enabled=False
    )
    closed_at_first = probe.num("bid")

    elector.set_enabled(is_enabled=True)
    await probe.wait("gained")
    elector.set_enabled(is_enabled=False)
    await probe.wait("resigned")
    held = await electors.leader(LeaderRole.PERIODIC)
    elector.set_enabled(is_enabled=True)
    await probe.wait("gained")

    assert (closed_at_first, held, await electors.leader(LeaderRole.PERIODIC)) == (0, None, "a")
