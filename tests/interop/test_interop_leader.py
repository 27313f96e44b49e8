"""One leader for both languages, and the jobs of clients that stop or are killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from interop_harness import BOTH_WAYS, LANGUAGES, Harness, Language, Periodic
from recorded_logs import recording_logs
from river_program import RiverError, RiverProgram

from millhand.core.errors import ConfigError
from millhand.db.driver.asyncpg import AsyncpgDriver

# A follower bids again after five seconds at the earliest; what is faster was woken.
BID_SECONDS = 5.0
# One interval, its jitter, and what a bid may take.
PATIENCE_SECONDS = 6.5
RESCUED = "Stuck job rescued by JobRescuer"
REQUIRED = ["available", "pending", "running", "scheduled"]
LEADING: dict[str, Any] = {"leads": True, "queues": {"nothing": 1}}
RETRIED = ("retryable", "available")  # the retry is due after a second, and the leader schedules it


# Leadership.


@contextlib.asynccontextmanager
async def following(harness: Harness, language: Language) -> AsyncIterator[None]:
    """Start a client that follows a leader of the other language and has read the leader's row."""
    with recording_logs(harness, "millhand.engine.elector"):
        async with harness.working(language, language, leads=True):
            if language == "python":
                await harness.events.wait("log", message="leadership left to others")
            yield


@pytest.mark.parametrize(("first", "second"), BOTH_WAYS)
async def test_client_of_the_other_language_leads_when_a_leader_stops(
    harness: Harness, first: Language, second: Language
) -> None:
    """
    32: mixed: mixed_leader_failover_both_directions.

    The next leader reacts to the `resigned` notification, and there is never more than one row. A Millhand
    client waits until every River client has had time to bid.
    """
    async with harness.working(first, first, leads=True) as leader:
        await harness.until_leader(first)
        async with following(harness, second):
            began = _now()
            await leader.stop()
            await harness.until_leader(second)
            seconds = _now() - began
            rows = await harness.fetch("SELECT name FROM /* schema */river_leader")

    if second == "go":
        assert seconds < BID_SECONDS
    else:
        assert PATIENCE_SECONDS <= seconds < PATIENCE_SECONDS + BID_SECONDS
    assert [row["name"] for row in rows] == ["default"]


@pytest.mark.parametrize("asking", LANGUAGES)
async def test_millhand_leader_resigns_when_it_is_asked(harness: Harness, asking: Language) -> None:
    """
    32: mixed: mixed_request_resign_terms.

    A River client is elected before the next bid is due, whichever language sent the request.
    """
    async with harness.working("python", "python", leads=True):
        await harness.until_leader("python")
        async with harness.working("go", "go", leads=True):
            began = _now()
            await harness.control(asking).request_resign()
            await harness.until_leader("go")
            seconds = _now() - began

    assert seconds < BID_SECONDS


@pytest.mark.parametrize("asking", LANGUAGES)
async def test_new_term_begins_when_a_river_leader_is_asked_to_resign(
    harness: Harness, asking: Language
) -> None:
    """32: River's leader ends its term, and the next term begins at once under either language."""
    async with harness.working("go", "go", leads=True), harness.working("python", "python", leads=True):
        await harness.until_leader("go")
        [before] = await harness.fetch("SELECT elected_at FROM /* schema */river_leader")

        async def is_another_term() -> bool:
            rows = await harness.fetch("SELECT elected_at FROM /* schema */river_leader")
            return len(rows) == 1 and rows != [before]

        await harness.control(asking).request_resign()
        await harness.until(is_another_term, "another term")


