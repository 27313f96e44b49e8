"""A fetched job is the row that anyone else reads, although a fetch reads other columns."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from store_rows import NOW, put_job

from factory import qualified
from millhand.core.job import ClientId, JobState
from millhand.db.driver.protocol import Executor
from millhand.engine.store.fetched_job import Instants
from millhand.engine.store.job import job_get_available, job_get_by_ids, job_get_lost
from odd_rows import WORKABLE, WORKABLE_ALONE

CLIENT = ClientId("client_a")
LAST = datetime.max.replace(tzinfo=UTC)
FIRST = datetime.min.replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("microseconds", "instant"),
    [
        (0, datetime(2000, 1, 1, tzinfo=UTC)),
        (-1, datetime(1999, 12, 31, 23, 59, 59, 999_999, UTC)),
        (2**63 - 1, LAST),
        (-(2**63), FIRST),
        ((LAST - datetime(2000, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1), LAST),
        ((LAST - datetime(2000, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) + 1, LAST),
    ],
)
def test_instants_are_microseconds_since_2000(microseconds: int, instant: datetime) -> None:
    """Infinite instants, and those beyond Python's years, are the first and the last of these."""
    assert Instants()[microseconds.to_bytes(8, "big", signed=True)] == instant


@pytest.mark.slow  # some rows have megabytes
async def test_fetched_jobs_are_what_their_rows_are(tx: Executor) -> None:
    """Of rows that any program may have written, each field of each fetched job is that of the row."""
    changes = [*WORKABLE.values(), *WORKABLE_ALONE.values(), "tags = '{a,b}'", "priority = 3"]
    for change in changes:
        job = await put_job(tx, JobState.AVAILABLE)
        await tx.fetch(qualified(f"UPDATE /* schema */river_job SET {change} WHERE id = {job.id}", tx))

    fetched = await tx.run(job_get_available(queue="default", limit=100, client_id=CLIENT))

    rows = await tx.run(job_get_by_ids([job.id for job in fetched]))
    assert len(fetched) == len(changes)
    assert sorted(fetched, key=lambda job: job.id) == rows
    lost = await tx.run(job_get_lost(queue="default", client_id=CLIENT, after=NOW - timedelta(days=1)))
    assert {job.id: job for job in lost}.items() <= {job.id: job for job in fetched}.items()
