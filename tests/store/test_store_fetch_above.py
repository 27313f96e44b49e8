"""The fetch above floors, and floors that rise: every job is found, in order, and in good time."""

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
from millhand.store.job import job_get_available
from millhand.store.job_fetch import START, FetchStart, Floors, job_get_available_above

ME = ClientId("me")
SECOND = timedelta(seconds=1)
INSERT = """
INSERT INTO {schema}.river_job (kind, args, max_attempts, priority, scheduled_at)
VALUES ('act', '{{}}', 25, $1, $2)
RETURNING id
"""


async def above(
    executor: Executor, floors: Floors, *, limit: int = 10, slack_seconds: float = 0.0
) -> list[JobId]:
    query = job_get_available_above(
        floors, queue="default", limit=limit, client_id=ME, now=NOW, slack_seconds=slack_seconds
    )
    return [job.id for job in await executor.run(query)]


async def test_fetch_above_floors_leaves_what_is_below(tx: Executor) -> None:
    """Of each priority comes what stands above its own floor, by priority, then age, then id; None is for the start."""
    old = [(await put_job(tx, priority=n, scheduled_at=NOW - HOUR)).id for n in (1, 2, 3)]
    new = [(await put_job(tx, priority=n, scheduled_at=NOW - HOUR / 2)).id for n in (3, 2, 1)]
    floors = (FetchStart(NOW - HOUR, old[0]), FetchStart(NOW - HOUR / 2, new[1]), None, FetchStart(NOW, 0))

    assert await above(tx, floors) == [new[2], old[2], new[0]]
    assert await above(tx, START) == old[:2] + new[1:2]


async def test_fetch_above_floors_marks_jobs_as_any_fetch_does(tx: Executor) -> None:
    """What is written to a job, and given of it, does not depend on where the fetch began."""
    await put_job(
        tx, JobState.AVAILABLE, attempt=1, attempted_by="{client_a}", metadata='{"cancel_attempted_at": 1}'
    )
    await put_job(
        tx, JobState.AVAILABLE, attempt=1, attempted_by="{client_a}", metadata='{"cancel_attempted_at": 1}'
    )

    [one] = await tx.run(job_get_available(queue="default", limit=1, client_id=ME, now=NOW))
    [other] = await tx.run(job_get_available_above(START, queue="default", limit=1, client_id=ME, now=NOW))

    assert replace_id(other, one.id) == one


def replace_id(row: JobRow, id: JobId) -> JobRow:
    return msgspec.structs.replace(row, id=id)


async def test_floor_leaves_two_seconds_for_what_is_committed_late(tx: Executor) -> None:
    """However high a floor is, with slack what was inserted in the last two seconds is found; what is older waits."""
    late = await put_job(tx, scheduled_at=NOW - 2 * SECOND)
    later = await put_job(tx, scheduled_at=NOW - 3 * SECOND)
    everywhere = FetchStart(NOW + HOUR, 0)

    assert await above(tx, (everywhere,) * 4) == []
    assert await above(tx, (everywhere,) * 4, slack_seconds=2.0) == [late.id]
    assert await above(tx, START) == [later.id]


async def test_limit_is_for_all_priorities_together(tx: Executor) -> None:
    """A fetch above floors takes no more than it was told to, and the important first."""
    jobs = [(await put_job(tx, priority=n, scheduled_at=NOW - HOUR)).id for n in (4, 3, 2, 1)]

    assert await above(tx, START, limit=3) == jobs[:0:-1]
    assert await above(tx, START, limit=0) == []


def row(id: int, priority: int, at: datetime) -> JobRow:
    return JobRow(
        id=JobId(id), state=JobState.RUNNING, attempt=1, max_attempts=25, attempted_at=NOW, created_at=NOW,
        finalized_at=None, scheduled_at=at, priority=priority, encoded_args="{}", attempted_by=("me",), errors=(),
        kind="act", metadata={}, queue="default", tags=(), unique_key=None, unique_states=None,
    )  # fmt: skip


def test_floors_rise_to_what_was_fetched() -> None:
    """A priority that was emptied rises to the instant of the fetch, one that was cut to its last job, and no other."""
    first, second = row(7, 1, NOW - HOUR), row(3, 2, NOW - 2 * HOUR)

    assert advanced(START, [first, second], is_cut=True, at=NOW) == (
        FetchStart(NOW, 0),
        FetchStart(NOW - 2 * HOUR, 3),
        None,
        None,
    )
    assert advanced(START, [first], is_cut=False, at=NOW) == (FetchStart(NOW, 0),) * 4
    assert advanced(START, [], is_cut=True, at=NOW) == START


def test_floor_sinks_to_what_was_found_late() -> None:
    """A fetch that was cut among jobs below a floor has left others there."""
    floors = (FetchStart(NOW, 0), FetchStart(NOW, 0), None, None)

    assert advanced(floors, [row(3, 1, NOW - SECOND)], is_cut=True, at=NOW) == (
        FetchStart(NOW - SECOND, 3),
        *floors[1:],
    )


