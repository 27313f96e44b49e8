"""Reports that renew terms and look ahead, and what happens when they do not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import Any

import pytest

from factory import insert_job, qualified
from millhand.clock import SystemClock
from millhand.driver.asyncpg import AsyncpgDriver
from millhand.errors import MillhandError
from millhand.job import ClientId, JobState
from millhand.runtime import errands
from millhand.runtime.client_heartbeat import ClientHeartbeat
from millhand.runtime.elector import Elector, Term
from millhand.runtime.errands import BEAT_SECONDS, Errands
from millhand.store.client import ClientHeartbeatParams, client_heartbeat
from millhand.store.client_errand import ErrandDone
from millhand.store.leader import LeaderRole, LeaderRow, leader_get
from millhand.testing import Probe

NEVER = 3600.0
ME = ClientId("me")
SECOND = timedelta(seconds=1)


def another_report() -> ClientHeartbeatParams:
    return ClientHeartbeatParams(
        id=ClientId("another"),
        hostname="there",
        kinds=[],
        pid=42,
        queue_updates={},
        queues={},
        heartbeat_interval=timedelta(minutes=1),
        version="1.2.3",
    )


class Broken:
    """A pool in whose way there is something, for reports that go on errands."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self.said: list[str] = []

    async def run(self, query: Any) -> Any:
        self.said.append(query.name)
        if query.name == "client_report_on_errands":
            raise MillhandError("a table of an errand is locked")
        return await self._pool.run(query)


class House:
    """A client's electors and its reporter, each of which does something when woken, or by its report."""

    def __init__(self, driver: AsyncpgDriver, stack: AsyncExitStack) -> None:
        self.driver = driver
        self.due_before: datetime | None = None
        self.looked: list[tuple[datetime, bool]] = []
        self.stack = stack
        self.river, self.of_river = self._elector(LeaderRole.RIVER)
        self.periodic, self.of_periodic = self._elector(LeaderRole.PERIODIC)
        self.reporter = ClientHeartbeat(
            driver.pool,
            ME,
            clock=SystemClock(),
            interval=timedelta(seconds=NEVER),
            kinds=(),
            on_known=lambda: None,
            queues=dict,
        )
        self.of_reporter = Probe(self.reporter)
        self.errands = self.reporter.errands = Errands(
            clock=SystemClock(),
            look_ahead=lambda: self.due_before,
            on_looked=lambda *looked: self.looked.append(looked),
            periodic=self.periodic,
            river=self.river,
        )
        stack.push_async_callback(self.reporter.stop)

    def _elector(self, leader_role: LeaderRole) -> tuple[Elector, Probe]:
        elector = Elector(
            self.driver.pool,
            ME,
            clock=SystemClock(),
            interval_seconds=NEVER,
            jitter_seconds=0.0,
            leader_role=leader_role,
            on_term=lambda _: None,
        )
        self.stack.push_async_callback(elector.stop)
        return elector, Probe(elector)

    async def lead(self) -> Term:
        await self.reporter.start()
        await self.river.start()
        await self.periodic.start()
        await self.of_periodic.wait("gained")
        term: Term = await self.of_river.wait("gained")
        return term

    async def row(self, leader_role: LeaderRole) -> LeaderRow:
        row = await self.driver.pool.run(leader_get(leader_role=leader_role))
        assert row is not None
        return row


