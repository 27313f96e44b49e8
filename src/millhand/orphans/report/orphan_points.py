"""The orphan cleanup as metrics: the last finished run of each bucket, and when one last completed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from millhand.core.metrics import definitions
from millhand.core.metrics.points import Points, numbers
from millhand.engine.fleet import Runner
from millhand.orphans.ledger import Run
from millhand.orphans.report.ledger_report import (
    ledger_get_shape,
    run_get_completed_at,
    run_list_before,
    store_list,
)

# The newest run may still be unfinished; more than that is unusual.
RUNS_MAX = 3


async def read_orphan_points(runner: Runner) -> Sequence[Points]:
    """Read the last finished run of each bucket; without the ledger's tables, there are no points."""
    if not await runner.run(ledger_get_shape()):
        return ()
    runs: list[Run] = []
    completed_at: dict[str, datetime | None] = {}
    for store in await runner.run(store_list()):
        found = await runner.run(run_list_before(store.bucket, before_id=None, limit=RUNS_MAX))
        finished = [run for run in found if run.finished_at is not None][:1]
        runs += finished
        if finished:
            completed_at[store.bucket] = await runner.run(run_get_completed_at(store.bucket))
    return orphan_points(runs, completed_at)


def orphan_points(runs: Sequence[Run], completed_at: Mapping[str, datetime | None]) -> list[Points]:
    """Return the points of finished runs, one of each bucket; a bucket without a completed run has the time 0."""
    objects: dict[tuple[str, ...], float] = {}
    num_bytes: dict[tuple[str, ...], float] = {}
    removed: dict[tuple[str, ...], float] = {}
    alerts: dict[tuple[str, ...], float] = {}
    finished_at: dict[tuple[str, ...], float] = {}
    for run in runs:
        labels = (run.bucket,)
        objects[labels], num_bytes[labels] = run.totals.orphan_objects, run.totals.orphan_bytes
        removed[labels], alerts[labels] = run.totals.removed, run.totals.alerts
        finished_at[labels] = _timestamp(run.finished_at)
    return [
        numbers(definitions.ORPHAN_OBJECTS, objects),
        numbers(definitions.ORPHAN_BYTES, num_bytes),
        numbers(definitions.ORPHAN_REMOVED, removed),
        numbers(definitions.ORPHAN_ALERTS, alerts),
        numbers(definitions.ORPHAN_FINISHED_AT, finished_at),
        numbers(
            definitions.ORPHAN_COMPLETED_AT,
            {(bucket,): _timestamp(at) for bucket, at in completed_at.items()},
        ),
    ]


def _timestamp(at: datetime | None) -> float:
    return 0.0 if at is None else at.timestamp()
