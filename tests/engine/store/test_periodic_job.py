"""Claims about the statements that find periodic jobs by their runs."""

from __future__ import annotations

import pytest
from store_rows import HOUR, NOW, put_job

from dropped_indexes import DROP
from millhand.core.job import JobState
from millhand.db.driver.protocol import Executor
from millhand.engine.store.periodic_job import (
    PeriodicJobId,
    PeriodicRun,
    periodic_job_list_ids,
    periodic_job_list_runs,
)


def marked(id: str) -> str:
    return f'{{"periodic": true, "river:periodic_job_id": "{id}"}}'


async def test_periodic_jobs_are_found_by_their_runs(tx: Executor) -> None:
    """Each id in a run is found once, with the kind and queue of its newest run; other jobs are not periodic."""
    await put_job(tx, kind="report", metadata=marked("nightly"), queue="old")
    await put_job(tx, JobState.COMPLETED, kind="report", metadata=marked("nightly"), queue="reports")
    await put_job(tx, kind="tick", metadata=marked("tick"))
    await put_job(tx, kind="report")
    await put_job(tx, kind="odd", metadata='{"river:periodic_job_id": 7}')

    found = await tx.run(periodic_job_list_ids())

    assert found == [PeriodicJobId("nightly", "report", "reports"), PeriodicJobId("tick", "tick", "default")]


@pytest.mark.parametrize("has_index", [True, False])
async def test_runs_of_a_periodic_job_come_newest_first(tx: Executor, has_index: bool) -> None:
    """
    The newest runs of each id are returned, in whatever state, and how many there are; an unknown id has none.

    It is the same if the index of metadata is off.
    """
    if not has_index:
        await tx.execute_script(DROP)
    ids = [
        (
            await put_job(tx, state, kind="report", metadata=marked("nightly"), created_at=NOW - hours * HOUR)
        ).id
        for hours, state in ((3, JobState.COMPLETED), (2, JobState.DISCARDED), (1, JobState.AVAILABLE))
    ]
    by_hand = marked("tick").replace("}", ', "millhand:run_now": true}')
    other = await put_job(tx, kind="tick", metadata=by_hand, created_at=NOW)

    runs = await tx.run(periodic_job_list_runs(["nightly", "none", "tick"], limit=2))

    assert runs == [
        PeriodicRun("nightly", ids[2], "report", "default", JobState.AVAILABLE, NOW - HOUR, 3),
        PeriodicRun("nightly", ids[1], "report", "default", JobState.DISCARDED, NOW - 2 * HOUR, 3),
        PeriodicRun("tick", other.id, "tick", "default", JobState.AVAILABLE, NOW, 1, is_run_now=True),
    ]