@pytest.fixture
async def house(schema_driver: AsyncpgDriver, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    """A house in which no report is slow because the machine is."""
    monkeypatch.setattr(errands, "SLOW_SECONDS", NEVER)
    async with AsyncExitStack() as stack:
        yield House(schema_driver, stack)


async def test_report_renews_terms_and_electors_trust_it(house: House) -> None:
    """Both leadership are renewed by one statement, their electors say nothing, and the next report comes in time."""
    await house.lead()
    before = {leader_role: await house.row(leader_role) for leader_role in LeaderRole}
    trusted = [house.river._trusted_until, house.periodic._trusted_until]
    assert house.reporter._pause_seconds() == BEAT_SECONDS

    await house.reporter.run_once()

    for leader_role in LeaderRole:
        after = await house.row(leader_role)
        assert after.elected_at == before[leader_role].elected_at
        assert after.expires_at > before[leader_role].expires_at
    assert house.river._trusted_until > trusted[0]
    assert house.periodic._trusted_until > trusted[1]
    assert (house.of_river.num("renewed"), house.of_periodic.num("renewed")) == (0, 0)


async def test_term_that_a_report_did_not_renew_is_renewed_or_lost_at_once(house: House) -> None:
    """The elector finds out itself: a row that was only held is renewed, and one that is another's means the end."""
    await house.lead()
    pool = house.driver.pool
    async with pool.begin() as other:
        await other.fetch(qualified("SELECT FROM /* schema */river_leader FOR UPDATE", pool))
        await house.reporter.run_once()
    is_renewed = await house.of_river.wait("renewed")

    await pool.fetch(qualified("UPDATE /* schema */millhand_leader SET leader_id = 'other'", pool))
    await house.reporter.run_once()
    await house.of_periodic.wait("ended")

    assert is_renewed
    assert (house.river.is_leader, house.periodic.is_leader) == (True, False)


async def test_report_that_failed_goes_without_errands_for_a_while(house: House) -> None:
    """What is in the way of an errand is not in the way of reports: the next one is plain."""
    await house.lead()
    broken = house.reporter._pool = Broken(house.driver.pool)  # type: ignore[assignment]

    for _ in range(3):
        await house.reporter.run_once()

    assert broken.said == ["client_report_on_errands", "client_heartbeat", "client_heartbeat"]
    assert house.reporter._pause_seconds() == NEVER


async def test_report_that_was_slow_goes_without_errands_for_a_while(house: House) -> None:
    """What it has done counts, but next time everybody goes himself."""
    await house.lead()
    errand = house.errands.wanted()
    assert errand is not None
    done = ErrandDone(is_alone=True, is_anything_due=None, is_periodic_renewed=True, is_river_renewed=True)

    house.errands.hear(errand, done, SystemClock().monotonic() - NEVER - 1.0)

    assert (house.errands.wanted(), house.errands.is_alone) == (None, False)
    assert house.river.is_leader


async def test_report_looks_ahead_when_it_is_asked_to(house: House) -> None:
    """Whoever passes over jobs that are due is told what was seen; nothing is looked for that nobody wants to know."""
    await house.lead()
    await house.reporter.run_once()
    looked_before = list(house.looked)

    house.due_before = SystemClock().now()
    await house.reporter.run_once()

    assert (looked_before, house.looked) == ([], [(house.due_before, False)])


async def test_what_a_report_saw_is_told_as_it_was(house: House) -> None:
    """Jobs that are due, and whether other clients are there: found in the database, and told to whoever asks."""
    await house.lead()
    pool = house.driver.pool
    await pool.fetch(
        qualified("UPDATE /* schema */millhand_client SET started_at = now() - interval '1 h'", pool)
    )
    house.due_before = SystemClock().now()
    await house.reporter.run_once()
    was_alone = house.errands.is_alone

    await insert_job(pool, state=JobState.SCHEDULED, scheduled_at=house.due_before - SECOND)
    await pool.run(client_heartbeat(another_report(), started_at=None))
    await house.reporter.run_once()

    assert (was_alone, house.errands.is_alone) == (True, False)
    assert house.looked == [(house.due_before, False), (house.due_before, True)]


async def test_who_holds_one_office_does_the_errands_of_that_one(house: House) -> None:
    """Each term is renewed for the time that its own elector gives it, and only who leads River's line looks ahead."""
    await house.lead()
    house.due_before = SystemClock().now()
    house.river.ttl_seconds, house.periodic.ttl_seconds = 20.0, 30.0
    both = house.errands.wanted()
    await house.river.stop()
    one = house.errands.wanted()

    assert both is not None
    assert one is not None
    assert (both.river_ttl, both.periodic_ttl) == (timedelta(seconds=20), timedelta(seconds=30))
    assert both.due_before == house.due_before
    assert (one.due_before, one.river_elected_at) == (None, None)
    assert one.periodic_elected_at == both.periodic_elected_at


async def test_who_rests_does_not_claim_to_be_alone(house: House) -> None:
    """From that moment on nobody looks, so the client rescuer has to, before the next report comes."""
    await house.lead()
    house.errands.is_alone = True

    house.errands.rest()

    assert not house.errands.is_alone


async def test_client_that_leads_nothing_goes_on_no_errands(house: House) -> None:
    """It reports at its interval, and does not claim to be alone for what it saw when it led."""
    await house.lead()
    house.errands.is_alone = True
    await house.river.stop()
    await house.periodic.stop()

    assert (house.errands.wanted(), house.reporter._pause_seconds()) == (None, NEVER)
    assert not house.errands.is_alone
