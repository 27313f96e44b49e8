"""Periodic jobs: inserted when due, each on its own, with River's metadata."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar

import pytest

from factory import NOW, get_job, golden, qualified
from millhand.core.clock import Clock, SystemClock
from millhand.core.config import Config
from millhand.core.errors import ConfigError, ConnectionLost
from millhand.core.hooks import Hook
from millhand.core.insert_opts import InsertOpts
from millhand.core.job import JobRow, JobState
from millhand.core.periodic import PeriodicJob, cron, every, never
from millhand.core.unique import UniqueOpts
from millhand.core.worker import Workers
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.db.query import Query
from millhand.engine.inserter import Inserter
from millhand.engine.maintenance.periodic_job_enqueuer import NUM_MISSED_MAX, PeriodicJobEnqueuer
from millhand.testing import ManualClock, Probe

MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class Report:
    kind: ClassVar[str] = "report"
    what: str = ""


@dataclass
class Desk:
    """Enqueuers on one clock and one executor, and the jobs they inserted."""

    pool: Executor
    stack: AsyncExitStack
    clock: ManualClock = field(default_factory=lambda: ManualClock(NOW))

    def enqueuer(
        self,
        *jobs: PeriodicJob,
        workers: Workers | None = None,
        hooks: Sequence[Hook] = (),
        machine_clock: Clock | None = None,
    ) -> tuple[PeriodicJobEnqueuer, Probe]:
        config = Config(clock=machine_clock or self.clock, workers=workers or Workers())
        enqueuer = PeriodicJobEnqueuer(
            Inserter(self.pool, config), jobs, clock=self.clock, hooks=hooks, pool=self.pool
        )
        self.stack.push_async_callback(enqueuer.stop)
        return enqueuer, Probe(enqueuer)

    async def started(self, *jobs: PeriodicJob) -> tuple[PeriodicJobEnqueuer, Probe]:
        """Return a running enqueuer after its first pass."""
        enqueuer, probe = self.enqueuer(*jobs)
        await enqueuer.start()
        await probe.wait("passed")
        return enqueuer, probe

    async def passes(self, enqueuer: PeriodicJobEnqueuer, probe: Probe, after: timedelta) -> None:
        """Advance the clock, and wait until the enqueuer has noticed."""
        self.clock.advance(after)
        enqueuer.wake_event.set()
        await probe.wait("passed")

    async def jobs(self) -> list[JobRow]:
        rows = await self.pool.fetch(qualified("SELECT id FROM /* schema */river_job ORDER BY id", self.pool))
        return [await get_job(self.pool, row["id"]) for row in rows]

    async def due(self) -> list[tuple[str, datetime]]:
        """Return the inserted jobs with the instant at which each was due."""
        return [(job.args["what"], job.scheduled_at) for job in await self.jobs()]


@pytest.fixture
async def desk(tx: Executor) -> AsyncIterator[Desk]:
    async with AsyncExitStack() as stack:
        yield Desk(tx, stack)


async def test_enqueuer_marks_jobs_as_river_does(desk: Desk) -> None:
    """A periodic job has River's metadata, its id if there is one, and the instant at which it was due."""
    opts = InsertOpts(queue="elsewhere", metadata={"own": 1})
    enqueuer, probe = await desk.started(
        every(60 * MINUTE, Report(), id="hourly_report", run_on_start=True, opts=opts),
        every(MINUTE, Report(), opts=opts),
    )

    await desk.passes(enqueuer, probe, MINUTE + timedelta(seconds=0.3))

    [photos] = [s["photos"] for s in golden("jobs") if s["scenario"] == "inserted by a periodic job"]
    jobs = await desk.jobs()
    assert [(job.state, job.queue, job.metadata) for job in jobs] == [
        (photo["row"]["columns"]["state"], photo["row"]["columns"]["queue"], photo["row"]["metadata"])
        for photo in photos
    ]
    assert [job.scheduled_at for job in jobs] == [NOW, NOW + MINUTE]


async def test_enqueuer_inserts_nothing_before_it_is_due(desk: Desk) -> None:
    """The first run comes one interval after the client became leader, and not before."""
    enqueuer, probe = await desk.started(every(MINUTE, Report("a")))

    await desk.passes(enqueuer, probe, MINUTE / 2)
    before = await desk.due()
    await desk.passes(enqueuer, probe, MINUTE / 2)

    assert (before, await desk.due()) == ([], [("a", NOW + MINUTE)])


