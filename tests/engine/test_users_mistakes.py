"""Mistakes in schedules, args classes and durations do not affect other jobs."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, ClassVar

import pytest

from millhand.core.args.secret_fields import Secret, encrypt_args
from millhand.core.args.secret_keys import SecretKeys
from millhand.core.config import Config
from millhand.core.errors import ConfigError
from millhand.core.job import JobId, JobRow, JobState
from millhand.core.periodic import PeriodicJob, every
from millhand.core.retry import DefaultRetryPolicy
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.inserter import Inserter
from millhand.engine.maintenance.job_rescuer import decide_rescue
from millhand.engine.maintenance.periodic_job_enqueuer import PeriodicJobEnqueuer
from millhand.engine.store.job import job_get_by_ids
from millhand.testing import ManualClock, Probe

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Good:
    kind: ClassVar[str] = "good"


@dataclass(frozen=True)
class Bad:
    kind: ClassVar[str] = "bad"


class Mute(Exception):
    """An error whose text raises."""

    def __str__(self) -> str:
        raise LookupError


class Schedule:
    """A schedule that returns or raises what the test gives."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def next(self, after: datetime) -> datetime | None:
        if isinstance(self._answer, Exception):
            raise self._answer
        answer: datetime = self._answer
        return answer


@pytest.mark.parametrize(
    ("answer", "emitted"),
    [
        (KeyError("no calendar"), "'no calendar'"),
        (Mute(), "<its text raised LookupError>"),
        (NOW.replace(tzinfo=None), "can't compare offset-naive and offset-aware datetimes"),
        (NOW - timedelta(days=9999), "next run must be after"),
    ],
)
@pytest.mark.parametrize("run_on_start", [False, True])
async def test_schedule_that_fails_does_not_affect_other_periodic_jobs(
    schema_driver: AsyncpgDriver,
    caplog: pytest.LogCaptureFixture,
    answer: Any,
    emitted: str,
    run_on_start: bool,
) -> None:
    """A schedule that raises, or returns an instant in the past, is logged, and the other jobs run."""
    clock = ManualClock()
    bad = PeriodicJob(schedule=Schedule(answer), args=Bad(), id="bad-one", run_on_start=run_on_start)
    good = every(timedelta(hours=1), Good())
    pool = schema_driver.pool
    enqueuer = PeriodicJobEnqueuer(Inserter(pool, Config(clock=clock)), [bad, good], clock=clock)
    probe = Probe(enqueuer)

    with caplog.at_level(logging.ERROR, "millhand"):
        await enqueuer.start()
        await probe.wait("passed")
        clock.advance(timedelta(hours=1))
        enqueuer.wake_event.set()
        await probe.wait("passed")
        is_running = enqueuer.is_running
        await enqueuer.stop()

    rows = await pool.run(job_get_by_ids([JobId(1), JobId(2)]))
    assert is_running
    assert sorted(row.kind for row in rows) == (["bad", "good"] if run_on_start else ["good"])
    [record] = caplog.records
    assert (record.msg, vars(record)["periodic_job_id"]) == ("periodic job not inserted", "bad-one")
    assert vars(record)["error"].startswith(emitted)


def test_args_class_that_raises_does_not_prevent_the_rescue() -> None:
    """A stuck job is rescued whatever its args class raises."""

    @dataclass(frozen=True)
    class Broken:
        kind: ClassVar[str] = "broken"

        def __post_init__(self) -> None:
            raise KeyError("nothing is right")

    workers = Workers()

    @workers.add()
    async def work(job: Job[Broken]) -> None: ...

    job = JobRow(
        JobId(1), JobState.RUNNING, 1, 25, NOW, NOW, None, NOW, 1, "{}", ("me",), (), "broken", {}, "default",
        (), None, None,
    )  # fmt: skip
    rescue = decide_rescue(
        job, workers.get("broken"), job_timeout=None, now=NOW, retry_policy=DefaultRetryPolicy()
    )

    assert rescue is not None
    assert rescue.state is JobState.RETRYABLE


@pytest.mark.parametrize(("keys", "is_rescued"), [(SecretKeys({"old": b"o" * 32}), False), (None, True)])
def test_worker_with_the_keys_may_still_run_a_job_with_secret_args(
    keys: SecretKeys | None, is_rescued: bool
) -> None:
    """A job whose args decrypt is left alone until its timeout; one that this client cannot read is rescued."""
    workers = Workers()

    @workers.add()
    async def charge(card: Annotated[str, Secret]) -> None: ...

    args = encrypt_args('{"card":"4111"}', ["card"], "charge", SecretKeys({"old": b"o" * 32}))
    job = JobRow(
        JobId(1), JobState.RUNNING, 1, 25, NOW, NOW, None, NOW, 1, args, ("me",), (), "charge", {}, "default",
        (), None, None,
    )  # fmt: skip
    rescue = decide_rescue(
        job,
        workers.get("charge"),
        job_timeout=timedelta(hours=1),
        now=NOW,
        retry_policy=DefaultRetryPolicy(),
        secret_keys=keys,
    )

    assert (rescue is not None) is is_rescued


@pytest.mark.parametrize(
    "name", ["completed_job_retention", "discarded_job_retention", "job_timeout", "rescue_stuck_jobs_after"]
)
def test_config_refuses_durations_over_a_hundred_years(name: str) -> None:
    """The constructor raises, because dates cannot be computed with them."""
    settings: dict[str, Any] = {name: timedelta.max}

    with pytest.raises(ConfigError) as refused:
        Config(**settings)

    assert str(refused.value) == (
        f"{name} must be at most 100 years, "
        "got datetime.timedelta(days=999999999, seconds=86399, microseconds=999999)"
    )
