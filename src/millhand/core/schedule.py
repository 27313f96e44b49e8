"""
Schedules that the database keeps: their values, and the instants at which they are due.

Rule 1: the due instants depend on the schedule alone, not on the time of a start. An interval is counted from `starts_at`,
        or from midnight UTC of 1 January 1970.
Rule 2: an instant that is less than a minute late is not missed. `catch_up` decides which of the missed instants have a job.
Rule 3: `overlap` decides from the state of the last run's job whether a due instant has a job.
Rule 4: the delay by `jitter` is a hash of the id and the instant, so every leader computes the same.
"""

from __future__ import annotations

import functools
import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple, TypeAlias, cast, get_args

import msgspec

from millhand.core.args.codec import KIND_CHARACTERS, KIND_RE, JobArgs, RawArgs
from millhand.core.args.secret_fields import secret_field_names
from millhand.core.blob import has_blob
from millhand.core.crontab import CronSchedule, EverySchedule, parse_cron
from millhand.core.errors import ConfigError, InvalidJob
from millhand.core.insert_opts import InsertOpts, InsertParams, insert_params_many, opts_of_class
from millhand.core.job import JobId, JobState
from millhand.core.unique import UniqueOpts, marked_paths, states_mask, unique_key, unique_text

CatchUp: TypeAlias = Literal["skip", "once", "all"]
Overlap: TypeAlias = Literal["allow", "skip", "once_waiting"]

ID_BYTES_MAX = 127
INTERVAL_MIN = timedelta(seconds=1)
DURATION_MAX = timedelta(days=36_525)
# A change of the leader takes ten seconds, and a restart of the database less than a minute.
LATE = timedelta(minutes=1)
# So many instants are caught up at most: the newest.
CAUGHT_UP_MAX = 100
NOT_SET = 0
# In the metadata of a run: the instant at which it was due.
DUE_AT_KEY = "millhand:due_at"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NO_METADATA = msgspec.Raw(b"{}")
_TICK = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSchedule:
    """
    A job, the instants at which it is due, and what happens to instants that were missed.

    Exactly one job is inserted for each due instant, whichever clients die.

    Args:
        id: Names the schedule: 2 to 127 letters, digits and `_-[]<>/.·:+`.
        args: The args of every run.
        cron: Five fields, or `@daily` and the like. Set either this or `interval`.
        interval: The time between two runs, at least a second.
        timezone: The IANA name of the zone of `cron`. A local time that the zone skips has no run that day, and one that it
            repeats has two.
        opts: Options of every insert. `scheduled_at` must not be set.
        catch_up: Which of the missed runs are inserted: `skip` none, `once` the last, `all` the newest 100. A run that is
            less than a minute late is not missed.
        overlap: `allow` inserts every run; `skip` only if the job of the last run has ended; `once_waiting` only if that
            job no longer waits, also not for its next attempt.
        jitter: Delays each run by a part of this.
        starts_at: No run is due before this aware instant.
        ends_at: No run is due at this aware instant or later.

    Raises: ConfigError or InvalidJob if a value is invalid.
    """

    id: str
    args: JobArgs
    cron: str | None = None
    interval: timedelta | None = None
    timezone: str = "UTC"
    opts: InsertOpts | None = None
    catch_up: CatchUp = "once"
    overlap: Overlap = "allow"
    jitter: timedelta = timedelta(0)
    starts_at: datetime | None = None
    ends_at: datetime | None = None

    def __post_init__(self) -> None:
        if (
            not isinstance(self.id, str)
            or not KIND_RE.fullmatch(self.id)
            or len(self.id.encode()) > ID_BYTES_MAX
        ):
            raise ConfigError(
                f"id of a schedule must be 2 to {ID_BYTES_MAX} {KIND_CHARACTERS}, got {self.id!r}"
            )
        if (self.cron is None) == (self.interval is None):
            raise self._error("cron or interval must be set", f"{self.cron!r} and {self.interval!r}")
        self._check_duration("interval", self.interval, INTERVAL_MIN)
        self._check_duration("jitter", self.jitter, timedelta(0))
        for name, choices in (("catch_up", get_args(CatchUp)), ("overlap", get_args(Overlap))):
            if getattr(self, name) not in choices:
                raise self._error(f"{name} must be one of {', '.join(choices)}", repr(getattr(self, name)))
        for name in ("starts_at", "ends_at"):
            at = getattr(self, name)
            if at is not None and (not isinstance(at, datetime) or at.tzinfo is None):
                raise self._error(f"{name} must be a datetime with a time zone", repr(at))
        if self.starts_at and self.ends_at and self.starts_at >= self.ends_at:
            raise self._error("ends_at must be after starts_at", self.ends_at.isoformat())
        if not isinstance(self.timezone, str):
            raise self._error("timezone must be a name of the IANA database", repr(self.timezone))
        if self.opts is not None and not isinstance(self.opts, InsertOpts):
            raise self._error("opts must be InsertOpts", repr(self.opts))
        if self.opts is not None and self.opts.scheduled_at is not None:
            raise self._error(
                "opts must not have scheduled_at", f"{self.opts.scheduled_at.isoformat()}; remove it"
            )
        definition_of(self)
        _rule_of(self.cron, self.timezone)

    def _check_duration(self, name: str, value: object, least: timedelta) -> None:
        if value is None and name == "interval":
            return
        if not isinstance(value, timedelta):
            raise self._error(f"{name} must be a timedelta", f"{value!r}; write timedelta(seconds=…)")
        if not least <= value <= DURATION_MAX:
            raise self._error(f"{name} must be {least.seconds} s to 100 years", repr(value))

    def _error(self, rule: str, got: str) -> ConfigError:
        return ConfigError(f"schedule {self.id!r}: {rule}, got {got}")

    @property
    def kind(self) -> str:
        """The kind of every run."""
        return definition_of(self).kind

    def next_after(self, after: datetime) -> datetime | None:
        """Return the first due instant after `after`, in UTC; None if there is none."""
        return definition_of(self).next_after(after)

    def has_same_times(self, other: JobSchedule) -> bool:
        """Return whether both are due at the same instants."""
        names = ("cron", "interval", "timezone", "starts_at", "ends_at")
        return all(getattr(self, name) == getattr(other, name) for name in names)


