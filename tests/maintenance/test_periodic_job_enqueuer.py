"""Periodic jobs: inserted when due, each on its own, marked as River marks them."""

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
from millhand.clock import SystemClock
from millhand.config import Config
from millhand.driver.asyncpg import AsyncpgDriver
from millhand.driver.protocol import Executor
from millhand.errors import ConfigError, ConnectionLost
from millhand.hooks import Hook
from millhand.insert_opts import InsertOpts
from millhand.job import JobRow, JobState
from millhand.maintenance.periodic_job_enqueuer import NUM_MISSED_MAX, PeriodicJobEnqueuer
from millhand.periodic import PeriodicJob, cron, every, never
from millhand.runtime.inserter import Inserter
from millhand.store.query import Query
from millhand.testing import ManualClock, Probe
from millhand.unique import UniqueOpts
from millhand.worker import Workers

MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class Report:
    kind: ClassVar[str] = "report"
    what: str = ""


@dataclass
class Desk:
    """Enqueuers by one clock, on one executor, and the jobs that they have inserted."""

    pool: Executor
    stack: AsyncExitStack
    clock: ManualClock = field(default_factory=lambda: ManualClock(NOW))

    def enqueuer(
        self, *jobs: PeriodicJob, workers: Workers | None = None, hooks: Sequence[Hook] = ()
    ) -> tuple[PeriodicJobEnqueuer, Probe]:
        config = Config(clock=self.clock, workers=workers or Workers())
        enqueuer = PeriodicJobEnqueuer(
            Inserter(self.pool, config), jobs, clock=self.clock, hooks=hooks, pool=self.pool
        )
        self.stack.push_async_callback(enqueuer.stop)
        return enqueuer, Probe(enqueuer)

    async def started(self, *jobs: PeriodicJob) -> tuple[PeriodicJobEnqueuer, Probe]:
        """Return an enqueuer that runs and has made its first pass."""
        enqueuer, probe = self.enqueuer(*jobs)
        await enqueuer.start()
        await probe.wait("passed")
        return enqueuer, probe

    async def passes(self, enqueuer: PeriodicJobEnqueuer, probe: Probe, after: timedelta) -> None:
        """Let time pass, and wait until the enqueuer has looked at the clock."""
        self.clock.advance(after)
        enqueuer.wake_event.set()
        await probe.wait("passed")

    async def jobs(self) -> list[JobRow]:
        rows = await self.pool.fetch(qualified("SELECT id FROM /* schema */river_job ORDER BY id", self.pool))
        return [await get_job(self.pool, row["id"]) for row in rows]

    async def due(self) -> list[tuple[str, datetime]]:
        """Return what was inserted, and the instant at which each was due."""
        return [(job.args["what"], job.scheduled_at) for job in await self.jobs()]


@pytest.fixture
async def desk(tx: Executor) -> AsyncIterator[Desk]:
    async with AsyncExitStack() as stack:
        yield Desk(tx, stack)


async def test_enqueuer_marks_jobs_as_river_does(desk: Desk) -> None:
    """A periodic job is known by its metadata, its id if it has one, and is scheduled for when it was due."""
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
    """The first run is one interval after the client became leader, and not before."""
    enqueuer, probe = await desk.started(every(MINUTE, Report("a")))

    await desk.passes(enqueuer, probe, MINUTE / 2)
    before = await desk.due()
    await desk.passes(enqueuer, probe, MINUTE / 2)

    assert (before, await desk.due()) == ([], [("a", NOW + MINUTE)])


async def test_enqueuer_does_not_drift(desk: Desk) -> None:
    """A run that was late does not make the next one late."""
    enqueuer, probe = await desk.started(every(MINUTE, Report("a")))

    for _ in range(3):
        await desk.passes(enqueuer, probe, MINUTE + timedelta(seconds=3))

    assert await desk.due() == [("a", NOW + n * MINUTE) for n in (1, 2, 3)]


async def test_enqueuer_inserts_what_is_due_at_once_in_order(desk: Desk) -> None:
    """Of several that are due, the one that was due first comes first, whatever the order of the configuration."""
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
    """After an hour's sleep there is one report a minute missed, not sixty at once; and the schedule keeps its beat."""
    enqueuer, probe = await desk.started(every(MINUTE, Report("a"), id="minutely"))

    await desk.passes(enqueuer, probe, 60 * MINUTE + timedelta(seconds=30))
    await desk.passes(enqueuer, probe, timedelta(seconds=30))

    assert await desk.due() == [("a", NOW + MINUTE), ("a", NOW + 61 * MINUTE)]
    told = [(record.message, record.periodic_job_id, record.num_jobs) for record in caplog.records]  # type: ignore[attr-defined]
    assert told == [("periodic runs missed", "minutely", 59)]


