"""The history's writer counts each finished job once, in whatever language it was worked and however often a pass comes."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from factory import insert_job, qualified
from millhand.core.errors import OperationTimeout
from millhand.core.job import ClientId, JobState
from millhand.db.driver.protocol import Executor
from millhand.engine.registration import Registration
from millhand.history.deleted_job_stats import deleted_job_stats_put_many
from millhand.history.error_group import error_group_list
from millhand.history.fleet_event import fleet_event_list
from millhand.history.histogram import BOUNDS_MS
from millhand.history.job_stats import (
    ALL,
    JobStats,
    MinuteJobs,
    Step,
    job_stats_count_minutes,
    job_stats_get_uncounted,
    job_stats_list,
)
from millhand.history.queue_depth import queue_depth_list
from millhand.history.store import history_begin, history_get
from millhand.history.writer import IDLE_SECONDS, HistoryWriter
from millhand.testing import ManualClock, Probe

MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
FINISHED = (JobState.COMPLETED, JobState.COMPLETED, JobState.DISCARDED, JobState.CANCELLED)


def writer(pool: Executor, holder: str = "me") -> HistoryWriter:
    return HistoryWriter(pool, clock=ManualClock(datetime(2026, 1, 1, tzinfo=UTC)), holder=holder)


async def minute_of(tx: Executor) -> datetime:
    """The last minute that may be counted at the transaction's time; the minutes before it count as counted."""
    [row] = await tx.fetch("SELECT date_trunc('minute', now() - interval '10 seconds') AS ended")
    ended: datetime = row["ended"]
    sql = "INSERT INTO /* schema */millhand_history (holder, expires_at, counted_to) VALUES ('me', now(), $1)"
    await tx.fetch(qualified(sql, tx), [ended - MINUTE])
    return ended - MINUTE


def error(at: datetime, attempt: int, text: str = "ValueError: no name") -> str:
    instant = at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return json.dumps({"at": instant, "attempt": attempt, "error": text, "trace": ""})


async def finish(tx: Executor, state: JobState, at: datetime, **columns: Any) -> None:
    given = {"attempt": 1, "attempted_at": at - SECOND, "scheduled_at": at - 2 * SECOND, **columns}
    await insert_job(tx, state, finalized_at=at, **given)


async def stats(tx: Executor, step: Step = Step.MINUTE, kind: str = ALL, queue: str = ALL) -> list[JobStats]:
    since, until = datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
    return await tx.run(job_stats_list(step, since=since, until=until, kind=kind, queue=queue))


def bucket(ms: float) -> int:
    return sum(ms >= bound for bound in BOUNDS_MS)


async def test_counts_are_those_of_the_jobs(tx: Executor) -> None:
    """For each kind, queue, their sums and each state, the minute has as many as the rows have, and the same histograms."""
    minute, rng = await minute_of(tx), random.Random(7)  # noqa: S311 - the same jobs each time
    outcomes: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    runs: defaultdict[tuple[str, str], Counter[int]] = defaultdict(Counter)
    for _ in range(60):
        state, kind, queue = rng.choice(FINISHED), rng.choice("ab"), rng.choice("xyz")
        at = minute + MINUTE * rng.random()
        run_ms = rng.choice((0.2, 1, 3, 70, 5_000, 10_000_000))
        began = at - timedelta(milliseconds=run_ms)
        await finish(tx, state, at, kind=kind, queue=queue, attempted_at=began, scheduled_at=began)
        for key in ((kind, queue), (kind, ALL), (ALL, queue), (ALL, ALL)):
            outcomes[key][state.value] += 1
            if state is not JobState.CANCELLED:
                runs[key][bucket((at - began) / timedelta(milliseconds=1))] += 1

    await writer(tx).run_once()

    for (kind, queue), counts in outcomes.items():
        [row] = await stats(tx, kind=kind, queue=queue)
        got = {"completed": row.completed, "cancelled": row.cancelled, "discarded": row.discarded}
        assert {state: num for state, num in got.items() if num} == counts
        assert {place: num for place, num in enumerate(row.runs) if num} == runs[kind, queue]
        assert row.began_at == minute


