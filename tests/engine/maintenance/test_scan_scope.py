"""How often maintenance services scan everything, and from where they scan otherwise."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from factory import NOW, get_job, insert_job
from millhand.core.clock import REST_SECONDS_MAX, SystemClock, rest_seconds
from millhand.core.config import Config
from millhand.core.job import ClientId, JobId, JobRow, JobState
from millhand.core.retry import DefaultRetryPolicy
from millhand.core.worker import Workers
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.engine.elector import Elector
from millhand.engine.inserter import Inserter
from millhand.engine.kind_watcher import KindWatcher
from millhand.engine.maintenance.cleaners import JobCleaner
from millhand.engine.maintenance.client_rescuer import SEARCH_SECONDS, ClientRescuer
from millhand.engine.maintenance.job_rescuer import JobRescuer, OwnJobRescuer
from millhand.engine.maintenance.job_scheduler import FULL_SCAN_SECONDS_MAX, LATE, JobScheduler
from millhand.engine.maintenance.scan_scope import FULL_SCAN_SECONDS, FullScanTimer, ScanStart
from millhand.engine.maintenance.step_down_watcher import StepDownWatcher
from millhand.engine.registration import Registration
from millhand.engine.store.client import ClientHeartbeatParams, client_heartbeat, client_stop
from millhand.engine.store.client_end import job_get_stranded
from millhand.engine.store.job import job_get_stuck
from millhand.testing import ManualClock

ME, OTHER = ClientId("me"), ClientId("other")
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


class Slow:
    """An executor whose statements of one name take long by a clock."""

    def __init__(self, pool: Executor, clock: ManualClock, name: str, seconds: float) -> None:
        self.num_said = 0
        self._clock = clock
        self._name = name
        self._pool = pool
        self._seconds = seconds

    async def run(self, query: Any) -> Any:
        if query.name == self._name:
            self.num_said += 1
            self._clock.advance(self._seconds)
        return await self._pool.run(query)


async def changed_by_hand(tx: Executor, by: str = "client_gone", at: datetime = NOW) -> JobRow:
    """Insert a job that was fetched two hours before it was due, as only a manual change makes one."""
    return await insert_job(
        tx, JobState.RUNNING, attempted_at=at - 2 * HOUR, attempted_by=[by], scheduled_at=at
    )


def rescue_settings(clock: ManualClock) -> dict[str, Any]:
    return {
        "clock": clock,
        "job_timeout": MINUTE,
        "rescue_after": HOUR,
        "retry_policy": DefaultRetryPolicy(),
        "workers": Workers(),
    }


@pytest.mark.parametrize(
    ("took", "least", "expected"),
    [(0.001, 30.0, 30.0), (1.0, 30.0, 50.0), (1.0, 0.0, 50.0), (30.0, 30.0, REST_SECONDS_MAX)],
)
def test_pause_is_fifty_times_as_long_as_the_statement(took: float, least: float, expected: float) -> None:
    """A statement takes a fiftieth of the time at most, and pauses are between `least` and five minutes."""
    assert rest_seconds(took, least=least) == expected


def test_one_scan_an_hour_is_full() -> None:
    """The first scan is full and then one an hour; a restart makes the next one full."""
    clock = ManualClock()
    timer = FullScanTimer(clock)

    due = [timer.take_due(), timer.take_due()]
    clock.advance(FULL_SCAN_SECONDS)
    due += [timer.take_due(), timer.take_due()]
    timer.restart()
    due += [timer.take_due()]

    assert due == [True, False, True, False, True]


async def test_bounded_scan_finds_jobs_fetched_when_due(tx: Executor) -> None:
    """A bounded scan finds every stuck job that was not fetched before it was due."""
    ordinary = await insert_job(
        tx, JobState.RUNNING, attempted_at=NOW - 2 * HOUR, scheduled_at=NOW - 2 * HOUR
    )
    strange = await changed_by_hand(tx)
    endless = await insert_job(
        tx, JobState.RUNNING, attempted_at=NOW - 2 * HOUR, scheduled_at=datetime.max.replace(tzinfo=UTC)
    )
    wanted: dict[str, Any] = {"stuck_horizon": NOW - HOUR, "after_id": JobId(0), "limit": 10}

    bounded = await tx.run(job_get_stuck(**wanted, due_before=NOW - HOUR))
    whole = await tx.run(job_get_stuck(**wanted))

    assert (bounded, whole) == ([ordinary], [ordinary, strange, endless])


async def test_rescuer_scans_everything_once_an_hour(tx: Executor) -> None:
    """A row changed by hand to be due after its fetch is rescued by the next full scan."""
    clock = ManualClock(NOW)
    rescuer = JobRescuer(tx, **rescue_settings(clock))
    await rescuer.run_once()
    strange = await changed_by_hand(tx)

    await rescuer.run_once()
    before = (await get_job(tx, strange.id)).state
    clock.advance(FULL_SCAN_SECONDS - 1.0)  # it is due an hour after NOW, still later than the horizon
    await rescuer.run_once()
    still = (await get_job(tx, strange.id)).state
    clock.advance(1.0)
    await rescuer.run_once()

    assert (before, still) == (JobState.RUNNING, JobState.RUNNING)
    assert (await get_job(tx, strange.id)).state is JobState.RETRYABLE


async def test_own_rescuer_finds_a_job_of_a_full_scan_again(tx: Executor) -> None:
    """A job that a full scan found is found by the next pass too, and rescued."""
    strange = await changed_by_hand(tx, by=ME)
    rescuer = OwnJobRescuer(
        tx,
        client_id=ME,
        is_held=lambda _: False,
        registration=Registration(is_active=True),
        **rescue_settings(ManualClock(NOW)),
    )

    await rescuer.run_once()
    once = (await get_job(tx, strange.id)).state
    await rescuer.run_once()

    assert (once, (await get_job(tx, strange.id)).state) == (JobState.RUNNING, JobState.RETRYABLE)


async def reported(pool: Executor, id: ClientId, now: datetime) -> datetime:
    """Write a heartbeat, and return the start of the client's life."""
    report = ClientHeartbeatParams(
        id=id, hostname="here", kinds=[], pid=1, queue_updates={}, queues={}, heartbeat_interval=5 * MINUTE,
        version="1",
    )  # fmt: skip
    return (await pool.run(client_heartbeat(report, started_at=now - 3 * HOUR, now=now))).started_at


