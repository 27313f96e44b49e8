"""
The client for code without an event loop: inserts and controls jobs, and works none.

It runs the coroutines of `Client`'s parts on a driver that blocks, so names, errors and behaviour are the same.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar, Unpack, overload

from millhand.blob_store import BlobStore, InlineBlobStore
from millhand.capabilities import JOB_CHANGES
from millhand.core.args.codec import JobArgs
from millhand.core.config import Config
from millhand.core.errors import ConfigError, MillhandError, NotFound, TooManyWaits, WaitTimeout
from millhand.core.insert_opts import Insertable, InsertOpts, InsertResult, as_pairs
from millhand.core.job import JobId, JobRow, Json
from millhand.core.other_keywords import NoKeywords, refuse_insert_keywords
from millhand.core.result import ResultType, result_of
from millhand.db.driver.detect import django_driver, sync_driver_of
from millhand.db.driver.protocol import Driver, Executor, has_open_transaction
from millhand.db.driver.run_sync import run_sync
from millhand.db.driver.tx_executor import class_name
from millhand.db.query import TIMEOUT_SECONDS
from millhand.db.schema.migrator import MigrationStep, migrate_lines, require_schema
from millhand.dead_jobs.control import DeadJobControl
from millhand.engine.awaited_jobs import (
    FIRST_PAUSE_SECONDS,
    NUM_AWAITED_MAX,
    PAUSE_GROWTH,
    PAUSE_SECONDS_MAX,
    awaited_opts,
    checked_ids,
    checked_wait,
    is_transient,
    seconds_of,
)
from millhand.engine.control import JobControl, QueueControl
from millhand.engine.inserter import Inserter
from millhand.engine.store.job_result import Ended, job_get_ended
from millhand.engine.store.job_row import parse_job
from millhand.flows.control import FlowControl
from millhand.flows.flow import Flow, FlowRow
from millhand.flows.inserter import insert_flow
from millhand.limits.control import LimitControl
from millhand.schedules.control import ScheduleControl

if TYPE_CHECKING:
    import psycopg_pool
    import sqlalchemy

    from millhand.core.tx_types import SyncTx

    # Any is for Django's connections, which have no types.
    Database = str | psycopg_pool.ConnectionPool[Any] | sqlalchemy.Engine | Driver | Any

C = TypeVar("C")
P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

LAST_STATEMENT_SECONDS = 1.0  # the least timeout of a poll, at the end of a wait


class SyncClient:
    """
    Inserts and controls jobs from synchronous code, by psycopg.

    With a URL, use it as `with SyncClient(…) as client`, or call `start` and `stop`. A pool, engine or connection of
    yours needs no start. On Django's connection, everything is part of the open `transaction.atomic`.

    Args:
        database: A URL, a psycopg_pool.ConnectionPool, a SQLAlchemy Engine on psycopg, or a connection of Django.
        config: The settings; only `blob_store` and those for inserts are used. Hooks and middleware must not wait for
            anything.
        using: The alias of a connection of Django, in place of `database`.
        pool_size: How many connections the client opens at most, if `database` is a URL; 10 by default.

    Raises: ConfigError if `database` is of another type.

    Concurrency: any number of threads may use it.
    """

    def __init__(
        self,
        database: Database | None = None,
        config: Config | None = None,
        *,
        using: str | None = None,
        pool_size: int | None = None,
    ) -> None:
        config = Config() if config is None else config
        self._locks: dict[int, threading.Lock] = {}
        self._started_in: int | None = None
        self._bind_driver(_driver(database, using, config.schema, pool_size), config)

    def _bind_driver(self, driver: Driver, config: Config) -> None:
        """Use `driver` for every statement. Tests call it again, with their transaction and clock."""
        self._config = config
        self._driver = driver
        self._inserter = Inserter(driver.pool, config)
        self.blobs = SyncBlobStore(InlineBlobStore(config.blob_store))
        self.dead = SyncDeadJobControl(DeadJobControl(driver))
        self.flows = SyncFlowControl(FlowControl(driver, self._inserter))
        self.jobs = SyncJobControl(JobControl(driver, config.clock, changes=JOB_CHANGES), driver)
        self.limits = SyncLimitControl(LimitControl(driver))
        self.schedules = SyncScheduleControl(ScheduleControl(driver))
        self.queues = SyncQueueControl(QueueControl(driver, config.clock))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def config(self) -> Config:
        """The client's settings."""
        return self._config

    def start(self) -> None:
        """Connect and check the schema; idempotent. Raises: SchemaError; DriverError."""
        with self._lock:
            run_sync(self._start())

    def stop(self) -> None:
        """Close what `start` opened; idempotent. A pool, engine or connection of yours stays open."""
        with self._lock:
            self._started_in = None
            run_sync(self._stop())

    def insert(
        self,
        args: JobArgs,
        opts: InsertOpts | None = None,
        *,
        tx: SyncTx | None = None,
        **other: Unpack[NoKeywords],
    ) -> InsertResult:
        """Insert one job, with the parameters and errors of `Client.insert`."""
        if other:
            refuse_insert_keywords(other)
        return self.insert_many([(args, opts)], tx=tx)[0]

    @overload
    def insert_and_wait(
        self,
        args: JobArgs,
        opts: InsertOpts | None = None,
        *,
        returns: type[T],
        timeout: timedelta,
        tx: None = None,
    ) -> T: ...
    @overload
    def insert_and_wait(
        self,
        args: JobArgs,
        opts: InsertOpts | None = None,
        *,
        returns: ResultType = None,
        timeout: timedelta,
        tx: None = None,
    ) -> Json: ...
    def insert_and_wait(
        self,
        args: JobArgs,
        opts: InsertOpts | None = None,
        *,
        returns: ResultType = None,
        timeout: timedelta,
        tx: None = None,
    ) -> Json:
        """
        Insert one job, wait until it completes, and return its output, as `Client.insert_and_wait` does.

        The thread looks after pauses that grow from 0.05 to 1 s.

        Raises: as `Client.insert_and_wait`; ConfigError inside `transaction.atomic` too.
        """
        seconds = checked_wait(self._driver, returns=returns, timeout=timeout, tx=tx)
        result = self.insert(args, awaited_opts(args, opts))
        return result_of(_wait_many(self._driver, [result.job.id], seconds)[0], returns)

    def insert_many(self, jobs: Iterable[Insertable], *, tx: SyncTx | None = None) -> list[InsertResult]:
        """
        Insert jobs in one statement, all or none, and return one result for each, in order.

        Each of `jobs` is args, or a pair of args and options. Raises: as `insert`.
        """
        # An insert through an executor notifies its queues itself; a `SyncClient` has no loop that could do so later.
        executor = self._driver.pool if tx is None else self._driver.executor(tx)
        return run_sync(self._inserter.insert_many(as_pairs(jobs), executor))

    def insert_many_fast(self, jobs: Iterable[Insertable], *, tx: SyncTx | None = None) -> int:
        """
        Insert jobs by COPY, all or none, and return how many, as `Client.insert_many_fast` does.

        Raises: as `insert`; UniqueConflict; whatever `jobs` raises.
        """
        return run_sync(self._insert_many_fast(jobs, tx))

    def insert_flow(self, flow: Flow, *, tx: SyncTx | None = None) -> FlowRow:
        """
        Insert a flow with all of its tasks, all or none, and return it, as `Client.insert_flow` does.

        Raises: as `Client.insert_flow`.
        """
        executor = None if tx is None else self._driver.executor(tx)
        return run_sync(insert_flow(flow, self._inserter, self._driver.pool, executor))

    def migrate(
        self, line: str | None = None, *, target: int | None = None, dry_run: bool = False
    ) -> tuple[MigrationStep, ...]:
        """
        Apply the missing migrations and return them. Needs no `start`.

        Args:
            line: One line of migrations; all of them by default.
            target: The last version to apply; the newest by default.
            dry_run: Apply nothing.

        Raises: MigrationError; ConfigError for an unknown line.
        """
        with self._lock:
            return run_sync(self._migrate(line, target, dry_run=dry_run))

    async def _migrate(
        self, line: str | None, target: int | None, *, dry_run: bool
    ) -> tuple[MigrationStep, ...]:
        await self._driver.open()
        try:
            return await migrate_lines(self._driver, line, target=target, dry_run=dry_run)
        finally:
            if not self._is_started:
                await self._driver.close()

    @property
    def _is_started(self) -> bool:
        return self._started_in == os.getpid()

    @property
    def _lock(self) -> threading.Lock:
        """The lock of starts and stops; each process has its own, because a fork leaves one locked that a thread holds."""
        return self._locks.setdefault(os.getpid(), threading.Lock())

    async def _start(self) -> None:
        await self._driver.open()
        try:
            await require_schema(self._driver.pool, self._config.schema)
        except BaseException:
            if not self._is_started:  # else other threads use what an earlier start has opened
                await self._driver.close()
            raise
        self._started_in = os.getpid()

    async def _stop(self) -> None:
        try:
            await self.blobs.control.aclose()
        finally:
            await self._driver.close()

    async def _insert_many_fast(self, jobs: Iterable[Insertable], tx: SyncTx | None) -> int:
        if tx is not None:
            return await self._inserter.insert_many_fast(jobs, self._driver.executor(tx))
        async with self._driver.pool.begin() as executor:
            return await self._inserter.insert_many_fast(jobs, executor)


