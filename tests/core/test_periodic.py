from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import pytest
from language_values import NOW

from millhand.core.args.codec import KIND_CHARACTERS
from millhand.core.crontab import CronSchedule
from millhand.core.errors import ConfigError, InvalidJob
from millhand.core.insert_opts import InsertOpts
from millhand.core.periodic import IntervalSchedule, NeverSchedule, PeriodicJob, cron, every, never

HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Digest:
    kind: ClassVar[str] = "digest"
    number: int = 0


def test_every_is_due_an_interval_after_the_run_before() -> None:
    """Runs do not drift: each is counted from the last one, in UTC."""
    schedule = every(HOUR, Digest()).schedule
    at = datetime(2024, 5, 1, 12, 0, 0, 5, tzinfo=ZoneInfo("Europe/Berlin"))

    assert schedule.next(at) == at + HOUR
    assert schedule.next(at).tzinfo is UTC  # type: ignore[union-attr]


def test_cron_is_due_by_its_expression() -> None:
    """The schedule has the expression and the zone."""
    job = cron("0 3 * * *", Digest(), timezone="Europe/Berlin")

    assert job.schedule == CronSchedule("0 3 * * *", "0 3 * * *", ZoneInfo("Europe/Berlin"))
    assert job.schedule.next(NOW) == datetime(2024, 5, 2, 1, tzinfo=UTC)


def test_never_is_only_run_on_start() -> None:
    """A job without a schedule is inserted when a client becomes leader."""
    job = never(Digest(), id="warm-up")

    assert job == PeriodicJob(schedule=NeverSchedule(), args=Digest(), id="warm-up", run_on_start=True)
    assert job.schedule.next(NOW) is None


def test_periodic_job_keeps_its_options() -> None:
    """Every option is set on the job."""
    opts = InsertOpts(queue="mail")

    assert every(HOUR, Digest(1), id="hourly", run_on_start=True, opts=opts) == PeriodicJob(
        schedule=IntervalSchedule(HOUR), args=Digest(1), id="hourly", run_on_start=True, opts=opts
    )


OPTS = InsertOpts(priority=2)
OTHER_OPTS = InsertOpts(priority=3)


@pytest.mark.parametrize(
    ("args", "made"),
    [
        (Digest(1), (Digest(1), OPTS)),
        (Digest, (Digest(), OPTS)),
        (lambda: Digest(2), (Digest(2), OPTS)),
        (lambda: (Digest(3), OTHER_OPTS), (Digest(3), OTHER_OPTS)),
        (lambda: (Digest(4), None), (Digest(4), OPTS)),
        (lambda: None, None),
    ],
    ids=["args", "class", "function", "with options", "without options", "none"],
)
def test_periodic_job_constructs_one_run(args: Any, made: object) -> None:
    """A run has fixed or new args, with its own options or the job's, or is skipped."""
    assert every(HOUR, args, opts=OPTS).construct() == made


def test_periodic_job_rejects_another_result_of_its_constructor() -> None:
    """A triple is neither args nor args with options."""
    with pytest.raises(InvalidJob) as refusal:
        every(HOUR, lambda: (Digest(), OPTS, 1)).construct()

    assert str(refusal.value).startswith(
        "constructor must return args, or args and InsertOpts, or None, got (Digest("
    )


async def coroutine_function() -> Digest:
    return Digest()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: every(timedelta(milliseconds=99), Digest()),
            "interval must be at least 100 ms, got datetime.timedelta(microseconds=99000)",
        ),
        (
            lambda: every(60, Digest()),  # type: ignore[arg-type]
            "interval must be a timedelta, got 60; write timedelta(seconds=…)",
        ),
        (
            lambda: PeriodicJob(schedule="@daily", args=Digest()),  # type: ignore[arg-type]
            "schedule of a periodic job must have a method next, got '@daily'",
        ),
        (
            lambda: PeriodicJob(schedule=NeverSchedule, args=Digest()),  # type: ignore[arg-type]
            f"schedule of a periodic job must have a method next, got {NeverSchedule!r}",
        ),
        (
            lambda: every(HOUR, Digest(), opts={"queue": "mail"}),  # type: ignore[arg-type]
            "opts of a periodic job must be InsertOpts, got {'queue': 'mail'}",
        ),
        (
            lambda: PeriodicJob(schedule=NeverSchedule()),
            "periodic job must have either args or a constructor, got both or none",
        ),
        (
            lambda: every(HOUR, {"number": 1}),
            (
                "args of a periodic job are unusable: args must be a value of an args class, got a dict; "
                "for a kind without a class write RawArgs('kind', json.dumps(…))"
            ),
        ),
        (
            lambda: every(HOUR, Digest(), id="a b"),
            f"id of a periodic job must be 2 to 127 {KIND_CHARACTERS}, got 'a b'",
        ),
        (
            lambda: every(HOUR, Digest(), id="m"),
            f"id of a periodic job must be 2 to 127 {KIND_CHARACTERS}, got 'm'",
        ),
        (
            lambda: every(HOUR, Digest(), id="a\udcff"),
            f"id of a periodic job must be 2 to 127 {KIND_CHARACTERS}, got 'a\\udcff'",
        ),
        (
            lambda: every(HOUR, Digest(), id="i" * 128),
            f"id of a periodic job must be 2 to 127 {KIND_CHARACTERS}, got {'i' * 128!r}",
        ),
    ],
)
def test_periodic_job_rejects_invalid_parameters(make: Any, message: str) -> None:
    """The error has the rule and the value."""
    with pytest.raises(ConfigError) as refusal:
        make()

    assert str(refusal.value) == message


def test_periodic_job_rejects_a_coroutine_function_as_constructor() -> None:
    """Its coroutine would never be awaited."""
    with pytest.raises(
        ConfigError, match=r"^constructor of a periodic job must be a plain function, got coroutine"
    ):
        every(HOUR, coroutine_function)
