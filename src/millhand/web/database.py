"""The database of the web page: statements with a short deadline, and the control API for changes."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TypeVar

from millhand.capabilities import JOB_CHANGES
from millhand.core.clock import Clock
from millhand.core.errors import MillhandError, OperationTimeout
from millhand.db.driver.protocol import Driver, Executor
from millhand.db.query import Query
from millhand.dead_jobs.page_store import dead_job_is_readable
from millhand.doctor.periodic_figures import load_runs
from millhand.engine.control import ClientControl, JobControl, QueueControl
from millhand.engine.store.audit import audit_get_shape
from millhand.engine.store.bulk_change import bulk_change_get_shape
from millhand.engine.store.client import client_get_shape
from millhand.engine.store.periodic_job import PeriodicRun
from millhand.engine.waiting_jobs import WaitingJobs
from millhand.flows.store import flow_get_shape
from millhand.limits.waiting_jobs import WAITING_JOBS
from millhand.orphans.report.ledger_report import ledger_get_shape
from millhand.schedules.store import schedule_get_shape

T = TypeVar("T")

# A slower page does not help its reader, and its statement would slow the workers.
STATEMENT_SECONDS = 2.0
PERIODIC_EVERY = timedelta(minutes=1)


class StatementTimes:
    """
    How long the database worked on statements: what each took longer than the fastest one, which took a round trip.

    Units: seconds.
    """

    def __init__(self) -> None:
        self._fastest = math.inf
        self.busy_seconds = 0.0

    def record(self, took_seconds: float) -> None:
        self._fastest = min(self._fastest, took_seconds)
        self.busy_seconds += took_seconds - self._fastest


class WebDatabase:
    """
    One database as the page uses it.

    `name` is that of one of several. `completed_retention` is how long the settings keep completed jobs. It opens with the
    first request, because a mounted application gets no start event.
    Concurrency: any number of requests of one event loop at once.
    """

    def __init__(
        self,
        driver: Driver,
        clock: Clock,
        *,
        name: str = "",
        is_owner: bool = True,
        completed_retention: timedelta | None = None,
    ) -> None:
        self.name = name
        self.completed_retention = completed_retention
        self._periodic: Sequence[PeriodicRun] = ()
        self._periodic_at: datetime | None = None
        self.driver = driver
        self._is_owner = is_owner
        self._opening = asyncio.Lock()
        self._is_open = False
        self._failure: MillhandError | None = None
        self._num_failures = 0
        self.times = StatementTimes()
        self._has_clients = False
        self._has_audit = False
        self._has_bulk = False
        self._has_dead_jobs = False
        self._has_flows = False
        self._has_ledger = False
        self._has_limits = False
        self._has_schedules = False
        self.clock = clock
        self.clients = ClientControl(driver, clock)
        self.jobs = JobControl(driver, clock, changes=JOB_CHANGES)
        self.queues = QueueControl(driver, clock)

    @property
    def log_fields(self) -> dict[str, str]:
        """Its name, for log messages of a page of several databases."""
        return {"database": self.name} if self.name else {}

    async def open(self) -> None:
        """
        Connect, once. Raises: as `Driver.open`; the next request tries again.

        Requests that wait for one attempt fail with it: one after the other, each would wait for an attempt of its own.
        """
        num_failures = self._num_failures
        if self._is_open:
            return
        async with self._opening:
            if self._is_open:
                return
            if self._failure is not None and self._num_failures > num_failures:
                raise self._failure
            try:
                await self.driver.open()
            except MillhandError as error:
                self._failure, self._num_failures = error, self._num_failures + 1
                raise
            self._is_open = True

    async def close(self) -> None:
        """Close the driver, unless it is that of a client."""
        self._is_open = False
        if self._is_owner:
            await self.driver.close()

    async def run(self, query: Query[T]) -> T:
        """Run a statement of a page. Raises: as `Executor.run`."""
        began = time.monotonic()
        try:
            return await self.driver.pool.run(query.within(min(query.timeout_seconds, STATEMENT_SECONDS)))
        finally:
            self.times.record(time.monotonic() - began)

    async def periodic_runs(self) -> Sequence[PeriodicRun]:
        """
        Return the last runs of the periodic jobs, as they were a minute ago at most.

        To find them costs more than a page may wait for each time, and may take too long. Then there are none: each job
        would look late by older ones.
        """
        now = self.clock.now()
        age = PERIODIC_EVERY * 2 if self._periodic_at is None else abs(now - self._periodic_at)
        if age >= PERIODIC_EVERY:
            if age >= PERIODIC_EVERY * 2:
                self._periodic = ()
            self._periodic_at = now  # other requests use what is there
            try:
                self._periodic = await load_runs(self)
            except OperationTimeout:
                self._periodic = ()
        return self._periodic

    async def has_client_tables(self) -> bool:
        """Return whether line `millhand` is migrated; a fleet of Go clients alone may not have its tables."""
        if not self._has_clients:
            self._has_clients = await self.run(client_get_shape())
        return self._has_clients

    async def has_audit_table(self, tx: Executor | None = None) -> bool:
        """Return whether changes can be recorded in the audit table. Within a transaction, pass it: it has a connection."""
        if not self._has_audit:
            query = audit_get_shape()
            self._has_audit = await (self.run(query) if tx is None else tx.run(query))
        return self._has_audit

    async def has_bulk_tables(self) -> bool:
        """Return whether changes of many jobs can be made."""
        if not self._has_bulk:
            self._has_bulk = await self.run(bulk_change_get_shape())
        return self._has_bulk

    async def has_dead_jobs(self) -> bool:
        """Return whether the table of dead letters is there and may be read."""
        if not self._has_dead_jobs:
            self._has_dead_jobs = await self.run(dead_job_is_readable())
        return self._has_dead_jobs

    async def has_limit_tables(self) -> bool:
        """Return whether the tables of limits are there and may be read."""
        if not self._has_limits:
            self._has_limits = await WAITING_JOBS.are_there(self)
        return self._has_limits

    async def waiting_jobs(self) -> WaitingJobs | None:
        """Return the jobs that wait for slots; None if the tables of limits are not there."""
        return WAITING_JOBS if await self.has_limit_tables() else None

    async def has_flow_tables(self) -> bool:
        """Return whether the tables of flows are there and may be read."""
        if not self._has_flows:
            self._has_flows = await self.run(flow_get_shape())
        return self._has_flows

    async def has_schedule_table(self) -> bool:
        """Return whether the table of schedules is there and may be read."""
        if not self._has_schedules:
            self._has_schedules = await self.run(schedule_get_shape())
        return self._has_schedules

    async def has_orphan_ledger(self) -> bool:
        """Return whether the tables of the orphan cleanup are there."""
        if not self._has_ledger:
            self._has_ledger = await self.run(ledger_get_shape())
        return self._has_ledger
