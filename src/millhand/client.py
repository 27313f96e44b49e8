"""
The front desk: wires the engine, starts it, stops it in order, and takes inserts.

A client owns references, no state: running attempts are the producers', pending changes the completer's, the term the
elector's. Nothing below imports this module.

    start:  driver ▸ schema is right ▸ listener, report, queues, at once ▸ fetches ▸ pollers, services, electors
    stop:   producers ▸ attempts: wait, then cancel, then abandon ▸ completer ▸ services ▸ term ▸ listener ▸ driver
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import socket
from collections.abc import AsyncIterable, Iterable
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias, overload

from millhand.args.codec import JobArgs
from millhand.attempt_control import AttemptControl
from millhand.config import Config, QueueConfig, default_client_id
from millhand.control import ClientControl, JobControl, QueueControl
from millhand.driver.detect import driver_of
from millhand.driver.protocol import Driver
from millhand.engine.engine import Engine
from millhand.errors import ConfigError
from millhand.event import Event, EventKind, JobEvent, JobEventKind
from millhand.insert_opts import InsertOpts, InsertResult
from millhand.job import ClientId
from millhand.periodic import PeriodicJob
from millhand.runtime.inserter import Inserter
from millhand.runtime.subscription import BUFFER_SIZE, Subscription, Subscriptions
from millhand.schema.migrator import require_schema
from millhand.store.leader import LeaderRole, leader_request_resign

if TYPE_CHECKING:
    import asyncpg
    import psycopg_pool
    from sqlalchemy.ext.asyncio import AsyncEngine

    Database = str | asyncpg.Pool[Any] | psycopg_pool.AsyncConnectionPool[Any] | AsyncEngine | Driver

logger = logging.getLogger(__name__)

# An element of insert_many: args, or args with options.
Insertable: TypeAlias = JobArgs | tuple[JobArgs, InsertOpts | None]


class Client:
    """
    One process's part in the fleet: inserts jobs and, with queues in its configuration, works them.

    `database` is a URL, a pool of yours, of asyncpg or psycopg, an AsyncEngine of SQLAlchemy's, or a driver, which is
    then this client's: a stop closes it. Use it as
    `async with Client(…) as client`, or call `start` and `stop`. A client without queues only inserts and
    controls; it too wants to be started.

    Raises: ConfigError, when made, for a database that is none.
    Concurrency: belongs to the event loop in which it was started; may be started again after it was stopped.
    Nothing is global: any number of clients may live in one process.
    """

    def __init__(self, database: Database, config: Config | None = None) -> None:
        config = Config() if config is None else config
        self._speak(driver_of(database, config.schema), config)
        self._lock = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._engine: Engine | None = None
        self._started_at = 0.0
        self._stops: set[asyncio.Future[None]] = set()
        self._subscriptions = Subscriptions()
        self.id = ClientId(
            self._config.client_id or default_client_id(socket.gethostname(), self._config.clock.now())
        )

    def _speak(self, driver: Driver, config: Config) -> None:
        """Say everything through `driver`; once, but for tests, which put a transaction and a clock of theirs there."""
        self._config = config
        self._driver = driver
        self._inserter = Inserter(driver.pool, config)
        self.attempts = AttemptControl(driver, config.clock)
        self.clients = ClientControl(driver, config.clock)
        self.jobs = JobControl(driver, config.clock)
        self.queues = QueueControl(driver)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def config(self) -> Config:
        """The configuration it was made with."""
        return self._config

    @property
    def is_leader(self) -> bool:
        """Whether this client sweeps for all at the moment, as far as it knows."""
        river = None if self._engine is None else self._engine.leadership.river
        return river is not None and river.is_leader

    @property
    def is_periodic_leader(self) -> bool:
        """Whether this client inserts the periodic jobs at the moment, in Millhand's own leader role, as far as it knows."""
        periodic = None if self._engine is None else self._engine.leadership.periodic
        return periodic is not None and periodic.is_leader

    @property
    def num_running(self) -> int:
        """How many attempts run in this client now."""
        return 0 if self._engine is None else self._engine.num_running

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """
        The event loop in which this client was started; everything asynchronous of it must be awaited there.

        A plain function, which runs in a thread, inserts so:
        `asyncio.run_coroutine_threadsafe(job.client.insert(…), job.client.loop).result()`.
        Raises: ConfigError if the client was never started.
        """
        if self._loop is None:
            raise ConfigError(f"client must be started first, got {self.id!r} which is not")
        return self._loop

    # Starting and stopping.

    async def start(self) -> None:
        """
        Connect, see that the schema is right, and begin to work; idempotent.

        Raises: ConfigError for queues without workers; SchemaError; ConnectionLost and other DriverErrors.
        """
        self._require_own_loop()
        async with self._lock:
            if self._engine is not None:
                return
            if self._config.queues:
                self._config.require_startable()
            self._loop = asyncio.get_running_loop()
            await self._driver.open()
            try:
                await require_schema(self._driver.pool, self._config.schema)
                self._engine = self._new_mill()  # before it starts: its first jobs may use this client
                await self._engine.start()
            except BaseException:
                self._engine = None
                await self._driver.close()
                raise
            self._started_at = asyncio.get_running_loop().time()
            if self._config.queues:
                logger.info("worker started", extra=self._start_fields())

    async def stop(self, *, soft_stop_timeout: timedelta | None = None, signal: str | None = None) -> None:
        """
        Stop in order: fetch no more, wait for running attempts, write everything pending. Idempotent.

        Attempts that outlast `soft_stop_timeout` (None: the configuration's, and if that is None too, no end) are
        cancelled and given back; the attempt does not count. `signal` is only told in the log.

        Raises: ConfigError in a job of this client's own, or in another event loop than that of `start`.
        Concurrency: `cancel_attempts` makes a stop that is waiting hard. To be cancelled only ends the wait: the stop
        goes on, and whoever calls this again waits for its end.
        """
        self._require_own_loop()
        if self._engine is not None:
            self._engine.refuse_own_jobs()
        stop = asyncio.ensure_future(self._stop(soft_stop_timeout, signal))
        self._stops.add(stop)
        stop.add_done_callback(self._stops.discard)
        await asyncio.shield(stop)

    async def _stop(self, soft_stop_timeout: timedelta | None, signal: str | None) -> None:
        async with self._lock:
            engine = self._engine
            if engine is None:
                return
            is_worker = bool(self._config.queues)
            began = asyncio.get_running_loop().time()
            if is_worker:
                logger.info("worker stopping", extra={"signal": signal, "running": engine.num_running})
            timeout = self._config.soft_stop_timeout if soft_stop_timeout is None else soft_stop_timeout
            try:
                await engine.stop(soft_stop_seconds=None if timeout is None else timeout.total_seconds())
            finally:
                self._engine = None
                self._subscriptions.close()
                await self._driver.close()
            if is_worker:
                seconds = round(asyncio.get_running_loop().time() - began, 3)
                logger.info("worker stopped", extra={**_counts(engine), "seconds": seconds})

    def cancel_attempts(self) -> None:
        """Make a stop hard, the one that is going on or the next one: cancel attempts instead of waiting for them."""
        if self._engine is not None:
            self._engine.cancel_attempts()

    async def wait_crashed(self) -> BaseException:
        """
        Return the error of which a part of this client crashed; wait for ever while all is well.

        After a crash the client works no more, or only half: stop it and end the process.
        Raises: ConfigError if the client is not started.
        """
        return await self._require_mill().wait_crashed()

    # Inserting.

    async def insert(
        self, args: JobArgs, opts: InsertOpts | None = None, *, tx: object | None = None
    ) -> InsertResult:
        """
        Insert one job, for `args` of a dataclass, msgspec struct, pydantic model, attrs class, or `function.args(…)`.

        With `tx`, a connection of yours, the job is part of its transaction: committed with it, gone with its rollback.
        There is no savepoint, so an error of the database leaves your transaction to be rolled back.

        Raises: InvalidJob and UnknownKind, and then nothing was sent; TypeError for a `tx` that is none; DriverError.
        Source: River v0.51.2, client.go `Insert, InsertTx`.
        """
        return (await self.insert_many([(args, opts)], tx=tx))[0]

    async def insert_many(
        self, jobs: Iterable[Insertable], *, tx: object | None = None
    ) -> list[InsertResult]:
        """
        Insert jobs in one statement, all or none; each is args, or a pair of args and options.

        Shape: one result per job, in order. Two jobs with one unique key in one call are refused by the database.
        Raises: as `insert`.
        """
        self._require_own_loop()
        pairs = [job if isinstance(job, tuple) else (job, None) for job in jobs]
        executor = None if tx is None else self._driver.executor(tx)
        return await self._inserter.insert_many(pairs, executor)

    async def insert_many_fast(
        self, jobs: Iterable[Insertable] | AsyncIterable[Insertable], *, tx: object | None = None
    ) -> int:
        """
        Insert jobs by COPY, all or none, and return how many; for hundreds of thousands, taken as they come.

        Nothing is known of the rows, and nothing is skipped: a unique key that is taken fails all. Middleware is given
        batches of up to 500 and gets no results. One connection is kept for as long as `jobs` has any, so what makes
        them must not need that of `tx`.

        Raises: as `insert`; UniqueConflict; whatever `jobs` raises. Each leaves the transaction of `tx` to be rolled
        back, unless it concerns the first batch.
        Source: River v0.51.2, client.go `InsertManyFast, InsertManyFastTx`.
        """
        self._require_own_loop()
        return await self._inserter.insert_many_fast(jobs, None if tx is None else self._driver.executor(tx))

    # Watching, and changing what is worked.

    @overload
    def subscribe(
        self, kind: JobEventKind, /, *kinds: JobEventKind, buffer_size: int = BUFFER_SIZE
    ) -> Subscription[JobEvent]: ...
    @overload
    def subscribe(self, *kinds: EventKind, buffer_size: int = BUFFER_SIZE) -> Subscription[Event]: ...
    def subscribe(self, *kinds: EventKind, buffer_size: int = BUFFER_SIZE) -> Subscription[Event]:
        """
        Return a stream of events of this client's own jobs and queues; of all kinds if none is named.

        Those of jobs are `JobEvent`s: if only such kinds are named, to a type checker too.

        Raises: ConfigError for an unknown kind.
        """
        return self._subscriptions.subscribe(kinds, buffer_size=buffer_size)

    async def ping(self) -> float:
        """Return how long the database takes to answer, in seconds. Raises: as the driver."""
        loop = asyncio.get_running_loop()
        before = loop.time()
        await self._driver.pool.fetch("SELECT 1")
        return loop.time() - before

    async def request_resign(self, *, tx: object | None = None) -> None:
        """
        Ask whoever leads to resign, in whatever language it is written, and whoever inserts our periodic jobs.

        Returns when it is said, not when it is done.

        Raises: as the driver. Source: River v0.51.2, client.go `RequestResign`.
        """
        executor = self._driver.pool if tx is None else self._driver.executor(tx)
        for leader_role in LeaderRole:
            await executor.run(leader_request_resign(leader_role=leader_role))

    async def add_queue(self, name: str, queue: QueueConfig | int) -> None:
        """
        Begin to work one more queue, with the client's own settings where it has none.

        Raises: ConfigError for a queue that cannot be, or is worked already, or if the client was started without
        queues or is stopping; DriverError, and then nothing was added.
        """
        checked = dataclasses.replace(self._config, queues={name: queue})
        await self._require_mill().add_queue(name, checked.queue_configs[name])

    async def remove_queue(self, name: str) -> None:
        """Stop to work a queue; returns when its running jobs have ended. Raises: ConfigError if it is not worked."""
        await self._require_mill().remove_queue(name)

    def add_periodic_job(self, job: PeriodicJob) -> None:
        """
        Have one more periodic job inserted while this client leads.

        Raises: ConfigError for an id in use, or if this client never leads.
        """
        self._require_mill().add_periodic_job(job)

    def remove_periodic_job(self, job: PeriodicJob | str) -> None:
        """Insert a periodic job, or that with an id, no more. Raises: ConfigError if there is none such."""
        self._require_mill().leadership.enqueuer.remove(job)

    def _new_mill(self) -> Engine:
        return Engine(
            self._config,
            self._driver,
            client=self,
            client_id=self.id,
            inserter=self._inserter,
            subscriptions=self._subscriptions,
        )

    def _require_own_loop(self) -> None:
        if self._engine is not None and asyncio.get_running_loop() is not self._loop:
            raise ConfigError(
                f"client must be used in the event loop in which it was started, got {self.id!r} in another; from a "
                "thread write asyncio.run_coroutine_threadsafe(client.insert(…), client.loop).result()"
            )

    def _require_mill(self) -> Engine:
        if self._engine is None:
            raise ConfigError(f"client must be started first, got {self.id!r} which is not")
        return self._engine

    def _start_fields(self) -> dict[str, object]:
        queues = ",".join(f"{name}:{queue.max_workers}" for name, queue in self._config.queue_configs.items())
        return {"client_id": self.id, "queues": queues, "kinds": ",".join(self._config.workers.kinds)}


def _counts(engine: Engine) -> dict[str, int]:
    counts = engine.completer.num_by_kind
    return {"completed": counts[EventKind.JOB_COMPLETED], "failed": counts[EventKind.JOB_FAILED]}