async def test_enqueuer_does_not_drift(desk: Desk) -> None:
    """A late run does not delay the next one."""
    enqueuer, probe = await desk.started(every(MINUTE, Report("a")))

    for _ in range(3):
        await desk.passes(enqueuer, probe, MINUTE + timedelta(seconds=3))

    assert await desk.due() == [("a", NOW + n * MINUTE) for n in (1, 2, 3)]


async def test_enqueuer_inserts_due_jobs_in_order(desk: Desk) -> None:
    """Of several due jobs the one that was due first is inserted first, whatever the order of the configuration."""
    enqueuer, probe = await desk.started(every(2 * MINUTE, Report("late")), every(MINUTE, Report("early")))

    await desk.passes(enqueuer, probe, 1.5 * MINUTE)
    await desk.passes(enqueuer, probe, 0.5 * MINUTE)

    assert await desk.due() == [
        ("early", NOW + MINUTE),
        ("late", NOW + 2 * MINUTE),
        ("early", NOW + 2 * MINUTE),
    ]


async def test_enqueuer_inserts_one_of_the_runs_that_a_stall_has_missed(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """After an hour's stall a job of every minute is inserted once, not sixty times, and its schedule does not drift."""
    enqueuer, probe = await desk.started(every(MINUTE, Report("a"), id="minutely"))

    await desk.passes(enqueuer, probe, 60 * MINUTE + timedelta(seconds=30))
    await desk.passes(enqueuer, probe, timedelta(seconds=30))

    assert await desk.due() == [("a", NOW + MINUTE), ("a", NOW + 61 * MINUTE)]
    emitted = [(record.msg, record.periodic_job_id, record.num_jobs) for record in caplog.records]  # type: ignore[attr-defined]
    assert emitted == [("periodic runs missed", "minutely", 59)]


async def test_enqueuer_does_not_count_through_a_stall_of_years(desk: Desk) -> None:
    """After a thousand missed runs the next one is computed from now."""
    enqueuer, probe = await desk.started(every(MINUTE, Report("a")))

    await desk.passes(enqueuer, probe, NUM_MISSED_MAX * 1000 * MINUTE)
    await desk.passes(enqueuer, probe, MINUTE)

    assert len(await desk.due()) == 2


async def test_enqueuer_starts_afresh_with_each_term(desk: Desk) -> None:
    """A new term inserts jobs that run on start, and skips runs that fell due without a leader."""
    enqueuer, probe = await desk.started(
        every(MINUTE, Report("minutely")), every(60 * MINUTE, Report("starting"), run_on_start=True)
    )
    await enqueuer.stop()
    desk.clock.advance(10 * MINUTE)

    await enqueuer.start()
    await probe.wait("passed")
    await desk.passes(enqueuer, probe, MINUTE)

    assert await desk.due() == [
        ("starting", NOW),
        ("starting", NOW + 10 * MINUTE),
        ("minutely", NOW + 11 * MINUTE),
    ]


async def test_enqueuer_follows_cron_and_never(desk: Desk) -> None:
    """Any schedule works, also one that never starts or ends."""
    enqueuer, probe = await desk.started(cron("36 * * * *", Report("cron")), never(Report("never")))

    await desk.passes(enqueuer, probe, MINUTE + timedelta(seconds=4))
    await desk.passes(enqueuer, probe, timedelta(days=365))

    names = [what for what, _ in await desk.due()]
    assert names == ["never", "cron", "cron"]


async def test_enqueuer_inserts_the_others_when_one_cannot_be_inserted(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """A job that cannot be inserted is logged and tried at its next run; the others are inserted."""

    def broken() -> Report:
        raise ZeroDivisionError("no report today")

    enqueuer, probe = await desk.started(
        every(MINUTE, Report("first")),
        every(MINUTE, broken, id="broken"),
        every(MINUTE, InsertOpts, id="no_args"),  # type: ignore[arg-type]
        every(MINUTE, Report("last")),
    )

    for _ in range(2):
        await desk.passes(enqueuer, probe, MINUTE)

    assert [what for what, _ in await desk.due()] == ["first", "last", "first", "last"]
    emitted = [(record.msg, record.periodic_job_id, record.error_type) for record in caplog.records]  # type: ignore[attr-defined]
    assert emitted == 2 * [
        ("periodic job not inserted", "broken", "ZeroDivisionError"),
        ("periodic job not inserted", "no_args", "InvalidJob"),
    ]


@pytest.mark.parametrize("raised", [SystemExit(3), asyncio.CancelledError()])
async def test_enqueuer_survives_what_would_end_its_task_or_the_process(
    desk: Desk, caplog: pytest.LogCaptureFixture, raised: BaseException
) -> None:
    """SystemExit of a constructor or schedule, or an unexpected CancelledError, skips only its own run."""

    class Schedule:
        def next(self, after: datetime) -> datetime | None:
            raise raised

    def broken() -> Report:
        raise raised

    enqueuer, probe = await desk.started(
        every(MINUTE, broken, id="constructor"),
        PeriodicJob(schedule=Schedule(), args=Report("never"), id="schedule"),
        every(MINUTE, Report("last")),
    )

    await desk.passes(enqueuer, probe, MINUTE)

    assert ([what for what, _ in await desk.due()], enqueuer.is_running) == (["last"], True)
    emitted = [(record.msg, record.periodic_job_id, record.error_type) for record in caplog.records]  # type: ignore[attr-defined]
    name = type(raised).__name__
    assert emitted == [
        ("periodic job not inserted", "schedule", name),
        ("periodic job not inserted", "constructor", name),
    ]


async def test_enqueuer_does_not_insert_a_kind_without_a_worker(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """A periodic job of a kind without a worker fails as any insert of it."""
    workers = Workers()

    @workers.add()
    async def other(path: str) -> None: ...

    enqueuer, probe = desk.enqueuer(never(Report("unknown")), workers=workers)

    await enqueuer.start()
    await probe.wait("passed")

    assert (await desk.jobs(), [record.error_type for record in caplog.records]) == ([], ["UnknownKind"])  # type: ignore[attr-defined]


async def test_enqueuer_retries_after_a_transient_error(
    schema_driver: AsyncpgDriver, caplog: pytest.LogCaptureFixture
) -> None:
    """The run is inserted later, for the instant at which it was due."""
    pool = schema_driver.pool
    async with AsyncExitStack() as stack:
        desk = Desk(pool, stack)
        enqueuer, probe = await desk.started(every(60 * MINUTE, Report("a")))
        async with busy(pool):
            await desk.passes(enqueuer, probe, 60 * MINUTE)
        await enqueuer.run_once()  # too early
        during = await desk.due()
        desk.clock.advance(2)
        enqueuer.wake_event.set()
        await probe.wait("run")

        assert (during, await desk.due()) == ([], [("a", NOW + 60 * MINUTE)])
        assert [record.msg for record in caplog.records] == ["periodic job put off"]
        assert caplog.records[0].sleep_seconds < 2  # type: ignore[attr-defined]


async def test_first_run_is_awaited_until_it_is_in(schema_driver: AsyncpgDriver) -> None:
    """A worker that ends when nothing is left to do waits for a first run that a transient error put off."""
    pool = schema_driver.pool
    async with AsyncExitStack() as stack:
        desk = Desk(pool, stack)
        enqueuer, probe = desk.enqueuer(every(60 * MINUTE, Report("a"), run_on_start=True))
        before = enqueuer.awaits_first_runs
        async with busy(pool):
            await enqueuer.start()
            await probe.wait("passed")
        during = enqueuer.awaits_first_runs
        desk.clock.advance(2)
        enqueuer.wake_event.set()
        await probe.wait("run")
        await probe.wait("passed")

        assert (before, during, enqueuer.awaits_first_runs) == (True, True, False)
        assert await desk.due() == [("a", NOW)]


@pytest.mark.parametrize(("id", "num"), [("hourly", 1), (None, 2)])
async def test_enqueuer_finds_a_run_whose_answer_was_lost(
    schema_driver: AsyncpgDriver, id: str | None, num: int
) -> None:
    """The run is found by its id and not inserted again."""
    pool = LosingOnce(schema_driver.pool)
    async with AsyncExitStack() as stack:
        desk = Desk(pool, stack)  # type: ignore[arg-type]
        enqueuer, probe = await desk.started(every(60 * MINUTE, Report("a"), id=id, run_on_start=True))
        [agenda] = enqueuer._agendas
        put_off = (agenda.num_failures, agenda.due_at)

        desk.clock.advance(2)
        enqueuer.wake_event.set()
        await probe.wait("passed")

        assert put_off == (1, NOW)
        assert (agenda.num_failures, agenda.due_at) == (0, NOW + 60 * MINUTE)
        assert await desk.due() == num * [("a", NOW)]


class LosingOnce:
    """Runs statements, and loses the answer of the first insert."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self._has_lost = False

    async def run(self, query: Query[Any]) -> Any:
        answer = await self._pool.run(query)
        if query.name.startswith("job_insert") and not self._has_lost:
            self._has_lost = True
            raise ConnectionLost(query.name, "connection was closed in the middle of operation")
        return answer

    async def fetch(self, sql: str, params: Sequence[Any] = (), **settings: Any) -> Any:
        return await self._pool.fetch(sql, params, **settings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


async def test_enqueuer_stops_at_the_first_failure_during_a_stop(schema_driver: AsyncpgDriver) -> None:
    """A stop does not wait for every due job to time out."""
    pool = schema_driver.pool
    async with AsyncExitStack() as stack, busy(pool):
        desk = Desk(pool, stack)
        jobs = [every(60 * MINUTE, Report(str(n)), run_on_start=True) for n in range(10)]
        enqueuer, probe = desk.enqueuer(*jobs)

        await enqueuer.start()
        stop = asyncio.ensure_future(enqueuer.stop())
        await probe.wait("passed")
        await stop

        assert [agenda.num_failures for agenda in enqueuer._agendas] == [1] + 9 * [0]


@asynccontextmanager
async def busy(pool: Executor) -> AsyncIterator[None]:
    """Make the database refuse every insert with a transient error."""
    await pool.execute_script("""
        CREATE FUNCTION /* schema */busy() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN RAISE EXCEPTION 'not now' USING ERRCODE = '40001'; END
        $$;
        CREATE TRIGGER busy BEFORE INSERT ON /* schema */river_job
            FOR EACH ROW EXECUTE FUNCTION /* schema */busy();
    """)
    yield
    await pool.execute_script("""
        DROP TRIGGER busy ON /* schema */river_job;
        DROP FUNCTION /* schema */busy();
    """)


async def test_enqueuer_skips_a_run_whose_constructor_returns_none(desk: Desk) -> None:
    """The constructor is called for each run and may return None."""
    runs = iter([None, Report("second"), (Report("third"), InsertOpts(queue="elsewhere"))])
    enqueuer, probe = await desk.started(every(MINUTE, lambda: next(runs)))

    for _ in range(3):
        await desk.passes(enqueuer, probe, MINUTE)

    assert [(job.args["what"], job.queue) for job in await desk.jobs()] == [
        ("second", "default"),
        ("third", "elsewhere"),
    ]


async def test_enqueuer_keeps_a_scheduled_at_of_the_constructor(desk: Desk) -> None:
    """A run with its own `scheduled_at` is scheduled for that."""
    later = NOW + 10 * MINUTE
    await desk.started(never(lambda: (Report("a"), InsertOpts(scheduled_at=later))))

    [job] = await desk.jobs()
    assert (job.state, job.scheduled_at, job.metadata) == (JobState.SCHEDULED, later, {"periodic": True})


async def test_enqueuer_adds_and_removes_jobs_while_it_runs(desk: Desk) -> None:
    """An added job is due from then on, and a removed one is not due any more."""
    enqueuer, probe = await desk.started()
    minutely = every(MINUTE, Report("minutely"))

    enqueuer.add(every(60 * MINUTE, Report("hourly"), id="hourly", run_on_start=True))
    enqueuer.add(minutely)
    await probe.wait("passed")
    await desk.passes(enqueuer, probe, MINUTE)
    enqueuer.remove(minutely)
    enqueuer.remove("hourly")
    await desk.passes(enqueuer, probe, 120 * MINUTE)

    assert await desk.due() == [("hourly", NOW), ("minutely", NOW + MINUTE)]
    assert enqueuer.periodic_jobs == ()


async def test_enqueuer_refuses_two_jobs_with_one_id(desk: Desk) -> None:
    """The second job with an id raises, and the first stays."""
    enqueuer, _ = desk.enqueuer(never(Report(), id="report"))

    with pytest.raises(ConfigError) as raised:
        enqueuer.add(never(Report(), id="report"))

    assert str(raised.value) == "id of a periodic job must be the only one, got 'report' twice"
    assert len(enqueuer.periodic_jobs) == 1


async def test_enqueuer_refuses_to_remove_an_unknown_job(desk: Desk) -> None:
    """An unknown id raises."""
    enqueuer, _ = desk.enqueuer()

    with pytest.raises(ConfigError) as raised:
        enqueuer.remove("nothing")

    assert str(raised.value) == "periodic job must be one that was added, or its id, got 'nothing'"


async def test_enqueuer_does_not_start_when_a_hook_raises(desk: Desk) -> None:
    """Hooks run before the first insert, and `start` raises their error."""

    class Refuse(Hook):
        async def periodic_jobs_start(self) -> None:
            raise ZeroDivisionError

    enqueuer, _ = desk.enqueuer(never(Report("a")), hooks=[Hook(), Refuse()])

    with pytest.raises(ZeroDivisionError):
        await enqueuer.start()

    assert (enqueuer.is_running, await desk.jobs()) == (False, [])


@pytest.mark.parametrize("raised", [SystemExit(3), asyncio.CancelledError()])
async def test_enqueuer_does_not_start_when_a_hook_would_end_the_process(
    desk: Desk, raised: BaseException
) -> None:
    """A hook's SystemExit or CancelledError ends neither the process nor the task that starts the enqueuer."""

    class Leave(Hook):
        async def periodic_jobs_start(self) -> None:
            raise raised

    enqueuer, _ = desk.enqueuer(hooks=[Leave()])

    with pytest.raises(RuntimeError) as refused:
        await enqueuer.start()

    assert (str(refused.value), refused.value.__cause__) == (f"periodic_jobs_start raised {raised!r}", raised)


async def test_enqueuers_of_two_leaders_insert_a_unique_run_once(desk: Desk) -> None:
    """Two leaders at once insert a unique run once."""
    opts = InsertOpts(unique=UniqueOpts(by_period=MINUTE))
    enqueuers = [await desk.started(every(MINUTE, Report("a"), opts=opts)) for _ in range(2)]

    desk.clock.advance(MINUTE)
    for enqueuer, probe in enqueuers:
        enqueuer.wake_event.set()
        await probe.wait("passed")

    assert await desk.due() == [("a", NOW + MINUTE)]


async def test_enqueuer_inserts_each_unique_run_if_the_machines_clock_is_behind(desk: Desk) -> None:
    """The period of a unique run is that in which it is due, also if the period has not begun by the machine's clock."""
    machine_clock = ManualClock(NOW - timedelta(seconds=0.5))
    job = cron("* * * * *", Report("a"), opts=InsertOpts(unique=UniqueOpts(by_period=MINUTE)))
    enqueuer, probe = desk.enqueuer(job, machine_clock=machine_clock)
    await enqueuer.start()
    await probe.wait("passed")

    # The first run is a second late, which is in its period by both clocks. The second one is on time.
    first = NOW.replace(second=0, microsecond=0) + MINUTE
    for at in (first + timedelta(seconds=1), first + MINUTE):
        machine_clock.advance(at - desk.clock.now())
        await desk.passes(enqueuer, probe, at - desk.clock.now())

    assert await desk.due() == [("a", first), ("a", first + MINUTE)]


async def test_enqueuer_does_not_double_a_unique_run_whose_answer_was_lost(
    schema_driver: AsyncpgDriver,
) -> None:
    """A run without an id that is tried again in the next period has the key of its own period."""
    async with AsyncExitStack() as stack:
        desk = Desk(LosingOnce(schema_driver.pool), stack)  # type: ignore[arg-type]
        opts = InsertOpts(unique=UniqueOpts(by_period=MINUTE))
        enqueuer, probe = await desk.started(every(60 * MINUTE, Report("a"), run_on_start=True, opts=opts))

        await desk.passes(enqueuer, probe, MINUTE)

        assert [agenda.num_failures for agenda in enqueuer._agendas] == [0]
        assert await desk.due() == [("a", NOW)]


@pytest.mark.slow
async def test_enqueuer_wakes_by_itself_when_a_job_is_due(schema_driver: AsyncpgDriver) -> None:
    """The enqueuer sleeps until the next run without a wake-up."""
    clock = SystemClock()
    config = Config(clock=clock)
    interval = timedelta(milliseconds=100)
    job = every(interval, Report("a"))
    enqueuer = PeriodicJobEnqueuer(Inserter(schema_driver.pool, config), [job], clock=clock)
    probe = Probe(enqueuer)

    await enqueuer.start()
    runs = [(await probe.wait("run")).job.scheduled_at for _ in range(3)]
    await enqueuer.stop()

    pauses = [second - first for first, second in itertools.pairwise(runs)]
    assert min(pauses) >= interval
    assert [pause % interval for pause in pauses] == [timedelta(0)] * 2  # a late pass leaves runs out


async def test_enqueuer_logs_each_run_at_debug(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """Each inserted run has a line at DEBUG."""
    caplog.set_level(logging.DEBUG, "millhand.engine.maintenance")

    await desk.started(never(Report("a"), id="once"))

    [job] = await desk.jobs()
    emitted = [(record.levelname, record.msg, record.job_id) for record in caplog.records]  # type: ignore[attr-defined]
    assert emitted == [("DEBUG", "periodic job inserted", job.id)]
