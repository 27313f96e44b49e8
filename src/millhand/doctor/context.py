"""What the checks share: sessions, settings, and what was loaded once for several checks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Generic, TypeVar

import msgspec

from millhand.core.client_row import ClientState
from millhand.core.errors import MillhandError
from millhand.core.orphans import OrphansConfig
from millhand.core.periodic import PeriodicJob
from millhand.db.driver.protocol import Executor
from millhand.db.migration import migration_get_shape, migration_get_versions
from millhand.db.schema.migrator import LINE_MAIN, lines
from millhand.doctor.bucket_probe import BucketProbe, probe_bucket
from millhand.doctor.deploy_checks import UnworkableJobs
from millhand.doctor.fleet_figures import NoLimits, load_figures
from millhand.doctor.fleet_verdict import Figures
from millhand.doctor.store import (
    IndexState,
    ServerState,
    doctor_get_server,
    doctor_list_indexes,
    doctor_list_tables,
)
from millhand.engine.fleet import Fleet, load_fleet
from millhand.engine.queue_report import QueueReport, load_reports
from millhand.engine.store.audit import audit_get_shape
from millhand.engine.store.leader import LeaderRole, leader_get_seconds_left
from millhand.engine.store.queue_load import queue_list_names
from millhand.limits.waiting_jobs import WAITING_JOBS
from millhand.storage import ObjectStore

T = TypeVar("T")

# Beyond that, the other queues are left out.
QUEUES_MAX = 1_000
# A leader that is stopped in order is followed at once, and one that is killed within its term.
VACANT_FOR = timedelta(seconds=30)


class Deployed(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration that is about to be deployed, and a function that checks whether it can work the queued jobs."""

    name: str
    check_queued: Callable[[Executor], Awaitable[Sequence[UnworkableJobs]]]
    periodic_jobs: Sequence[PeriodicJob]


class FleetState(msgspec.Struct, frozen=True, kw_only=True):
    """The clients, the queues, and the figures about them. `history_error` says why the history is not in the figures."""

    fleet: Fleet
    figures: Figures
    reports: tuple[QueueReport, ...]
    num_queues_left_out: bool
    history_error: MillhandError | None = None


class Once(Generic[T]):
    """A value that is loaded when it is first needed. An error is raised again at each use."""

    def __init__(self, load: Callable[[], Awaitable[T]]) -> None:
        self._load = load
        self._value: list[T] = []
        self._error: MillhandError | None = None

    async def get(self) -> T:
        """Return the value. Raises: as the function that loads it."""
        if self._error is not None:
            raise self._error
        if not self._value:
            try:
                self._value.append(await self._load())
            except MillhandError as error:
                self._error = error
                raise
        return self._value[0]


@dataclass(kw_only=True)
class Context:
    """
    The database, the store and the settings that the checks are about.

    `executor` is one session, and `other_session` opens another one. `schema` is that of the settings, empty for the search
    path. `deployed` and `store` are None if they were not named. `is_retention_known` says that the retention of completed
    jobs is the leader's, and no default.
    """

    executor: Executor
    other_session: Callable[[], AbstractAsyncContextManager[Executor]]
    schema: str
    is_poll_only: bool
    completed_retention: timedelta | None
    is_retention_known: bool
    orphans: OrphansConfig
    store: ObjectStore | None = None
    deployed: Deployed | None = None
    server: Once[ServerState] = field(init=False)
    bucket: Once[BucketProbe] = field(init=False)
    indexes: Once[list[IndexState]] = field(init=False)
    tables: Once[frozenset[str]] = field(init=False)
    applied: Once[Mapping[str, frozenset[int]]] = field(init=False)
    fleet: Once[FleetState] = field(init=False)

    def __post_init__(self) -> None:
        self.server = Once(lambda: self.executor.run(doctor_get_server()))
        self.indexes = Once(lambda: self.executor.run(doctor_list_indexes()))
        self.tables = Once(lambda: self.executor.run(doctor_list_tables()))
        self.applied = Once(self._load_applied)
        self.fleet = Once(self._load_fleet)
        self.bucket = Once(self._probe_bucket)

    async def _probe_bucket(self) -> BucketProbe:
        assert self.store is not None  # noqa: S101 - the checks of a bucket run only with a store
        return await probe_bucket(self.executor, self.store)

    async def _load_applied(self) -> Mapping[str, frozenset[int]]:
        """Return the applied versions by line; empty without the table of versions."""
        shape = await self.executor.run(migration_get_shape())
        if not shape.has_table:
            return {}
        names = lines() if shape.has_line else (LINE_MAIN,)
        return {
            line: await self.executor.run(migration_get_versions(line, has_line=shape.has_line))
            for line in names
        }

    async def _load_fleet(self) -> FleetState:
        executor, now = self.executor, (await self.server.get()).at
        fleet = await load_fleet(executor, now)
        names = await executor.run(queue_list_names(limit=QUEUES_MAX + 1))
        waiting = WAITING_JOBS if await WAITING_JOBS.are_there(executor) else None
        reports = await load_reports(executor, fleet, names[:QUEUES_MAX], waiting=waiting)
        load = partial(load_figures, executor, NoLimits(), now, fleet=fleet, reports=reports)
        has_history = await executor.run(audit_get_shape())  # of the same migration
        history_error = None
        try:
            figures = await load(has_history=has_history)
        except MillhandError as error:
            if not has_history:
                raise
            history_error, figures = error, await load(has_history=False)
        vacant = [role for role in figures.vacant if await self._is_vacant_for_long(role, fleet, now)]
        return FleetState(
            fleet=fleet,
            figures=msgspec.structs.replace(figures, vacant=vacant),
            reports=reports,
            num_queues_left_out=len(names) > QUEUES_MAX,
            history_error=history_error,
        )

    async def _is_vacant_for_long(self, role: LeaderRole, fleet: Fleet, now: datetime) -> bool:
        """Return whether a role has been vacant for so long that clients should have elected a leader."""
        seconds_left = await self.executor.run(leader_get_seconds_left(leader_role=role))
        if seconds_left is not None:
            return -seconds_left > VACANT_FOR.total_seconds()
        started = [
            row.started_at for row in fleet.clients if row.state is ClientState.WORKING and row.started_at
        ]
        return not started or now - min(started) > VACANT_FOR