def test_what_may_be_late_is_looked_at_four_times_a_second() -> None:
    """Fetches in between look at the last 50 ms, and the next look below is soon, whoever rings."""
    floors = FetchStarts(NOW, 0.0)
    for sent in (0.0, 1.0):
        floors.record_fetched(None, [], limit=1, sent=sent, answered=sent + 0.01)
    assert floors.slack_seconds(1.05) == SLACK_SECONDS_SHORT
    floors.record_fetched(floors.asked(1.05), [], limit=1, sent=1.05, answered=1.06)
    assert floors.recheck_at == pytest.approx(1.0 + SLACK_EVERY_SECONDS)

    assert floors.slack_seconds(1.3) == SLACK_SECONDS
    floors.record_fetched(floors.asked(1.3), [], limit=1, sent=1.3, answered=1.31)
    assert floors.recheck_at == pytest.approx(1.01 + RECHECK_SECONDS_MIN)


async def test_what_was_overtaken_by_milliseconds_comes_with_the_next_fetch(tx: Executor) -> None:
    """A job that was committed out of turn, by less than 50 ms, waits for no look that is made four times a second."""
    floors = FetchStarts(NOW, 0.0)
    for sent in (0.0, 0.01):
        floors.record_fetched(None, [], limit=10, sent=sent, answered=sent + 0.01)
    asked, slack = floors.asked(0.03), floors.slack_seconds(0.03)
    assert asked == (FetchStart(NOW + 0.01 * SECOND, 0),) * 4
    late = await put_job(tx, scheduled_at=NOW - 0.01 * SECOND)

    query = job_get_available_above(
        asked, queue="default", limit=10, client_id=ME, now=NOW + 0.03 * SECOND, slack_seconds=slack
    )
    [found] = await tx.run(query)

    assert found.id == late.id


def test_one_fetch_of_a_few_milliseconds_is_not_taken_for_slow() -> None:
    """A busy machine makes one of 9 ms now and then, and many jobs take their time; the second in a row says more."""
    floors = FetchStarts(NOW, 0.0)
    jobs = [row(id, 1, NOW - HOUR) for id in range(1_000)]

    floors.record_fetched(None, [], limit=10, sent=0.0, answered=0.009)
    assert (floors.asked(1.0), floors.recheck_at) == (None, None)
    floors.record_fetched(None, jobs, limit=1_000, sent=1.0, answered=1.022)
    assert (floors.asked(1.1), floors.recheck_at) == (None, None)

    for sent in (2.0, 3.0):
        floors.record_fetched(None, [], limit=10, sent=sent, answered=sent + 0.009)
    assert floors.asked(3.1) is not None


def test_floor_never_sinks_but_from_the_start() -> None:
    """A clock that was set back takes no floor down; a fetch from the start knows better."""
    high = FetchStart(NOW + HOUR, 9)

    assert advanced((high,) * 4, [], is_cut=False, at=NOW) == (high,) * 4
    assert advanced(START, [], is_cut=False, at=NOW) == (FetchStart(NOW, 0),) * 4


def test_quick_fetches_are_made_from_the_start() -> None:
    """Floors are for queues whose start is slow, which one very slow fetch says; a quick fetch from there ends them."""
    floors = FetchStarts(NOW, 0.0)
    floors.record_fetched(None, [], limit=10, sent=0.0, answered=0.001)
    assert (floors.asked(0.1), floors.recheck_at) == (None, None)

    floors.record_fetched(None, [], limit=10, sent=1.0, answered=1.02)
    assert floors.asked(1.1) == (FetchStart(NOW + SECOND, 0),) * 4
    assert floors.recheck_at == pytest.approx(1.02 + RECHECK_SECONDS_MIN)
    assert floors.asked(1.03 + RECHECK_SECONDS_MIN) is None

    floors.record_fetched(None, [], limit=10, sent=4.0, answered=4.001)
    assert (floors.asked(4.1), floors.recheck_at) == (None, None)


@pytest.mark.parametrize(
    ("seconds", "pause"), [(0.01, RECHECK_SECONDS_MIN), (0.1, 5.0), (5.0, RECHECK_SECONDS_MAX)]
)
def test_looking_again_costs_a_fiftieth_of_the_time(seconds: float, pause: float) -> None:
    """The slower the start is, the more seldom it is looked at; never more seldom than every thirty seconds."""
    floors = FetchStarts(NOW, 0.0)
    floors.record_fetched(None, [], limit=10, sent=9.0, answered=10.0)

    floors.record_fetched(None, [], limit=10, sent=10.0, answered=10.0 + seconds)

    assert floors.recheck_at == pytest.approx(10.0 + seconds + pause)


