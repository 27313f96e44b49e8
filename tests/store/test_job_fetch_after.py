"""The fetch above starts, and starts that rise: every job is found, in order, and in good time."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec
import pytest
from store_rows import HOUR, NOW, put_job

from millhand.driver.asyncpg import AsyncpgDriver
from millhand.driver.protocol import Executor
from millhand.job import ClientId, JobId, JobRow, JobState
from millhand.runtime.fetch_start import (
    RECHECK_SECONDS_MAX,
    RECHECK_SECONDS_MIN,
    SLACK_EVERY_SECONDS,
    SLACK_SECONDS,
    SLACK_SECONDS_SHORT,
    FetchStarts,
    advanced,
)
from millhand.store.job import START, FetchStart, Starts, job_get_available, job_get_available_after

ME = ClientId("me")
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
    for sent in (0.0, 1.0):
        starts.record_fetched(None, [], limit=1, sent=sent, answered=sent + 0.01)
    assert starts.slack_seconds(1.05) == SLACK_SECONDS_SHORT
    starts.record_fetched(starts.next_starts(1.05), [], limit=1, sent=1.05, answered=1.06)
    assert starts.recheck_at == pytest.approx(1.0 + SLACK_EVERY_SECONDS)

    assert starts.slack_seconds(1.3) == SLACK_SECONDS
    starts.record_fetched(starts.next_starts(1.3), [], limit=1, sent=1.3, answered=1.31)
    assert starts.recheck_at == pytest.approx(1.01 + RECHECK_SECONDS_MIN)


async def test_commits_out_of_order_by_milliseconds_come_with_the_next_fetch(tx: Executor) -> None:
    """A job committed less than 50 ms out of order waits for no full search."""
    starts = FetchStarts(NOW, 0.0)
    for sent in (0.0, 0.01):
        starts.record_fetched(None, [], limit=10, sent=sent, answered=sent + 0.01)
    asked, slack = starts.next_starts(0.03), starts.slack_seconds(0.03)
    assert asked == (FetchStart(NOW + 0.01 * SECOND, 0),) * 4
    late = await put_job(tx, scheduled_at=NOW - 0.01 * SECOND)

    query = job_get_available_after(
        asked, queue="default", limit=10, client_id=ME, now=NOW + 0.03 * SECOND, slack_seconds=slack
    )
    [found] = await tx.run(query)

    assert found.id == late.id


def test_one_fetch_of_a_few_milliseconds_is_not_slow() -> None:
    """A single fetch of 9 ms, or a long one of many jobs, does not count; the second in a row does."""
    starts = FetchStarts(NOW, 0.0)
    jobs = [row(id, 1, NOW - HOUR) for id in range(1_000)]

    starts.record_fetched(None, [], limit=10, sent=0.0, answered=0.009)
    assert (starts.next_starts(1.0), starts.recheck_at) == (None, None)
    starts.record_fetched(None, jobs, limit=1_000, sent=1.0, answered=1.022)
    assert (starts.next_starts(1.1), starts.recheck_at) == (None, None)

    for sent in (2.0, 3.0):
        starts.record_fetched(None, [], limit=10, sent=sent, answered=sent + 0.009)
    assert starts.next_starts(3.1) is not None


def test_start_moves_back_only_by_a_fetch_from_the_beginning() -> None:
    """A clock that was set back moves no start; a fetch from the beginning does."""
    high = FetchStart(NOW + HOUR, 9)

    assert advanced((high,) * 4, [], is_cut=False, at=NOW) == (high,) * 4
    assert advanced(START, [], is_cut=False, at=NOW) == (FetchStart(NOW, 0),) * 4


def test_quick_fetches_are_made_from_the_beginning() -> None:
    """One very slow fetch turns starts on; a quick fetch from the beginning turns them off."""
    starts = FetchStarts(NOW, 0.0)
    starts.record_fetched(None, [], limit=10, sent=0.0, answered=0.001)
    assert (starts.next_starts(0.1), starts.recheck_at) == (None, None)

    starts.record_fetched(None, [], limit=10, sent=1.0, answered=1.02)
    assert starts.next_starts(1.1) == (FetchStart(NOW + SECOND, 0),) * 4
    assert starts.recheck_at == pytest.approx(1.02 + RECHECK_SECONDS_MIN)
    assert starts.next_starts(1.03 + RECHECK_SECONDS_MIN) is None

    starts.record_fetched(None, [], limit=10, sent=4.0, answered=4.001)
    assert (starts.next_starts(4.1), starts.recheck_at) == (None, None)


@pytest.mark.parametrize(
    ("seconds", "pause"), [(0.01, RECHECK_SECONDS_MIN), (0.1, 5.0), (5.0, RECHECK_SECONDS_MAX)]
)
def test_rechecks_take_a_fiftieth_of_the_time(seconds: float, pause: float) -> None:
    """The slower the beginning, the rarer it is read again, but at least every thirty seconds."""
    starts = FetchStarts(NOW, 0.0)
    starts.record_fetched(None, [], limit=10, sent=9.0, answered=10.0)

    starts.record_fetched(None, [], limit=10, sent=10.0, answered=10.0 + seconds)

    assert starts.recheck_at == pytest.approx(10.0 + seconds + pause)


def test_priority_with_a_slow_beginning_is_not_read_each_time() -> None:
    """A priority that is first read after the others delays the next recheck of all of them."""
    starts = FetchStarts(NOW, 0.0)
    starts.record_fetched(None, [], limit=1, sent=-1.0, answered=-0.9)
    starts.record_fetched(None, [row(1, 1, NOW - HOUR)], limit=1, sent=0.0, answered=0.01)
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