@pytest.mark.slow
@pytest.mark.parametrize(("killed", "heir"), BOTH_WAYS)
async def test_client_of_the_other_language_leads_when_the_term_of_a_killed_leader_expires(
    harness: Harness, killed: Language, heir: Language
) -> None:
    """
    32: chaos: mixed_leader_death_failover_both_directions.

    The next term begins after 15 s and soon afterwards. A Millhand client bids once every River client has
    had time to bid.
    """
    async with harness.killable(killed, "killed") as process:
        await harness.until_leader("killed")
        async with following(harness, heir):
            await process.kill()  # who is dead renews its term no more
            [row] = await harness.fetch("SELECT expires_at FROM /* schema */river_leader")
            await harness.until_leader(heir)
            [now] = await harness.fetch("SELECT elected_at FROM /* schema */river_leader")

    assert timedelta(0) <= now["elected_at"] - row["expires_at"] < timedelta(seconds=10)


@pytest.mark.parametrize("language", LANGUAGES)
async def test_client_without_election_never_leads(harness: Harness, language: Language) -> None:
    """44: mixed: leader_election_disabled_both_directions; a client without election works jobs and never leads."""
    async with harness.working(language, leads=False):
        await harness.events.wait("job_completed", job=await harness.control(language).insert())
        leader = await harness.leader()

    assert leader is None


@pytest.mark.parametrize("language", LANGUAGES)
async def test_client_without_election_refuses_periodic_jobs(harness: Harness, language: Language) -> None:
    """44: A client that never leads refuses periodic jobs, as it would never insert them."""
    hourly = Periodic(id="hourly", kind="act", opts={}, seconds=3600)
    with pytest.raises((RiverError, ConfigError)):
        async with harness.working(language, leads=False, periodic_jobs=[hourly]):
            pass


# What a leader does.


@dataclass
class World:
    """Rows by name, before and after the maintenance of a leader."""

    ids: dict[str, int] = field(default_factory=dict)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    queues: list[str] = field(default_factory=list)

    def summaries(self, summary: Callable[[dict[str, Any]], Any], *names: str) -> dict[str, Any]:
        return {name: summary(self.rows[name]) if name in self.rows else None for name in names}


@pytest.fixture(scope="module")
async def worlds(
    river: RiverProgram, river_path: Path, module_driver: AsyncpgDriver, postgres_url: str
) -> AsyncIterator[dict[Language, World]]:
    """The same rows, maintained by a leader of each language and inserted by the other language."""
    worlds: dict[Language, World] = {}
    connection = await asyncpg.connect(postgres_url)
    summaries = river.events
    for inserter, leader in BOTH_WAYS:
        harness = Harness(connection, module_driver, river, river_path, postgres_url)
        await harness.open()
        worlds[leader] = await _swept(harness, inserter, leader)
        await harness.fetch(
            "TRUNCATE /* schema */river_job, /* schema */river_leader, /* schema */river_queue"
        )
        await harness.close()
    river.events = summaries
    yield worlds
    await connection.close()


@pytest.mark.parametrize("language", LANGUAGES)
def test_schedulers_leave_the_same_states(worlds: dict[Language, World], language: Language) -> None:
    """
    33: runtime: periodic_due_job_available.

    Both schedulers release jobs that are due within five seconds, and one of each unique key.
    """
    world = worlds[language]

    def summary(row: dict[str, Any]) -> Any:
        return row["state"], row["finalized_at"] is not None, row["metadata"]

    conflict = {"unique_key_conflict": "scheduler_discarded"}
    assert world.summaries(summary, *_SCHEDULED) == {
        "due": ("available", False, {}),
        "due in 4 s": ("available", False, {}),
        "due in an hour": ("scheduled", False, {}),
        "key's holder": ("available", False, {}),
        "pending": ("pending", False, {}),
        "retryable": ("available", False, {}),
        "retryable, key taken": ("discarded", True, conflict),
        "first of a key": ("available", False, {}),
        "second of a key": ("discarded", True, conflict),
    }
    assert _instant(world.rows["due in 4 s"]["scheduled_at"]) - _instant(
        world.rows["due in 4 s"]["created_at"]
    ) > timedelta(seconds=3)


