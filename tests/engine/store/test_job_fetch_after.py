"""The fetch above starts, and starts that rise: every job is found, in order, and in good time."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec
import pytest
from store_rows import HOUR, NOW, put_job

from millhand.core.job import ClientId, JobId, JobRow, JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.engine.fetch_start import (
    RECHECK_SECONDS_MAX,
    RECHECK_SECONDS_MIN,
    SLACK_EVERY_SECONDS,
    SLACK_SECONDS,
    SLACK_SECONDS_SHORT,
    FetchStarts,
    advanced,
    has_read_much,
)
from millhand.engine.store.job import (
    START,
    CountedFetch,
    FetchStart,
    Starts,
    job_get_available,
    job_get_available_after,
    job_get_available_counted,
)

ME = ClientId("me")
FEW, MANY = 10, 100_000  # entries of the index that a fetch reads
SECOND = timedelta(seconds=1)
INSERT = """
INSERT INTO {schema}.river_job (kind, args, max_attempts, priority, scheduled_at)
VALUES ('act', '{{}}', 25, $1, $2)
RETURNING id
"""


async def above(
    executor: Executor, starts: Starts, *, limit: int = 10, slack_seconds: float = 0.0
) -> list[JobId]:
    query = job_get_available_after(
        starts, queue="default", limit=limit, client_id=ME, now=NOW, slack_seconds=slack_seconds
    )
    return [job.id for job in await executor.run(query)]


async def test_fetch_skips_what_is_before_the_starts(tx: Executor) -> None:
    """Each priority has its own start; jobs come by priority, age and id; None is the beginning."""
    old = [(await put_job(tx, priority=n, scheduled_at=NOW - HOUR)).id for n in (1, 2, 3)]
    new = [(await put_job(tx, priority=n, scheduled_at=NOW - HOUR / 2)).id for n in (3, 2, 1)]
    starts = (FetchStart(NOW - HOUR, old[0]), FetchStart(NOW - HOUR / 2, new[1]), None, FetchStart(NOW, 0))

    assert await above(tx, starts) == [new[2], old[2], new[0]]
    assert await above(tx, START) == old[:2] + new[1:2]


async def test_fetch_after_starts_marks_jobs_as_any_fetch_does(tx: Executor) -> None:
    """A job is changed and returned the same, wherever the fetch starts."""
    await put_job(
        tx, JobState.AVAILABLE, attempt=1, attempted_by="{client_a}", metadata='{"cancel_attempted_at": 1}'
    )
    await put_job(
        tx, JobState.AVAILABLE, attempt=1, attempted_by="{client_a}", metadata='{"cancel_attempted_at": 1}'
    )

    [one] = await tx.run(job_get_available(queue="default", limit=1, client_id=ME, now=NOW))
    [other] = await tx.run(job_get_available_after(START, queue="default", limit=1, client_id=ME, now=NOW))

    assert replace_id(other, one.id) == one


def replace_id(row: JobRow, id: JobId) -> JobRow:
    return msgspec.structs.replace(row, id=id)


async def test_start_leaves_two_seconds_for_late_commits(tx: Executor) -> None:
    """With slack, jobs of the last two seconds are found however late the start is."""
    late = await put_job(tx, scheduled_at=NOW - 2 * SECOND)
    later = await put_job(tx, scheduled_at=NOW - 3 * SECOND)
    everywhere = FetchStart(NOW + HOUR, 0)

    assert await above(tx, (everywhere,) * 4) == []
    assert await above(tx, (everywhere,) * 4, slack_seconds=2.0) == [late.id]
    assert await above(tx, START) == [later.id]


async def test_limit_is_for_all_priorities_together(tx: Executor) -> None:
    """The limit counts all priorities, the first ones first."""
    jobs = [(await put_job(tx, priority=n, scheduled_at=NOW - HOUR)).id for n in (4, 3, 2, 1)]

    assert await above(tx, START, limit=3) == jobs[:0:-1]
    assert await above(tx, START, limit=0) == []


def record(
    starts: FetchStarts, sent: float, answered: float, *jobs: JobRow, num_entries: int = MANY, limit: int = 10
) -> None:
    """Record a fetch from the beginning that counted these entries."""
    counted = CountedFetch([*jobs], num_blocks=0, num_entries=num_entries)
    starts.record_counted(counted, limit=limit, sent=sent, answered=answered)


def row(id: int, priority: int, at: datetime) -> JobRow:
    return JobRow(
        id=JobId(id), state=JobState.RUNNING, attempt=1, max_attempts=25, attempted_at=NOW, created_at=NOW,
        finalized_at=None, scheduled_at=at, priority=priority, encoded_args="{}", attempted_by=("me",), errors=(),
        kind="act", metadata={}, queue="default", tags=(), unique_key=None, unique_states=None,
    )  # fmt: skip


def test_starts_advance_to_what_was_fetched() -> None:
    """An emptied priority advances to the fetch's instant, a limited one to its last job, and no other moves."""
    first, second = row(7, 1, NOW - HOUR), row(3, 2, NOW - 2 * HOUR)

    assert advanced(START, [first, second], is_cut=True, at=NOW) == (
        FetchStart(NOW, 0),
        FetchStart(NOW - 2 * HOUR, 3),
        None,
        None,
    )
    assert advanced(START, [first], is_cut=False, at=NOW) == (FetchStart(NOW, 0),) * 4
    assert advanced(START, [], is_cut=True, at=NOW) == START