class ScheduleRow(msgspec.Struct, frozen=True, kw_only=True):
    """
    A schedule as its row in `millhand_schedule`. Instants are aware.

    Attributes:
        schedule: The schedule in force; its args are RawArgs.
        declared: What the code of a client declared last; None if the schedule was only set at run time.
        declared_at: When a client declared it last. Running clients repeat this each hour.
        next_run_at: The next due instant; None if there is none.
        last_due_at: The last instant that was due.
        last_job_id: The job of the last run.
        num_runs: How many jobs were inserted.
        paused_at: Since when the schedule is paused; None if it is not.
    """

    schedule: JobSchedule
    declared: JobSchedule | None
    declared_at: datetime | None
    next_run_at: datetime | None
    last_due_at: datetime | None
    last_job_id: JobId | None
    num_runs: int
    paused_at: datetime | None


class _Unique(msgspec.Struct, frozen=True, omit_defaults=True):
    by_args: bool | tuple[tuple[str, ...], ...] = False
    by_period: timedelta | None = None
    by_queue: bool = False
    by_state: tuple[JobState, ...] | None = None
    exclude_kind: bool = False

    def opts(self) -> UniqueOpts:
        return UniqueOpts(**msgspec.structs.asdict(self))


class Definition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    A schedule with all options of its job resolved, as the table keeps it: JSON without the default values.

    A reader ignores fields that it does not know, so that a newer client may write some.
    """

    kind: str
    args: msgspec.Raw
    cron: str | None = None
    interval: timedelta | None = None
    timezone: str = "UTC"
    catch_up: CatchUp = "once"
    overlap: Overlap = "allow"
    jitter: timedelta | None = None
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    max_attempts: int = NOT_SET
    metadata: msgspec.Raw = _NO_METADATA
    pending: bool = False
    priority: int = 1
    queue: str = "default"
    tags: tuple[str, ...] = ()
    unique: _Unique | None = None

    def next_after(self, after: datetime) -> datetime | None:
        """Return the first due instant after `after`, in UTC; None if there is none."""
        if self.starts_at is not None and after < self.starts_at:
            after = self.starts_at - _TICK
        rule = _rule_of(self.cron, self.timezone)
        if isinstance(rule, CronSchedule):
            at = rule.next(after)
        else:
            interval = self.interval if rule is None else rule.interval
            if interval is None:
                return None
            origin = (self.starts_at or _EPOCH).astimezone(UTC)
            at = origin + ((after - origin) // interval + 1) * interval
        return None if at is None or (self.ends_at is not None and at >= self.ends_at) else at

    def params(
        self, id: str, due_at: datetime, now: datetime, default_max_attempts: int, *, is_run_now: bool = False
    ) -> InsertParams:
        """Return the row of the run that is due at an instant, or that a person inserts then."""
        at = due_at if is_run_now else due_at + delay(id, due_at, self.jitter)
        state = JobState.AVAILABLE if at <= now else JobState.SCHEDULED
        args, unique = bytes(self.args).decode(), self.unique and self.unique.opts()
        key = unique and unique_text(
            unique, kind=self.kind, encoded_args=args, queue=self.queue, scheduled_at=due_at
        )
        return InsertParams(
            kind=self.kind,
            encoded_args=args,
            max_attempts=self.max_attempts or default_max_attempts,
            encoded_metadata=_with_marks(self.metadata, id, due_at, is_run_now=is_run_now),
            priority=self.priority,
            queue=self.queue,
            state=JobState.PENDING if self.pending else state,
            scheduled_at=at,
            tags=self.tags,
            unique_key=unique_key(key) if key else None,
            unique_states=states_mask(unique.states) if unique else None,
        )


class Due(NamedTuple):
    """What is due of a schedule: the instants that have a job, in order, and the next one."""

    runs: Sequence[datetime]
    next_run_at: datetime | None
    last_due_at: datetime


def due_runs(definition: Definition, first: datetime, now: datetime) -> Due:
    """
    Return what to insert of the instants from `first` to `now`.

    `first` is due even if the schedule was changed since, and now has other instants.
    """
    wanted = CAUGHT_UP_MAX if definition.catch_up == "all" else 1
    later, next_run_at = _newest(definition, first, now, wanted)
    found = [first, *later][-CAUGHT_UP_MAX:]
    runs = found if definition.catch_up == "all" else [at for at in found if now - at < LATE]
    if not runs and definition.catch_up == "once":
        runs = found[-1:]
    return Due(runs, next_run_at, found[-1])


def without_overlap(
    definition: Definition, runs: Sequence[datetime], last: JobState | None
) -> Sequence[datetime]:
    """Return those of `runs` that have a job; `last` is the state of the last run's job, None if there is no row."""
    if definition.overlap == "allow":
        return runs
    ends_wait = last is JobState.RUNNING and definition.overlap == "once_waiting"
    return runs[:1] if last is None or last.is_finalized or ends_wait else ()


