"""Statements about clients: heartbeats, lists and traces of unregistered clients."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from factory import NOW, insert_job
from millhand.core.client_row import ClientRow, ClientState
from millhand.core.job import ClientId, JobState
from millhand.db.driver.protocol import Executor
from millhand.engine.store.client import (
    ClientHeartbeatParams,
    HeartbeatResult,
    Sighting,
    client_delete_gone,
    client_get_shape,
    client_get_unregistered,
    client_heartbeat,
    client_list,
    client_step_down,
    client_stop,
)
from millhand.engine.store.leader import LeaderView, leader_attempt_elect, leader_get_view
from millhand.engine.store.queue import (
    queue_create_or_set_updated_at,
    queue_pause,
    queue_resume,
    queue_update,
)

A, B, GO = ClientId("a"), ClientId("b"), ClientId("go")
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)


def report(id: ClientId = A, **fields: Any) -> ClientHeartbeatParams:
    values = {
        "hostname": "here",
        "kinds": ["act"],
        "pid": 42,
        "queue_updates": {},
        "queues": {"default": 10},
        "heartbeat_interval": timedelta(seconds=5),
        "version": "1.2.3",
    }
    return ClientHeartbeatParams(id=id, **(values | fields))


async def test_tables_are_there_after_the_migrations(tx: Executor) -> None:
    """The check needs both tables."""
    before = await tx.run(client_get_shape())
    await tx.fetch("DROP TABLE millhand_leader")

    assert (before, await tx.run(client_get_shape())) == (True, False)


async def test_heartbeat_begins_a_life_and_continues_it(tx: Executor) -> None:
    """The first heartbeat dates the life by the database's clock; later ones only change `last_seen_at`."""
    first = await tx.run(client_heartbeat(report(), started_at=None, now=NOW))
    later = await tx.run(client_heartbeat(report(), started_at=first.started_at, now=NOW + 5 * SECOND))

    assert first == HeartbeatResult(NOW, {}, None, NOW, is_alone=True, migrations=first.migrations)
    assert later == HeartbeatResult(NOW, {}, NOW, NOW + 5 * SECOND, migrations=first.migrations)
    assert await tx.run(client_list(now=NOW + 6 * SECOND)) == [
        ClientRow(
            id=A,
            hostname="here",
            kinds=("act",),
            language="python",
            last_seen_at=NOW + 5 * SECOND,
            pid=42,
            queues={"default": 10},
            heartbeat_interval=5 * SECOND,
            started_at=NOW,
            state=ClientState.WORKING,
            version="1.2.3",
        )
    ]


async def test_heartbeat_of_a_new_life_keeps_the_queue_updates_of_the_old(tx: Executor) -> None:
    """The first heartbeat keeps them exactly, and later ones write their own."""
    old, new = NOW + timedelta(microseconds=1), NOW + timedelta(microseconds=2)
    await tx.run(
        client_heartbeat(report(queue_updates={"mail": old, "default": old}), started_at=None, now=NOW)
    )

    again = await tx.run(
        client_heartbeat(report(queue_updates={"mail": new}), started_at=None, now=NOW + MINUTE)
    )
    after = await tx.run(
        client_heartbeat(report(queue_updates={"mail": new}), started_at=again.started_at, now=NOW + MINUTE)
    )

    assert again == HeartbeatResult(
        NOW + MINUTE,
        {"mail": new, "default": old},
        NOW,
        NOW + MINUTE,
        is_alone=True,
        migrations=again.migrations,
    )
    assert after.queue_updates == {"mail": new}


async def test_client_is_unresponsive_after_three_missed_heartbeats(tx: Executor) -> None:
    """A stopped client is listed as stopped."""
    await tx.run(client_heartbeat(report(), started_at=None, now=NOW))
    await tx.run(client_heartbeat(report(B), started_at=None, now=NOW))
    await tx.run(client_stop(id=B, started_at=NOW, now=NOW + SECOND))

    async def states(seconds: float) -> list[ClientState]:
        rows = await tx.run(client_list(now=NOW + timedelta(seconds=seconds)))
        return [row.state for row in rows]

    assert await states(15) == [ClientState.WORKING, ClientState.STOPPED]
    assert await states(15.1) == [ClientState.UNRESPONSIVE, ClientState.STOPPED]