def _driver(database: object, using: str | None, schema: str, pool_size: int | None) -> Driver:
    if using is None:
        return sync_driver_of(database, schema, pool_size)
    if database is not None:
        raise ConfigError(
            f"using must be all that names a database, got {using!r} and a {class_name(database)}"
        )
    if pool_size is not None:
        raise ConfigError(
            f"pool_size must be left out with using, got {pool_size!r}; Django opens the connections"
        )
    return django_driver(using, schema)


def _wait_many(driver: Driver, ids: Iterable[int], seconds: float) -> Sequence[JobRow]:
    ordered = checked_ids(ids)
    left = set(ordered)
    if len(left) > NUM_AWAITED_MAX:
        raise TooManyWaits(NUM_AWAITED_MAX)
    rows: dict[JobId, JobRow] = {}
    until, pause = time.monotonic() + seconds, FIRST_PAUSE_SECONDS
    while left:
        to_end = until - time.monotonic()
        ended, away = _ended(driver.pool, left, min(max(to_end, LAST_STATEMENT_SECONDS), TIMEOUT_SECONDS))
        for id, row in ended:
            if row is None:
                raise NotFound("job", id)
            rows[id] = parse_job(row)
        left.difference_update(rows)
        if left and (to_end <= 0 or (away is not None and time.monotonic() >= until)):
            in_transaction = has_open_transaction(driver)
            raise WaitTimeout(
                sorted(left), seconds, len(left) + len(rows), in_transaction=in_transaction
            ) from away
        if left:
            time.sleep(max(min(pause, until - time.monotonic()), 0.0))
            pause = min(pause * PAUSE_GROWTH, PAUSE_SECONDS_MAX)
    return [rows[id] for id in ordered]


