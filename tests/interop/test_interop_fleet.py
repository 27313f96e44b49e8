"""Millhand beside River clients: neither loses jobs under any leader, however often the leader changes."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from interop_harness import Harness
from mixed_fleet import GO, KINDS, NOBODY, NUM_SECONDS, PYTHON, STUCK_BY, Minute, lived
from river_program import RiverProgram

from millhand.db.driver.asyncpg import AsyncpgDriver

# A hand-over that takes longer than half a second, on a machine with other things to do, costs the tick in it.
GAP_SECONDS = 3.0
SHARE_OF_TICKS = 0.9
LEADING: dict[str, Any] = {"leads": True, "queues": {"nothing": 1}}


@pytest.fixture(scope="module", params=[True, False], ids=["lead last", "lead as well"])
async def minute(
    request: pytest.FixtureRequest,
    river: RiverProgram,
    river_path: Path,
    module_driver: AsyncpgDriver,
    postgres_url: str,
) -> AsyncIterator[Minute]:
    """The result of a minute in which leadership moves every second, with `prefer_other_leaders` on and off."""
    connection = await asyncpg.connect(postgres_url)
    reported = river.events
    harness = Harness(connection, module_driver, river, river_path, postgres_url)
    await harness.open()
    try:
        lived_through = await lived(harness, prefer_other_leaders=request.param)
    finally:
        await harness.close()
        river.events = reported
    yield lived_through
    tables = ("river_job", "river_leader", "river_queue", "millhand_client", "millhand_leader")
    await harness.fetch(f"TRUNCATE {', '.join(f'/* schema */{table}' for table in tables)}")
    await connection.close()


@pytest.mark.slow
def test_leadership_moves_every_second(minute: Minute) -> None:
    """
    32: mixed: mixed_request_resign_terms.

    By default only River's clients lead; otherwise both languages lead in turn.
    """
    led = {id for id in minute.leaders if id is not None}

    assert len(minute.leaders) == NUM_SECONDS
    assert minute.leaders.count(None) < NUM_SECONDS / 10
    if minute.prefer_other_leaders:
        assert led <= set(GO)
    else:
        # Who of a language wins a bid is chance, and on a busy machine mostly the one that wakes up first.
        assert led & set(GO)
        assert led & set(PYTHON)
        assert minute.num_moves_between_languages() >= 4


@pytest.mark.slow
def test_millhand_leader_retries_jobs_of_unknown_kinds(minute: Minute) -> None:
    """34: A Millhand leader retries jobs of unknown kinds and logs it; River's leader discards them."""
    rescued = {record.job_id: record.state for record in minute.said("job of unknown kind rescued")}  # type: ignore[attr-defined]
    discarded = [row for row in minute.rows if row["state"] == "discarded"]

    assert set(rescued.values()) <= {"retryable"}
    assert not [row["id"] for row in discarded if row["id"] in rescued]
    assert {row["kind"] for row in discarded} <= {"python_job", NOBODY}  # by River's leaders
    if minute.prefer_other_leaders:
        assert rescued == {}
    else:
        kinds = {row["id"]: row["kind"] for row in minute.rows}
        assert {kinds[id] for id in rescued} == {"go_job", NOBODY}


@pytest.mark.slow
def test_millhand_periodic_jobs_continue_under_any_leader(minute: Minute) -> None:
    """36: No tick runs twice, and one is missing only where a change of leader took too long."""
    _assert_ticks_on(minute, "python_tick")


@pytest.mark.slow
def test_river_periodic_jobs_continue_beside_millhand_clients(minute: Minute) -> None:
    """36: By default no tick of River's is lost; if Millhand clients also lead, River's run while River leads."""
    if minute.prefer_other_leaders:
        _assert_ticks_on(minute, "go_tick")
    else:
        ticks = minute.ticks("go_tick")
        assert ticks
        assert set(ticks.values()) == {1}


@pytest.mark.slow
def test_periodic_job_of_both_languages_is_inserted_once_a_tick(minute: Minute) -> None:
    """
    36: periodic_unique_cross_engine.

    With one ID and a unique period, leaders of both languages insert each tick once.
    """
    rows = minute.of("tick")

    _assert_ticks_on(minute, "tick")
    assert [row["metadata"] for row in rows] == [{"periodic": True, "river:periodic_job_id": "tick"}] * len(
        rows
    )
    assert len({row["unique_key"] for row in rows}) == len(rows)