async def test_deleted_jobs_count_as_if_they_had_rows(tx: Executor) -> None:
    """Those of several counters are added to the rows, in each sum; what comes later is added, and nothing twice."""
    minute = await minute_of(tx)
    await finish(tx, JobState.COMPLETED, minute + SECOND, kind="a", queue="x", attempted_at=minute + SECOND)
    deleted = JobStats(
        began_at=minute, kind="a", queue="x", completed=3, wait_ms=6, run_ms=9, waits=(1, 2), runs=(0, 0, 3)
    )
    for counter_id, one in (("c", deleted), ("d", msgspec.structs.replace(deleted, queue="y"))):
        await tx.run(deleted_job_stats_put_many([one], counter_id=counter_id))

    await writer(tx).run_once()
    [first] = await stats(tx)
    [of_queue] = await stats(tx, kind="a", queue="x")
    uncounted = job_stats_get_uncounted(since=minute, until=minute + MINUTE, counted_to=minute + MINUTE)
    before = await tx.run(uncounted)
    more = msgspec.structs.replace(deleted, completed=5, runs=(0, 0, 3, 2))
    for one in (more, deleted):  # the second is the first one's statement, late
        await tx.run(deleted_job_stats_put_many([one], counter_id="c"))
    after = await tx.run(uncounted)
    for _ in range(2):
        await tx.run(job_stats_count_minutes([minute], stride=1))

    [second] = await stats(tx)
    assert (before, after) == ([], [MinuteJobs(minute, 1)])
    assert (first.completed, first.run_ms, first.runs) == (7, 18, (1, 0, 6))
    assert (of_queue.completed, of_queue.run_ms, of_queue.runs) == (4, 9, (1, 0, 3))
    assert (second.completed, second.runs) == (9, (1, 0, 6, 2))


async def test_history_counts_where_no_job_has_a_row(tx: Executor) -> None:
    """A table of jobs that is empty because all were deleted is not taken for one without jobs."""
    minute = await minute_of(tx)
    deleted = JobStats(began_at=minute, kind="a", queue="x", completed=3)
    await tx.run(deleted_job_stats_put_many([deleted], counter_id="c"))

    await writer(tx).run_once()

    assert [row.completed for row in await stats(tx)] == [3]


async def test_failed_attempts_count_in_their_minute_whatever_became_of_the_job(tx: Executor) -> None:
    """A failed attempt that is retried counts once: of a job that waits, runs again or has finished; a last one does not."""
    minute = await minute_of(tx)
    failed = error(minute + SECOND, 1)
    later = minute + 30 * SECOND
    for state in (JobState.AVAILABLE, JobState.RETRYABLE):
        await insert_job(tx, state, errors=[failed], attempt=1, attempted_at=minute, scheduled_at=later)
    await insert_job(
        tx, JobState.RUNNING, errors=[failed], attempt=2, attempted_at=minute, scheduled_at=later
    )
    await finish(tx, JobState.COMPLETED, later, attempt=2, errors=[failed])
    await finish(tx, JobState.DISCARDED, later, attempt=2, errors=[failed, error(later, 2, "KeyError: 7")])
    await finish(tx, JobState.COMPLETED, later)

    await writer(tx).run_once()

    [row] = await stats(tx)
    assert (row.completed, row.discarded, row.failed, row.num_errors) == (2, 1, 5, 6)
    groups = await tx.run(error_group_list(Step.MINUTE, [minute], since=minute))
    assert {(group.title, group.num_errors) for group in groups} == {
        ("ValueError: no name", 5), ("KeyError: <number>", 1),
    }  # fmt: skip


async def test_passes_repeat_without_a_difference_and_add_what_was_committed_late(tx: Executor) -> None:
    """A second pass over the same minutes changes nothing, a late commit is added, and a deleted job still counts."""
    minute = await minute_of(tx)
    await finish(tx, JobState.COMPLETED, minute + SECOND)
    await writer(tx).run_once()
    first = await stats(tx)
    again = "UPDATE /* schema */millhand_history SET counted_to = counted_to - interval '1 minute'"
    await tx.fetch(qualified(again, tx))

    await writer(tx).run_once()
    second = await stats(tx)
    await tx.fetch(qualified("DELETE FROM /* schema */river_job", tx))
    for n in range(2):
        await finish(tx, JobState.COMPLETED, minute + n * SECOND)
    await tx.fetch(qualified(again, tx))
    await writer(tx).run_once()
    third = await stats(tx)
    await tx.fetch(qualified("DELETE FROM /* schema */river_job", tx))
    await tx.fetch(qualified(again, tx))
    await finish(tx, JobState.COMPLETED, minute)
    await writer(tx).run_once()

    assert second == first
    assert [row.completed for row in (*first, *third, *await stats(tx))] == [1, 2, 2]


