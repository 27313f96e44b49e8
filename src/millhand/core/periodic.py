"""Periodic jobs, which the leader inserts by a schedule."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Protocol, TypeAlias

import msgspec

from millhand.core.args.codec import KIND_CHARACTERS, KIND_RE, JobArgs, kind_of, kind_of_value
from millhand.core.crontab import parse_cron
from millhand.core.errors import ConfigError, InvalidJob
from millhand.core.insert_opts import InsertOpts

ID_BYTES_MAX = 127

# The enqueuer inserts what is due within the next 100 ms. With a shorter interval it would never sleep.
INTERVAL_MIN = timedelta(milliseconds=100)

# Returns args, or args and options, or None to skip this run.
Constructor: TypeAlias = Callable[[], JobArgs | tuple[JobArgs, InsertOpts | None] | None]


class Schedule(Protocol):
    """The instants at which a periodic job is due; write your own for times that `cron` and `every` cannot express."""

    def next(self, after: datetime) -> datetime | None:
        """Return the first aware instant after `after`, or None if there is none."""
        ...


class IntervalSchedule(msgspec.Struct, frozen=True):
    """Due every `interval`, counted from the last run."""

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
    """Never due; for a job that is inserted only when a client becomes leader."""

    def next(self, after: datetime) -> datetime | None:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodicJob:
    """
    A job that the leader inserts whenever `schedule` is due; made by `every`, `cron` or `never`.

    A leader inserts its own periodic jobs only, so configure the same ones for every client that may lead. A run that
    was due while no client led is not made up for.

    Args:
        args: The args of every run; or set `constructor`.
        constructor: Returns new args for each run, or args and options, or None to skip the run. It is called on the
            event loop and must not block.
        id: Names the job for `Client.remove_periodic_job`. It also lets the leader find a run whose insert got no
            answer; without an id, such a run may be inserted twice.
        run_on_start: Insert one run as soon as a client becomes leader.

    Raises: ConfigError if the parameters do not fit each other.
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
        try:
            if self.args is not None:
                kind_of_value(self.args)
        except InvalidJob as error:
            raise ConfigError(f"args of a periodic job are unusable: {error}") from error
        if inspect.iscoroutinefunction(self.constructor):
            raise ConfigError(
                f"constructor of a periodic job must be a plain function, got coroutine function {self.constructor!r}"
            )
        if self.id is not None and (not KIND_RE.fullmatch(self.id) or len(self.id.encode()) > ID_BYTES_MAX):
            raise ConfigError(
                f"id of a periodic job must be 2 to {ID_BYTES_MAX} {KIND_CHARACTERS}, got {self.id!r}"
            )

    @property
    def kind(self) -> str | None:
        """The kind of every run; None if a function makes the args, and may make some of any kind."""
        if self.args is not None:
            return kind_of(self.args)
        try:
            return kind_of(self.constructor) if isinstance(self.constructor, type) else None
        except InvalidJob:  # a class with a method `__new__` that returns args
            return None

    def construct(self) -> tuple[object, InsertOpts | None] | None:
        """
        Return the args and options of one run, or None if the constructor skips it.

        Raises: InvalidJob if the constructor returns something else; whatever the constructor raises.
        """
        if self.constructor is None:
            return self.args, self.opts
        match self.constructor():
            case None:
                return None
            case (args, InsertOpts() | None as opts):
                return args, opts or self.opts
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
    Return a periodic job that is due every `interval`, at first one interval after a client becomes leader.

    Args:
        interval: At least 100 ms.
        args: An args value, or a function or args class that makes one for each run.

    The other parameters are those of `PeriodicJob`. Raises: ConfigError for an invalid parameter.
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

    If daylight saving time skips a local time in spring, the run is skipped that day. If it repeats a local time in
    autumn, the job runs twice.

    Args:
        expression: Five fields, or `@daily` and the like, or `@every 1h30m`. It may begin with `CRON_TZ=…`.
        args: An args value, or a function or args class that makes one for each run.
        timezone: The zone of the times; UTC by default, whatever the leader's own zone is.

    The other parameters are those of `PeriodicJob`. Raises: ConfigError for an invalid expression or zone.
    """
    return _periodic_job(parse_cron(expression, timezone), args, id=id, run_on_start=run_on_start, opts=opts)


def never(
    args: JobArgs | Constructor,
    *,
    id: str | None = None,
    run_on_start: bool = True,
    opts: InsertOpts | None = None,
) -> PeriodicJob:
    """
    Return a periodic job without a schedule: it is inserted once whenever a client becomes leader.

    The parameters are those of `every`. Raises: ConfigError.
    """
    return _periodic_job(NeverSchedule(), args, id=id, run_on_start=run_on_start, opts=opts)


def _periodic_job(
    schedule: Schedule,
    args: JobArgs | Constructor,
    **more: Any,  # noqa: ANN401 - further fields of PeriodicJob
) -> PeriodicJob:
    is_constructor = isinstance(args, type) or (callable(args) and not hasattr(type(args), "kind"))
    more["constructor" if is_constructor else "args"] = args
    return PeriodicJob(schedule=schedule, **more)