def test_priority_whose_start_is_slow_is_not_looked_at_each_time() -> None:
    """One that is reached after the others, from its start, puts the next look at all of them off as well."""
    floors = FetchStarts(NOW, 0.0)
    floors.record_fetched(None, [], limit=1, sent=-1.0, answered=-0.9)
    floors.record_fetched(None, [row(1, 1, NOW - HOUR)], limit=1, sent=0.0, answered=0.01)
    asked = floors.asked(0.02)
    assert asked == (FetchStart(NOW - HOUR, 1), None, None, None)

    floors.record_fetched(asked, [], limit=1, sent=0.3, answered=0.5)

    assert floors.recheck_at == pytest.approx(0.01 + (0.01 + 0.2) * 50)


@dataclass
class Play:
    """A queue, one producer's floors over it, and what others do meanwhile; seconds since NOW are brought."""

    driver: AsyncpgDriver
    rng: random.Random
    floors: FetchStarts = field(default_factory=lambda: FetchStarts(NOW, 0.0))
    seconds: float = 0.0
    waiting: dict[JobId, tuple[tuple[int, datetime, int], float]] = field(
        default_factory=dict
    )  # its place, and since when

    @property
    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.seconds)

    async def insert(self, executor: Executor) -> None:
        """Insert a job, mostly of now, some of long ago."""
        age = self.rng.choice([0.0, 0.0, 0.0, 0.5, 5.0, 3600.0])
        priority, at = self.rng.choice([1, 1, 1, 2, 4]), self.now - timedelta(seconds=age)
        [told] = await executor.fetch(INSERT.format(schema=self.driver.schema), [priority, at])
        id = JobId(told["id"])
        self.waiting[id] = ((priority, at, id), self.seconds)

    async def give_back(self) -> None:
        """Give a job back as a rescuer does: it stands where it stood."""
        sql = f"""
        UPDATE {self.driver.schema}.river_job SET state = 'available'
        WHERE id = (SELECT id FROM {self.driver.schema}.river_job WHERE state = 'running' ORDER BY random() LIMIT 1)
        RETURNING id, priority, scheduled_at
        """
        for told in await self.driver.pool.fetch(sql):
            self.waiting[told["id"]] = ((told["priority"], told["scheduled_at"], told["id"]), self.seconds)

    async def fetch(self) -> None:
        """Fetch as a producer does, and judge what came."""
        limit = self.rng.choice([1, 3, 3, 10])
        asked = self.floors.asked(self.seconds)
        wanted = {"queue": "default", "limit": limit, "client_id": ME, "now": self.now}
        slack = self.floors.slack_seconds(self.seconds)
        query = (
            job_get_available(**wanted)  # type: ignore[arg-type]
            if asked is None
            else job_get_available_above(asked, slack_seconds=slack, **wanted)  # type: ignore[arg-type]
        )
        jobs = await self.driver.pool.run(query)
        # Slow, but to look at each priority from its start takes no fiftieth of the least pause.
        sent, self.seconds = self.seconds, self.seconds + 0.004
        self.floors.record_fetched(asked, jobs, limit=limit, sent=sent, answered=self.seconds)
        self.judge(jobs, limit, is_from_start=asked is None)

    def judge(self, jobs: list[JobRow], limit: int, *, is_from_start: bool) -> None:
        ids = [job.id for job in jobs]
        in_order = sorted(self.waiting, key=lambda one: self.waiting[one][0])
        assert ids == [id for id in in_order if id in ids]
        taken = [self.waiting.pop(id) for id in ids]
        if is_from_start:
            assert ids == in_order[:limit]
        if len(jobs) < limit:
            overdue = self.overdue(self.waiting.values())
        else:
            # What is less important than the last has to wait; what is more important must not be overdue.
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
    """
    Inserted late, with an old instant, given back: no job waits below a floor for longer than until the next look.

    Each fetch is in order of priority, and one from the start takes the very first; all are taken in the end.
    """
    play = Play(schema_driver, random.Random(seed))  # noqa: S311 - a play, to be played again
    for _ in range(120):
        deed = play.rng.choice(["insert", "insert", "late", "give back", "fetch", "fetch", "fetch"])
        if deed == "insert":
            for _ in range(play.rng.randrange(4)):
                await play.insert(schema_driver.pool)
        elif deed == "late":
            await late(play)
        elif deed == "give back":
            await play.give_back()
        else:
            await play.fetch()
        play.seconds += play.rng.choice([0.0, 0.01, 0.2, 1.0])
    for _ in range(200):
        await play.fetch()
        play.seconds += 0.1

    assert play.waiting == {}


async def late(play: Play) -> None:
    """Insert in a transaction that others overtake: it is committed after them, with older instants and ids."""
    known = dict(play.waiting)
    async with play.driver.pool.begin() as tx:
        await play.insert(tx)
        [mine] = play.waiting.keys() - known.keys()
        place, _ = play.waiting.pop(mine)
        play.seconds += play.rng.choice([0.1, 1.0, 4.0])
        await play.insert(play.driver.pool)
        await play.fetch()
    play.waiting[mine] = (place, play.seconds)
