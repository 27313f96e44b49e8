"""Claims about the search for due jobs of kinds that a client does not know: when it happens and what it logs."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import pytest

from factory import NOW, insert_job
from millhand.core.client_row import ClientRow, ClientState
from millhand.core.job import ClientId
from millhand.core.limit import Limit
from millhand.db.driver.protocol import Executor
from millhand.engine.fleet import Fleet
from millhand.engine.kind_watcher import (
    CONFIRM_SECONDS,
    INSERT_SECONDS,
    NUM_EARLY,
    KindWatcher,
    unworked_kinds,
)
from millhand.engine.store.client import ClientHeartbeatParams, client_heartbeat
from millhand.engine.store.queue_load import DueKind
from millhand.limits.job_store import limited_job_collect
from millhand.limits.store import limit_declare
from millhand.limits.waiting_jobs import WAITING_JOBS
from millhand.testing import ManualClock

ME = ClientId("me")


def watcher(pool: Any, clock: ManualClock) -> KindWatcher:
    return KindWatcher(pool, ME, clock=clock, kinds=["known"], queues=lambda: ["default", "mail"])


async def register(tx: Executor, id: str, *kinds: str) -> None:
    heartbeat = ClientHeartbeatParams(
        id=ClientId(id), hostname="here", kinds=kinds, pid=42, queue_updates={}, queues={"default": 1},
        heartbeat_interval=timedelta(seconds=5), version="1.2.3",
    )  # fmt: skip
    await tx.run(client_heartbeat(heartbeat, started_at=None))


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[Any, ...]]:
    return [
        (one.levelname, one.msg, one.kinds, getattr(one, "num_jobs", None))  # type: ignore[attr-defined]
        for one in caplog.records
    ]


async def test_kind_that_no_client_knows_is_a_warning_and_others_are_not(
    tx: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    """Within seconds a client warns of jobs whose kind no client knows, once, and leaves those of others to them."""
    caplog.set_level(logging.INFO)
    clock = ManualClock()
    await register(tx, "me", "known")
    await register(tx, "other", "others")
    for kind in ("known", "others", "forgotten", "forgotten"):
        await insert_job(tx, kind=kind)
    search = watcher(tx, clock)

    await search.run_once()
    first, pause = logged(caplog), search.next_pause_seconds()
    clock.advance(pause)
    await search.run_once()
    clock.advance(search.next_pause_seconds())
    await search.run_once()

    assert (first, pause) == ([("INFO", "kinds left to others", "others", None)], CONFIRM_SECONDS)
    assert logged(caplog)[1:] == [("WARNING", "jobs of unknown kinds wait", "forgotten", 2)]
    assert "workers.include(…)" in caplog.records[-1].remedy  # type: ignore[attr-defined]


async def test_client_that_stops_between_two_searches_warns(
    tx: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that soon stops, as with `--until-empty`, warns at the end."""
    await register(tx, "me", "known")
    await insert_job(tx, kind="forgotten")
    search = watcher(tx, ManualClock())

    await search.start()
    await search.stop()

    assert logged(caplog) == [("WARNING", "jobs of unknown kinds wait", "forgotten", 1)]


class Recorder:
    """An executor in whose database no job is due; it counts the searches."""

    num_searches = 0

    async def run(self, _query: Any) -> list[Any]:
        self.num_searches += 1
        return []


async def test_insert_is_followed_by_a_search_soon_but_searches_are_rare() -> None:
    """A search follows an insert within a second; a client with endless inserts searches no more often than others."""
    clock, pool = ManualClock(), Recorder()
    search = watcher(pool, clock)
    await search.run_once()
    before = search.next_pause_seconds()
    search.on_insert()
    soon = search.next_pause_seconds()

    num_seconds = 3600
    for _ in range(num_seconds):
        clock.advance(1.0)
        search.on_insert()
        await search.run_once()

    assert before >= KindWatcher.interval_seconds
    assert soon == INSERT_SECONDS
    assert pool.num_searches <= 1 + NUM_EARLY + num_seconds / KindWatcher.interval_seconds


async def test_insert_each_minute_is_followed_by_a_search_each_time() -> None:
    """Inserts once a minute, as of a heartbeat, do not use up the early searches."""
    clock = ManualClock()
    search = watcher(Recorder(), clock)
    pauses = []
    for _ in range(100):
        clock.advance(60.0)
        await search.run_once()
        search.on_insert()
        pauses.append(search.next_pause_seconds())
        clock.advance(INSERT_SECONDS)
        await search.run_once()

    assert max(pauses) <= INSERT_SECONDS


def row(state: ClientState, **fields: Any) -> ClientRow:
    return ClientRow(id=ME, state=state, last_seen_at=NOW, **fields)


WORKING = row(ClientState.WORKING, queues={"default": 1}, kinds=("known",))


@pytest.mark.parametrize(
    ("fleet", "expected"),
    [
        ({}, {"forgotten": 5, "known": 4}),
        (
            {
                "clients": (
                    WORKING,
                    row(ClientState.WORKING, queues={"mail": 1}, kinds=("known", "forgotten")),
                )
            },
            {"forgotten": 3},
        ),
        ({"clients": (WORKING, row(ClientState.UNREGISTERED))}, {}),
        ({"other_queues": frozenset({"other"})}, {}),
        ({"is_registering": False}, {}),
        (None, {}),
    ],
)
def test_kind_is_unworked_if_no_client_of_its_queue_can_know_it(
    fleet: dict[str, Any] | None, expected: dict[str, int]
) -> None:
    """Only registered clients of a queue count, and with a trace of an unregistered one the kinds may be its own."""
    plain = {"clients": (WORKING,), "leaders": {}, "other_queues": frozenset(), "is_registering": True}
    due = [
        DueKind("default", "forgotten", 3, NOW),
        DueKind("default", "known", 1, NOW),
        DueKind("mail", "forgotten", 2, NOW),
        DueKind("mail", "known", 4, NOW),
    ]

    assert unworked_kinds(due, None if fleet is None else Fleet(**{**plain, **fleet})) == expected


async def test_kind_that_holds_up_a_partition_is_a_warning(
    tx: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    """With limits, a job that waits for a slot and whose kind no client knows is found too."""
    await tx.run(limit_declare({"default": Limit(in_order=True)}))
    await register(tx, "me", "known")
    for kind in ("forgotten", "known"):
        await insert_job(tx, kind=kind)
    await tx.run(limited_job_collect("default"))

    for waiting in (None, WAITING_JOBS):
        search = KindWatcher(
            tx,
            ME,
            clock=ManualClock(),
            kinds=["known"],
            queues=lambda: ["default"],
            waiting=lambda waiting=waiting: waiting,
        )
        await search.start()
        await search.stop()

    assert logged(caplog) == [("WARNING", "jobs of unknown kinds wait", "forgotten", 1)]
