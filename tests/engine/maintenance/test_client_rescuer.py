"""Declaring clients dead, and rescuing the jobs of clients that are gone."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest

from factory import NOW, get_job, insert_job, qualified
from millhand.core.clock import SystemClock
from millhand.core.config import Config
from millhand.core.job import AttemptError, ClientId, JobRow, JobState
from millhand.core.metrics.definitions import JOBS_FINISHED
from millhand.core.retry import ConstantRetryPolicy, DefaultRetryPolicy
from millhand.core.worker import NO_TIMEOUT, Workers
from millhand.core.worker_job import Job
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.client_metrics import ClientMetrics
from millhand.engine.inserter import Inserter
from millhand.engine.maintenance.client_rescuer import ClientRescuer, decide_stranded
from millhand.engine.maintenance.job_rescuer import JobRescuer, OwnJobRescuer
from millhand.engine.registration import Registration
from millhand.engine.store.client import ClientHeartbeatParams, client_heartbeat, client_stop
from millhand.engine.store.client_end import LEAVING, End, Stranded
from millhand.engine.store.job import Rescue
from millhand.testing import ManualClock
from refused_rows import refused

ME, OTHER, GO = ClientId("me"), ClientId("other"), ClientId("go")
MINUTE = timedelta(minutes=1)
LOST = "Job rescued by ClientRescuer: client 'other' missed its heartbeats"


@dataclass(frozen=True)
class Act:
    kind: ClassVar[str] = "act"


def workers() -> Workers:
    workers = Workers()

    @workers.add(timeout=NO_TIMEOUT, retry=ConstantRetryPolicy(MINUTE))
    async def act(job: Job[Act]) -> None: ...

    return workers


class Fleet:
    """Clients by their rows, at times of the database's clock."""

    def __init__(self, driver: AsyncpgDriver) -> None:
        self.announced: list[str] = []
        self.driver = driver
        self.metrics = ClientMetrics()
        self.now = datetime.now(UTC)
        self.registration = Registration(is_active=True, steady_since=self.now - 60 * MINUTE)

    async def reported(self, id: ClientId, ago: timedelta = timedelta(0)) -> None:
        values: dict[str, Any] = {
            "hostname": "here", "kinds": [], "pid": 1, "queue_updates": {}, "queues": {}, "version": "1",
            "heartbeat_interval": timedelta(seconds=5),
        }  # fmt: skip
        report = ClientHeartbeatParams(id=id, **values)
        started_at = self.now - 30 * MINUTE
        await self.driver.pool.run(client_heartbeat(report, started_at=started_at, now=self.now - ago))

    async def running(self, id: ClientId, ago: timedelta = 20 * MINUTE, **columns: Any) -> JobRow:
        its = {"attempted_at": self.now - ago, "attempted_by": [id], "kind": "act", **columns}
        return await insert_job(self.driver.pool, JobState.RUNNING, **its)

    def rescuer(self) -> ClientRescuer:
        inserter = Inserter(self.driver.pool, Config())
        inserter.announce = self.announced.extend  # type: ignore[assignment, method-assign]
        return ClientRescuer(
            self.driver.pool,
            inserter,
            client_id=ME,
            clock=SystemClock(),
            metrics=self.metrics,
            registration=self.registration,
            retry_policy=DefaultRetryPolicy(),
            workers=workers(),
        )

    async def row(self, job: JobRow) -> JobRow:
        return await get_job(self.driver.pool, job.id)


@pytest.fixture
def fleet(schema_driver: AsyncpgDriver) -> Fleet:
    return Fleet(schema_driver)


