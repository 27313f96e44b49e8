"""Claims about a run of a periodic job before its time."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from factory import NOW, insert_job
from millhand.core.errors import MillhandError, NotFound
from millhand.core.insert_opts import InsertOpts, insert_params_many
from millhand.core.job import JobRow, JobState
from millhand.core.unique import DEFAULT_STATES, REQUIRED_STATES, UniqueOpts, states_mask
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.engine.maintenance.periodic_job_enqueuer import periodic_params
from millhand.engine.store.job_insert import job_insert_many
from millhand.jobs import OrphanCleanup
from millhand.jobs.orphan_cleanup import UNFINISHED
from millhand.schedules.run_now import run_periodic_job

MARKED = '{"periodic": true, "river:periodic_job_id": "nightly"}'
KEY = b"k" * 32
# The states in which a job holds its key: Millhand's built-in jobs, and the default of every client.
HELD_UNFINISHED, HELD_COMPLETED = states_mask(REQUIRED_STATES), states_mask(DEFAULT_STATES)


async def put_run(tx: Executor, state: JobState = JobState.COMPLETED, **columns: object) -> JobRow:
    return await insert_job(tx, state, **{"metadata": MARKED, "kind": "report", **columns})


async def test_copy_is_as_the_leader_would_insert_it(tx: Executor) -> None:
    """The copy has args, options, key and metadata of the last run of a leader, and nothing of what its work wrote."""
    await put_run(tx, args='{"day": 1}')
    metadata = (
        '{"periodic": true, "river:periodic_job_id": "nightly", "river:log": [], "output": 7, "snoozes": 2,'
        ' "millhand:due_at": "2026-03-10T12:00:00Z", "team": "a"}'
    )
    source = await put_run(
        tx, args='{"day": 2}', max_attempts=3, metadata=metadata, priority=2, queue="reports", tags=["eu_1"],
        unique_key=KEY, unique_states=HELD_UNFINISHED,
    )  # fmt: skip
    await insert_job(tx, JobState.COMPLETED, kind="report", args='{"day": 9}')  # not of the leader

    copy = await run_periodic_job(tx, "nightly")

    fields = (
        "kind",
        "encoded_args",
        "max_attempts",
        "priority",
        "queue",
        "tags",
        "unique_key",
        "unique_states",
    )
    assert [getattr(copy, field) for field in fields] == [getattr(source, field) for field in fields]
    assert copy.metadata == {
        "periodic": True, "river:periodic_job_id": "nightly", "millhand:run_now": True, "team": "a",
    }  # fmt: skip
    assert (copy.state, copy.errors, copy.attempted_by) == (JobState.AVAILABLE, (), ())


@pytest.mark.parametrize(
    ("state", "columns", "is_refused"),
    [
        (JobState.RUNNING, {}, True),
        (JobState.SCHEDULED, {}, True),
        (JobState.RETRYABLE, {}, False),
        (JobState.RETRYABLE, {"unique_key": KEY, "unique_states": HELD_UNFINISHED}, False),
        (JobState.RETRYABLE, {"unique_key": KEY, "unique_states": HELD_COMPLETED}, True),
        (JobState.COMPLETED, {}, False),
        (JobState.COMPLETED, {"unique_key": KEY, "unique_states": HELD_UNFINISHED}, False),
        (JobState.COMPLETED, {"unique_key": KEY, "unique_states": HELD_COMPLETED}, False),  # as by period
        (JobState.DISCARDED, {"unique_key": KEY}, False),  # as old clients of River wrote it
    ],
)
async def test_run_is_refused_while_one_waits_or_runs(
    tx: Executor, state: JobState, columns: dict[str, object], *, is_refused: bool
) -> None:
    """A run that waits, runs, or holds the key for its retry refuses another one; an ended run does not."""
    run = await put_run(tx, state, **columns)

    if not is_refused:
        run = await run_periodic_job(tx, "nightly")

    with pytest.raises(
        MillhandError, match=f"no run of the periodic job must wait or run, got job {run.id} "
    ):
        await run_periodic_job(tx, "nightly")


async def test_copy_of_a_copy_is_of_the_last_run_of_a_leader(tx: Executor) -> None:
    """After a copy, the next one has the leader's key again, so a leader inserts nothing beside it."""
    opts = InsertOpts(unique=UniqueOpts(by_queue=True, by_state=UNFINISHED))
    [params] = insert_params_many([(OrphanCleanup(), opts)], now=NOW)
    of_leader = periodic_params(params, "orphan_cleanup", NOW)
    [first] = await tx.run(job_insert_many([of_leader]))
    await tx.fetch("UPDATE river_job SET state = 'completed', finalized_at = now()")
    copy = await run_periodic_job(tx, "orphan_cleanup")
    await tx.fetch("UPDATE river_job SET state = 'completed', finalized_at = now() WHERE state = 'available'")

    again = await run_periodic_job(tx, "orphan_cleanup")
    [beside] = await tx.run(job_insert_many([of_leader]))

    assert len({first.job.id, copy.id, again.id}) == 3
    assert (beside.unique_skipped_as_duplicate, beside.job.id) == (True, again.id)


async def test_job_without_a_run_is_not_found(tx: Executor) -> None:
    """Nothing is known of a periodic job without a run; a caller may refuse a run too."""
    run = await put_run(tx)

    for id, is_allowed in (("weekly", True), ("nightly", False)):
        with pytest.raises(NotFound, match=f"must have a run in the table, found none with id '{id}'; see"):
            await run_periodic_job(
                tx, id, is_allowed=lambda source, allowed=is_allowed: allowed and source.id != run.id
            )


@pytest.mark.slow
@pytest.mark.parametrize("mask", [None, HELD_UNFINISHED, HELD_COMPLETED])
async def test_of_two_at_once_one_inserts(schema_driver: AsyncpgDriver, mask: int | None) -> None:
    """Two people who run a periodic job at once get one run, whatever key it has."""
    unique = {"unique_key": KEY, "unique_states": mask} if mask else {}
    await put_run(schema_driver.pool, created_at=NOW - timedelta(days=1), **unique)

    async def run() -> int:
        async with schema_driver.pool.begin() as tx:
            return (await run_periodic_job(tx, "nightly")).id

    results = await asyncio.gather(*(run() for _ in range(5)), return_exceptions=True)

    assert sorted(type(one).__name__ for one in results) == ["MillhandError"] * 4 + ["int"]