@pytest.mark.slow
def test_no_client_fetches_a_kind_that_it_cannot_work(minute: Minute) -> None:
    """15: No client fetches a kind of the other language, or a kind without a worker."""
    taken = {
        kind: {id for row in minute.of(kind) for id in row["attempted_by"] or ()} for kind in _all_kinds()
    }

    assert taken["go_job"] - {STUCK_BY} == set(GO)
    assert taken["python_job"] - {STUCK_BY} == set(PYTHON)
    assert taken["go_tick"] <= set(GO)
    assert taken["python_tick"] <= set(PYTHON)
    assert taken["tick"] <= {*GO, *PYTHON}
    assert taken[NOBODY] == {STUCK_BY}
    worked = [row for row in minute.of("go_job", "python_job") if not row["tags"]]
    assert {(row["state"], row["attempt"]) for row in worked} == {("completed", 1)}
    assert len(worked) == NUM_SECONDS * 12


@pytest.mark.slow
def test_millhand_client_logs_each_decision_about_other_clients(minute: Minute) -> None:
    """44: Millhand clients log which kinds and leadership they leave to others, and rescues of unknown kinds."""
    left = minute.said("leadership left to others")
    kinds = minute.said("kinds left to others")

    reported: defaultdict[str, set[str]] = defaultdict(set)
    for record in kinds:
        reported[record.client_id] |= set(record.kinds.split(","))  # type: ignore[attr-defined]
    assert set(reported) == set(PYTHON)
    assert all({NOBODY} <= kinds <= {"go_job", "go_tick", NOBODY} for kinds in reported.values())
    assert minute.said("jobs of unknown kinds wait") == []  # a client of Go may know any kind
    if minute.prefer_other_leaders:
        assert {record.client_id for record in left} == set(PYTHON)  # type: ignore[attr-defined]
        assert {record.leader_id for record in left} <= set(GO)  # type: ignore[attr-defined]
    else:
        assert left == []
        assert minute.said("job of unknown kind rescued")


def _assert_ticks_on(minute: Minute, kind: str) -> None:
    ticks = minute.ticks(kind)
    assert set(ticks.values()) == {1}, ticks
    assert minute.longest_gap(kind) <= GAP_SECONDS
    seconds = NUM_SECONDS - minute.stood_seconds(minute.begun_at, minute.ended_at)
    assert len(ticks) >= SHARE_OF_TICKS * seconds


def test_ticks_are_counted_while_the_machine_runs() -> None:
    """A machine that stands still explains its gap and the late ticks after it, and nothing else."""
    rows = [
        {"kind": "tick", "scheduled_at": datetime.fromtimestamp(at, UTC).isoformat()}
        for at in (101, 102, 105, 107.1, 107.2, 109, 112, 113, 113.5)
    ]
    minute = Minute(False, rows=rows, begun_at=100.5, ended_at=114.0, standstills=[(102.5, 107.0)])

    assert minute.ticks("tick") == {101: 1, 109: 1, 112: 1, 113: 2}
    assert minute.longest_gap("tick") == 3.0
    assert minute.stood_seconds(100.5, 114.0) == 5.5


def _all_kinds() -> set[str]:
    return {kind for kinds in KINDS.values() for kind in kinds} | {NOBODY}


# A Millhand leader beside River clients.


@pytest.mark.slow
async def test_millhand_leader_steps_down_for_a_river_client(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    """
    32: mixed: mixed_leader_failover_both_directions.

    A Millhand leader steps down for a later River client, so that River's periodic jobs run.
    """
    caplog.set_level(logging.INFO)
    async with harness.working("python", "python", **LEADING):
        await harness.until_leader("python")
        async with harness.working("go", "go", leads=True):
            await harness.events.wait("job_completed", client="go", job=await harness.control("go").insert())
            await harness.until_leader("go")

    messages = [record.msg for record in caplog.records]
    assert messages.count("leadership offered to others") == 1
    [suspected] = [one for one in caplog.records if one.msg == "clients in another language suspected"]
    assert "client go" in suspected.reason  # type: ignore[attr-defined]


@pytest.mark.slow
async def test_millhand_leader_keeps_leading_beside_a_client_that_never_leads(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    """
    44: leader_election_disabled_both_directions.

    A Millhand leader steps down once, is elected again when no other client leads, and logs it.
    """
    caplog.set_level(logging.INFO)
    async with harness.working("go", "go", leads=False):
        await harness.events.wait("job_completed", client="go", job=await harness.control("go").insert())
        async with harness.working("python", "python", **LEADING):

            async def is_settled() -> bool:
                return "leadership not taken by others" in [record.msg for record in caplog.records]

            async with asyncio.timeout(30):
                while not await is_settled():
                    await harness.fetch("SELECT pg_notify('interop_change', '')")
            leader = await harness.leader()

    messages = [record.msg for record in caplog.records]
    assert leader == "python"
    assert messages.count("leadership offered to others") == 1
    assert messages.count("leadership gained") == 3  # River's leader_role twice, our own once