def test_start_moves_back_to_what_was_found_late() -> None:
    """A limited fetch that found jobs before a start has left more there."""
    starts = (FetchStart(NOW, 0), FetchStart(NOW, 0), None, None)

    assert advanced(starts, [row(3, 1, NOW - SECOND)], is_cut=True, at=NOW) == (
        FetchStart(NOW - SECOND, 3),
        *starts[1:],
    )


def test_late_commits_are_searched_four_times_a_second() -> None:
    """Fetches in between search the last 50 ms, and the next full search follows soon."""
    starts = FetchStarts(NOW, 0.0)
    record(starts, 1.0, 1.01)
    assert starts.slack_seconds(1.05) == SLACK_SECONDS_SHORT
    starts.record_fetched(starts.next_starts(1.05), [], limit=1, sent=1.05, answered=1.06)
    assert starts.recheck_at == pytest.approx(1.0 + SLACK_EVERY_SECONDS)

    assert starts.slack_seconds(1.3) == SLACK_SECONDS
    starts.record_fetched(starts.next_starts(1.3), [], limit=1, sent=1.3, answered=1.31)
    assert starts.recheck_at == pytest.approx(1.01 + RECHECK_SECONDS_MIN)


async def test_commits_out_of_order_by_milliseconds_come_with_the_next_fetch(tx: Executor) -> None:
    """A job committed less than 50 ms out of order waits for no full search."""
    starts = FetchStarts(NOW, 0.0)
    record(starts, 0.01, 0.02)
    asked, slack = starts.next_starts(0.03), starts.slack_seconds(0.03)
    assert asked == (FetchStart(NOW + 0.01 * SECOND, 0),) * 4
    late = await put_job(tx, scheduled_at=NOW - 0.01 * SECOND)

    query = job_get_available_after(
        asked, queue="default", limit=10, client_id=ME, now=NOW + 0.03 * SECOND, slack_seconds=slack
    )
    [found] = await tx.run(query)

    assert found.id == late.id


@pytest.mark.parametrize(
    ("milliseconds", "num_jobs", "is_due"),
    [
        ((9,), 0, False),  # PostgreSQL plans the first fetch on a connection
        ((22, 22), 1_000, False),  # 2 ms more than so many jobs may take
        ((9, 1, 9), 0, False),
        ((9, 9), 0, True),
        ((11,), 0, True),
        ((11, 1), 0, False),
    ],
)
def test_fetch_after_slow_ones_is_counted(milliseconds: tuple[int, ...], num_jobs: int, is_due: bool) -> None:
    """One fetch of more than 10 ms, or two in a row of more than 3 ms, are suspected, beyond what their jobs take."""
    starts = FetchStarts(NOW, 0.0)
    jobs = [row(id, 1, NOW - HOUR) for id in range(num_jobs)]

    for sent, duration in enumerate(milliseconds):
        starts.record_fetched(None, jobs, limit=1_000, sent=sent, answered=sent + duration / 1_000)

    assert starts.is_count_due(9.0) is is_due
    assert (starts.next_starts(9.0), starts.recheck_at) == (None, None)


@pytest.mark.parametrize("num_entries", [FEW, MANY])
def test_slow_fetches_use_starts_only_if_they_read_dead_entries(num_entries: int) -> None:
    """On a busy machine or over a slow network no start is used, and one fetch a second is counted."""
    starts = FetchStarts(NOW, 0.0)
    num_counted, used = 0, 0
    for n in range(40):
        sent = n / 10
        if starts.next_starts(sent) is not None:
            used += 1
        elif starts.is_count_due(sent):
            num_counted += 1
            record(starts, sent, sent + 0.05, num_entries=num_entries)
        else:
            starts.record_fetched(None, [], limit=10, sent=sent, answered=sent + 0.05)

    assert (num_counted, used) == ((4, 0) if num_entries == FEW else (2, 37))


