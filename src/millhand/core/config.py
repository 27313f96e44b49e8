"""The settings of a client, checked as a whole when they are made."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

from millhand.core.archive import Archive
from millhand.core.args.secret_fields import secret_field_names
from millhand.core.args.secret_keys import SecretKeys
from millhand.core.checks import check_number
from millhand.core.clock import Clock, SystemClock
from millhand.core.crontab import parse_cron
from millhand.core.errors import ConfigError
from millhand.core.hooks import ErrorHandler, Hook, Middleware
from millhand.core.insert_opts import MAX_ATTEMPTS_DEFAULT, MAX_ATTEMPTS_MAX, queue_name_error
from millhand.core.job import JobRow
from millhand.core.limit import Limit
from millhand.core.near_match import near_match
from millhand.core.periodic import PeriodicJob, Schedule
from millhand.core.retry import DefaultRetryPolicy, RetryPolicy
from millhand.core.schedule import JobSchedule
from millhand.core.worker import NO_TIMEOUT, Workers, check_timeout

CLIENT_ID_BYTES_MAX = 100
MAX_WORKERS_MAX = 10_000
INDEX_NAME_BYTES_MAX = 63
SCHEMA_RE = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)
SCHEMA_BYTES_MAX = 46  # River appends the name of a topic, and PostgreSQL's names have at most 63 bytes

DURATION_MAX = timedelta(days=36_525)  # a hundred years; now minus that is still a valid date
INTERVAL_MIN = timedelta(milliseconds=1)
HEARTBEAT_INTERVAL_MIN = timedelta(milliseconds=100)
HEARTBEAT_INTERVAL = timedelta(minutes=1)
JOB_TIMEOUT_DEFAULT = timedelta(minutes=1)
RESCUE_AFTER_DEFAULT = timedelta(hours=1)

# 1 ms, where River waits 100 ms: a job waits at most so long for an idle worker, and a fetch costs the database less
# than a millisecond. It also is the window of the insert limiter, which never drops the last wake-up.
FETCH_COOLDOWN_DEFAULT = timedelta(milliseconds=1)

REINDEXER_SCHEDULE = parse_cron("@daily")  # midnight, UTC
# Source: River v0.51.2, client.go `ReindexerIndexNamesDefault`.
REINDEXER_INDEX_NAMES = (
    "river_job_args_index",
    "river_job_kind",
    "river_job_metadata_index",
    "river_job_pkey",
    "river_job_prioritized_fetching_index",
    "river_job_state_and_finalized_at_index",
    "river_job_unique_idx",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StuckJob:
    """
    An attempt that continues although its timeout and `job_stuck_threshold` have passed.

    Attributes:
        job: The row as fetched.
        num_stuck: How many attempts of this client are stuck, with this one.
    """

    job: JobRow
    num_stuck: int


# Returns True to open another slot in place of the stuck one. Called on the event loop; must not block.
JobStuckHandler = Callable[[StuckJob], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueConfig:
    """
    How a client works one queue.

    Args:
        max_workers: How many jobs run at a time, 1 to 10,000.
        fetch_cooldown: The least time between two fetches; the client's by default.
        fetch_poll_interval: The time between two polls for jobs that no notification announced; the client's by default.
        keep_completed: Whether the rows of its completed jobs are kept; the client's by default.
        limit: How many of its jobs run at once, and how many start in a time, in all clients together.

    Raises: ConfigError if `max_workers` is out of range, or `limit` is no Limit.
    """

    max_workers: int
    fetch_cooldown: timedelta | None = None
    fetch_poll_interval: timedelta | None = None
    keep_completed: bool | None = None
    limit: Limit | None = None

    def __post_init__(self) -> None:
        if isinstance(self.max_workers, bool) or not 1 <= self.max_workers <= MAX_WORKERS_MAX:
            raise ConfigError(
                f"max_workers must be between 1 and {MAX_WORKERS_MAX:,}, got {self.max_workers!r}"
            )
        if self.limit is not None and not isinstance(self.limit, Limit):
            raise ConfigError(f"limit must be a Limit, got {self.limit!r}; write Limit(at_once=…)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """
    All settings of a client. Without `queues`, it only inserts.

    The leader does the retention, reindexing and rescue for all clients, with its own settings. Keep these settings
    equal for clients that share a database.

    Args:
        archive: Where the leader archives finished jobs; by default nowhere.
        blob_store: The URL of the object store of blobs, such as `s3://my-bucket`; without it, blobs have at most 16 KiB.
        cancelled_job_retention: How long cancelled jobs are kept; None keeps them for ever.
        client_id: The client's id, up to 100 bytes; by default made from the host name and the time.
        client_heartbeat_interval: The time between two heartbeats, by which other clients detect this client's death;
            at least 100 ms.
        clock: The source of the time; tests pass their own.
        completed_job_retention: How long completed jobs are kept; None keeps them for ever.
        database: A name of the database, for a program that works several: log lines and `Job.database` have it.
        dead_job_retention: How long dead letters, the copies of discarded jobs, are kept after the discard; None keeps them
            for ever, and zero makes none.
        discarded_job_retention: How long discarded jobs are kept; None keeps them for ever.
        error_handlers: All of them are called for each failed attempt.
        fetch_cooldown: The least time between two fetches of a queue.
        fetch_only_known_kinds: Leave jobs whose kind has no worker here to other clients.
        fetch_poll_interval: The time between two polls for jobs that no notification announced.
        heartbeat_interval: The time between two runs of the built-in job `heartbeat`, at least 100 ms; None for never.
            The first run comes an interval after a client became leader.
        hooks: Called before and after steps of every job.
        job_stuck_handler: Called for an attempt that ignores its timeout.
        job_stuck_threshold: How long after its timeout an attempt is stuck.
        job_timeout: How long an attempt may run; `NO_TIMEOUT` for no limit.
        keep_completed: Whether the rows of completed jobs are kept until their retention ends. With False, a job is
            deleted when it completes, which costs the database about half. A queue or a worker may override it. Rows that
            may yet be read are kept in any case; see docs/how_to/delete_completed_jobs.md.
        prefer_other_leaders: Let clients in other languages become leader first, so that their periodic jobs continue.
            Millhand's periodic jobs continue in any case.
        leader_election: Whether this client may become leader.
        log_completed_jobs: Log `job completed` at level INFO, and not at DEBUG. By default only a worker process does.
        max_attempts: How often a job is attempted at most, if its insert does not set it.
        max_threads: The most threads for plain functions, created on demand. Keep it above the number of plain
            functions that run at a time: one more would wait for a thread while its timeout runs.
        middleware: Called around every insert and attempt.
        periodic_jobs: What this client inserts by schedules while it leads.
        poll_only: Do not listen for notifications, for poolers that do not support them.
        queues: For each queue to work, its number of workers or a QueueConfig.
        reindexer_index_names: The indexes to rebuild.
        reindexer_schedule: When the leader rebuilds them; None for never.
        reindexer_timeout: How long one rebuild may take; `NO_TIMEOUT` for no limit.
        rescue_stuck_jobs_after: How long an attempt may run before another client may work its job. By default an hour,
            or an hour more than a `job_timeout` that is not the default.
        retry_policy: When failed jobs are attempted again.
        schedules: Schedules that the database keeps; a client with queues writes those that changed in code.
        schema: The schema of River's tables; empty for the search path.
        secret_keys: The keys of the args fields that are marked with `Secret`.
        skip_unknown_job_check: Allow inserts of kinds that have no worker here.
        soft_stop_timeout: How long a stop waits for running attempts before it cancels them; None for no limit.
        workers: The functions that do the jobs.

    Raises: ConfigError if a setting is invalid.
    Source: River v0.51.2, client.go `Config.validate`, for names, defaults and limits. docs/reference/settings.md lists
    the differences and their reasons.
    """

    archive: Archive | None = None
    blob_store: str = ""
    cancelled_job_retention: timedelta | None = timedelta(hours=24)
    client_id: str | None = None
    client_heartbeat_interval: timedelta = timedelta(seconds=5)
    clock: Clock = field(default_factory=SystemClock)
    completed_job_retention: timedelta | None = timedelta(hours=24)
    database: str = ""
    dead_job_retention: timedelta | None = timedelta(days=90)
    discarded_job_retention: timedelta | None = timedelta(days=7)
    error_handlers: Sequence[ErrorHandler] = ()
    fetch_cooldown: timedelta = FETCH_COOLDOWN_DEFAULT
    fetch_only_known_kinds: bool = True
    fetch_poll_interval: timedelta = timedelta(seconds=1)
    heartbeat_interval: timedelta | None = HEARTBEAT_INTERVAL
    hooks: Sequence[Hook] = ()
    job_stuck_handler: JobStuckHandler | None = None
    job_stuck_threshold: timedelta = timedelta(seconds=10)
    job_timeout: timedelta = JOB_TIMEOUT_DEFAULT
    keep_completed: bool = True
    prefer_other_leaders: bool = True
    leader_election: bool = True
    log_completed_jobs: bool | None = None
    max_attempts: int = MAX_ATTEMPTS_DEFAULT
    max_threads: int = 1_000
    middleware: Sequence[Middleware] = ()
    periodic_jobs: Sequence[PeriodicJob] = ()
    poll_only: bool = False
    queues: Mapping[str, QueueConfig | int] = field(default_factory=dict)
    reindexer_index_names: Sequence[str] = REINDEXER_INDEX_NAMES
    reindexer_schedule: Schedule | None = REINDEXER_SCHEDULE
    reindexer_timeout: timedelta = timedelta(minutes=1)
    rescue_stuck_jobs_after: timedelta | None = None
    retry_policy: RetryPolicy = field(default_factory=DefaultRetryPolicy)
    schedules: Sequence[JobSchedule] = ()
    schema: str = ""
    secret_keys: SecretKeys | None = None
    skip_unknown_job_check: bool = False
    soft_stop_timeout: timedelta | None = None
    workers: Workers = field(default_factory=Workers)

    # `queues` with all defaults resolved.
    queue_configs: Mapping[str, QueueConfig] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_durations(self)
        check_number("max_attempts", self.max_attempts, MAX_ATTEMPTS_MAX)
        check_number("max_threads", self.max_threads, MAX_WORKERS_MAX)
        _check_names(self)
        _check_parts(self)
        _check_periodic_jobs(self)
        for name in _LISTS:
            object.__setattr__(self, name, tuple(getattr(self, name)))
        queues = {name: _queue_config(self, name, queue) for name, queue in self.queues.items()}
        object.__setattr__(self, "queues", MappingProxyType(dict(self.queues)))
        object.__setattr__(self, "queue_configs", MappingProxyType(queues))

    @property
    def rescue_after(self) -> timedelta:
        """How long an attempt may run until it is rescued: `rescue_stuck_jobs_after` with its default resolved."""
        if self.rescue_stuck_jobs_after is not None:
            return self.rescue_stuck_jobs_after
        if self.job_timeout in (JOB_TIMEOUT_DEFAULT, NO_TIMEOUT):
            return RESCUE_AFTER_DEFAULT
        return self.job_timeout + RESCUE_AFTER_DEFAULT

    def require_startable(self) -> None:
        """Raise ConfigError if a client with these settings could not work its jobs."""
        if not self.queues:
            raise ConfigError(
                'queues must name at least one queue to be worked, got none; write {"default": 100}'
            )
        if not len(self.workers):
            raise ConfigError(
                "workers must hold at least one worker, got none; register one with @workers.add()"
            )
        for worker in self.workers if self.secret_keys is None else ():
            if names := secret_field_names(worker.args_type):
                raise ConfigError(
                    f"secret_keys must be set for the secret fields of kind {worker.kind!r}, {', '.join(names)}, got none; "
                    "write Config(secret_keys=SecretKeys({…}))"
                )

    def require_workers_of(self, periodic_jobs: Iterable[PeriodicJob]) -> None:
        """
        Raise ConfigError for a periodic job that the leader could not insert, because its kind has no worker.

        The kind of a job whose args a function makes is unknown, and `skip_unknown_job_check` allows every kind.
        """
        for job in () if self.skip_unknown_job_check else periodic_jobs:
            if job.kind is None or job.kind in self.workers:
                continue
            near = near_match(job.kind, self.workers.kinds)
            remedy = (
                "register one with @workers.add(), or set skip_unknown_job_check=True if other clients work it"
                if near is None
                else f"did you mean {near!r}?"
            )
            named = "a periodic job" if job.id is None else f"periodic job {job.id!r}"
            raise ConfigError(f"kind of {named} must have a worker, got {job.kind!r} without; {remedy}")


def built_in_queue(queues: Collection[str]) -> str:
    """Return which of a client's queues has the built-in jobs."""
    return "default" if "default" in queues else min(queues)


