"""Kept schedules, and periodic jobs: their last runs, and when the next one is expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from types import MappingProxyType

import msgspec

from millhand.core.job import JobId, JobState
from millhand.core.unique import REQUIRED_STATES
from millhand.doctor.fleet_verdict import LATE_GRACE
from millhand.doctor.periodic_figures import interval_of
from millhand.engine.store.periodic_job import (
    RUNS_MAX,
    PeriodicRun,
    PeriodicSource,
    periodic_job_list_ids,
    periodic_job_list_runs,
    periodic_job_list_sources,
)
from millhand.schedules.page import Schedules, load_schedules
from millhand.schedules.run_now import NUM_RUNS, source_of
from millhand.schedules.store import schedule_list_kept
from millhand.shells.web.hiding import Hiding
from millhand.shells.web.page import PageRequest
from millhand.web.search_conditions import SCANNED_LENGTH

ARGS_LENGTH = 200
NO_COPIES: Mapping[JobId, RunCopy] = MappingProxyType({})


class Run(msgspec.Struct, frozen=True):
    """A run: its job, the job's state, when it was inserted, and whether a person inserted it."""

    job_id: JobId
    state: JobState
    inserted_at: datetime
    is_run_now: bool = False


class RunCopy(msgspec.Struct, frozen=True, kw_only=True):
    """What "run now" inserts: a copy of this job. `args` are cut, and None if they are large."""

    job_id: JobId
    args: str | None
    priority: int
    max_attempts: int
    tags: tuple[str, ...] = ()


class PeriodicJob(msgspec.Struct, frozen=True, kw_only=True):
    """
    A periodic job, as its runs show it.

    Attributes:
        id: The id that its program gave it.
        kind: The kind of its newest run.
        queue: The queue of its newest run.
        runs: The last 24 runs, newest first.
        num_runs: How many runs are in the table. 2,000 is at least that: then only those among the newest jobs are here.
        interval: The time between its runs, if they are regular.
        expected_at: When the next run is expected, if its runs are regular.
        is_late: Whether the next run, and one more, were expected more than a minute ago.
        copy: What "run now" inserts; None while a run waits or runs, because that refuses another one.
    """

    id: str
    kind: str
    queue: str
    runs: tuple[Run, ...]
    num_runs: int
    interval: timedelta | None = None
    expected_at: datetime | None = None
    is_late: bool = False
    copy: RunCopy | None = None


class PeriodicPage(msgspec.Struct, frozen=True, kw_only=True):
    """
    The schedules that the database keeps, and by id the other periodic jobs that have runs in the table.

    `schedules` is None without their table. Clients do not store the other periodic jobs that they declare. So one that has
    not run since finished jobs were last deleted is not here, nor is one without an id.
    """

    jobs: tuple[PeriodicJob, ...]
    runs_max: int = RUNS_MAX
    schedules: Schedules | None = None


async def load(request: PageRequest) -> PeriodicPage:
    """Load the periodic jobs and their last runs."""
    user, run = request.user, request.database.run
    schedules = await load_schedules(request)
    found = await run(periodic_job_list_ids())
    kept = {} if schedules is None else await run(schedule_list_kept([one.id for one in found]))
    ids = [one.id for one in found if one.id not in kept and user.sees(queue=one.queue, kind=one.kind)]
    runs = await run(periodic_job_list_runs(ids, limit=NUM_RUNS))
    by_id = {
        id: [one for one in of_job if user.sees(queue=one.queue, kind=one.kind)]
        for id, of_job in groupby(runs, key=lambda one: one.periodic_job_id)
    }
    ids_copied = [source_of(of_job).id for of_job in by_id.values() if of_job]
    sources = await run(periodic_job_list_sources(ids_copied, args_length=SCANNED_LENGTH))
    copies = {source.id: _copy(source, request.hide) for source in sources}
    return PeriodicPage(
        jobs=tuple(periodic_job(id, of_job, request.now, copies) for id, of_job in by_id.items() if of_job),
        schedules=schedules,
    )


def periodic_job(
    id: str, runs: Sequence[PeriodicRun], now: datetime, copies: Mapping[JobId, RunCopy] = NO_COPIES
) -> PeriodicJob:
    """Return a periodic job from its runs, newest first. Runs that persons inserted do not count for its interval."""
    scheduled = [run.created_at for run in runs if not run.is_run_now]
    interval = interval_of(scheduled)
    expected_at = None if interval is None else scheduled[0] + interval
    return PeriodicJob(
        id=id,
        kind=runs[0].kind,
        queue=runs[0].queue,
        runs=tuple(Run(run.id, run.state, run.created_at, run.is_run_now) for run in runs),
        num_runs=runs[0].num_runs,
        interval=interval,
        expected_at=expected_at,
        is_late=expected_at is not None
        and interval is not None
        and now > expected_at + interval + LATE_GRACE,
        copy=None if runs[0].state in REQUIRED_STATES else copies.get(source_of(runs).id),
    )


def _copy(source: PeriodicSource, hide: Hiding) -> RunCopy:
    args = None if source.args is None else hide.json("args", source.args)[:ARGS_LENGTH]
    return RunCopy(
        job_id=source.id,
        args=args,
        priority=source.priority,
        max_attempts=source.max_attempts,
        tags=source.tags,
    )