def delay(id: str, due_at: datetime, jitter: timedelta | None) -> timedelta:
    """Return by how much a run is delayed: a part of `jitter`."""
    if not jitter:
        return timedelta(0)
    text = f"{id} {due_at.astimezone(UTC).isoformat()}"
    share = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64
    return jitter * share


def definition_of(schedule: JobSchedule) -> Definition:
    """Return a schedule with the options of its job resolved. Raises: InvalidJob."""
    if names := secret_field_names(cast(Any, type(schedule.args))):
        raise InvalidJob(
            f"args of schedule {schedule.id!r} must have no secret fields, got {', '.join(names)}: its table keeps args as "
            "they are; use a periodic job, whose args are in your code"
        )
    [params] = insert_params_many([(schedule.args, schedule.opts)], now=_EPOCH, default_max_attempts=NOT_SET)
    if has_blob(params.encoded_args):
        raise InvalidJob(
            f"args of schedule {schedule.id!r} must have no Blob, got one: its object would be removed when no job has it; "
            "use a periodic job that puts the blob for each run"
        )
    if params.scheduled_at is not None:
        raise InvalidJob(
            f"job of schedule {schedule.id!r} must not have scheduled_at, got {params.scheduled_at!r} of its class"
        )
    unique = _unique_of(schedule)
    metadata = msgspec.Raw(params.encoded_metadata.encode())
    return Definition(
        kind=params.kind,
        args=msgspec.Raw(params.encoded_args.encode()),
        **{name: getattr(schedule, name) for name in _SHARED},
        jitter=schedule.jitter or None,
        max_attempts=params.max_attempts,
        # That of the default value is left out of the text; an equal one is not.
        metadata=metadata if metadata != _NO_METADATA else _NO_METADATA,
        pending=params.state is JobState.PENDING,
        priority=params.priority,
        queue=params.queue,
        tags=params.tags,
        unique=unique,
    )