async def test_a_minute_in_which_more_finished_is_counted_again(tx: Executor) -> None:
    """For three minutes, a pass notices that more jobs finished than it counted, and counts that minute again."""
    minute = await minute_of(tx)
    await finish(tx, JobState.COMPLETED, minute - 2 * MINUTE)

    await writer(tx).run_once()

    assert [(row.began_at, row.completed) for row in await stats(tx)] == [(minute - 2 * MINUTE, 1)]


async def test_only_one_writer_holds_the_claim_until_it_expires(tx: Executor) -> None:
    """A second writer counts nothing while the first one's claim is valid, and takes over when it has expired."""
    minute = await minute_of(tx)
    await insert_job(tx)
    second = writer(tx, "page")
    probe = Probe(second)

    await writer(tx).run_once()
    await second.run_once()
    expire = "UPDATE /* schema */millhand_history SET expires_at = now() - interval '1 second'"
    await tx.fetch(qualified(expire, tx))
    await second.run_once()

    state = await tx.run(history_get())
    assert state is not None
    assert (probe.num("unclaimed"), probe.num("written")) == (1, 1)
    assert (state.holder, state.counted_to) == ("page", minute + MINUTE)


async def test_leader_takes_the_claim_over(tx: Executor) -> None:
    """A leader writes at once, though the web page has a valid claim; the page then waits."""
    await minute_of(tx)
    await insert_job(tx)
    page = writer(tx, "page")
    probe = Probe(page)
    await tx.fetch(qualified("UPDATE /* schema */millhand_history SET holder = 'page'", tx))
    await page.run_once()

    leader = HistoryWriter(tx, clock=page._clock, holder="leader", registration=Registration(is_active=True))
    await leader.run_once()
    await page.run_once()

    state = await tx.run(history_get())
    assert state is not None
    assert (state.holder, probe.num("written"), probe.num("unclaimed")) == ("leader", 1, 1)


async def test_rows_of_other_programs_do_not_stop_a_pass(tx: Executor) -> None:
    """Instants beyond the calendar and errors of any shape are counted as far as they can be read."""
    minute = await minute_of(tx)
    for instant in ("-infinity", "infinity"):
        await finish(tx, JobState.COMPLETED, minute)
        sql = "UPDATE /* schema */river_job SET attempted_at = $1::text::timestamptz, scheduled_at = $1::text::timestamptz"
        await tx.fetch(
            qualified(f"{sql} WHERE id = (SELECT max(id) FROM /* schema */river_job)", tx), [instant]
        )
    shapes = [
        '"text"',
        "null",
        "[]",
        '{"at": 5}',
        '{"at": "2026-13-45T99:00:00Z", "attempt": "x", "error": {"a": 1}}',
    ]
    await finish(tx, JobState.DISCARDED, minute, errors=[*shapes, error(minute, 1, "")], attempt=1)

    await writer(tx).run_once()

    [row] = await stats(tx)
    [group] = await tx.run(
        error_group_list(Step.MINUTE, [minute], since=minute, fingerprint=None, kinds=["kind"])
    )
    assert (row.completed, row.discarded) == (2, 1)
    assert group.num_errors >= 1


