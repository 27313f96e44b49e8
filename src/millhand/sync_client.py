"""
The front desk for code without an event loop: inserts and controls, in your own transaction or in one of its own.

It works no jobs; what is the same as in `Client` has its names, its errors and its code.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from millhand.args.codec import JobArgs
from millhand.config import Config
from millhand.control import ALL_JOBS, JobControl, JobPage, QueueControl
from millhand.driver.blocking import now
from millhand.driver.detect import django_driver, kind_of, sync_driver_of
from millhand.driver.protocol import Driver
from millhand.errors import ConfigError
from millhand.insert_opts import InsertOpts, InsertResult
from millhand.job import JobRow, JobState, Json
from millhand.queue import QueueRow
from millhand.runtime.inserter import Inserter
from millhand.schema.migrator import MigrationStep, Migrator, lines, require_schema
from millhand.store.job_list import LIMIT_DEFAULT, JobFilters, SortField

if TYPE_CHECKING:
    import psycopg_pool
    import sqlalchemy

    Database = (
        str | psycopg_pool.ConnectionPool[Any] | sqlalchemy.Engine | Driver | Any
    )  # Django has no types

# An element of insert_many: args, or args with options.
Insertable: TypeAlias = JobArgs | tuple[JobArgs, InsertOpts | None]


class SyncClient:
    """
    Inserts jobs and controls them from synchronous code, by psycopg.

    `database` is a URL, a psycopg_pool.ConnectionPool, a SQLAlchemy Engine on psycopg, or a connection of Django's, for
    which `using` may name its alias. With a URL, use it as `with SyncClient(…) as client`, or call `start` and `stop`;
    what is yours is used as it is, and need not be started. On Django's connection everything is part of the
    `transaction.atomic` that is open. Of `config` only what concerns inserts is used; its queues are for workers.

    Raises: ConfigError, when made, for a database that is none.
    Concurrency: any number of threads. Hooks and middleware are those of `Client`, and must not wait.
    """

    def __init__(
        self, database: Database | None = None, config: Config | None = None, *, using: str | None = None
    ) -> None:
        config = Config() if config is None else config
        self._is_started = False
        self._speak(_driver(database, using, config.schema), config)

    def _speak(self, driver: Driver, config: Config) -> None:
        """Say everything through `driver`, as `Client` does."""
        self._config = config
        self._driver = driver
        self._inserter = Inserter(driver.pool, config)
        self.jobs = SyncJobControl(JobControl(driver, config.clock))
        self.queues = SyncQueueControl(QueueControl(driver))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def config(self) -> Config:
        """The configuration it was made with."""
        return self._config

    def start(self) -> None:
        """Connect, and see that the schema is right; idempotent. Raises: SchemaError; DriverError."""
        now(self._start())

    def stop(self) -> None:
        """Close what `start` opened; idempotent. What you brought stays open."""
        self._is_started = False
        now(self._driver.close())

    def insert(
        self, args: JobArgs, opts: InsertOpts | None = None, *, tx: object | None = None
    ) -> InsertResult:
        """
        Insert one job, as `Client.insert`; `tx` is a connection of yours, and the job is part of its transaction.

        There is no savepoint, so an error of the database leaves your transaction to be rolled back.

        Raises: InvalidJob and UnknownKind, and then nothing was sent; TypeError for a `tx` that is none; DriverError.
        """
        return self.insert_many([(args, opts)], tx=tx)[0]

    def insert_many(self, jobs: Iterable[Insertable], *, tx: object | None = None) -> list[InsertResult]:
        """
        Insert jobs in one statement, all or none; each is args, or a pair of args and options.

        Shape: one result per job, in order. Raises: as `insert`.
        """
        pairs = [job if isinstance(job, tuple) else (job, None) for job in jobs]
        # With an executor each insert announces its queues: nobody is here who could do so later.
        executor = self._driver.pool if tx is None else self._driver.executor(tx)
        return now(self._inserter.insert_many(pairs, executor))

    def insert_many_fast(self, jobs: Iterable[Insertable], *, tx: object | None = None) -> int:
        """
        Insert jobs by COPY, all or none, and return how many, as `Client.insert_many_fast`.

        Raises: as `insert`; UniqueConflict; whatever `jobs` raises.
        """
        return now(self._insert_many_fast(jobs, tx))

    def migrate(
        self, line: str | None = None, *, target: int | None = None, dry_run: bool = False
    ) -> tuple[MigrationStep, ...]:
        """
        Apply what is not applied yet of a line, up to and with `target`, or of all lines; return what was done.

        Needs no `start`, which would refuse a schema that is not migrated.

        Raises: MigrationError; ConfigError for a line that there is not.
        """
        names = lines() if line is None else (line,)  # main sorts before millhand, which needs it
        return now(self._migrate(names, target, dry_run=dry_run))

    async def _migrate(
        self, names: Sequence[str], target: int | None, *, dry_run: bool
    ) -> tuple[MigrationStep, ...]:
        await self._driver.open()
        try:
            migrators = [Migrator(self._driver, name) for name in names]
            steps = [await migrator.up(target=target, dry_run=dry_run) for migrator in migrators]
        finally:
            if not self._is_started:
                await self._driver.close()
        return tuple(itertools.chain.from_iterable(steps))

    async def _start(self) -> None:
        await self._driver.open()
        try:
            await require_schema(self._driver.pool, self._config.schema)
        except BaseException:
            await self._driver.close()
            raise
        self._is_started = True

    async def _insert_many_fast(self, jobs: Iterable[Insertable], tx: object | None) -> int:
        if tx is not None:
            return await self._inserter.insert_many_fast(jobs, self._driver.executor(tx))
        async with self._driver.pool.begin() as executor:
            return await self._inserter.insert_many_fast(jobs, executor)


def _driver(database: object, using: str | None, schema: str) -> Driver:
    if using is None:
        return sync_driver_of(database, schema)
    if database is not None:
        raise ConfigError(f"using must be all that names a database, got {using!r} and a {kind_of(database)}")
    return django_driver(using, schema)


class SyncJobControl:
    """What can be done to jobs, whoever works them; `client.jobs`, as `JobControl`."""

    def __init__(self, control: JobControl) -> None:
        self._control = control

    def get(self, id: int, *, tx: object | None = None) -> JobRow:
        """Return one job. Raises: NotFound."""
        return now(self._control.get(id, tx=tx))

    def list(
        self,
        filters: JobFilters = ALL_JOBS,
        *,
        after: str | JobRow | None = None,
        descending: bool = False,
        limit: int = LIMIT_DEFAULT,
        order_by: SortField | str = SortField.ID,
        tx: object | None = None,
    ) -> JobPage:
        """Return a page of the jobs that pass `filters`. Raises: ValueError for what cannot be asked; InvalidWhere."""
        page = self._control.list(
            filters, after=after, descending=descending, limit=limit, order_by=order_by, tx=tx
        )
        return now(page)

    def count_by_state(
        self, states: Iterable[JobState] = JobState, *, tx: object | None = None
    ) -> Mapping[JobState, int]:
        """Return how many jobs are in each of `states`. Counting reads them all: ask for those you want to know."""
        return now(self._control.count_by_state(states, tx=tx))

    def cancel(self, id: int, *, tx: object | None = None) -> JobRow:
        """Cancel a job, and return it as it is then; one that runs is asked to end. Raises: NotFound."""
        return now(self._control.cancel(id, tx=tx))

    def retry(self, id: int, *, tx: object | None = None) -> JobRow:
        """Make a job available at once, and return it as it is then. Raises: NotFound; UniqueConflict."""
        return now(self._control.retry(id, tx=tx))

    def delete(self, id: int, *, tx: object | None = None) -> JobRow:
        """Delete a job that is not running, and return what it was. Raises: NotFound, JobRunning."""
        return now(self._control.delete(id, tx=tx))

    def delete_many(
        self,
        filters: JobFilters,
        *,
        limit: int = LIMIT_DEFAULT,
        tx: object | None = None,
        unsafe_all: bool = False,
    ) -> Sequence[JobRow]:
        """Delete jobs that pass `filters`, and return what they were. Raises: ValueError; InvalidWhere."""
        return now(self._control.delete_many(filters, limit=limit, tx=tx, unsafe_all=unsafe_all))

    def update_output(self, id: int, output: Json, *, tx: object | None = None) -> JobRow:
        """Store a job's output, any JSON value. Raises: NotFound; ValueError if it does not encode."""
        return now(self._control.update_output(id, output, tx=tx))