async def test_bounded_scan_finds_jobs_of_a_stopped_client(tx: Executor) -> None:
    """A bounded scan finds the jobs fetched when due, and a full one also a job changed by hand."""
    started_at = await reported(tx, OTHER, NOW - HOUR)
    its = {"attempted_at": NOW - 2 * HOUR, "attempted_by": [OTHER], "scheduled_at": NOW - 2 * HOUR}
    ordinary = await insert_job(tx, JobState.RUNNING, **its)
    strange = await changed_by_hand(tx, by=OTHER)
    await tx.run(client_stop(id=OTHER, started_at=started_at, now=NOW - HOUR))

    found = [
        [one.job.id for one in await tx.run(job_get_stranded(after_id=JobId(0), limit=10, is_full=is_full, now=NOW))]
        for is_full in (False, True)
    ]  # fmt: skip

    assert found == [[ordinary.id], [ordinary.id, strange.id]]


def client_rescuer(pool: Any, clock: ManualClock) -> ClientRescuer:
    return ClientRescuer(
        pool,
        Inserter(pool, Config()),
        client_id=ME,
        clock=clock,
        registration=Registration(is_active=True, steady_since=SystemClock().now() - HOUR),
        retry_policy=DefaultRetryPolicy(),
        workers=Workers(),
    )


async def test_slow_search_for_stranded_jobs_is_followed_by_a_pause(schema_driver: AsyncpgDriver) -> None:
    """A search of one second is followed by fifty without one, unless another client ends meanwhile."""
    pool, now, clock = schema_driver.pool, SystemClock().now(), ManualClock()
    await reported(pool, ME, now)
    started_at = await reported(pool, OTHER, now)
    slow = Slow(pool, clock, "job_get_stranded", 1.0)
    rescuer = client_rescuer(slow, clock)
    nums = []

    await rescuer.run_once()
    clock.advance(SEARCH_SECONDS + 1.0)
    await rescuer.run_once()
    nums.append(slow.num_said)
    await pool.run(client_stop(id=OTHER, started_at=started_at))
    await rescuer.run_once()  # another client ended
    await rescuer.run_once()  # no further change
    nums.append(slow.num_said)
    clock.advance(50.0)
    await rescuer.run_once()

    assert [*nums, slow.num_said] == [1, 2, 3]


async def test_fast_search_for_stranded_jobs_is_repeated(schema_driver: AsyncpgDriver) -> None:
    """For a minute after a client ended each pass searches for jobs, while that is fast."""
    pool, now, clock = schema_driver.pool, SystemClock().now(), ManualClock()
    await reported(pool, ME, now)
    await pool.run(client_stop(id=OTHER, started_at=await reported(pool, OTHER, now)))
    slow = Slow(pool, clock, "job_get_stranded", 0.0)
    rescuer = client_rescuer(slow, clock)

    for _ in range(3):
        await rescuer.run_once()

    assert slow.num_said == 3


