"""
The client: builds the engine, starts and stops it in order, and inserts jobs.

A client holds references and no state of its own. Producers own the running attempts, the completer the pending
changes, the elector the leadership term. Nothing below imports this module.

    start:  driver ▸ schema check ▸ listener, heartbeat, queues in parallel ▸ fetches ▸ pollers, services, electors
    stop:   producers ▸ attempts: wait, then cancel, then abandon ▸ completer ▸ services ▸ term ▸ listener ▸ driver
"""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections.abc import AsyncIterable, Collection, Iterable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, overload

from millhand.blob_store import BlobStore
from millhand.capabilities import CAPABILITIES, JOB_CHANGES
from millhand.core.args.codec import JobArgs
from millhand.core.config import Config, QueueConfig, default_client_id
from millhand.core.errors import ConfigError, NotStarted
from millhand.core.event import Event, EventKind, JobEvent, JobEventKind
from millhand.core.insert_opts import Insertable, InsertOpts, InsertResult, as_pairs
from millhand.core.job import ClientId, Json
from millhand.core.log.context_fields import database_named
from millhand.core.log.logger import logger_of
from millhand.core.metrics.points import Points
from millhand.core.other_keywords import NoKeywords, refuse_insert_keywords
from millhand.core.periodic import PeriodicJob
from millhand.core.result import ResultType, result_of
from millhand.db.driver.detect import driver_of
from millhand.db.driver.protocol import Driver, Executor
from millhand.db.schema.migrator import MigrationStep, migrate_lines, require_schema
from millhand.dead_jobs.control import DeadJobControl
from millhand.engine.awaited_jobs import AwaitedJobs, awaited_opts, checked_wait
from millhand.engine.client_metrics import ClientMetrics
from millhand.engine.control import AttemptControl, ClientControl, JobControl, QueueControl
from millhand.engine.engine import Engine
from millhand.engine.finished import finished
from millhand.engine.heartbeat import Heartbeat, with_heartbeat
from millhand.engine.inserter import Inserter
from millhand.engine.outage import Outage, OutageDriver
from millhand.engine.own_loop_driver import OwnLoopDriver
from millhand.engine.service import LoopLock
from millhand.engine.store.client import client_ping
from millhand.engine.store.leader import LeaderRole, leader_request_resign
from millhand.engine.subscription import BUFFER_SIZE, Subscription, Subscriptions
from millhand.flows.control import FlowControl
from millhand.flows.flow import Flow, FlowRow
from millhand.flows.inserter import insert_flow
from millhand.limits.control import LimitControl
from millhand.schedules.control import ScheduleControl

if TYPE_CHECKING:
    import asyncpg
    import psycopg_pool
    from sqlalchemy.ext.asyncio import AsyncEngine

    from millhand.core.tx_types import Tx

    Database = str | asyncpg.Pool[Any] | psycopg_pool.AsyncConnectionPool[Any] | AsyncEngine | Driver

logger = logger_of(__name__)

T = TypeVar("T")


