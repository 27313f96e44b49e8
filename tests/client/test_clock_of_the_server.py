"""Clients follow the database's clock, however wrong the machine's is."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import pytest

from client_harness import GENEROUS, Act, ClientHarness
from millhand.core.clock import ServerClock, SystemClock
from millhand.core.event import EventKind
from millhand.core.insert_opts import InsertOpts
from millhand.core.job import JobRow
from millhand.core.periodic import every
from millhand.core.retry import ConstantRetryPolicy
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.db.schema.migrator import Migrator
from millhand.testing import ManualClock

AT = datetime(2024, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
MACHINES = timedelta(minutes=1)  # a busy machine's delays; a clock that was used would be off by an hour


class WrongClock(SystemClock):
    """The machine's clock, off by `off`."""

    __slots__ = ("off",)

    def __init__(self, off: timedelta) -> None:
        self.off = off

    def now(self) -> datetime:
        return super().now() + self.off


@dataclass(frozen=True)
class Tick:
    kind: ClassVar[str] = "tick"


@pytest.mark.slow
@pytest.mark.parametrize("off", [HOUR, pytest.param(-HOUR, marks=pytest.mark.slow)])
async def test_client_whose_clock_is_wrong_is_in_time(
    harness: ClientHarness, off: timedelta, caplog: pytest.LogCaptureFixture
) -> None:
    """Retries and periodic jobs come when they are due, and the log warns of the clock."""
    caplog.set_level(logging.WARNING, "millhand.core.clock")
    await Migrator(harness.driver, "millhand").up()
    workers = Workers()

    @workers.add(retry=ConstantRetryPolicy(timedelta(milliseconds=10)))
    async def act(job: Job[Act]) -> None:
        if job.attempt == 1:
            raise ValueError(job.args.what)

    @workers.add()
    async def tick(job: Job[Tick]) -> None:
        """Come."""

    ticks = every(timedelta(milliseconds=200), Tick(), id="tick")
    clock = WrongClock(off)
    client = harness.client(workers, clock=clock, leader_election=True, periodic_jobs=[ticks])
    async with client:
        with client.subscribe(EventKind.JOB_COMPLETED) as events:
            await client.insert(Act("now"))
            emitted: list[JobRow] = []
            async with asyncio.timeout(GENEROUS):
                while {row.kind for row in emitted} != {"act", "tick"}:
                    emitted += [row] if (row := (await harness.next(events)).job) else []

    for row in emitted:
        assert row.attempted_at is not None
        assert row.finalized_at is not None
        assert abs(row.finalized_at - row.attempted_at) < MACHINES
        assert abs(row.scheduled_at - row.created_at) < MACHINES
    [record] = [one for one in caplog.records if one.name == "millhand.core.clock"]
    assert record.msg == "clock differs from the database's"
    assert abs(timedelta(seconds=record.seconds) - off) < MACHINES  # type: ignore[attr-defined]


async def test_cancel_and_completion_in_a_transaction_have_the_databases_time(harness: ClientHarness) -> None:
    """`jobs.cancel` and `job.complete` of a client whose clock is behind leave no job that finished an hour ago."""
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        async with harness.driver.pool.begin() as tx:
            await job.complete(tx=tx)

    async with harness.client(workers, clock=WrongClock(-HOUR)) as client:
        later = InsertOpts(scheduled_at=datetime.now(UTC) + 24 * HOUR)
        waiting = await client.insert(Act("later"), later)
        cancelled = await client.jobs.cancel(waiting.job.id)
        completed = (await harness.work(client, Act("now"))).job

    assert completed is not None
    assert cancelled.finalized_at is not None
    assert completed.finalized_at is not None
    asked_at = datetime.fromisoformat(cancelled.metadata["cancel_attempted_at"])
    assert abs(asked_at - cancelled.created_at) < MACHINES
    assert abs(cancelled.finalized_at - cancelled.created_at) < MACHINES
    assert abs(completed.finalized_at - completed.created_at) < MACHINES


def test_clock_is_the_machines_before_the_first_answer() -> None:
    """Before the first answer the clock returns the machine's time."""
    clock = ManualClock(AT)

    assert ServerClock(clock).now() == AT


def test_clock_that_may_be_right_is_left_alone() -> None:
    """A clock between question and answer stays as it is, however slow the network."""
    machine = ManualClock(AT)
    clock = ServerClock(machine)
    machine.advance(10)

    clock.record_sample(AT + timedelta(seconds=1), asked=0.0, answered=10.0)

    assert clock.now() == AT + timedelta(seconds=10)


@pytest.mark.parametrize(
    ("emitted", "known"),
    [
        pytest.param(timedelta(hours=1), timedelta(hours=1), id="behind"),
        pytest.param(timedelta(hours=-1), timedelta(hours=-1), id="ahead"),
        pytest.param(timedelta(seconds=-0.1), timedelta(seconds=1.9), id="drifted"),
    ],
)
def test_slow_answer_never_sets_the_clock_ahead(emitted: timedelta, known: timedelta) -> None:
    """Of the two seconds that an answer allows the earliest is taken, unless the clock differs by less than drift."""
    machine = ManualClock(AT)
    clock = ServerClock(machine)
    machine.advance(2)

    clock.record_sample(AT + emitted, asked=0.0, answered=2.0)

    assert clock.now() == AT + known


def test_setting_the_date_between_two_answers_changes_nothing() -> None:
    """After the first answer only the monotonic clock counts."""
    machine = ManualClock(AT)
    clock = ServerClock(machine)
    clock.record_sample(AT, asked=0.0, answered=0.0)

    machine.set(AT + HOUR)
    machine.advance(3)

    assert clock.now() == AT + timedelta(seconds=3)