_LISTS = ("error_handlers", "hooks", "middleware", "periodic_jobs", "reindexer_index_names", "schedules")


def default_client_id(hostname: str, now: datetime) -> str:
    """Return an id for a client, unique by its host and the microsecond of its start, in the form of River's."""
    host = hostname.replace(".", "_")[:60] or "unknown_host"
    return f"{host}_{now.astimezone(UTC).strftime('%Y_%m_%dT%H_%M_%S_%f')}"


def _queue_config(config: Config, name: str, queue: QueueConfig | int) -> QueueConfig:
    """Return a queue's settings with all defaults resolved."""
    fault = queue_name_error(name)
    if fault is not None:
        raise ConfigError(f"queue {fault}")
    if isinstance(queue, int):
        try:
            queue = QueueConfig(max_workers=queue)
        except ConfigError as error:
            raise ConfigError(f"queues[{name!r}]: {error}") from None
    if not isinstance(queue, QueueConfig):
        raise ConfigError(f"queue {name!r} must have a number of workers or a QueueConfig, got {queue!r}")
    cooldown = config.fetch_cooldown if queue.fetch_cooldown is None else queue.fetch_cooldown
    poll_interval = (
        config.fetch_poll_interval if queue.fetch_poll_interval is None else queue.fetch_poll_interval
    )
    _check_fetch(cooldown, poll_interval, f" of queue {name!r}")
    keeps = config.keep_completed if queue.keep_completed is None else queue.keep_completed
    return QueueConfig(
        max_workers=queue.max_workers,
        fetch_cooldown=cooldown,
        fetch_poll_interval=poll_interval,
        keep_completed=keeps,
        limit=queue.limit,
    )