class Client:
    """
    Inserts jobs, controls them, and works them if its configuration has queues.

    Use it as `async with Client(…) as client`, or call `start` and `stop`. A client without queues needs a start too.

        async with Client("postgresql://…", Config(queues={"default": 100}, workers=workers)) as client:
            await client.insert(SendEmail(to="ada@example.com"))

    Args:
        database: A URL; a pool of yours of asyncpg or psycopg; an AsyncEngine of SQLAlchemy; or a driver, which the
            client then owns and closes.
        config: All settings; by default the client only inserts.
        pool_size: How many connections the client's pool has at most, if `database` is a URL; 10 by default. A client
            that works jobs opens one more, which listens.

    Raises: ConfigError if `database` is of another type, or for a `pool_size` of your own pool.

    Concurrency: belongs to the event loop that started it, and can be started again after a stop, also in another.
    """

    def __init__(
        self, database: Database, config: Config | None = None, *, pool_size: int | None = None
    ) -> None:
        config = Config() if config is None else config
        self._bind_driver(driver_of(database, config.schema, pool_size), config)
        self.blobs = BlobStore(config.blob_store)
        self._lock = LoopLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._engine: Engine | None = None
        self._stops: set[asyncio.Future[None]] = set()
        self._subscriptions = Subscriptions()
        self.id = ClientId(
            self._config.client_id or default_client_id(socket.gethostname(), self._config.clock.now())
        )

    def _bind_driver(self, driver: Driver, config: Config) -> None:
        """Use `driver` for every statement. Tests call it again, with their transaction and clock."""
        self._config = config
        self._driver = driver
        self._metrics = ClientMetrics()
        self._outage = Outage()
        self._recorded_driver = OutageDriver(driver, self._outage)
        built_in = (Heartbeat.kind,) if config.queues and config.heartbeat_interval is not None else ()
        pool = self._recorded_driver.pool
        self._own_loop_driver = own = OwnLoopDriver(driver, self._require_own_loop)
        self._inserter = Inserter(pool, config, built_in_kinds=built_in, metrics=self._metrics)
        self.attempts = AttemptControl(driver, config.clock)
        self.clients = ClientControl(own, config.clock)
        self._awaited = AwaitedJobs(pool, self._require_own_loop)
        self.dead = DeadJobControl(own)
        self.flows = FlowControl(driver, self._inserter, lambda: self.loop, self._require_own_loop)
        self.jobs = JobControl(own, config.clock, self._awaited, changes=JOB_CHANGES)
        self.limits = LimitControl(own)
        self.queues = QueueControl(own, config.clock)
        self.schedules = ScheduleControl(own)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def config(self) -> Config:
        """The client's settings."""
        return self._config

    @property
    def driver(self) -> Driver:
        """The client's database driver, for what is built beside it, such as the web page."""
        return self._driver

    @property
    def is_leader(self) -> bool:
        """Whether this client is the leader and runs the maintenance services, as far as it knows."""
        return self._engine is not None and self._engine.leads(LeaderRole.RIVER)

    @property
    def is_periodic_leader(self) -> bool:
        """Whether this client holds Millhand's own leader role and inserts the periodic jobs, as far as it knows."""
        return self._engine is not None and self._engine.leads(LeaderRole.PERIODIC)

    def read_metrics(self) -> Sequence[Points]:
        """
        Return the values of this client's metrics, as [the reference](docs/reference/metrics.md) lists them.

        `millhand.contrib.prometheus` and `millhand.contrib.opentelemetry` read them. Concurrency: any thread may call it.
        """
        return self._metrics.collect()

    @property
    def is_database_reachable(self) -> bool:
        """Whether the database answered last, as far as this client knows. Other threads may read it."""
        return self._outage.is_reachable

    @property
    def limited_queues(self) -> Collection[str]:
        """The queues that have a limit, as far as this client knows; none before its start."""
        return () if self._engine is None else self._engine.rules.queues

    @property
    def num_running(self) -> int:
        """How many attempts run in this client now."""
        return 0 if self._engine is None else self._engine.num_running

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """
        The event loop that started this client. Await the client's coroutines only there.

        A plain function runs in a thread and inserts with
        `asyncio.run_coroutine_threadsafe(job.client.insert(…), job.client.loop).result()`.

        Raises: NotStarted if the client was never started.
        """
        if self._loop is None:
            raise NotStarted
        return self._loop

    async def start(self) -> None:
        """
        Connect, check the schema, and begin to work; idempotent.

        Raises: ConfigError for queues or periodic jobs without workers; SchemaError; ConnectionLost and other DriverErrors.
        """
        self._require_own_loop()
        async with self._lock:
            if self._engine is None:
                with database_named(self._config.database):
                    await self._start(self._config)

    async def _start(self, config: Config) -> None:
        if config.queues:
            config.require_startable()
            config = with_heartbeat(config)
            config.require_workers_of(config.periodic_jobs)
        self._loop = asyncio.get_running_loop()
        await self._driver.open()
        try:
            await require_schema(self._driver.pool, self._config.schema)
            self._engine = self._build_engine(config)  # before its start: the first jobs may use this client
            await self._engine.start()
        except BaseException:
            self._engine = None
            await finished(self._driver.close())
            raise
        if self._config.queues:
            queues = ",".join(f"{name}:{q.max_workers}" for name, q in self._config.queue_configs.items())
            kinds = ",".join(config.workers.kinds)
            logger.info("worker started", extra={"client_id": self.id, "queues": queues, "kinds": kinds})

    async def stop(self, *, soft_stop_timeout: timedelta | None = None, signal: str | None = None) -> None:
        """
        Stop fetching, wait for running attempts, and write all pending changes; idempotent.

        Args:
            soft_stop_timeout: How long attempts may continue; by default as configured. After it, they are cancelled, and
                their jobs are available again, without counting the attempt.
            signal: The name of the signal that caused the stop, for the log.

        Raises: ConfigError if a job of this client calls it, or another event loop than that of `start`.

        Concurrency: `cancel_attempts` cuts the wait short. If the caller is cancelled, the stop continues in the
        background, and another call waits for it.
        """
        self._require_own_loop()
        if self._engine is not None:
            self._engine.refuse_own_jobs()
        with database_named(self._config.database):
            stop = asyncio.ensure_future(self._stop(soft_stop_timeout, signal))
        self._stops.add(stop)
        stop.add_done_callback(self._stops.discard)
        await asyncio.shield(stop)

    async def _stop(self, soft_stop_timeout: timedelta | None, signal: str | None) -> None:
        async with self._lock:
            engine = self._engine
            if engine is None:
                return
            is_worker, began = bool(self._config.queues), asyncio.get_running_loop().time()
            if is_worker:
                logger.info("worker stopping", extra={"signal": signal, "running": engine.num_running})
            timeout = self._config.soft_stop_timeout if soft_stop_timeout is None else soft_stop_timeout
            try:
                await engine.stop(soft_stop_seconds=None if timeout is None else timeout.total_seconds())
            finally:
                self._engine = None
                self._subscriptions.close()
                await self._awaited.stop()
                await self.blobs.aclose()
                await self._driver.close()
            if is_worker:
                num, ended = engine.completer.num_by_kind, asyncio.get_running_loop().time()
                counts = {"completed": num[EventKind.JOB_COMPLETED], "failed": num[EventKind.JOB_FAILED]}
                logger.info("worker stopped", extra={**counts, "seconds": round(ended - began, 3)})

    def cancel_attempts(self) -> None:
        """Cancel running attempts instead of waiting for them, in a stop that is under way or in the next one."""
        if self._engine is not None:
            self._engine.cancel_attempts()

    async def migrate(
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
        self._require_own_loop()
        async with self._lock:
            await self._driver.open()
            try:
                return await migrate_lines(self._driver, line, target=target, dry_run=dry_run)
            finally:
                if self._engine is None:
                    await self._driver.close()

    async def wait_crashed(self) -> BaseException:
        """
        Wait until a part of this client crashes, and return its error.

        A crashed client works no jobs, or only some. Stop it and end the process. Raises: NotStarted.
        """
        self._require_own_loop()
        return await self._require_engine().wait_crashed()

    async def insert(
        self,
        args: JobArgs,
        opts: InsertOpts | None = None,
        *,
        tx: Tx | None = None,
        **other: Unpack[NoKeywords],
    ) -> InsertResult:
        """
        Insert one job.

        Args:
            args: A dataclass, msgspec Struct, pydantic model or attrs class with a kind, or `function.args(…)`.
            opts: Options of this insert. They take precedence over those of the args class.
            tx: A connection of yours. The job is then part of its transaction, committed and rolled back with it.
                Millhand makes no savepoint, so after an error of the database the transaction must be rolled back.

        Concurrency: after a cancellation, the job may or may not exist. With `tx`, roll the transaction back.

        Raises:
            InvalidJob, UnknownKind: Before anything is sent.
            NotStarted: If the client is not started, and `tx` is None.
            TypeError: If `tx` is no connection that the client's driver can use.
            DriverError: If the database rejects the insert.

        Source: River v0.51.2, client.go `Insert, InsertTx`.
        """
        if other:
            refuse_insert_keywords(other)
        return (await self.insert_many([(args, opts)], tx=tx))[0]

    @overload
    async def insert_and_wait(
        self,
        args: JobArgs,
        opts: InsertOpts | None = None,
        *,
        returns: type[T],
        timeout: timedelta,  # noqa: ASYNC109 - of the wait, not of the insert
        tx: None = None,
    ) -> T: ...
    @overload
    async def insert_and_wait(
        self,
        args: JobArgs,
        opts: InsertOpts | None = None,
        *,
        returns: ResultType = None,
        timeout: timedelta,  # noqa: ASYNC109 - of the wait, not of the insert
        tx: None = None,
    ) -> Json: ...
    async def insert_and_wait(
        self,
        args: JobArgs,
        opts: InsertOpts | None = None,
        *,
        returns: ResultType = None,
        timeout: timedelta,  # noqa: ASYNC109 - of the wait, not of the insert
        tx: None = None,
    ) -> Json:
        """
        Insert one job, wait until it completes, and return its output: what `@workers.add(output=True)` records.

        The row of the job is kept, whatever `keep_completed` says. If the job is a duplicate of a unique job, the client
        awaits that job, whose row `keep_completed=False` may delete if completed jobs do not hold its key.

        Args:
            returns: The type that the output is decoded as; see `result_of`. None returns plain JSON values.
            timeout: How long to wait after the insert.
            tx: Leave it out. In a transaction of yours, the job starts only after your commit.

        Raises:
            JobFailed, JobCancelled: If the job was discarded or cancelled.
            WaitTimeout: If it has not ended after `timeout`. The job continues.
            InvalidOutput: If it has no output, or one that does not decode as `returns`.
            NotFound: If its row was deleted, as that of such a duplicate.
            ConfigError: If `tx` is given, `timeout` is not positive, or nothing can be decoded into `returns`.
            Exception: As `insert` and `client.jobs.wait`.
        """
        self._require_own_loop()
        seconds = checked_wait(self._driver, returns=returns, timeout=timeout, tx=tx)
        self._awaited.require_room()
        job = await self._awaited.insert_and_wait(self.insert(args, awaited_opts(args, opts)), seconds)
        return result_of(job, returns)

    async def insert_many(self, jobs: Iterable[Insertable], *, tx: Tx | None = None) -> list[InsertResult]:
        """
        Insert jobs in one statement, all or none, and return one result for each, in order.

        Each of `jobs` is args, or a pair of args and options. The database rejects two jobs with one unique key in one
        call. Raises: as `insert`, which explains `tx`.
        """
        self._require_own_loop()
        return await self._inserter.insert_many(as_pairs(jobs), self._executor(tx))

    async def insert_many_fast(
        self, jobs: Iterable[Insertable] | AsyncIterable[Insertable], *, tx: Tx | None = None
    ) -> int:
        """
        Insert jobs by COPY, all or none, and return how many; for hundreds of thousands.

        No rows are returned and duplicates are not skipped: a unique key that is taken fails the whole call.
        Middleware gets batches of up to 500 params and no results.

        Args:
            jobs: Args, or pairs of args and options, read while they are copied. One connection is held until the end
                of `jobs`, so an iterator must not use the connection of `tx`.
            tx: As for `insert`.

        Raises:
            UniqueConflict: If a unique key is taken.
            Exception: As `insert`, and whatever `jobs` raises. After the first batch, each error leaves the
                transaction of `tx` to be rolled back.

        Source: River v0.51.2, client.go `InsertManyFast, InsertManyFastTx`.
        """
        self._require_own_loop()
        return await self._inserter.insert_many_fast(jobs, self._executor(tx))

    async def insert_flow(self, flow: Flow, *, tx: Tx | None = None) -> FlowRow:
        """
        Insert a flow with all of its tasks, all or none, and return it.

        Args:
            flow: A graph of tasks. It is inserted once.
            tx: As for `insert`.

        Raises:
            ConfigError: If the schema has the tables of River Pro's workflows.
            Exception: As `insert`, and whatever the iterators of `Flow.add_many` raise. With `tx`, roll it back then.
        """
        self._require_own_loop()
        return await insert_flow(flow, self._inserter, self._recorded_driver.pool, self._executor(tx))

    # Events, and changes while the client runs.

    @overload
    def subscribe(
        self, kind: JobEventKind, /, *kinds: JobEventKind, buffer_size: int = BUFFER_SIZE
    ) -> Subscription[JobEvent]: ...
    @overload
    def subscribe(self, *kinds: EventKind, buffer_size: int = BUFFER_SIZE) -> Subscription[Event]: ...
    def subscribe(self, *kinds: EventKind, buffer_size: int = BUFFER_SIZE) -> Subscription[Event]:
        """
        Return a stream of the events of this client's own jobs and queues.

        Args:
            kinds: Which events; all by default. With kinds of jobs only, the events are `JobEvent`s.
            buffer_size: How many events wait for a slow reader. Beyond it, new ones are dropped.

        Raises: ConfigError for an unknown kind.
        """
        return self._subscriptions.subscribe(kinds, buffer_size=buffer_size)

    async def ping(self) -> float:
        """Return how long the database takes to answer, in seconds. Raises: DriverError."""
        loop = asyncio.get_running_loop()
        before = loop.time()
        await self._own_loop_driver.pool.run(client_ping())
        return loop.time() - before

    async def request_resign(self, *, tx: Tx | None = None) -> None:
        """
        Ask the leader, in any language, and the client that inserts Millhand's periodic jobs, to resign.

        Returns when the request is sent. Raises: DriverError. Source: River v0.51.2, client.go `RequestResign`.
        """
        executor = self._executor(tx) or self._own_loop_driver.pool
        for leader_role in LeaderRole:
            await executor.run(leader_request_resign(leader_role=leader_role))

    async def add_queue(self, name: str, queue: QueueConfig | int) -> None:
        """
        Begin to work one more queue, or raise and add nothing. Settings that `queue` leaves out are the client's.

        Raises: ConfigError for an invalid or known queue, or a client that has none or is stopping; DriverError.
        """
        self._require_own_loop()
        checked = dataclasses.replace(self._config, queues={name: queue})
        await self._require_engine().add_queue(name, checked.queue_configs[name])

    async def remove_queue(self, name: str) -> None:
        """Stop working a queue, and wait for its running jobs to end. Raises: ConfigError if it is not worked."""
        self._require_own_loop()
        await self._require_engine().remove_queue(name)

    def add_periodic_job(self, job: PeriodicJob) -> None:
        """
        Insert one more periodic job while this client leads.

        Raises: ConfigError for an id in use, a kind without a worker, or if this client never leads.
        """
        self._require_engine().add_periodic_job(job)

    def remove_periodic_job(self, job: PeriodicJob | str) -> None:
        """Stop inserting a periodic job, named by itself or its id. Raises: ConfigError if it is unknown."""
        self._require_engine().remove_periodic_job(job)

    def _build_engine(self, config: Config) -> Engine:
        return Engine(
            config,
            self._recorded_driver,
            CAPABILITIES,
            awaited=self._awaited,
            client=self,
            client_id=self.id,
            inserter=self._inserter,
            metrics=self._metrics,
            outage=self._outage,
            subscriptions=self._subscriptions,
        )

    def _executor(self, tx: Tx | None) -> Executor | None:
        return None if tx is None else self._driver.executor(tx)

    def _require_own_loop(self) -> None:
        if self._engine is not None and asyncio.get_running_loop() is not self._loop:
            raise ConfigError(
                f"client must be used in the event loop in which it was started, got {self.id!r} in another; from a "
                "thread write asyncio.run_coroutine_threadsafe(client.insert(…), client.loop).result()"
            )

    def _require_engine(self) -> Engine:
        if self._engine is None:
            raise NotStarted
        return self._engine
