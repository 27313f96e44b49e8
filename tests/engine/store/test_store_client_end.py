"""Statements about clients that died or stopped, and about their jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from store_rows import NOW, put_job

from millhand.core.client_row import ClientState
from millhand.core.job import AttemptError, ClientId, JobId, JobRow, JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.engine.store.client import (
    ClientHeartbeatParams,
    HeartbeatResult,
    client_heartbeat,
    client_list,
    client_stop,
)
from millhand.engine.store.client_end import (
    LEAVING,
    End,
    Losses,
    Stranded,
    client_declare_lost,
    job_get_stranded,
    job_get_stuck_beside_clients,
    job_get_stuck_of_client,
    job_rescue_stranded_many,
)
from millhand.engine.store.job import Rescue, job_get_by_id

A, B, GO = ClientId("a"), ClientId("b"), ClientId("go")
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
LONG_AGO = NOW - 60 * MINUTE
# Two heartbeats at five seconds, and one second more.
DEAD = 11 * SECOND
TICK = timedelta(microseconds=1)
BLOCKED = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0"


async def report(
    tx: Executor,
    id: ClientId,
    at: datetime,
    *,
    started_at: datetime | None = None,
    has_session: bool = False,
    **said: Any,
) -> HeartbeatResult:
    values: dict[str, Any] = {
        "has_session": has_session,
        "hostname": "here",
        "kinds": [],
        "pid": 42,
        "queue_updates": {},
        "queues": {},
        "heartbeat_interval": timedelta(seconds=5),
        "version": "1",
    }
    return await tx.run(
        client_heartbeat(ClientHeartbeatParams(id=id, **values), started_at=started_at, now=at, **said)
    )


async def look(
    tx: Executor, at: datetime, *suspect_ids: ClientId, by: ClientId = A, since: datetime = LONG_AGO
) -> Losses:
    query = client_declare_lost(id=by, now=at, recently=MINUTE, steady_since=since, suspect_ids=suspect_ids)
    return await tx.run(query)


async def running(tx: Executor, client: ClientId, at: datetime, **said: Any) -> JobRow:
    its = {"attempt": 1, "attempted_at": at, "attempted_by": f"{{other,{client}}}", **said}
    return await put_job(tx, JobState.RUNNING, **its)


async def stranded(tx: Executor, at: datetime) -> list[Stranded]:
    return await tx.run(job_get_stranded(after_id=JobId(0), limit=10, now=at))


async def test_client_that_misses_heartbeats_is_declared_dead(tx: Executor) -> None:
    """It is a suspect first and declared dead by the next check, once, unless a heartbeat comes in between."""
    for id in (A, B):
        await report(tx, id, NOW, started_at=LONG_AGO)
    await report(tx, A, NOW + DEAD, started_at=LONG_AGO)

    in_time = await look(tx, NOW + DEAD, B)
    suspected = await look(tx, NOW + DEAD + TICK)
    given_up = await look(tx, NOW + DEAD + SECOND, B)
    again = await look(tx, NOW + DEAD + SECOND, B)
    back = await report(tx, B, NOW + 15 * SECOND, started_at=LONG_AGO)
    after = await look(tx, NOW + 15 * SECOND, B)

    assert in_time == Losses((), (), 0, 0.0)
    assert (suspected.lost_ids, suspected.suspect_ids) == ((), (B,))
    assert (given_up.lost_ids, given_up.suspect_ids) == ((B,), ())
    assert (again.lost_ids, again.suspect_ids, again.num_recent) == ((), (), 1)
    assert back.lost_at == NOW + DEAD + SECOND
    assert (after.lost_ids, after.suspect_ids, after.seconds_left) == ((), (), 11.0)


async def test_client_that_was_declared_dead_is_listed_as_unresponsive(tx: Executor) -> None:
    """At once, and until its next heartbeat."""
    for id in (A, B):
        await report(tx, id, NOW, started_at=LONG_AGO)
    await report(tx, A, NOW + DEAD, started_at=LONG_AGO)
    at = NOW + DEAD + SECOND

    async def states() -> list[ClientState]:
        return [row.state for row in await tx.run(client_list(now=at))]

    before = await states()
    await look(tx, at, B)
    given_up = await states()
    await report(tx, B, at, started_at=LONG_AGO)

    assert before == await states() == [ClientState.WORKING] * 2
    assert given_up == [ClientState.WORKING, ClientState.UNRESPONSIVE]


async def test_client_without_heartbeats_declares_no_client_dead(tx: Executor) -> None:
    """A caller that has missed its own heartbeats has no suspects."""
    for id in (A, B):
        await report(tx, id, NOW, started_at=LONG_AGO)

    looked = await look(tx, NOW + DEAD + SECOND, B)

    assert (looked.lost_ids, looked.suspect_ids) == ((), ())


async def test_missed_heartbeats_count_from_the_callers_first_steady_one(tx: Executor) -> None:
    """After a minute without the database every client gets the time of a living one."""
    await report(tx, B, NOW - MINUTE, started_at=LONG_AGO)
    for seconds in (0, 5, 10):
        await report(tx, A, NOW + seconds * SECOND, started_at=LONG_AGO)

    early = await look(tx, NOW + DEAD, B, since=NOW)
    late = await look(tx, NOW + DEAD + TICK, B, since=NOW)

    assert (early.lost_ids, late.lost_ids) == ((), (B,))


async def test_client_with_an_open_session_gets_two_more_minutes(tx: Executor) -> None:
    """A session that ended, or is another client's, does not count."""
    await report(tx, B, NOW, started_at=LONG_AGO, has_session=True)

    async def suspects(at: datetime) -> tuple[ClientId, ...]:
        await report(tx, A, at, started_at=LONG_AGO)
        return (await look(tx, at)).suspect_ids

    held_up = await suspects(NOW + DEAD + 2 * MINUTE)
    late = await suspects(NOW + DEAD + 2 * MINUTE + TICK)
    await tx.fetch(f"UPDATE millhand_client SET session_started_at = '{LONG_AGO}' WHERE id = 'b'")
    reused = await suspects(NOW + DEAD + TICK)
    await tx.fetch("UPDATE millhand_client SET session_pid = 0 WHERE id = 'b'")
    over = await suspects(NOW + DEAD + TICK)

    assert (held_up, late) == ((), (B,))
    assert reused == over == (B,)