def _check_fetch(cooldown: timedelta, poll_interval: timedelta, whose: str) -> None:
    if cooldown < INTERVAL_MIN:
        raise ConfigError(f"fetch_cooldown{whose} must be at least 1 ms, got {cooldown!r}")
    if poll_interval < max(INTERVAL_MIN, cooldown):
        raise ConfigError(
            f"fetch_poll_interval{whose} must not be shorter than fetch_cooldown, {cooldown!r}, got {poll_interval!r}"
        )


def _check_durations(config: Config) -> None:
    for name, hint in ((one.name, str(one.type)) for one in fields(config) if one.init):
        setting = getattr(config, name)
        if hint.startswith("timedelta") and not (
            isinstance(setting, timedelta) or (setting is None and "None" in hint)
        ):
            raise ConfigError(f"{name} must be a timedelta, got {setting!r}; write timedelta(seconds=…)")
        if isinstance(setting, timedelta) and setting > DURATION_MAX:
            raise ConfigError(f"{name} must be at most 100 years, got {setting!r}")
    _check_fetch(config.fetch_cooldown, config.fetch_poll_interval, "")
    for name in ("job_timeout", "reindexer_timeout"):
        check_timeout(name, getattr(config, name))
    for name in (
        "cancelled_job_retention",
        "completed_job_retention",
        "dead_job_retention",
        "discarded_job_retention",
        "job_stuck_threshold",
        "soft_stop_timeout",
    ):
        duration: timedelta | None = getattr(config, name)
        if duration is not None and duration < timedelta(0):
            never = "" if name == "job_stuck_threshold" else "; None is for never"
            raise ConfigError(f"{name} must not be negative, got {duration!r}{never}")
    for name in ("client_heartbeat_interval", "heartbeat_interval"):
        interval: timedelta | None = getattr(config, name)
        if interval is not None and interval < HEARTBEAT_INTERVAL_MIN:
            raise ConfigError(f"{name} must be at least 100 ms, got {interval!r}")
    shortest = max(config.job_timeout, INTERVAL_MIN)
    if config.rescue_stuck_jobs_after is not None and config.rescue_stuck_jobs_after < shortest:
        raise ConfigError(
            f"rescue_stuck_jobs_after must not be shorter than job_timeout, {config.job_timeout!r}, "
            f"got {config.rescue_stuck_jobs_after!r}; or jobs are rescued while they run"
        )