async def test_enqueuer_does_not_count_through_a_stall_of_years(desk: Desk) -> None:
    """A date that was wrong by years costs no time: after a thousand runs the schedule is begun anew."""
    enqueuer, probe = await desk.started(every(MINUTE, Report("a")))

    await desk.passes(enqueuer, probe, NUM_MISSED_MAX * 1000 * MINUTE)
    await desk.passes(enqueuer, probe, MINUTE)

    assert len(await desk.due()) == 2


async def test_enqueuer_begins_anew_with_each_term(desk: Desk) -> None:
    """Who becomes leader again runs what runs on start, and does not make up for what fell due while nobody led."""
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
    """Any schedule will do; one without an end or without a beginning too."""
    enqueuer, probe = await desk.started(cron("36 * * * *", Report("cron")), never(Report("never")))

    await desk.passes(enqueuer, probe, MINUTE + timedelta(seconds=4))
    await desk.passes(enqueuer, probe, timedelta(days=365))

    names = [what for what, _ in await desk.due()]
    assert names == ["never", "cron", "cron"]


async def test_enqueuer_inserts_the_others_when_one_cannot_be(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """One job that cannot be inserted costs the others nothing, is told, and is tried again when it is due again."""

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
    told = [(record.message, record.periodic_job_id, record.error_type) for record in caplog.records]  # type: ignore[attr-defined]
    assert told == 2 * [
        ("periodic job not inserted", "broken", "ZeroDivisionError"),
        ("periodic job not inserted", "no_args", "InvalidJob"),
    ]


@pytest.mark.parametrize("raised", [SystemExit(3), asyncio.CancelledError()])
async def test_enqueuer_survives_what_would_end_its_task_or_the_process(
    desk: Desk, caplog: pytest.LogCaptureFixture, raised: BaseException
) -> None:
    """A SystemExit of a constructor or a schedule, or a CancelledError that nobody told the service, costs its own run."""

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
    told = [(record.message, record.periodic_job_id, record.error_type) for record in caplog.records]  # type: ignore[attr-defined]
    name = type(raised).__name__
    assert told == [
        ("periodic job not inserted", "schedule", name),
        ("periodic job not inserted", "constructor", name),
    ]


async def test_enqueuer_does_not_insert_a_kind_that_nobody_here_works(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """A periodic job whose kind has no worker is as wrong as any insert of it."""
    workers = Workers()

    @workers.add()
    async def other(path: str) -> None: ...

    enqueuer, probe = desk.enqueuer(never(Report("unknown")), workers=workers)

    await enqueuer.start()
    await probe.wait("passed")

    assert (await desk.jobs(), [record.error_type for record in caplog.records]) == ([], ["UnknownKind"])  # type: ignore[attr-defined]


async def test_enqueuer_tries_again_what_the_database_refused_for_the_moment(
    schema_driver: AsyncpgDriver, caplog: pytest.LogCaptureFixture
) -> None:
    """A run that could not be inserted because of the database is inserted when it can be, for when it was due."""
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
        assert [record.message for record in caplog.records] == ["periodic job put off"]
        assert caplog.records[0].sleep_seconds < 2  # type: ignore[attr-defined]


@pytest.mark.parametrize(("id", "num"), [("hourly", 1), (None, 2)])
async def test_enqueuer_looks_for_a_run_whose_answer_was_lost(
    schema_driver: AsyncpgDriver, id: str | None, num: int
) -> None:
    """The database has it and did not say so: by its id the run is found, and not inserted again."""
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
    """Runs what it is given, and loses the answer to the first insert."""

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


async def test_enqueuer_stops_at_the_first_refusal_when_told_to_stop(schema_driver: AsyncpgDriver) -> None:
    """However many jobs are due, a stop does not wait for each to find out that the database is away."""
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
    """Have the database refuse every insert, as one does that asks to be tried again."""
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


async def test_enqueuer_leaves_out_a_run_when_its_constructor_says_so(desk: Desk) -> None:
    """A constructor is asked anew each time, and may answer with nothing."""
    runs = iter([None, Report("second"), (Report("third"), InsertOpts(queue="elsewhere"))])
    enqueuer, probe = await desk.started(every(MINUTE, lambda: next(runs)))

    for _ in range(3):
        await desk.passes(enqueuer, probe, MINUTE)

    assert [(job.args["what"], job.queue) for job in await desk.jobs()] == [
        ("second", "default"),
        ("third", "elsewhere"),
    ]


async def test_enqueuer_keeps_a_schedule_that_the_constructor_brings(desk: Desk) -> None:
    """A run for a time of its own is scheduled for that, and waits for it."""
    later = NOW + 10 * MINUTE
    await desk.started(never(lambda: (Report("a"), InsertOpts(scheduled_at=later))))

    [job] = await desk.jobs()
    assert (job.state, job.scheduled_at, job.metadata) == (JobState.SCHEDULED, later, {"periodic": True})


async def test_enqueuer_takes_and_gives_up_jobs_while_it_runs(desk: Desk) -> None:
    """A job that is added is due from then on, and one that is removed is not due any more."""
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
    """An id means one job; the second is refused, and the first stays."""
    enqueuer, _ = desk.enqueuer(never(Report(), id="report"))

    with pytest.raises(ConfigError) as raised:
        enqueuer.add(never(Report(), id="report"))

    assert str(raised.value) == "id of a periodic job must be the only one, got 'report' twice"
    assert len(enqueuer.periodic_jobs) == 1


async def test_enqueuer_refuses_to_remove_what_it_has_not(desk: Desk) -> None:
    """A misspelt id is an error, not a removal of nothing."""
    enqueuer, _ = desk.enqueuer()

    with pytest.raises(ConfigError) as raised:
        enqueuer.remove("nothing")

    assert str(raised.value) == "periodic job must be one that was added, or its id, got 'nothing'"


async def test_enqueuer_does_not_start_when_a_hook_refuses(desk: Desk) -> None:
    """Hooks are asked before anything is inserted, and what they raise is why the enqueuer did not start."""

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
    """A hook's SystemExit, or its CancelledError, ends neither the process nor who starts the enqueuer."""

    class Leave(Hook):
        async def periodic_jobs_start(self) -> None:
            raise raised

    enqueuer, _ = desk.enqueuer(hooks=[Leave()])

    with pytest.raises(RuntimeError) as refused:
        await enqueuer.start()

    assert (str(refused.value), refused.value.__cause__) == (f"periodic_jobs_start raised {raised!r}", raised)


async def test_enqueuers_of_two_leaders_insert_a_unique_run_once(desk: Desk) -> None:
    """Two that lead at once, as they may for a moment, insert one run of a period if the job says so."""
    opts = InsertOpts(unique=UniqueOpts(by_period=MINUTE))
    enqueuers = [await desk.started(every(MINUTE, Report("a"), opts=opts)) for _ in range(2)]

    desk.clock.advance(MINUTE)
    for enqueuer, probe in enqueuers:
        enqueuer.wake_event.set()
        await probe.wait("passed")

    assert await desk.due() == [("a", NOW + MINUTE)]


async def test_enqueuer_wakes_by_itself_when_a_job_is_due(schema_driver: AsyncpgDriver) -> None:
    """Nobody need ring: the enqueuer sleeps until the next run, and is there in time."""
    clock = SystemClock()
    config = Config(clock=clock)
    job = every(timedelta(milliseconds=100), Report("a"))
    enqueuer = PeriodicJobEnqueuer(Inserter(schema_driver.pool, config), [job], clock=clock)
    probe = Probe(enqueuer)

    await enqueuer.start()
    runs = [(await probe.wait("run")).job.scheduled_at for _ in range(3)]
    await enqueuer.stop()

    assert {second - first for first, second in itertools.pairwise(runs)} == {timedelta(milliseconds=100)}


async def test_enqueuer_tells_each_run_to_who_debugs(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """A run is no news; whoever looks for it finds it."""
    caplog.set_level(logging.DEBUG, "millhand.maintenance")

    await desk.started(never(Report("a"), id="once"))

    [job] = await desk.jobs()
    told = [(record.levelname, record.message, record.job_id) for record in caplog.records]  # type: ignore[attr-defined]
    assert told == [("DEBUG", "periodic job inserted", job.id)]