@pytest.mark.parametrize(
    ("num_blocks", "num_entries", "has_read_much_"),
    [
        (4, 0, False),
        (12, 1_000, False),  # a normal fetch of 1,000 jobs
        (185, 30_100, True),  # measured beside a snapshot: 3 ms
        (185, 100, False),  # the same entries, known to be dead: 0.7 ms
        (1_811, 100, True),  # 300,000 of them: 7 ms
    ],
)
def test_much_is_what_takes_milliseconds(num_blocks: int, num_entries: int, has_read_much_: bool) -> None:
    """Entries whose rows must be read count more than those that the index knows to be dead."""
    assert has_read_much(num_blocks, num_entries) is has_read_much_


async def test_counted_fetch_is_a_fetch(tx: Executor) -> None:
    """It marks and returns the same jobs, also none, and counts what its search alone has read."""
    # A queue of its own: the dead entries of other tests' jobs count too.
    old = [(await put_job(tx, queue="counted", priority=n, scheduled_at=NOW - HOUR)).id for n in (2, 1)]
    fetch = job_get_available(queue="counted", limit=10, client_id=ME, now=NOW)

    counted = await tx.run(job_get_available_counted(fetch))
    nothing = await tx.run(job_get_available_counted(fetch))

    assert [job.id for job in counted.jobs] == old[::-1]
    assert {(job.state, job.attempted_by) for job in counted.jobs} == {(JobState.RUNNING, (ME,))}
    assert 1 <= counted.num_blocks < 10
    assert 2 <= counted.num_entries < 10
    assert nothing.jobs == []
    assert 1 <= nothing.num_blocks < 10


def test_start_moves_back_only_by_a_fetch_from_the_beginning() -> None:
    """A clock that was set back moves no start; a fetch from the beginning does."""
    high = FetchStart(NOW + HOUR, 9)

    assert advanced((high,) * 4, [], is_cut=False, at=NOW) == (high,) * 4
    assert advanced(START, [], is_cut=False, at=NOW) == (FetchStart(NOW, 0),) * 4


def test_fetches_that_read_little_are_made_from_the_beginning() -> None:
    """A fetch that read dead entries turns starts on; one from the beginning that read few turns them off."""
    starts = FetchStarts(NOW, 0.0)
    record(starts, 0.0, 0.02, num_entries=FEW)
    assert (starts.next_starts(0.1), starts.recheck_at) == (None, None)

    record(starts, 1.0, 1.02)
    assert starts.next_starts(1.1) == (FetchStart(NOW + SECOND, 0),) * 4
    assert starts.recheck_at == pytest.approx(1.02 + RECHECK_SECONDS_MIN)
    assert starts.next_starts(1.03 + RECHECK_SECONDS_MIN) is None
    assert starts.is_count_due(1.03 + RECHECK_SECONDS_MIN)

    record(starts, 4.0, 4.02, num_entries=FEW)
    assert (starts.next_starts(4.1), starts.recheck_at) == (None, None)


@pytest.mark.parametrize(
    ("seconds", "pause"), [(0.01, RECHECK_SECONDS_MIN), (0.1, 5.0), (5.0, RECHECK_SECONDS_MAX)]
)
def test_rechecks_take_a_fiftieth_of_the_time(seconds: float, pause: float) -> None:
    """The slower the beginning, the rarer it is read again, but at least every thirty seconds."""
    starts = FetchStarts(NOW, 0.0)
    record(starts, 9.0, 10.0)

    record(starts, 10.0, 10.0 + seconds)

    assert starts.recheck_at == pytest.approx(10.0 + seconds + pause)


def test_priority_with_a_slow_beginning_is_not_read_each_time() -> None:
    """A priority that is first read after the others delays the next recheck of all of them."""
    starts = FetchStarts(NOW, 0.0)
    record(starts, 0.0, 0.01, row(1, 1, NOW - HOUR), limit=1)
    asked = starts.next_starts(0.02)
    assert asked == (FetchStart(NOW - HOUR, 1), None, None, None)

    starts.record_fetched(asked, [], limit=1, sent=0.3, answered=0.5)

    assert starts.recheck_at == pytest.approx(0.01 + (0.01 + 0.2) * 50)