def _check_names(config: Config) -> None:
    id = config.client_id
    if (
        id is not None and not id.isprintable()
    ):  # this excludes NUL and lone surrogates, which PostgreSQL rejects
        raise ConfigError(f"client_id must be printable, got {id!r}")
    if id is not None and not 1 <= len(id.encode()) <= CLIENT_ID_BYTES_MAX:
        raise ConfigError(f"client_id must have 1 to {CLIENT_ID_BYTES_MAX} bytes, got {id!r}")
    if len(config.schema) > SCHEMA_BYTES_MAX or not (
        config.schema == "" or SCHEMA_RE.fullmatch(config.schema)
    ):
        raise ConfigError(
            f"schema must be at most {SCHEMA_BYTES_MAX} of the characters a-z, A-Z, 0-9 and _, with no digit first, "
            f"got {config.schema!r}; empty is for the search path"
        )
    if isinstance(config.reindexer_index_names, str):
        raise ConfigError(
            f"reindexer_index_names must be a list of names, got {config.reindexer_index_names!r}"
        )
    for name in config.reindexer_index_names:
        if not SCHEMA_RE.fullmatch(name) or len(name) > INDEX_NAME_BYTES_MAX:
            raise ConfigError(
                f"reindexer_index_names must be at most {INDEX_NAME_BYTES_MAX} of the characters a-z, A-Z, 0-9 and _, "
                f"with no digit first, got {name!r}"
            )