class SyncQueueControl:
    """What can be done to queues, whoever works them; `client.queues`, as `QueueControl`."""

    def __init__(self, control: QueueControl) -> None:
        self._control = control

    def get(self, name: str, *, tx: object | None = None) -> QueueRow:
        """Return one queue. Raises: NotFound."""
        return now(self._control.get(name, tx=tx))

    def list(
        self, *, after_name: str = "", limit: int = LIMIT_DEFAULT, tx: object | None = None
    ) -> Sequence[QueueRow]:
        """Return up to `limit` queues by name, those behind `after_name`."""
        return now(self._control.list(after_name=after_name, limit=limit, tx=tx))

    def pause(self, name: str, *, tx: object | None = None) -> None:
        """Have all clients stop to fetch from a queue, or from every one for `*`. Raises: NotFound, never for `*`."""
        now(self._control.pause(name, tx=tx))

    def resume(self, name: str, *, tx: object | None = None) -> None:
        """Have all clients fetch from a queue again, or from every one for `*`. Raises: NotFound, never for `*`."""
        now(self._control.resume(name, tx=tx))

    def update(
        self, name: str, *, metadata: Mapping[str, Json] | None = None, tx: object | None = None
    ) -> QueueRow:
        """Replace a queue's metadata and tell all clients. Raises: NotFound; DriverError."""
        return now(self._control.update(name, metadata=metadata, tx=tx))
