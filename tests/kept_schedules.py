"""Schedules of tests: put into the table, run at given instants, and the jobs that they inserted."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import count
from typing import Any

import msgspec

from factory import qualified
from millhand.core.args.codec import RawArgs
from millhand.core.config import Config
from millhand.core.schedule import JobSchedule
from millhand.db.driver.protocol import Executor
from millhand.engine.inserter import Inserter
from millhand.schedules.runner import ScheduleRunner
from millhand.schedules.store import schedule_insert_missing, schedule_lock, schedule_update

NOON = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)


def schedule(id: str = "digest", **given: Any) -> JobSchedule:
    if "cron" not in given and "interval" not in given:
        given["cron"] = "* * * * *"
    return JobSchedule(**{"id": id, "args": RawArgs("digest", "{}"), **given})


async def put(executor: Executor, *schedules: JobSchedule, next_run_at: datetime | None = NOON) -> None:
    """Store schedules that are next due at an instant."""
    async with executor.begin() as tx:
        await tx.run(schedule_insert_missing(schedules))
        locked = await tx.run(schedule_lock([one.id for one in schedules]))
        rows = [msgspec.structs.replace(one.row, next_run_at=next_run_at) for one in locked]
        await tx.run(schedule_update(rows))


class Leader:
    """A leader of a test, which runs schedules at the instants that the test sets."""

    def __init__(self, executor: Executor, now: datetime | None = NOON, config: Config | None = None) -> None:
        self.now = now
        ticks = count()
        inserter = Inserter(executor, config or Config())
        self.runner = ScheduleRunner(
            executor, inserter, monotonic=lambda: float(next(ticks)), now=lambda: self.now
        )

    async def run_at(self, now: datetime | None) -> None:
        self.now = now
        await self.runner.run_once()


async def jobs(executor: Executor, *columns: str) -> list[tuple[Any, ...]]:
    """Return columns of all jobs in the order of their ids; by default the schedule and the instant."""
    names = columns or ("metadata ->> 'river:periodic_job_id'", "metadata ->> 'millhand:due_at'")
    rows = await executor.fetch(
        qualified(
            "SELECT "
            + ", ".join(f"{name} AS c{n}" for n, name in enumerate(names))
            + " FROM /* schema */river_job ORDER BY id",
            executor,
        )
    )
    if columns:
        return [tuple(row.values()) for row in rows]
    return [(row["c0"], datetime.fromisoformat(row["c1"])) for row in rows]