async def test_hours_and_days_are_the_sums_of_their_minutes(tx: Executor) -> None:
    """A pass that leaves an hour behind adds up its minutes and those of the day; depths are the largest."""
    await minute_of(tx)
    [row] = await tx.fetch("SELECT date_trunc('hour', now() - interval '10 seconds', 'UTC') AS hour")
    hour = row["hour"]
    back = "UPDATE /* schema */millhand_history SET counted_to = $1"
    await tx.fetch(qualified(back, tx), [hour - 5 * MINUTE])
    for minutes in (5, 4, 1):
        await finish(
            tx, JobState.COMPLETED, hour - minutes * MINUTE, errors=[error(hour - minutes * MINUTE, 0)]
        )
    await insert_job(tx)
    history = writer(tx)
    state = await tx.run(history_get())
    assert state is not None

    while state.counted_to < hour:
        await history.run_once()
        state = await tx.run(history_get())
        assert state is not None

    [of_hour], [of_day] = await stats(tx, Step.HOUR), await stats(tx, Step.DAY)
    minutes = await stats(tx)
    assert (of_hour.began_at, of_day.began_at) == (hour - 60 * MINUTE, Step.DAY.floor(of_hour.began_at))
    assert of_hour.runs == of_day.runs == (0,) * 10 + (3,)
    assert (of_hour.completed, of_hour.failed) == (of_day.completed, of_day.failed) == (len(minutes), 3)
    [group] = await tx.run(error_group_list(Step.DAY, [of_day.began_at], since=hour - 60 * MINUTE))
    assert group.trend == (3,)


async def test_depths_of_queues_are_recorded_by_state(tx: Executor) -> None:
    """Each queue with unfinished jobs has a row, with the age of its oldest available job; '*' is their sum."""
    minute = await minute_of(tx)
    for state, queue in ((JobState.AVAILABLE, "a"), (JobState.AVAILABLE, "b"), (JobState.SCHEDULED, "a")):
        await insert_job(tx, state, queue=queue, scheduled_at=minute)

    await writer(tx).run_once()

    [a], [every] = [
        await tx.run(queue_depth_list(Step.MINUTE, since=minute, until=minute + 9 * MINUTE, queue=queue))
        for queue in ("a", ALL)
    ]
    assert (a.available, a.scheduled, a.running, a.is_capped) == (1, 1, 0, False)
    assert (every.available, every.scheduled) == (2, 1)
    assert 70_000 <= every.oldest_ms <= 130_000


async def test_events_come_from_the_rows_of_clients_leaders_and_rescued_jobs(tx: Executor) -> None:
    """Starts, deaths and elections are recorded once; a rescue has the client and its jobs, in either language's words."""
    minute = await minute_of(tx)
    await tx.fetch(qualified("""
        INSERT INTO /* schema */millhand_client (
            id, language, version, hostname, pid, kinds, queues, queue_updates, heartbeat_interval, started_at,
            last_seen_at, lost_at
        ) VALUES ('dead', 'python', '1', 'h', 1, '{}', '{}', '{}', '5 s', now() - interval '1 h', now(), now())
    """, tx))  # fmt: skip
    elect = (
        "INSERT INTO /* schema */river_leader (leader_id, elected_at, expires_at) VALUES ('go', now(), now())"
    )
    await tx.fetch(qualified(elect, tx))
    texts = (
        "Job rescued by ClientRescuer: client 'dead' missed its heartbeats",
        "Stuck job rescued by Rescuer",
    )
    jobs = [
        await insert_job(
            tx, JobState.RETRYABLE, errors=[error(minute, 1, text)], attempt=1, attempted_at=minute,
            scheduled_at=minute + 3_600 * SECOND,
        )
        for text in texts
    ]  # fmt: skip

    for _ in range(2):
        await writer(tx).run_once()

    events = await tx.run(fleet_event_list(since=minute - 120 * MINUTE, until=minute + 9 * MINUTE))
    assert {(event.name, event.client_id): event.detail for event in events} == {
        ("client_started", "dead"): {"language": "python", "version": "1"},
        ("client_declared_dead", "dead"): {},
        ("leader_elected", "go"): {"leader_role": "river"},
        ("jobs_rescued", "dead"): {"num_jobs": 1, "job_ids": [jobs[0].id]},
        ("jobs_rescued", ""): {"num_jobs": 1, "job_ids": [jobs[1].id]},
    }