async def test_stop_does_not_mark_another_life(tx: Executor) -> None:
    """A late stop leaves the row of a newer life; a heartbeat removes the mark."""
    await tx.run(client_heartbeat(report(), started_at=None, now=NOW))
    await tx.run(client_heartbeat(report(), started_at=None, now=NOW + SECOND))

    late = await tx.run(client_stop(id=A, started_at=NOW))
    own = await tx.run(client_stop(id=A, started_at=NOW + SECOND, now=NOW + 2 * SECOND))
    [stopped] = await tx.run(client_list())
    await tx.run(client_heartbeat(report(), started_at=NOW + SECOND))
    [back] = await tx.run(client_list())

    assert (late, own, stopped.stopped_at, back.stopped_at) == (False, True, NOW + 2 * SECOND, None)


async def test_attempt_of_an_unregistered_client_is_found(tx: Executor) -> None:
    """The last client of a running or just finished job is registered or a sighting."""
    await tx.run(client_heartbeat(report(), started_at=None))

    async def attempt(state: JobState, by: list[str], at: datetime = NOW) -> None:
        finalized = {"finalized_at": at} if state.is_finalized else {}
        await insert_job(tx, state, attempt=1, attempted_at=at, attempted_by=by, **finalized)

    await attempt(JobState.RUNNING, ["go_1"])
    await attempt(JobState.RUNNING, ["go_before", "a"])
    await attempt(JobState.COMPLETED, ["a", "go_2"])
    await attempt(JobState.DISCARDED, ["go_3"], NOW - MINUTE)
    await attempt(JobState.CANCELLED, ["go_3"])
    await attempt(JobState.COMPLETED, ["go_long_ago"], NOW - 12 * MINUTE)
    await attempt(JobState.RUNNING, ["go_for_hours"], NOW - 12 * MINUTE)

    assert await tx.run(client_get_unregistered(now=NOW)) == [
        Sighting("client", f"go_{number}", NOW) for number in (1, 2, 3)
    ]


async def test_undeclared_update_of_a_queue_is_found(tx: Executor) -> None:
    """An update counts from ten seconds to eleven minutes of age; a pause, its end and new metadata do not count."""
    touches = {
        "new": NOW - 9 * SECOND,
        "go": NOW - 11 * SECOND,
        "ours": NOW - 5 * MINUTE,
        "ours_then_go": NOW - 4 * MINUTE,
        "old": NOW - 11 * MINUTE,
    }
    for name, at in touches.items():
        await tx.run(queue_create_or_set_updated_at(name, now=at))
    await tx.run(queue_create_or_set_updated_at("paused", now=NOW - 9 * MINUTE))
    await tx.run(queue_pause("paused", now=NOW - 8 * MINUTE))
    for name in ("resumed", "described"):
        await tx.run(queue_create_or_set_updated_at(name, now=NOW - 9 * MINUTE))
    await tx.run(queue_pause("resumed", now=NOW - 8 * MINUTE))
    await tx.run(queue_resume("resumed", now=NOW - 7 * MINUTE))
    await tx.run(queue_update("described", metadata={"a": 1}, now=NOW - 7 * MINUTE))
    before = touches["ours_then_go"] - timedelta(microseconds=1)
    owned = {"ours": touches["ours"], "ours_then_go": before}
    await tx.run(client_heartbeat(report(queue_updates=owned), started_at=None, now=NOW))

    assert await tx.run(client_get_unregistered(now=NOW)) == [
        Sighting("queue", name, touches[name]) for name in ("go", "ours_then_go")
    ]


