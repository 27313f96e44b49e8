"""Claims about the report that does on its way what whoever leads would ask otherwise."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from factory import GENEROUS_SECONDS, NOW, insert_job, qualified
from millhand.driver.asyncpg import AsyncpgDriver
from millhand.driver.protocol import Executor
from millhand.job import ClientId, JobState
from millhand.store.client import ClientHeartbeatParams, client_heartbeat, client_stop
from millhand.store.client_errand import Errand, ErrandDone, client_report_on_errands
from millhand.store.leader import LeaderRole, leader_attempt_elect, leader_get

A, B = ClientId("a"), ClientId("b")
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)


def report(id: ClientId = A) -> ClientHeartbeatParams:
    return ClientHeartbeatParams(
        id=id,
        hostname="here",
        kinds=[],
        pid=42,
        queue_updates={},
        queues={},
        heartbeat_interval=5 * SECOND,
        version="1.2.3",
    )


async def lead(tx: Executor, leader_role: LeaderRole, id: ClientId = A) -> datetime:
    row = await tx.run(leader_attempt_elect(leader_id=id, ttl=10 * SECOND, now=NOW, leader_role=leader_role))
    assert row is not None
    return row.elected_at


async def done(tx: Executor, now: datetime = NOW + 5 * SECOND, **fields: Any) -> ErrandDone:
    errand = Errand(periodic_ttl=10 * SECOND, river_ttl=15 * SECOND, **fields)
    reported, done = await tx.run(
        client_report_on_errands(report(), errand, started_at=NOW - MINUTE - SECOND, now=now)
    )
    assert reported.seen_at == now
    return done


async def ends(tx: Executor) -> list[timedelta]:
    rows = [await tx.run(leader_get(leader_role=leader_role)) for leader_role in LeaderRole]
    return [row.expires_at - NOW for row in rows if row is not None]


async def test_report_renews_the_terms_that_it_names(tx: Executor) -> None:
    """Each for its own time from now on; an leader_role of which nothing is said is left as it is."""
    river, periodic = await lead(tx, LeaderRole.RIVER), await lead(tx, LeaderRole.PERIODIC)

    first = await done(tx, river_elected_at=river)
    after_first = await ends(tx)
    both = await done(tx, river_elected_at=river, periodic_elected_at=periodic)

    assert (first.is_river_renewed, first.is_periodic_renewed) == (True, False)
    assert (both.is_river_renewed, both.is_periodic_renewed) == (True, True)
    assert (after_first, await ends(tx)) == ([20 * SECOND, 10 * SECOND], [20 * SECOND, 15 * SECOND])


@pytest.mark.parametrize(
    ("leader", "later", "elected"), [(B, 5, 0), (A, 11, 0), (A, 5, 1)], ids=["another's", "over", "later one"]
)
async def test_report_renews_no_other_term(tx: Executor, leader: ClientId, later: int, elected: int) -> None:
    """Neither somebody else's, nor one that has expired, nor a later one of the same name."""
    for leader_role in LeaderRole:
        await lead(tx, leader_role, leader)
    named = NOW - elected * SECOND

    result = await done(tx, NOW + later * SECOND, river_elected_at=named, periodic_elected_at=named)

    assert (result.is_river_renewed, result.is_periodic_renewed) == (False, False)
    assert await ends(tx) == [10 * SECOND] * 2


async def test_report_waits_for_nobody_who_holds_an_office_s_row(schema_driver: AsyncpgDriver) -> None:
    """Who is silent is given up: a row that another transaction has locked is left out, and the report is made."""
    pool = schema_driver.pool
    river, periodic = await lead(pool, LeaderRole.RIVER), await lead(pool, LeaderRole.PERIODIC)
    lock = qualified("SELECT FROM /* schema */river_leader FOR UPDATE", pool)

    async with pool.begin() as other:
        await other.fetch(lock)
        async with asyncio.timeout(GENEROUS_SECONDS):
            result = await done(pool, river_elected_at=river, periodic_elected_at=periodic)

    assert (result.is_river_renewed, result.is_periodic_renewed) == (False, True)


@pytest.mark.parametrize("state", [JobState.SCHEDULED, JobState.RETRYABLE])
async def test_report_tells_whether_a_job_will_be_due(tx: Executor, state: JobState) -> None:
    """What the scheduler would find by then, no more; nothing is said if nobody has asked."""
    await insert_job(tx, state, scheduled_at=NOW + MINUTE)
    await insert_job(tx, JobState.AVAILABLE, scheduled_at=NOW)

    answers = [
        (await done(tx, due_before=due)).is_anything_due
        for due in (None, NOW + MINUTE - SECOND, NOW + MINUTE)
    ]

    assert answers == [None, False, True]


async def test_report_tells_whether_its_client_is_alone(tx: Executor) -> None:
    """Not while another one is expected to report, nor for a minute after anybody has come, ended or begun anew."""

    async def is_alone(later: timedelta) -> bool:
        return (await done(tx, NOW + later)).is_alone

    before = [await is_alone(timedelta(0)), await is_alone(SECOND)]
    started = await tx.run(client_heartbeat(report(B), started_at=None, now=NOW + 2 * SECOND))
    beside = [await is_alone(later) for later in (2 * SECOND, 5 * MINUTE)]
    await tx.run(client_stop(id=B, started_at=started.started_at, now=NOW + 6 * MINUTE))
    after = [await is_alone(later) for later in (7 * MINUTE - SECOND, 7 * MINUTE)]

    assert (before, beside, after) == ([True, True], [False, False], [False, True])
