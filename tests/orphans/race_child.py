"""
A run in its own process. It asks before each call of the database or the store, and waits for permission.

The other end of the pipe decides what happens in between, which process continues, and whether this one is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import race_mutants
from adversary import ChaosExecutor, ChaosStore, ClumsyStore
from race_record import Record, RecordedExecutor, RecordedStore

from millhand.core.errors import DriverError, MillhandError
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.orphans import OrphansConfig, reconcile
from millhand.orphans.inventory import duckdb_engine
from millhand.orphans.scan import partitions
from millhand.storage import Capabilities, ObjectStore, open_store
from millhand.testing import ManualClock

COUNTED = (
    "aborted_uploads",
    "alerts",
    "deleted",
    "deleted_rows",
    "kept",
    "purged",
    "quarantined",
    "restored",
)


class Elsewhere(ChaosStore):
    """A directory that has the URL of a bucket, because only buckets are listed in partitions."""

    @property
    def url(self) -> str:
        return f"s3://elsewhere{self._store.url.removeprefix('file://')}"


class Lying(ClumsyStore):
    """A server that lists in no order and claims that it does."""

    async def probe(self) -> Capabilities:
        return replace(await super().probe(), is_ordered=True, has_exact_start_after=True)


WRAPPERS = {"plain": ChaosStore, "elsewhere": Elsewhere, "clumsy": ClumsyStore, "lying": Lying}


@dataclass(frozen=True, kw_only=True)
class Task:
    """One run. `skew` is how far the database's clock is ahead of all others."""

    config: OrphansConfig
    now: datetime
    skew: timedelta = timedelta(0)


@dataclass(frozen=True, kw_only=True)
class Seat:
    """Where a process runs: its database, schema, store and record, and the step that is broken on purpose."""

    mutant: str | None
    record: Path
    schema: str
    store_url: str
    url: str
    wrapper: str


@dataclass(kw_only=True)
class Gate:
    """Asks for permission, one call at a time. The whole process waits meanwhile."""

    connection: Connection
    broken: list[str] = field(default_factory=list)  # from then on, to the end of the run
    num_open: int = 0  # transactions, at least: one that was rolled back is never taken off

    async def __call__(self, operation: str) -> None:
        self.connection.send(("call", (operation, self.num_open > 0)))
        self.num_open += (operation == "begin") - (operation == "committed")
        answer = self.connection.recv()
        if answer == "break":
            self.broken.append(answer)
        if self.broken and operation == "fetch":
            raise DriverError("SELECT", "a source that is broken")


def serve(connection: Connection, seat: Seat) -> None:
    """Run one task after the other until the other end is closed."""
    logging.disable(logging.CRITICAL)
    os.chdir(seat.record.parent)  # if the race is killed, its warden ends what runs there
    race_mutants.apply(seat.mutant)
    # No clock moves while all processes wait for permission.
    duckdb_engine.BEAT_SECONDS = 3_600.0
    partitions.RETRY_SECONDS = 0.001
    with contextlib.suppress(BrokenPipeError, EOFError):
        asyncio.run(_serve(connection, seat))


async def _serve(connection: Connection, seat: Seat) -> None:
    gate = Gate(connection=connection)
    driver = AsyncpgDriver(seat.url, seat.schema)
    await driver.open()
    record = Record(seat.record, f"P{os.getpid()}")
    store = WRAPPERS[seat.wrapper](RecordedStore(open_store(seat.store_url), record), gate)
    executor = ChaosExecutor(RecordedExecutor(driver.pool, record), store.hook)
    while True:
        try:
            task = connection.recv()
        except EOFError:
            break
        gate.broken.clear()
        gate.num_open = 0
        connection.send(("done", await _work(executor, store, task, gate)))
    await driver.close()


async def _work(executor: ChaosExecutor, store: ObjectStore, task: Task, gate: Gate) -> Mapping[str, Any]:
    try:
        clock = ManualClock((await driver_now(executor)) - task.skew)
        report = await reconcile(executor, store, task.config, now=task.now + task.skew, clock=clock)
    except (MillhandError, ExceptionGroup) as error:
        return {"state": "failed", "reason": f"{type(error).__name__}: {error}"}
    figures = {name: getattr(report, name) for name in COUNTED}
    return figures | {
        "is_first": report.is_first,
        "is_resumed": report.is_resumed,
        "mode": report.mode.value,
        "reason": "; ".join(report.abort_reasons),
        "state": report.state,
    }


async def driver_now(executor: ChaosExecutor) -> datetime:
    """Return the database's own time."""
    rows = await executor._executor.fetch("SELECT now() AS now")
    return rows[0]["now"]  # type: ignore[no-any-return]