def _ended(
    pool: Executor, ids: Collection[JobId], seconds: float
) -> tuple[Sequence[Ended], MillhandError | None]:
    """Return the jobs that have ended; if the database does not answer, none and the error."""
    try:
        return run_sync(pool.run(job_get_ended(ids).within(seconds))), None
    except MillhandError as error:
        if is_transient(error):
            return (), error
        raise


class _SyncControl(Generic[C]):
    def __init__(self, control: C) -> None:
        self.control = control


def _sync(
    method: Callable[Concatenate[C, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[_SyncControl[C], P], R]:
    """Return a method that runs `method` to its end, with the same signature and docstring."""

    @functools.wraps(method)
    def run(sync: _SyncControl[C], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return run_sync(method(sync.control, *args, **kwargs))

    return run


class SyncJobControl(_SyncControl[JobControl]):
    """Reads and changes jobs of any client, as `JobControl` does; `client.jobs`."""

    def __init__(self, control: JobControl, driver: Driver) -> None:
        super().__init__(control)
        self._driver = driver

    def wait(self, id: int, *, timeout: timedelta) -> JobRow:
        """Wait until a job has ended, and return its row, as `JobControl.wait` does. Raises: as that."""
        return self.wait_many([id], timeout=timeout)[0]

    def wait_many(self, ids: Iterable[int], *, timeout: timedelta) -> Sequence[JobRow]:
        """Wait until all of the jobs have ended, and return their rows in the order of `ids`. Raises: as `wait`."""
        return _wait_many(self._driver, ids, seconds_of(timeout))

    get = _sync(JobControl.get)
    list = _sync(JobControl.list)
    count_by_state = _sync(JobControl.count_by_state)
    cancel = _sync(JobControl.cancel)
    retry = _sync(JobControl.retry)
    snooze = _sync(JobControl.snooze)
    delete = _sync(JobControl.delete)
    delete_many = _sync(JobControl.delete_many)
    update_output = _sync(JobControl.update_output)


class SyncQueueControl(_SyncControl[QueueControl]):
    """Reads and changes queues of any client, as `QueueControl` does; `client.queues`."""

    get = _sync(QueueControl.get)
    list = _sync(QueueControl.list)
    pause = _sync(QueueControl.pause)
    resume = _sync(QueueControl.resume)
    update = _sync(QueueControl.update)


class SyncFlowControl(_SyncControl[FlowControl]):
    """Reads, cancels and retries flows, as `FlowControl` does; `client.flows`."""

    get = _sync(FlowControl.get)
    list = _sync(FlowControl.list)
    tasks = _sync(FlowControl.tasks)
    cancel = _sync(FlowControl.cancel)
    retry = _sync(FlowControl.retry)


class SyncLimitControl(_SyncControl[LimitControl]):
    """Reads and changes the limits of queues, as `LimitControl` does; `client.limits`."""

    get = _sync(LimitControl.get)
    list = _sync(LimitControl.list)
    set = _sync(LimitControl.set)
    reset = _sync(LimitControl.reset)
    remove = _sync(LimitControl.remove)
    partitions = _sync(LimitControl.partitions)
    halted = _sync(LimitControl.halted)
    set_partition = _sync(LimitControl.set_partition)
    hold = _sync(LimitControl.hold)
    release = _sync(LimitControl.release)
    resume = _sync(LimitControl.resume)


class SyncScheduleControl(_SyncControl[ScheduleControl]):
    """Reads and changes schedules, as `ScheduleControl` does; `client.schedules`."""

    set = _sync(ScheduleControl.set)
    get = _sync(ScheduleControl.get)
    list = _sync(ScheduleControl.list)
    next_instants = _sync(ScheduleControl.next_instants)
    pause = _sync(ScheduleControl.pause)
    resume = _sync(ScheduleControl.resume)
    remove = _sync(ScheduleControl.remove)
    run_now = _sync(ScheduleControl.run_now)


class SyncDeadJobControl(_SyncControl[DeadJobControl]):
    """Reads, retries and deletes dead letters, as `DeadJobControl` does; `client.dead`."""

    get = _sync(DeadJobControl.get)
    list = _sync(DeadJobControl.list)
    retry = _sync(DeadJobControl.retry)
    delete = _sync(DeadJobControl.delete)


class SyncBlobStore(_SyncControl[BlobStore]):
    """Reads and writes blobs, as `BlobStore` does; `client.blobs`. A store of the settings is opened at the first use."""

    put = _sync(BlobStore.put)
    get = _sync(BlobStore.get)
    download = _sync(BlobStore.download)