async def test_client_that_has_stopped_is_not_declared_dead(tx: Executor) -> None:
    """A stopped client sends no heartbeats."""
    await report(tx, A, NOW, started_at=LONG_AGO)
    await report(tx, B, LONG_AGO)
    await tx.run(client_stop(id=B, started_at=LONG_AGO, now=LONG_AGO + MINUTE))

    assert await look(tx, NOW, B) == Losses((), (), 0, None)


async def test_jobs_of_living_clients_are_not_stranded(tx: Executor) -> None:
    """Nor are those of unregistered clients, whatever their age."""
    await report(tx, A, LONG_AGO)
    await report(tx, A, NOW, started_at=LONG_AGO)
    await running(tx, A, LONG_AGO)
    await running(tx, GO, LONG_AGO - 1000 * MINUTE)

    assert await stranded(tx, NOW) == []


async def test_jobs_of_clients_that_are_gone_are_stranded(tx: Executor) -> None:
    """Jobs fetched before a client was declared dead, stopped, or restarted are stranded."""
    for id in (A, B, ClientId("c")):
        await report(tx, id, LONG_AGO)
    await report(tx, GO, NOW - 1 * SECOND)
    await look(tx, NOW, A, B, ClientId("c"), by=GO, since=LONG_AGO)
    await report(tx, A, NOW + SECOND, started_at=LONG_AGO)
    await report(tx, B, NOW + SECOND)
    await tx.run(client_stop(id=ClientId("c"), started_at=LONG_AGO, now=NOW + 2 * SECOND))
    jobs = [
        await running(tx, id, at)
        for id, at in (
            (A, NOW - TICK), (A, NOW), (B, NOW), (B, NOW + SECOND), (ClientId("c"), NOW), (ClientId("c"), NOW - TICK),
        )
    ]  # fmt: skip

    found = await stranded(tx, NOW + 4 * SECOND)

    assert [(one.job, one.end, one.at) for one in found] == [
        (jobs[0], End.LOST, NOW + 4 * SECOND),
        (jobs[2], End.RESTARTED, NOW + 4 * SECOND),
        (jobs[4], End.STOPPED, NOW + 4 * SECOND),
        (jobs[5], End.LOST, NOW + 4 * SECOND),
    ]