def encode_schedule(schedule: JobSchedule) -> str:
    """Return the JSON text that the table keeps."""
    return msgspec.json.encode(definition_of(schedule)).decode()


@functools.lru_cache(maxsize=4096)
def decode_definition(text: str) -> Definition:
    """Return the definition of a text. Raises: msgspec.ValidationError; ConfigError for an unknown zone."""
    definition = msgspec.json.decode(text, type=Definition)
    _rule_of(definition.cron, definition.timezone)
    return definition


def decode_schedule(id: str, text: str) -> JobSchedule:
    """Return the schedule of a text that `encode_schedule` returned. Raises: as `decode_definition`."""
    found = decode_definition(text)
    metadata: dict[str, Any] = msgspec.json.decode(found.metadata)
    opts = InsertOpts(
        max_attempts=found.max_attempts or None,
        metadata=metadata or None,
        pending=found.pending,
        priority=found.priority,
        queue=found.queue,
        tags=found.tags,
        unique=None if found.unique is None else found.unique.opts(),
    )
    args = RawArgs(found.kind, bytes(found.args).decode())
    shared = {name: getattr(found, name) for name in _SHARED}
    return JobSchedule(id=id, args=args, opts=opts, jitter=found.jitter or timedelta(0), **shared)


_SHARED = ("cron", "interval", "timezone", "catch_up", "overlap", "starts_at", "ends_at")


@functools.lru_cache(maxsize=4096)
def _rule_of(cron: str | None, timezone: str) -> CronSchedule | EverySchedule | None:
    return None if cron is None else parse_cron(cron, None if timezone == "UTC" else timezone)


def _newest(
    definition: Definition, after: datetime, until: datetime, wanted: int
) -> tuple[Sequence[datetime], datetime | None]:
    """
    Return the newest instants after `after`, up to `until`, in order, and the next one; at least `wanted` if there are any.

    It looks back step by step: a gap of a month has 43,200 minutes.
    """
    window = LATE
    while True:
        start = max(after, until - window)
        found: deque[datetime] = deque(maxlen=CAUGHT_UP_MAX)
        at = definition.next_after(start)
        while at is not None and at <= until:
            found.append(at)
            at = definition.next_after(at)
        if len(found) >= wanted or start == after:
            return found, at
        window = min(window * 8, DURATION_MAX * 10)


def _unique_of(schedule: JobSchedule) -> _Unique | None:
    """Return the unique options; the marked fields of a class by their names, because the table does not keep the class."""
    of_class = opts_of_class(schedule.args)
    unique = (schedule.opts and schedule.opts.unique) or (of_class and of_class.unique)
    if not unique or not unique.is_active:
        return None
    by_args = unique.by_args
    if by_args is True and not isinstance(schedule.args, RawArgs):
        by_args = marked_paths(type(schedule.args)) or True
    if not isinstance(by_args, bool):
        by_args = tuple(tuple(one.split(".")) if isinstance(one, str) else tuple(one) for one in by_args)
    by_state = tuple(sorted(map(JobState, unique.by_state))) if unique.by_state is not None else None
    return _Unique(by_args, unique.by_period, unique.by_queue, by_state, unique.exclude_kind)


def _with_marks(metadata: msgspec.Raw, id: str, due_at: datetime, *, is_run_now: bool) -> str:
    marks = {
        **msgspec.json.decode(metadata),
        "periodic": True,
        "river:periodic_job_id": id,
        **({"millhand:run_now": True} if is_run_now else {DUE_AT_KEY: due_at.astimezone(UTC)}),
    }
    return msgspec.json.encode(marks).decode()