async def test_follower_sees_whether_the_leader_is_registered(tx: Executor) -> None:
    """The view shows a registered leader, the client itself, an expired term, and no term."""

    async def sight(seconds: float) -> LeaderView:
        now = NOW + timedelta(seconds=seconds)
        return await tx.run(leader_get_view(client_id=A, patience=6.5 * SECOND, now=now))

    nobody = await sight(0)
    await tx.run(leader_attempt_elect(leader_id=GO, ttl=15 * SECOND, now=NOW))
    stranger, over = await sight(15), await sight(15.1)
    await tx.run(leader_attempt_elect(leader_id=B, ttl=15 * SECOND, now=NOW + 20 * SECOND))
    unheard = await sight(20)
    await tx.run(client_heartbeat(report(B), started_at=None, now=NOW))
    ours = await sight(20)
    await tx.run(leader_attempt_elect(leader_id=A, ttl=15 * SECOND, now=NOW + 40 * SECOND))
    own = await sight(40)

    assert nobody == LeaderView(None, is_running=False, is_registered=False, has_stepped_down=False)
    assert stranger == LeaderView(GO, is_running=True, is_registered=False, has_stepped_down=False)
    assert over == LeaderView(
        GO, is_running=False, is_registered=False, has_stepped_down=False, vacant_seconds=0.1
    )
    assert unheard == LeaderView(B, is_running=True, is_registered=False, has_stepped_down=False)
    assert ours == LeaderView(B, is_running=True, is_registered=True, has_stepped_down=False)
    assert own == LeaderView(A, is_running=True, is_registered=True, has_stepped_down=False)


async def test_follower_sees_that_a_client_has_stepped_down(tx: Executor) -> None:
    """It sees it for the length of the patience, by the database's clock."""
    await tx.run(client_heartbeat(report(B), started_at=None, now=NOW))
    await tx.run(client_step_down(id=B, now=NOW))

    sights = [
        await tx.run(leader_get_view(client_id=A, patience=6.5 * SECOND, now=NOW + timedelta(seconds=after)))
        for after in (6.4, 6.5)
    ]

    assert [sight.has_stepped_down for sight in sights] == [True, False]


async def test_clients_without_heartbeats_are_deleted_unless_they_hold_jobs(tx: Executor) -> None:
    """A row must stay until the jobs of its client are rescued."""
    for id in ("gone", "holds", "fresh"):
        seen = NOW if id == "fresh" else NOW - 25 * 60 * MINUTE
        await tx.run(client_heartbeat(report(ClientId(id)), started_at=None, now=seen))
    await insert_job(tx, JobState.RUNNING, attempted_by=["gone", "holds"])
    await insert_job(tx, JobState.COMPLETED, attempted_by=["gone"])

    deleted = await tx.run(client_delete_gone(last_seen_horizon=NOW - 24 * 60 * MINUTE))

    assert deleted == ["gone"]
    assert {row.id for row in await tx.run(client_list())} == {"holds", "fresh"}


async def test_heartbeat_shows_whether_its_client_is_alone(tx: Executor) -> None:
    """Not while another client is expected, nor for a minute after any client started, stopped or was declared dead."""

    async def is_alone(after: timedelta) -> bool:
        heartbeat = client_heartbeat(report(), started_at=NOW - MINUTE, now=NOW + after)
        return (await tx.run(heartbeat)).is_alone

    before = [await is_alone(timedelta(0)), await is_alone(SECOND)]
    other = await tx.run(client_heartbeat(report(B), started_at=None, now=NOW + 2 * SECOND))
    beside = [await is_alone(after) for after in (2 * SECOND, 5 * MINUTE)]
    await tx.run(client_stop(id=B, started_at=other.started_at, now=NOW + 6 * MINUTE))
    after = [await is_alone(after) for after in (7 * MINUTE - SECOND, 7 * MINUTE)]

    assert (before, beside, after) == ([True, True], [False, False], [False, True])