async def test_slow_search_for_unregistered_clients_is_followed_by_a_pause(tx: Executor) -> None:
    """A leader searches every twenty seconds, or less often where that is slow."""
    clock = ManualClock()
    slow: Any = Slow(tx, clock, "client_get_unregistered", 1.0)
    watcher = StepDownWatcher(
        slow,
        Elector(tx, ME, clock=clock, on_term=print),
        clock=clock,
        registration=Registration(is_active=True),
    )
    pauses = [watcher.next_pause_seconds()]

    await watcher.run_once()
    pauses.append(watcher.next_pause_seconds())

    assert pauses == [StepDownWatcher.interval_seconds, 50.0]


@pytest.mark.parametrize(("took", "pause"), [(0.1, KindWatcher.interval_seconds), (2.0, 100.0)])
async def test_slow_search_for_unknown_kinds_is_followed_by_a_pause(
    tx: Executor, took: float, pause: float
) -> None:
    """A client searches for unknown kinds once a minute, or less often where that is slow."""
    clock = ManualClock()
    slow: Any = Slow(tx, clock, "queue_get_due_kinds", took)
    watcher = KindWatcher(slow, ME, clock=clock, kinds=["act"], queues=lambda: ["default"])

    await watcher.run_once()

    assert pause <= watcher.next_pause_seconds() <= 1.1 * pause  # jitter


def test_slow_full_scan_is_not_repeated_soon() -> None:
    """After a slow full scan passes begin a little before the last one, until the pause is over."""
    clock = ManualClock()
    behind = ScanStart(clock, slack=MINUTE, max_seconds=30.0)
    began_at, due = clock.now(), []

    for took_seconds in (0.0, 0.5, 9.9, 9.9):  # the second is slow: 25 s without another
        due.append(behind.begin())
        clock.advance(10.0)
        behind.end(took_seconds)
    due.append(behind.begin())
    clock.advance(10.0)
    due.append(behind.begin())
    behind.restart()
    due.append(behind.begin())

    after = timedelta(seconds=10) - MINUTE
    assert due == [
        None,
        None,
        began_at + after,
        began_at + 2 * after + MINUTE,
        began_at + 3 * after + 2 * MINUTE,
        None,
        None,
    ]


async def test_slow_scheduler_starts_where_the_last_pass_began(tx: Executor) -> None:
    """A slightly late job is found by the next pass; one that was due long ago half a minute later."""
    clock = ManualClock(NOW)
    slow: Any = Slow(tx, clock, "job_schedule", 1.0)
    scheduler = JobScheduler(slow, Inserter(tx, Config()), clock=clock)
    await scheduler.run_once()
    late = await insert_job(tx, JobState.SCHEDULED, scheduled_at=NOW - LATE)
    old = await insert_job(tx, JobState.RETRYABLE, scheduled_at=NOW - LATE - MINUTE)

    await scheduler.run_once()
    states = [(await get_job(tx, job.id)).state for job in (late, old)]
    clock.advance(FULL_SCAN_SECONDS_MAX)
    await scheduler.run_once()

    assert states == [JobState.AVAILABLE, JobState.RETRYABLE]
    assert (await get_job(tx, old.id)).state is JobState.AVAILABLE


async def test_slow_cleaner_starts_where_the_last_pass_began(tx: Executor) -> None:
    """A slightly late job is deleted by the next pass; one finalized long before some minutes later."""
    clock = ManualClock(NOW)
    slow: Any = Slow(tx, clock, "job_delete_before", 10.0)
    cleaner = JobCleaner(
        slow, clock=clock, cancelled_retention=None, completed_retention=HOUR, discarded_retention=2 * HOUR
    )
    await cleaner.run_once()
    for age in (HOUR + MINUTE, 2 * HOUR):
        await insert_job(tx, JobState.COMPLETED, finalized_at=NOW - age)
        await insert_job(tx, JobState.DISCARDED, finalized_at=NOW - age - HOUR)

    await cleaner.run_once()
    left = [await count(tx)]
    clock.advance(REST_SECONDS_MAX)
    await cleaner.run_once()

    assert [*left, await count(tx)] == [2, 0]


async def count(tx: Executor) -> int:
    [row] = await tx.fetch("SELECT count(*) AS num FROM river_job")
    return int(row["num"])