async def test_jobs_of_a_client_that_misses_heartbeats_become_available(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    """The client is a suspect, then declared dead, and its job is announced; living clients keep their jobs."""
    await fleet.reported(ME)
    await fleet.reported(OTHER, MINUTE)
    theirs, mine, gos = [await fleet.running(id) for id in (OTHER, ME, GO)]
    rescuer = fleet.rescuer()

    with caplog.at_level(logging.INFO, "millhand.engine.maintenance"):
        await rescuer.run_once()
        suspected, pause = await fleet.row(theirs), rescuer.next_pause_seconds()
        await rescuer.run_once()

    row = await fleet.row(theirs)
    assert (suspected, pause) == (theirs, 1.0)
    assert (row.state, row.attempt, row.metadata) == (JobState.AVAILABLE, 1, {"river:rescue_count": 1})
    assert [error.error for error in row.errors] == [LOST]
    assert abs(row.scheduled_at - fleet.now) < MINUTE
    assert [await fleet.row(job) for job in (mine, gos)] == [mine, gos]
    assert fleet.announced == ["default"]
    assert [record.msg for record in caplog.records] == [
        "client declared dead",
        "job rescued",
        "jobs rescued",
    ]
    emitted = {name: getattr(caplog.records[1], name) for name in ("client_id", "reason", "state", "job_id")}
    assert emitted == {
        "client_id": OTHER, "reason": "missed its heartbeats", "state": "available", "job_id": theirs.id,
    }  # fmt: skip


async def test_job_that_a_rescue_discards_is_logged_and_counted(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    """A job whose client was killed in its last attempt is `job discarded` in the log, and counted as discarded."""
    await fleet.reported(ME)
    await fleet.reported(OTHER, MINUTE)
    job = await fleet.running(OTHER, attempt=3, max_attempts=3)
    await fleet.running(OTHER)
    rescuer = fleet.rescuer()

    with caplog.at_level(logging.ERROR, "millhand.engine.maintenance"):
        for _ in range(2):
            await rescuer.run_once()

    finished = {
        point.labels: point.value
        for one in fleet.metrics.collect()
        for point in one.points
        if one.metric is JOBS_FINISHED
    }
    assert (await fleet.row(job)).state is JobState.DISCARDED
    assert [(one.msg, one.job_id, one.error) for one in caplog.records] == [("job discarded", job.id, LOST)]
    assert finished == {("default", "act", "discarded"): 1}


async def test_client_without_heartbeats_declares_no_other_dead(fleet: Fleet) -> None:
    """Without a steady heartbeat of its own the rescuer does nothing."""
    await fleet.reported(ME)
    await fleet.reported(OTHER, MINUTE)
    job = await fleet.running(OTHER)
    fleet.registration.steady_since = None
    rescuer = fleet.rescuer()

    for _ in range(3):
        await rescuer.run_once()

    assert await fleet.row(job) == job


async def test_outage_makes_no_client_dead(fleet: Fleet) -> None:
    """After a minute without heartbeats of any client, only one that still misses them a while later is declared dead."""
    await fleet.reported(OTHER, MINUTE)
    job = await fleet.running(OTHER)
    await fleet.reported(ME)
    fleet.registration.steady_since = fleet.now
    rescuer = fleet.rescuer()

    for _ in range(3):
        await rescuer.run_once()
    early, pause = await fleet.row(job), rescuer.next_pause_seconds()
    fleet.registration.steady_since = fleet.now - timedelta(seconds=12)
    for _ in range(2):
        await rescuer.run_once()

    assert (early, (await fleet.row(job)).state) == (job, JobState.AVAILABLE)
    assert 4.0 < pause <= 5.0


async def test_jobs_of_an_unregistered_client_are_left_to_the_rescue_by_age(fleet: Fleet) -> None:
    """After the table was emptied, jobs of ids without a row are not rescued by death."""
    await fleet.reported(ME)
    await fleet.reported(OTHER)
    job = await fleet.running(OTHER)
    sql = "DELETE FROM /* schema */millhand_client WHERE id = 'other'"
    await fleet.driver.pool.fetch(qualified(sql, fleet.driver.pool))
    rescuer = fleet.rescuer()

    for _ in range(3):
        await rescuer.run_once()
    before = await fleet.row(job)
    await fleet.reported(OTHER)
    await rescuer.run_once()

    assert (before, await fleet.row(job)) == (job, job)


async def test_job_that_a_stop_abandoned_is_rescued(fleet: Fleet) -> None:
    """After its client has stopped, the job of an abandoned attempt becomes available."""
    await fleet.reported(ME)
    await fleet.reported(OTHER)
    job = await fleet.running(OTHER)
    stop = client_stop(id=OTHER, started_at=fleet.now - 30 * MINUTE, now=fleet.now - LEAVING)
    assert await fleet.driver.pool.run(stop)

    await fleet.rescuer().run_once()

    row = await fleet.row(job)
    assert (row.state, row.errors[0].error) == (
        JobState.AVAILABLE,
        "Job rescued by ClientRescuer: client 'other' stopped and left the job running",
    )


async def test_job_whose_rescue_is_refused_blocks_no_other(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    """A user's trigger raises for one job, which is logged and stays; the jobs before and after it become available."""
    await fleet.reported(ME)
    await fleet.reported(OTHER, MINUTE)
    jobs = [await fleet.running(OTHER) for _ in range(5)]
    rescuer = fleet.rescuer()

    with caplog.at_level(logging.ERROR, "millhand.engine.maintenance"):
        async with refused(fleet.driver.pool, jobs[2].id):
            for _ in range(2):
                await rescuer.run_once()

    states = [(await fleet.row(job)).state for job in jobs]
    assert states == [JobState.AVAILABLE] * 2 + [JobState.RUNNING] + [JobState.AVAILABLE] * 2
    assert set(fleet.announced) == {"default"}
    assert [(one.msg, one.job_id) for one in caplog.records] == [("job not rescued", jobs[2].id)]


class Listening:
    """An executor that records the names of its statements."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self.said: list[str] = []

    async def run(self, query: Any) -> Any:
        self.said.append(query.name)
        return await self.pool.run(query)


async def test_pass_costs_one_statement(fleet: Fleet) -> None:
    """Clients are checked every five seconds, unless alone, and jobs searched every half minute."""
    await fleet.reported(ME)
    await fleet.reported(OTHER)
    rescuer = fleet.rescuer()
    await rescuer.run_once()
    listening = rescuer._pool = Listening(fleet.driver.pool)  # type: ignore[assignment]

    for _ in range(3):
        await rescuer.run_once()

    assert (listening.said, rescuer.next_pause_seconds()) == (["client_declare_lost"] * 3, 5.0)

    fleet.registration.is_alone = True
    await rescuer.run_once()
    rescuer._search_at = 0.0
    await rescuer.run_once()

    assert (listening.said[3:], rescuer.next_pause_seconds()) == (["job_get_stranded"], 5.0)


def stranded(**columns: Any) -> Stranded:
    values: dict[str, Any] = {
        "id": 1, "state": JobState.RUNNING, "attempt": 2, "max_attempts": 3, "attempted_at": NOW, "created_at": NOW,
        "finalized_at": None, "scheduled_at": NOW, "priority": 1, "encoded_args": "{}", "attempted_by": ("x", OTHER),
        "errors": (), "kind": "act", "metadata": {}, "queue": "default", "tags": (), "unique_key": None,
        "unique_states": None,
    }  # fmt: skip
    return Stranded(JobRow(**(values | columns)), End.LOST, NOW)


CANCEL = {"cancel_attempted_at": "2026-11-25T10:43:42Z"}
NEVER = {"cancel_attempted_at": "0001-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("columns", "state", "scheduled_at"),
    [
        ({}, JobState.AVAILABLE, NOW),
        ({"kind": "unknown"}, JobState.AVAILABLE, NOW),
        ({"metadata": {"river:rescue_count": 2}}, JobState.AVAILABLE, NOW),
        ({"metadata": {"river:rescue_count": "many"}}, JobState.AVAILABLE, NOW),
        ({"metadata": {"river:rescue_count": 3}}, JobState.RETRYABLE, NOW + MINUTE),
        ({"attempt": 3}, JobState.DISCARDED, None),
        ({"metadata": CANCEL}, JobState.CANCELLED, None),
        ({"metadata": CANCEL, "attempt": 3}, JobState.CANCELLED, None),
        ({"metadata": NEVER}, JobState.AVAILABLE, NOW),
    ],
)
def test_decision_depends_on_cancel_attempts_and_rescues(
    columns: dict[str, Any], state: JobState, scheduled_at: datetime | None
) -> None:
    """After three rescues a job waits as after a failure, and a job without attempts left is discarded."""
    one = stranded(**columns)

    actual = decide_stranded(one, workers().get(one.job.kind), retry_policy=DefaultRetryPolicy())

    error = AttemptError(NOW, one.job.attempt, LOST)
    assert actual == Rescue(one.job.id, state, error, None if scheduled_at else NOW, scheduled_at)


def _settings() -> dict[str, Any]:
    return {
        "clock": ManualClock(datetime.now(UTC)),
        "job_timeout": MINUTE,
        "rescue_after": 2 * MINUTE,
        "retry_policy": DefaultRetryPolicy(),
        "workers": Workers(),
    }


async def test_jobs_of_registered_clients_are_not_rescued_by_age(fleet: Fleet) -> None:
    """A living client's job is left alone, however long it takes; a job of River's client is rescued by its age."""
    await fleet.reported(ME)
    await fleet.reported(OTHER)
    ours, theirs = await fleet.running(OTHER), await fleet.running(GO)

    await JobRescuer(fleet.driver.pool, registration=fleet.registration, **_settings()).run_once()
    beside = [(await fleet.row(job)).state for job in (ours, theirs)]
    await JobRescuer(fleet.driver.pool, **_settings()).run_once()

    assert beside == [JobState.RUNNING, JobState.RETRYABLE]
    assert (await fleet.row(ours)).state is JobState.RETRYABLE


async def test_client_rescues_its_own_job_that_no_attempt_works(fleet: Fleet) -> None:
    """Its own job without an attempt is rescued after two passes; jobs that it works and jobs of others are not."""
    await fleet.reported(ME)
    held, idle, others = await fleet.running(ME), await fleet.running(ME), await fleet.running(OTHER)
    rescuer = OwnJobRescuer(
        fleet.driver.pool,
        client_id=ME,
        is_held=lambda job_id: job_id == held.id,
        registration=fleet.registration,
        **_settings(),
    )

    states = []
    for _ in range(2):
        await rescuer.run_once()
        states.append([(await fleet.row(job)).state for job in (held, idle, others)])

    assert states == [[JobState.RUNNING] * 3, [JobState.RUNNING, JobState.RETRYABLE, JobState.RUNNING]]