def _check_parts(config: Config) -> None:
    if not isinstance(config.workers, Workers):
        raise ConfigError(f"workers must be a Workers, got {config.workers!r}")
    _check_methods("retry_policy", config.retry_policy, "next_retry_at")
    if config.job_stuck_handler is not None and not callable(config.job_stuck_handler):
        raise ConfigError(f"job_stuck_handler must be a function, got {config.job_stuck_handler!r}")
    if not isinstance(config.queues, Mapping):
        raise ConfigError(
            f'queues must be a mapping of names to numbers of workers, got {config.queues!r}; write {{"default": 100}}'
        )
    _check_methods("clock", config.clock, "now", "monotonic")
    if config.reindexer_schedule is not None:
        _check_methods("reindexer_schedule", config.reindexer_schedule, "next")
    _check_instances("hooks", config.hooks, Hook)
    _check_instances("middleware", config.middleware, Middleware)
    _check_instances("periodic_jobs", config.periodic_jobs, PeriodicJob)
    _check_instances("schedules", config.schedules, JobSchedule)
    if config.archive is not None:
        _check_archive(config, config.archive)
    if not isinstance(config.blob_store, str):
        raise ConfigError(
            f"blob_store must be the URL of a store, got {type(config.blob_store).__name__}; write 's3://my-bucket'"
        )
    if config.secret_keys is not None and not isinstance(config.secret_keys, SecretKeys):
        raise ConfigError(
            f"secret_keys must be SecretKeys, got {type(config.secret_keys).__name__}; write SecretKeys({{…}})"
        )
    for handler in config.error_handlers:
        if isinstance(handler, type) or not hasattr(handler, "handle_error"):
            raise ConfigError(f"error_handlers must be objects with a method handle_error, got {handler!r}")


def _check_archive(config: Config, archive: Archive) -> None:
    if not isinstance(archive, Archive):
        raise ConfigError(f"archive must be an Archive, got {archive!r}; write Archive(url='s3://my-bucket')")
    if not config.keep_completed:
        raise ConfigError(
            "keep_completed must be True with an archive, got False; a job that is deleted when it completes is not "
            "archived; set keep_completed=False for the queues or workers whose jobs need no archive"
        )


def _check_methods(name: str, part: object, *methods: str) -> None:
    for method in methods:
        if isinstance(part, type) or not callable(getattr(part, method, None)):
            raise ConfigError(f"{name} must be an object with a method {method}, got {part!r}")


def _check_instances(name: str, parts: Iterable[object], wanted: type) -> None:
    for part in parts:
        if not isinstance(part, wanted):
            hint = f"; write {part.__name__}()" if isinstance(part, type) and issubclass(part, wanted) else ""
            raise ConfigError(f"{name} must be instances of {wanted.__name__}, got {part!r}{hint}")


def _check_periodic_jobs(config: Config) -> None:
    if config.periodic_jobs and not config.leader_election:
        raise ConfigError(
            f"periodic_jobs must be empty when leader_election is False, got {len(config.periodic_jobs)}; "
            "a client that never leads would never insert them"
        )
    for name in ("periodic_jobs", "schedules"):
        ids = [one.id for one in getattr(config, name) if one.id is not None]
        for id in ids:
            if ids.count(id) > 1:
                raise ConfigError(f"ids of {name} must differ, got {id!r} twice")