@pytest.mark.parametrize("language", LANGUAGES)
def test_rescuers_leave_the_same_states_except_for_unknown_kinds(
    worlds: dict[Language, World], language: Language
) -> None:
    """34: Both rescuers decide alike, except that River discards a job of an unknown kind and Millhand retries it."""
    world = worlds[language]

    def summary(row: dict[str, Any]) -> Any:
        state = "retryable" if row["state"] in RETRIED else row["state"]
        return state, row["metadata"].get("river:rescue_count"), row["errors"][-1]["error"]

    unknown = "discarded" if language == "go" else "retryable"
    assert world.summaries(summary, *_STUCK) == {
        "args that do not decode": ("retryable", 1, RESCUED),
        "attempts left": ("retryable", 1, RESCUED),
        "cancel requested": ("cancelled", 1, RESCUED),
        "count is no number": ("retryable", 1, RESCUED),
        "last attempt": ("discarded", 1, RESCUED),
        "not stuck yet": ("running", None, "boom"),
        "odd errors": ("retryable", 1, RESCUED),
        "own retry": ("retryable", 1, RESCUED),
        "rescued before": ("retryable", 5, RESCUED),
        "unknown kind": (unknown, 1, RESCUED),
    }
    own = world.rows["own retry"]
    wait = _instant(own["scheduled_at"]) - _instant(own["errors"][-1]["at"])
    assert timedelta(minutes=9) < wait < timedelta(minutes=11)
    assert sorted(own["errors"][-1]) == ["at", "attempt", "error", "trace"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_cleaner_keeps_each_state_for_its_configured_retention(
    worlds: dict[Language, World], language: Language
) -> None:
    """
    35: maintenance_job_cleaner_retention.

    The cleaner deletes each state after its own retention, and with -1 never.
    """
    assert worlds[language].summaries(lambda row: row["state"], *_OLD) == {
        "cancelled long ago": "cancelled",
        "completed 2 h ago": None,
        "completed 30 min ago": "completed",
        "discarded 1 h ago": "discarded",
        "discarded 3 h ago": None,
    }


@pytest.mark.parametrize("language", LANGUAGES)
def test_queue_cleaner_deletes_rows_that_no_client_updates(
    worlds: dict[Language, World], language: Language
) -> None:
    """
    28: maintenance_queue_cleaner_keeps_active_queues.

    The leader deletes a queue's row a day after its last update, paused or not.
    """
    assert worlds[language].queues == ["day_old_but_one_hour", "nothing"]


@pytest.mark.parametrize(("first", "second"), BOTH_WAYS)
async def test_periodic_job_of_both_languages_is_inserted_once(
    harness: Harness, first: Language, second: Language
) -> None:
    """
    36: runtime: periodic_run_on_start, periodic_unique_cross_engine.

    The job that the next leader inserts is a duplicate.
    """
    opts = {"unique": {"by_period_seconds": 10 * 365 * 24 * 3600}, "metadata": {"own": 1}}
    periodic = [
        Periodic(id="report", kind="report", opts=opts, seconds=3600, run_on_start=True),
        Periodic(id="mark", kind="mark", opts={}, seconds=3600, run_on_start=True),
    ]

    for num_marks, language in enumerate((first, second), 1):
        async with harness.working(language, language, periodic_jobs=periodic, **LEADING):
            await harness.until(lambda num=num_marks: _has(harness, "mark", num), "the jobs of a new leader")

    reports = await harness.rows("WHERE kind = 'report'")
    assert [(row["state"], row["metadata"]) for row in reports] == [
        ("available", {"own": 1, "periodic": True, "river:periodic_job_id": "report"})
    ]
    marks = [row["metadata"] for row in await harness.rows("WHERE kind = 'mark'")]
    assert marks == [{"periodic": True, "river:periodic_job_id": "mark"}] * 2


@pytest.mark.slow
async def test_periodic_jobs_have_no_duplicates_while_leadership_moves(harness: Harness) -> None:
    """36: With a leader of the other language every other second, no second has two jobs."""
    opts = {"unique": {"by_period_seconds": 1}}
    periodic = [Periodic(id="tick", kind="tick", opts=opts, seconds=1)]

    for round_ in range(10):
        language = LANGUAGES[round_ % 2]
        before = len(await harness.rows())
        async with harness.working(language, language, periodic_jobs=periodic, **LEADING):
            await harness.until_leader(language)
            await harness.until(lambda num=before + 2: _has(harness, "tick", num), "two ticks")

    rows = await harness.rows()
    keys = [row["unique_key"] for row in rows]
    assert len(set(keys)) == len(keys) >= 20
    assert {json.dumps(row["metadata"]) for row in rows} == {
        json.dumps({"periodic": True, "river:periodic_job_id": "tick"})
    }


# Stopping, and being killed.


ENDINGS: dict[str, tuple[list[Any], tuple[str, int, int]]] = {
    # What follows the wait that is cancelled; the state, the attempt and the number of errors that it leads to.
    "gives way": ([], ("available", 0, 0)),
    "succeeds": ([["metadata", "seen", 1]], ("completed", 1, 0)),
    "fails": ([["fail", "boom"]], ("available", 1, 1)),
    "panics": ([["panic", "boom"]], ("available", 1, 1)),
    "snoozes": ([["snooze", 3600]], ("scheduled", 0, 0)),
    "cancels": ([["cancel", "not wanted"]], ("cancelled", 1, 1)),
}
EVENTS = {
    "gives way": "job_interrupted",
    "succeeds": "job_completed",
    "fails": "job_failed",
    "panics": "job_failed",
    "snoozes": "job_snoozed",
    "cancels": "job_cancelled",
}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("way", ["stop and cancel", "soft stop timeout"])
async def test_stop_that_cancels_leaves_the_same_rows_in_both_languages(
    harness: Harness, language: Language, way: str
) -> None:
    """
    38, 45: hard_shutdown_soft_stop_classification.

    Only an attempt that reacts to the cancel is interrupted, and its event reports that.
    """
    soft = {"soft_stop_seconds": 0.05} if way == "soft stop timeout" else {}
    async with harness.working(language, **soft) as member:
        ids = {
            name: await harness.control(language).insert(["hold"], *acts)
            for name, (acts, _) in ENDINGS.items()
        }
        for id in ids.values():
            await harness.events.wait("held", job=id)
        await member.stop(cancel=not soft)
        events = {name: await harness.events.wait(EVENTS[name], job=id) for name, id in ids.items()}

    rows = {name: await harness.row(id) for name, id in ids.items()}
    assert {name: (row["state"], row["attempt"], len(row["errors"] or ())) for name, row in rows.items()} == {
        name: expected for name, (_, expected) in ENDINGS.items()
    }
    assert {name: event["state"] for name, event in events.items()} == {
        name: row["state"] for name, row in rows.items()
    }


@pytest.mark.parametrize("language", LANGUAGES)
async def test_stop_without_a_timeout_waits_for_attempts(harness: Harness, language: Language) -> None:
    """38: Without a timeout, a stop does not cancel attempts."""
    async with harness.working(language) as member:
        id = await harness.control(language).insert(["hold"])
        await harness.events.wait("held", job=id)
        async with asyncio.TaskGroup() as stopping:
            stopping.create_task(member.stop())
            await member.release(id)

    row = await harness.row(id)
    assert (row["state"], row["attempt"], row["errors"]) == ("completed", 1, None)


@pytest.mark.parametrize(("killed", "leader"), BOTH_WAYS)
async def test_leader_rescues_the_job_of_a_killed_process_of_the_other_language(
    harness: Harness, killed: Language, leader: Language
) -> None:
    """39: chaos: candidate_process_kill_reference_rescue, reference_process_kill_candidate_rescue."""
    async with harness.killable(killed, "killed") as process:
        id = await harness.control(killed).insert(["hold"])
        await harness.events.wait("held", job=id)
        await process.kill()
    stranded = await harness.row(id)
    # An hour passes, for the row and for the term of its leader.
    await harness.fetch("UPDATE /* schema */river_job SET attempted_at = now() - interval '2 h'")
    await harness.fetch("DELETE FROM /* schema */river_leader")
    async with harness.working(leader, leader, **LEADING):
        row = await harness.until_state(id, *RETRIED)

    assert (stranded["state"], stranded["attempted_by"]) == ("running", ["killed"])
    assert (row["attempt"], row["errors"][0]["error"]) == (1, RESCUED)


@pytest.mark.parametrize("offset", [-300.0, 300.0])
async def test_millhand_client_with_a_wrong_clock_delays_no_job(harness: Harness, offset: float) -> None:
    """
    43: mixed: clock_boundary_scheduling.

    With a clock that is five minutes off, every job still runs when it is due by PostgreSQL's clock.
    """
    async with (
        harness.working("python", "wrong", clock_offset_seconds=offset, leads=True, queues={"ours": 1}),
        harness.working("go", "right", queues={"theirs": 1, "early": 1}),
    ):
        await harness.events.wait(
            "job_completed", job=await harness.control("go").insert(queue="ours"), client="wrong"
        )
        await harness.events.wait("job_completed", job=await harness.control("python").insert(queue="theirs"))
        # Later than this test ends, and past for the wrong clock that is fast.
        ahead = (datetime.now(UTC) + timedelta(seconds=200)).isoformat()
        early = await harness.control("go").insert(queue="early", scheduled_at=ahead)
        past = await harness.control("go").insert(queue="theirs", scheduled_at="2020-01-01T00:00:00Z")
        await harness.events.wait("job_completed", job=past)

    row = await harness.row(early)
    assert (row["state"], row["attempt"]) == ("scheduled", 0)
    assert _instant(row["scheduled_at"]) == _instant(ahead)


async def test_river_event_matches_the_row_that_complete_tx_wrote(harness: Harness) -> None:
    """45: River emits job_completed for a job that its own transaction completed, although its worker failed."""
    async with harness.working("go"):
        id = await harness.control("python").insert(["complete_tx"], ["fail", "boom"])
        await harness.events.wait("job_completed", job=id)

    row = await harness.row(id)
    assert (row["state"], row["errors"]) == ("completed", None)


_SCHEDULED = (
    "due",
    "due in 4 s",
    "due in an hour",
    "key's holder",
    "pending",
    "retryable",
    "retryable, key taken",
    "first of a key",
    "second of a key",
)
_STUCK: dict[str, dict[str, Any]] = {
    "args that do not decode": {"args": "[1]"},
    "attempts left": {},
    "cancel requested": {"metadata": '{"cancel_attempted_at": "2024-05-01T10:34:56.789Z"}'},
    "count is no number": {"metadata": '{"river:rescue_count": "x"}'},
    "last attempt": {"attempt": 3, "max_attempts": 3},
    "not stuck yet": {"hours": 0.5},
    "odd errors": {"errors": ['"text"', "[1]", '{"at": "2024-01-01 00:00:00", "attempt": "1", "error": {}}']},
    "own retry": {"args": '{"do": [["retry_in", 600]]}'},
    "rescued before": {"metadata": '{"river:rescue_count": 4}'},
    "unknown kind": {"kind": "nobody_knows"},
}
_OLD = {
    "cancelled long ago": 10_000.0,
    "completed 2 h ago": 2.0,
    "completed 30 min ago": 0.5,
    "discarded 1 h ago": 1.0,
    "discarded 3 h ago": 3.0,
}


async def _swept(harness: Harness, inserter: Language, leader: Language) -> World:
    world = World()
    await _insert_scheduled(harness, inserter, world.ids)
    await _insert_stuck(harness, world.ids)
    await _insert_old(harness, world.ids)
    await harness.record_dead_jobs_as_copied()
    retention = {"cancelled": -1, "completed": 3600, "discarded": 7200}
    async with harness.working(leader, leader, retention_seconds=retention, **LEADING):
        await harness.until_state(world.ids["due"], "available")
        await harness.until_state(world.ids["attempts left"], *RETRIED)
        await harness.until(
            lambda: _is_gone(harness, "river_job", "id", world.ids["completed 2 h ago"]), "the cleaner"
        )
        await harness.until(lambda: _is_gone(harness, "river_queue", "name", "old"), "the queue cleaner")
        names = {id: name for name, id in world.ids.items()}
        world.rows = {names[row["id"]]: row for row in await harness.rows()}
        queues = await harness.fetch("SELECT name FROM /* schema */river_queue ORDER BY name")
        world.queues = [row["name"] for row in queues]
    return world


async def _insert_scheduled(harness: Harness, inserter: Language, ids: dict[str, int]) -> None:
    control = harness.control(inserter)
    for name, seconds in (("due", -60), ("due in 4 s", 4), ("due in an hour", 3600)):
        at = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
        ids[name] = await control.insert(queue="elsewhere", scheduled_at=at)
    ids["pending"] = await control.insert(queue="elsewhere", pending=True)
    unique = {"by_queue": True, "by_state": REQUIRED}
    retryable = "UPDATE /* schema */river_job SET state = 'retryable', scheduled_at = now() - interval '1 min' WHERE id = $1"
    for name, queue in (
        ("retryable", "alone"),
        ("retryable, key taken", "taken"),
        ("first of a key", "twice"),
        ("second of a key", "twice"),
    ):
        ids[name] = await control.insert(queue=queue, unique=unique)
        await harness.fetch(retryable, ids[name])
    ids["key's holder"] = await control.insert(queue="taken", unique=unique)


async def _insert_stuck(harness: Harness, ids: dict[str, int]) -> None:
    sql = """
    INSERT INTO /* schema */river_job (
        state, attempt, max_attempts, attempted_at, attempted_by, args, kind, metadata, queue, errors)
    VALUES (
        'running', $1, $2, now() - make_interval(secs => $3 * 3600), '{gone}', $4, $5, $6, 'elsewhere',
        $7::text[]::jsonb[])
    RETURNING id
    """
    boom = '{"at": "2024-05-01T10:34:56.789Z", "attempt": 1, "error": "boom", "trace": ""}'
    for name, said in _STUCK.items():
        row = {
            "attempt": 2,
            "max_attempts": 25,
            "hours": 2.0,
            "args": '{"do": []}',
            "kind": "act",
            "metadata": "{}",
            "errors": [boom],
            **said,
        }
        order = ("attempt", "max_attempts", "hours", "args", "kind", "metadata", "errors")
        [inserted] = await harness.fetch(sql, *(row[name] for name in order))
        ids[name] = inserted["id"]


async def _insert_old(harness: Harness, ids: dict[str, int]) -> None:
    sql = """
    INSERT INTO /* schema */river_job (state, args, kind, max_attempts, queue, finalized_at)
    VALUES ($1::text::/* schema */river_job_state, '{}', 'act', 25, 'elsewhere', now() - make_interval(secs => $2 * 3600))
    RETURNING id
    """
    for name, hours in _OLD.items():
        [inserted] = await harness.fetch(sql, name.split()[0], hours)
        ids[name] = inserted["id"]
    await harness.fetch(
        "INSERT INTO /* schema */river_queue (name, updated_at, paused_at) VALUES "
        "('old', now() - interval '25 h', NULL), ('old_and_paused', now() - interval '25 h', now()), "
        "('day_old_but_one_hour', now() - interval '23 h', NULL)"
    )


async def _has(harness: Harness, kind: str, num: int) -> bool:
    return len(await harness.rows("WHERE kind = $1", kind)) >= num


async def _is_gone(harness: Harness, table: str, column: str, value: object) -> bool:
    return not await harness.fetch(f"SELECT FROM /* schema */{table} WHERE {column} = $1", value)


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _now() -> float:
    return asyncio.get_running_loop().time()
