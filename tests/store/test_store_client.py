"""Claims about the statements that know who is there."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from factory import NOW, insert_job
from millhand.client_row import ClientRow, ClientState
from millhand.driver.protocol import Executor
from millhand.job import ClientId, JobState
from millhand.store.client import (
    ClientHeartbeatParams,
    HeartbeatResult,
    Sighting,
    client_delete_gone,
    client_get_shape,
    client_get_unknown_kinds,
    client_get_unregistered,
    client_heartbeat,
    client_list,
    client_step_down,
    client_stop,
)
from millhand.store.leader import LeaderView, leader_attempt_elect, leader_get_view
from millhand.store.queue import queue_create_or_set_updated_at, queue_pause

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
    """The shape is that of both tables, or none."""
    before = await tx.run(client_get_shape())
    await tx.fetch("DROP TABLE millhand_leader")

    assert (before, await tx.run(client_get_shape())) == (True, False)


async def test_report_begins_a_life_and_goes_on_with_it(tx: Executor) -> None:
    """The first report dates the life by the database's clock; later ones name it, and only move what was seen last."""
    first = await tx.run(client_heartbeat(report(), started_at=None, now=NOW))
    later = await tx.run(client_heartbeat(report(), started_at=first.started_at, now=NOW + 5 * SECOND))

    assert first == HeartbeatResult(NOW, {}, None, NOW, is_alone=True)
    assert later == HeartbeatResult(NOW, {}, NOW, NOW + 5 * SECOND)
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


async def test_report_of_a_new_life_keeps_what_the_old_one_touched(tx: Executor) -> None:
    """Who comes back under his name owns up to the queues of before, exactly, until he says what he touches himself."""
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
        NOW + MINUTE, {"mail": new, "default": old}, NOW, NOW + MINUTE, is_alone=True
    )
    assert after.queue_updates == {"mail": new}


async def test_client_is_silent_when_three_reports_are_missing(tx: Executor) -> None:
    """A late report is no death; a stop is a state of its own."""
    await tx.run(client_heartbeat(report(), started_at=None, now=NOW))
    await tx.run(client_heartbeat(report(B), started_at=None, now=NOW))
    await tx.run(client_stop(id=B, started_at=NOW, now=NOW + SECOND))

    async def states(seconds: float) -> list[ClientState]:
        rows = await tx.run(client_list(now=NOW + timedelta(seconds=seconds)))
        return [row.state for row in rows]

    assert await states(15) == [ClientState.WORKING, ClientState.STOPPED]
    assert await states(15.1) == [ClientState.UNRESPONSIVE, ClientState.STOPPED]


async def test_stop_marks_no_other_life(tx: Executor) -> None:
    """A client that stops late leaves the row of the one that took its name; a report takes the mark away."""
    await tx.run(client_heartbeat(report(), started_at=None, now=NOW))
    await tx.run(client_heartbeat(report(), started_at=None, now=NOW + SECOND))

    late = await tx.run(client_stop(id=A, started_at=NOW))
    own = await tx.run(client_stop(id=A, started_at=NOW + SECOND, now=NOW + 2 * SECOND))
    [stopped] = await tx.run(client_list())
    await tx.run(client_heartbeat(report(), started_at=NOW + SECOND))
    [back] = await tx.run(client_list())

    assert (late, own, stopped.stopped_at, back.stopped_at) == (False, True, NOW + 2 * SECOND, None)


async def test_attempt_of_nobody_of_ours_is_seen(tx: Executor) -> None:
    """Whoever fetched a job last, whether it still runs or ended a moment ago, is ours or foreign."""
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


async def test_queue_that_nobody_of_ours_touched_is_seen(tx: Executor) -> None:
    """A touch counts for eleven minutes, after the ten seconds in which one of ours may own up to it; a pause is none."""
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
    before = touches["ours_then_go"] - timedelta(microseconds=1)
    owned = {"ours": touches["ours"], "ours_then_go": before}
    await tx.run(client_heartbeat(report(queue_updates=owned), started_at=None, now=NOW))

    assert await tx.run(client_get_unregistered(now=NOW)) == [
        Sighting("queue", name, touches[name]) for name in ("go", "ours_then_go")
    ]


async def test_follower_sees_whether_the_leader_is_ours(tx: Executor) -> None:
    """Ours is who has a row, and who asks; a term that is over and nobody at all are seen as such."""

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


async def test_follower_sees_that_one_of_ours_made_way(tx: Executor) -> None:
    """For as long as others are given, by the database's clock."""
    await tx.run(client_heartbeat(report(B), started_at=None, now=NOW))
    await tx.run(client_step_down(id=B, now=NOW))

    sights = [
        await tx.run(leader_get_view(client_id=A, patience=6.5 * SECOND, now=NOW + timedelta(seconds=after)))
        for after in (6.4, 6.5)
    ]

    assert [sight.has_stepped_down for sight in sights] == [True, False]


async def test_unknown_kinds_are_those_of_due_jobs_in_ones_queues(tx: Executor) -> None:
    """Neither what is known, nor what is not due, nor what another queue holds."""
    for kind, queue, at in (
        ("known", "default", NOW),
        ("theirs", "default", NOW),
        ("theirs", "mail", NOW),
        ("others", "mail", NOW),
        ("later", "default", NOW + SECOND),
        ("elsewhere", "elsewhere", NOW),
    ):
        await insert_job(tx, kind=kind, queue=queue, scheduled_at=at)

    query = client_get_unknown_kinds(kinds=["known"], queues=["default", "mail"], now=NOW)

    assert await tx.run(query) == ["others", "theirs"]


async def test_clients_that_are_gone_are_deleted_but_for_those_that_hold_jobs(tx: Executor) -> None:
    """Whoever must give back the jobs of the dead can still tell that they were ours."""
    for id in ("gone", "holds", "fresh"):
        seen = NOW if id == "fresh" else NOW - 25 * 60 * MINUTE
        await tx.run(client_heartbeat(report(ClientId(id)), started_at=None, now=seen))
    await insert_job(tx, JobState.RUNNING, attempted_by=["gone", "holds"])
    await insert_job(tx, JobState.COMPLETED, attempted_by=["gone"])

    deleted = await tx.run(client_delete_gone(last_seen_horizon=NOW - 24 * 60 * MINUTE))

    assert deleted == ["gone"]
    assert {row.id for row in await tx.run(client_list())} == {"holds", "fresh"}