async def test_job_that_a_stop_abandoned_is_stranded_when_its_process_has_ended(tx: Executor) -> None:
    """A thread may run for a moment after its client has stopped."""
    await report(tx, A, LONG_AGO)
    job = await running(tx, A, LONG_AGO + TICK)
    await tx.run(client_stop(id=A, started_at=LONG_AGO, now=NOW))

    early, late = await stranded(tx, NOW + LEAVING - TICK), await stranded(tx, NOW + LEAVING)

    assert early == []
    assert [(one.job, one.end) for one in late] == [(job, End.STOPPED)]


async def test_job_fetched_after_the_end_is_stranded_later(tx: Executor) -> None:
    """The fetch of a dead client may run late; a client that returns has time for a heartbeat."""
    for id in (A, B):
        await report(tx, id, LONG_AGO)
    await report(tx, GO, NOW)
    await look(tx, NOW, A, by=GO)
    await tx.run(client_stop(id=B, started_at=LONG_AGO, now=NOW))
    jobs = [await running(tx, id, NOW + SECOND) for id in (A, B)]

    early, late = await stranded(tx, NOW + SECOND + DEAD), await stranded(tx, NOW + SECOND + DEAD + TICK)
    await report(tx, A, NOW + SECOND + DEAD + TICK, started_at=LONG_AGO)
    back = await stranded(tx, NOW + SECOND + DEAD + TICK)

    assert early == []
    assert [(one.job, one.end) for one in late] == [(jobs[0], End.LOST), (jobs[1], End.STOPPED)]
    assert [one.job for one in back] == [jobs[1]]


async def test_restart_counts_once_the_former_life_misses_heartbeats(tx: Executor) -> None:
    """Of two living clients with one id neither loses jobs; after the end of one its jobs are stranded."""
    old = await report(tx, A, LONG_AGO)
    job = await running(tx, A, LONG_AGO + MINUTE)
    await report(tx, A, NOW - SECOND, started_at=old.started_at)
    new = await report(tx, A, NOW)
    for seconds in range(5, 30, 5):
        for life in (old, new):
            await report(tx, A, NOW + seconds * SECOND, started_at=life.started_at)
    last = NOW + 25 * SECOND

    contested = [await stranded(tx, last + SECOND), await stranded(tx, last + DEAD - TICK)]
    settled = await stranded(tx, last + DEAD)

    assert contested == [[], []]
    assert [(one.job, one.end) for one in settled] == [(job, End.RESTARTED)]


async def test_ended_life_does_not_delay_a_restart(tx: Executor) -> None:
    """After a stop or a declaration of death the old jobs are stranded at once."""
    first = await report(tx, A, LONG_AGO)
    job = await running(tx, A, LONG_AGO + TICK)
    await tx.run(client_stop(id=A, started_at=first.started_at, now=NOW))
    await report(tx, A, NOW + SECOND)

    assert [one.job for one in await stranded(tx, NOW + SECOND)] == [job]


async def test_life_without_heartbeats_does_not_delay_a_restart(tx: Executor) -> None:
    """A client that restarts an hour later need not wait, even if no client declared it dead."""
    await report(tx, A, LONG_AGO)
    job = await running(tx, A, LONG_AGO + TICK)
    await report(tx, A, NOW)

    assert [one.job for one in await stranded(tx, NOW)] == [job]


async def test_first_heartbeat_dates_the_start_of_the_life(tx: Executor) -> None:
    """A client whose first heartbeat came late keeps the jobs it fetched before."""
    await report(tx, A, NOW, age=MINUTE)
    await running(tx, A, NOW - 59 * SECOND)
    older = await running(tx, A, NOW - 61 * SECOND)

    assert [one.job for one in await stranded(tx, NOW)] == [older]


async def test_clock_that_was_set_back_strands_nothing(tx: Executor) -> None:
    """A `lost_at` an hour ahead does not count, and a life does not begin in the future."""
    await report(tx, A, NOW)
    await report(tx, B, NOW)
    await report(tx, A, NOW + MINUTE, started_at=NOW)
    await look(tx, NOW + MINUTE, B, by=A)
    back = NOW - 60 * MINUTE
    lives = [await report(tx, id, back, started_at=NOW) for id in (A, B)]
    for id in (A, B):
        await running(tx, id, back + SECOND)

    assert await stranded(tx, back + MINUTE) == []
    assert [(life.started_at, life.lost_at) for life in lives] == [(back, None)] * 2