@pytest.mark.parametrize(
    ("age", "back"),
    [
        (timedelta(minutes=5), timedelta(hours=1, minutes=5)),
        (timedelta(hours=30), timedelta(hours=1)),
        (None, timedelta(hours=1)),
    ],
)
async def test_first_writer_begins_with_the_oldest_job_that_finished_lately(
    tx: Executor, age: timedelta | None, back: timedelta
) -> None:
    """In a new database the first hour is counted within a few passes: no empty day before it is read."""
    [row] = await tx.fetch("SELECT date_trunc('minute', now() - interval '10 seconds') AS ended")
    ended: datetime = row["ended"]
    await insert_job(tx, JobState.AVAILABLE)
    if age is not None:
        await finish(tx, JobState.COMPLETED, ended - age)

    claim = await tx.run(history_begin(holder="me"))

    assert claim is not None
    assert claim.counted_to == ended - back


async def test_writer_that_was_away_counts_the_whole_time(tx: Executor) -> None:
    """A history that ended five hours ago goes on there, although the oldest job is younger."""
    minute = await minute_of(tx)
    away = "UPDATE /* schema */millhand_history SET counted_to = $1"
    await tx.fetch(qualified(away, tx), [minute - timedelta(hours=5)])
    await insert_job(tx, JobState.AVAILABLE)

    claim = await tx.run(history_begin(holder="me"))

    assert claim is not None
    assert claim.counted_to == minute - timedelta(hours=5)


class SlowPool:
    """A pool of a database that can count at most three minutes in time."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool

    async def run(self, query: Any) -> Any:
        if query.name == "job_stats_count_minutes" and len(query.params["minutes"]) > 3:
            raise OperationTimeout(query.name, query.timeout_seconds)
        return await self._pool.run(query)


async def test_writer_catches_up_though_statements_time_out(tx: Executor) -> None:
    """After a timeout a pass counts half as many minutes, until the database can count them in time."""
    minute = await minute_of(tx)
    back = "UPDATE /* schema */millhand_history SET counted_to = counted_to - interval '20 minutes'"
    await tx.fetch(qualified(back, tx))
    await finish(tx, JobState.COMPLETED, minute - 19 * MINUTE)
    await finish(tx, JobState.COMPLETED, minute)
    history = writer(SlowPool(tx))  # type: ignore[arg-type]  # the writer needs `run` alone

    passed = [await history.try_pass() for _ in range(30)]

    state = await tx.run(history_get())
    assert state is not None
    assert (passed[0], state.counted_to) == (False, minute + MINUTE)
    assert sum(row.completed for row in await stats(tx)) == 2


async def test_nothing_is_written_while_there_are_no_jobs(tx: Executor) -> None:
    """A pass without jobs only renews its claim, counts the minutes as counted, and comes again in two minutes."""
    minute = await minute_of(tx)
    history = writer(tx)

    await history.run_once()

    state = await tx.run(history_get())
    assert state is not None
    assert (state.counted_to, history.next_pause_seconds()) == (minute + MINUTE, IDLE_SECONDS)
    assert await stats(tx) == []


@pytest.mark.parametrize("is_active", [True, False])
async def test_without_its_tables_the_writer_does_nothing(
    tx: Executor, caplog: pytest.LogCaptureFixture, is_active: bool
) -> None:
    """At version 6 of line millhand a pass writes and logs nothing, and looks again two minutes later."""
    await tx.fetch(qualified("DROP TABLE /* schema */millhand_history", tx))
    history = HistoryWriter(
        tx,
        clock=ManualClock(datetime(2026, 1, 1, tzinfo=UTC)),
        holder=ClientId("me"),
        registration=Registration(is_active=is_active),
    )

    assert await history.try_pass()

    assert (history.next_pause_seconds(), caplog.records) == (IDLE_SECONDS, [])


async def test_each_pass_reports_the_last_discard(tx: Executor) -> None:
    """A discard in the future, by a wrong clock, does not count, and neither do other states."""
    minute = await minute_of(tx)
    found: list[datetime | None] = []
    history = HistoryWriter(
        tx, clock=ManualClock(datetime(2026, 1, 1, tzinfo=UTC)), holder="me", on_discarded=found.append
    )
    await history.run_once()
    for at in (minute, minute - MINUTE, minute + 60 * MINUTE):
        await finish(tx, JobState.DISCARDED, at)
    await finish(tx, JobState.COMPLETED, minute + SECOND)

    await history.run_once()

    assert found == [None, minute]
