"""Which periodic jobs are late, by the rows of their runs: the jobs that clients declare are not stored."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import groupby, pairwise
from statistics import median

from millhand.doctor.fleet_verdict import PeriodicFigures
from millhand.engine.fleet import Runner
from millhand.engine.store.periodic_job import PeriodicRun, periodic_job_list_ids, periodic_job_list_runs
from millhand.schedules.store import schedule_get_shape, schedule_list_kept

# Of each periodic job: some of them may be runs that a person inserted.
NUM_RUNS = 8
# Leaders change, and inserts take a while: gaps that differ by less are regular.
REGULAR_SHARE = 0.2


async def load_runs(runner: Runner) -> list[PeriodicRun]:
    """
    Load the newest runs of all periodic jobs, without those of schedules that are kept, unless these are late.

    It reads more rows than the other figures together.
    """
    ids = [one.id for one in await runner.run(periodic_job_list_ids())]
    has_schedules = await runner.run(schedule_get_shape())
    if ids and has_schedules:
        kept = await runner.run(schedule_list_kept(ids))
        ids = [id for id in ids if kept.get(id, True)]
    return await runner.run(periodic_job_list_runs(ids, limit=NUM_RUNS))


def periodic_figures(runs: Sequence[PeriodicRun], now: datetime) -> list[PeriodicFigures]:
    """Return the figures of the regular periodic jobs from their runs, newest first for each id."""
    figures = []
    for id, of_job in groupby(runs, key=lambda run: run.periodic_job_id):
        inserted = [run.created_at for run in of_job if not run.is_run_now]
        interval = interval_of(inserted)
        if interval is not None:
            figures.append(PeriodicFigures(id=id, inserted_before=now - inserted[0], interval=interval))
    return figures


def interval_of(instants: Sequence[datetime]) -> timedelta | None:
    """Return the time between instants, newest first, if there are three and their gaps are about the same."""
    gaps = [(newer - older).total_seconds() for newer, older in pairwise(instants)]
    if len(gaps) < 2:  # noqa: PLR2004 - one gap shows no regularity
        return None
    middle = median(gaps)
    is_regular = all(abs(gap - middle) <= REGULAR_SHARE * middle for gap in gaps)
    return timedelta(seconds=round(middle)) if is_regular and middle >= 1 else None