GIVEN_BACK = "Job rescued by ClientRescuer"


async def give_back(tx: Executor, job: JobRow, state: JobState) -> Sequence[JobId]:
    finalized_at = NOW if state.is_finalized else None
    rescue = Rescue(
        job.id, state, AttemptError(NOW, 1, GIVEN_BACK), finalized_at, NOW if finalized_at is None else None
    )
    return await tx.run(job_rescue_stranded_many([job], [rescue]))


@pytest.mark.parametrize(
    "state", [JobState.AVAILABLE, JobState.RETRYABLE, JobState.CANCELLED, JobState.DISCARDED]
)
async def test_stranded_job_is_rescued_once_and_counted(tx: Executor, state: JobState) -> None:
    """The row has state, instant, error and number of rescues, and a second rescue changes nothing."""
    job = await running(tx, A, NOW, metadata='{"a": 1, "river:rescue_count": 2}')

    written = [await give_back(tx, job, state) for _ in range(2)]
    row = await tx.run(job_get_by_id(job.id))

    assert written == [[job.id], []]
    assert (row.state, row.attempt, row.errors) == (state, 1, (AttemptError(NOW, 1, GIVEN_BACK),))
    assert row.metadata == {"a": 1, "river:rescue_count": 3}
    assert (row.finalized_at == NOW, row.scheduled_at == NOW) == (state.is_finalized, not state.is_finalized)


@pytest.mark.parametrize(
    "since",
    [
        "attempt = 2",
        "attempted_at = attempted_at + interval '1 microsecond'",
        "attempted_by = '{a,b}'",
        "state = 'retryable'",
        'metadata = \'{"cancel_attempted_at": "2026-11-25T10:43:42Z"}\'',
    ],
)
async def test_job_that_changed_since_the_search_is_not_rescued(tx: Executor, since: str) -> None:
    """A row with another attempt, client or state, or with a requested cancel, stays as it is."""
    job = await running(tx, A, NOW)
    await tx.fetch(f"UPDATE river_job SET {since}")
    moved = await tx.run(job_get_by_id(job.id))

    assert await give_back(tx, job, JobState.AVAILABLE) == []
    assert await tx.run(job_get_by_id(job.id)) == moved


async def test_rescue_by_age_is_for_jobs_of_unregistered_clients(tx: Executor) -> None:
    """Jobs of registered clients are left to these and to the rescue by death."""
    await report(tx, A, LONG_AGO)
    ours, theirs = await running(tx, A, LONG_AGO), await running(tx, GO, LONG_AGO)

    beside = await tx.run(job_get_stuck_beside_clients(stuck_horizon=NOW, after_id=JobId(0), limit=10))
    own = await tx.run(job_get_stuck_of_client(client_id=A, stuck_horizon=NOW, after_id=JobId(0), limit=10))

    assert (beside, own) == ([theirs], [ours])


async def test_heartbeat_under_way_keeps_a_declaration_of_death(schema_driver: AsyncpgDriver) -> None:
    """Its statement may begin before the declaration. The client still learns of it, and its row shows that it lives."""
    pool, table = schema_driver.pool, f"{schema_driver.schema}.millhand_client"
    params = ClientHeartbeatParams(
        id=A,
        has_session=False,
        hostname="here",
        kinds=[],
        pid=42,
        queue_updates={},
        queues={},
        heartbeat_interval=5 * SECOND,
        version="1",
    )
    first = await pool.run(client_heartbeat(params, started_at=None))
    async with pool.begin() as tx:
        await tx.fetch(f"SELECT FROM {table} FOR UPDATE")
        heartbeat = asyncio.create_task(pool.run(client_heartbeat(params, started_at=first.started_at)))
        async with asyncio.timeout(20):
            while not await pool.fetch(BLOCKED):
                pass
        await tx.fetch(f"UPDATE {table} SET lost_at = clock_timestamp()")
    result = await heartbeat

    assert result.lost_at is not None
    assert result.seen_at == result.lost_at
    assert [row.state for row in await pool.run(client_list())] == [ClientState.WORKING]
