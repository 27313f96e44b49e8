"""Periodic jobs: what the leader inserts again and again, by a schedule."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Protocol, TypeAlias, cast

import msgspec

from millhand.args.codec import KIND_PATTERN, KIND_RE, JobArgs, kind_of
from millhand.crontab import parse_cron
from millhand.errors import ConfigError, InvalidJob
from millhand.insert_opts import InsertOpts

ID_BYTES_MAX = 127

# The enqueuer inserts whatever is due within its next 100 ms; a shorter interval would never let it sleep.
INTERVAL_MIN = timedelta(milliseconds=100)

# What a constructor makes: args; args and options; or None for "not this time".
Constructor: TypeAlias = Callable[[], JobArgs | tuple[JobArgs, InsertOpts | None] | None]


class Schedule(Protocol):
    """The instants at which a periodic job is due."""

    def next(self, after: datetime) -> datetime | None:
        """Return the first aware instant after `after`, or None if there is none."""
        ...


class IntervalSchedule(msgspec.Struct, frozen=True):
    """Due again and again after the same time, counted from the run before."""

    interval: timedelta

    def __post_init__(self) -> None:
        if not isinstance(self.interval, timedelta):
            raise ConfigError(
                f"interval must be a timedelta, got {self.interval!r}; write timedelta(seconds=…)"
            )
        if self.interval < INTERVAL_MIN:
            raise ConfigError(f"interval must be at least 100 ms, got {self.interval!r}")

    def next(self, after: datetime) -> datetime | None:
        return after.astimezone(UTC) + self.interval


class NeverSchedule(msgspec.Struct, frozen=True):
    """Never due: for a job that is only run on start."""

    def next(self, after: datetime) -> datetime | None:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodicJob:
    """
    A job that the leader inserts whenever `schedule` says; made by `every`, `cron` or `never`.

    Every client that may lead must have the same ones, for a leader knows only its own. Either `args` are given, or a
    `constructor` that makes them anew each time: it returns args, or args and options, or None to leave this run out.
    It is called on the event loop and must not block. `run_on_start` inserts one as soon as a client becomes leader.

    Raises: ConfigError, when made.
    Source: River v0.51.2, periodic_job.go.
    """

    schedule: Schedule
    args: JobArgs | None = None
    constructor: Constructor | None = None
    id: str | None = None
    opts: InsertOpts | None = None
    run_on_start: bool = False

    def __post_init__(self) -> None:
        if (self.args is None) == (self.constructor is None):
            raise ConfigError("periodic job must have either args or a constructor, got both or none")
        if isinstance(self.schedule, type) or not callable(getattr(self.schedule, "next", None)):
            raise ConfigError(f"schedule of a periodic job must have a method next, got {self.schedule!r}")
        if self.opts is not None and not isinstance(self.opts, InsertOpts):
            raise ConfigError(f"opts of a periodic job must be InsertOpts, got {self.opts!r}")
        if self.args is not None:
            _check_args(self.args)
        if inspect.iscoroutinefunction(self.constructor):
            raise ConfigError(
                f"constructor of a periodic job must be a plain function, got coroutine function {self.constructor!r}"
            )
        if self.id is not None:
            _check_id(self.id)

    def construct(self) -> tuple[object, InsertOpts | None] | None:
        """
        Return the args and options of one run, or None if the constructor leaves it out.

        Raises: InvalidJob for a constructor that returns something else; and whatever the constructor raises.
        """
        if self.constructor is None:
            return self.args, self.opts
        match self.constructor():
            case None:
                return None
            case (args, InsertOpts() as opts):
                return args, opts
            case (args, None):
                return args, self.opts
            case tuple() as other:
                raise InvalidJob(
                    f"constructor must return args, or args and InsertOpts, or None, got {other!r}"
                )
            case args:
                return args, self.opts


def every(
    interval: timedelta,
    args: JobArgs | Constructor,
    *,
    id: str | None = None,
    run_on_start: bool = False,
    opts: InsertOpts | None = None,
) -> PeriodicJob:
    """
    Return a periodic job that is due every `interval`, first one interval after a client becomes leader.

    `args` is an args value, or a function (or the args class itself) that makes one each time.
    """
    return _periodic_job(IntervalSchedule(interval), args, id=id, run_on_start=run_on_start, opts=opts)


def cron(
    expression: str,
    args: JobArgs | Constructor,
    *,
    timezone: str | tzinfo | None = None,
    id: str | None = None,
    run_on_start: bool = False,
    opts: InsertOpts | None = None,
) -> PeriodicJob:
    """
    Return a periodic job that is due by a cron expression: `cron("0 3 * * *", Digest(), timezone="Europe/Berlin")`.

    Without `timezone`, and without `CRON_TZ=…` in the expression, its times are UTC, whatever the zone of the machine
    that leads. A local time that the zone skips in spring is skipped that day; one that it repeats in autumn, twice.
    """
    return _periodic_job(parse_cron(expression, timezone), args, id=id, run_on_start=run_on_start, opts=opts)


def never(
    args: JobArgs | Constructor,
    *,
    id: str | None = None,
    run_on_start: bool = True,
    opts: InsertOpts | None = None,
) -> PeriodicJob:
    """Return a periodic job without a schedule: inserted whenever a client becomes leader, and not again."""
    return _periodic_job(NeverSchedule(), args, id=id, run_on_start=run_on_start, opts=opts)


def _periodic_job(
    schedule: Schedule,
    args: JobArgs | Constructor,
    *,
    id: str | None,
    run_on_start: bool,
    opts: InsertOpts | None,
) -> PeriodicJob:
    if isinstance(args, type) or (callable(args) and not hasattr(type(args), "kind")):
        constructor = cast(Constructor, args)
        return PeriodicJob(
            schedule=schedule, constructor=constructor, id=id, run_on_start=run_on_start, opts=opts
        )
    args = cast(JobArgs, args)
    return PeriodicJob(schedule=schedule, args=args, id=id, run_on_start=run_on_start, opts=opts)


def _check_args(args: object) -> None:
    try:
        kind_of(args)
    except InvalidJob as error:
        raise ConfigError(f"args of a periodic job are unusable: {error}") from error


def _check_id(id: str) -> None:
    if not KIND_RE.fullmatch(id) or len(id.encode()) > ID_BYTES_MAX:
        raise ConfigError(
            f"id of a periodic job must be at most {ID_BYTES_MAX} bytes of {KIND_PATTERN}, got {id!r}"
        )