@dataclass
class FetchModel:
    """A queue, one producer's fetch starts, and other writers; time is in seconds since NOW."""

    driver: AsyncpgDriver
    rng: random.Random
    starts: FetchStarts = field(default_factory=lambda: FetchStarts(NOW, 0.0))
    seconds: float = 0.0
    waiting: dict[JobId, tuple[tuple[int, datetime, int], float]] = field(
        default_factory=dict
    )  # its position, and since when

    @property
    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.seconds)

    async def insert(self, executor: Executor) -> None:
        """Insert a job, mostly of now, some of long ago."""
        age = self.rng.choice([0.0, 0.0, 0.0, 0.5, 5.0, 3600.0])
        priority, at = self.rng.choice([1, 1, 1, 2, 4]), self.now - timedelta(seconds=age)
        [row] = await executor.fetch(INSERT.format(schema=self.driver.schema), [priority, at])
        id = JobId(row["id"])
        self.waiting[id] = ((priority, at, id), self.seconds)

    async def rescue(self) -> None:
        """Make a running job available again, at its old position."""
        sql = f"""
        UPDATE {self.driver.schema}.river_job SET state = 'available'
        WHERE id = (SELECT id FROM {self.driver.schema}.river_job WHERE state = 'running' ORDER BY random() LIMIT 1)
        RETURNING id, priority, scheduled_at
        """
        for row in await self.driver.pool.fetch(sql):
            self.waiting[row["id"]] = ((row["priority"], row["scheduled_at"], row["id"]), self.seconds)

    async def fetch(self) -> None:
        """Fetch as a producer does, and check the result."""
        limit = self.rng.choice([1, 3, 3, 10])
        asked = self.starts.next_starts(self.seconds)
        wanted = {"queue": "default", "limit": limit, "client_id": ME, "now": self.now}
        slack = self.starts.slack_seconds(self.seconds)
        query = (
            job_get_available(**wanted)  # type: ignore[arg-type]
            if asked is None
            else job_get_available_after(asked, slack_seconds=slack, **wanted)  # type: ignore[arg-type]
        )
        jobs = await self.driver.pool.run(query)
        # Slow enough for starts, but a read of each priority from its beginning takes under a fiftieth of the least pause.
        sent, self.seconds = self.seconds, self.seconds + 0.004
        if asked is None:
            record(self.starts, sent, self.seconds, *jobs, limit=limit)
        else:
            self.starts.record_fetched(asked, jobs, limit=limit, sent=sent, answered=self.seconds)
        self.check(jobs, limit, is_from_start=asked is None)

    def check(self, jobs: list[JobRow], limit: int, *, is_from_start: bool) -> None:
        ids = [job.id for job in jobs]
        in_order = sorted(self.waiting, key=lambda one: self.waiting[one][0])
        assert ids == [id for id in in_order if id in ids]
        taken = [self.waiting.pop(id) for id in ids]
        if is_from_start:
            assert ids == in_order[:limit]
        if len(jobs) < limit:
            overdue = self.overdue(self.waiting.values())
        else:
            # Jobs after the last one may have to wait, but jobs before it must not be overdue.
            last = taken[-1][0]
            overdue = self.overdue(one for one in self.waiting.values() if one[0] < last)
        assert overdue == []

    def overdue(
        self, waiting: Iterable[tuple[tuple[int, datetime, int], float]]
    ) -> list[tuple[int, datetime, int]]:
        return [place for place, since in waiting if self.seconds - since > RECHECK_SECONDS_MIN + 0.2]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(16))
async def test_every_job_is_fetched_in_good_time_and_in_order(
    schema_driver: AsyncpgDriver, seed: int
) -> None:
    """Every job, also one committed late, is fetched by the next recheck, and each fetch is in order."""
    model = FetchModel(schema_driver, random.Random(seed))  # noqa: S311 - repeatable
    for _ in range(120):
        action = model.rng.choice(["insert", "insert", "late", "give back", "fetch", "fetch", "fetch"])
        if action == "insert":
            for _ in range(model.rng.randrange(4)):
                await model.insert(schema_driver.pool)
        elif action == "late":
            await insert_late(model)
        elif action == "give back":
            await model.rescue()
        else:
            await model.fetch()
        model.seconds += model.rng.choice([0.0, 0.01, 0.2, 1.0])
    for _ in range(200):
        await model.fetch()
        model.seconds += 0.1

    assert model.waiting == {}


async def insert_late(model: FetchModel) -> None:
    """Insert in a transaction that commits after later ones, with older instants and ids."""
    known = dict(model.waiting)
    async with model.driver.pool.begin() as tx:
        await model.insert(tx)
        [mine] = model.waiting.keys() - known.keys()
        place, _ = model.waiting.pop(mine)
        model.seconds += model.rng.choice([0.1, 1.0, 4.0])
        await model.insert(model.driver.pool)
        await model.fetch()
    model.waiting[mine] = (place, model.seconds)
