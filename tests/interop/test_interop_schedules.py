"""Kept schedules beside River's leader and its periodic jobs."""

from __future__ import annotations

from datetime import datetime, timedelta

from interop_harness import Harness, Periodic

SECOND = timedelta(seconds=1)
NUM_RUNS = 3


async def test_kept_schedules_run_beside_the_periodic_jobs_of_a_go_leader(harness: Harness) -> None:
    """River's leader inserts its own ticks, Millhand's each instant of a kept schedule once."""
    ticks = [Periodic(id="tick", kind="tick", opts={"unique": {"by_period_seconds": 1}}, seconds=1)]
    await harness.fetch(
        """INSERT INTO /* schema */millhand_schedule (id, definition, next_run_at)
        VALUES ('kept', '{"kind":"kept","args":{},"interval":"PT1S","catch_up":"all"}', date_trunc('second', now()))"""
    )

    async def have_run() -> bool:
        rows = await harness.rows()
        return all(sum(row["kind"] == kind for row in rows) >= NUM_RUNS for kind in ("tick", "kept"))

    async with (
        harness.working("go", "go", periodic_jobs=ticks, leads=True),
        harness.working("python", "python", leads=True),
    ):
        await harness.until_leader("go")
        await harness.until(have_run, "runs of both")
    rows = await harness.rows("WHERE kind = 'kept'")

    due = sorted(datetime.fromisoformat(row["metadata"]["millhand:due_at"]) for row in rows)
    assert due == [due[0] + n * SECOND for n in range(len(due))]
    assert {row["metadata"]["river:periodic_job_id"] for row in rows} == {"kept"}
    found = {row["metadata"]["river:periodic_job_id"] for row in await harness.rows("WHERE kind = 'tick'")}
    assert found == {"tick"}
