"""Limits of queues beside Go: Go workers, inserters and leaders, of shared and of exclusive limits."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from chaos_audit import Execution
from chaos_shared import LIMIT, SharedOptions, exceeded, shared_chaos
from interop_harness import Act, Harness

from millhand.core.config import QueueConfig
from millhand.core.insert_opts import InsertParams
from millhand.core.job import ClientId, JobState
from millhand.core.limit import Limit, PartitionStatus
from millhand.limits.job_store import limited_job_admit, limited_job_collect, limited_job_insert_many
from millhand.limits.store import limit_declare, limit_partition_list_halted, limit_partition_resume

ONE = Limit(at_once=1)
HALT = Limit(in_order=True, halt=True)
ONE_SHARED = Limit(at_once=1, shared=True)
# One pass of a leader in each second, and its rest on a busy machine.
BEAT_SECONDS = 8.0
NUM_KILLS = 6


def limited(limit: Limit, max_workers: int = 10) -> dict[str, Any]:
    """Return the settings of a Python client that works the default queue with a limit, and may lead."""
    return {"leads": True, "queues": {"default": QueueConfig(max_workers=max_workers, limit=limit)}}


async def until_nothing_counts(harness: Harness) -> None:
    """Return when no job waits for a slot or has one, and no partition counts any."""

    async def condition() -> bool:
        [row] = await harness.fetch(
            "SELECT NOT EXISTS (SELECT FROM /* schema */millhand_limited_job) AND NOT EXISTS "
            "(SELECT FROM /* schema */millhand_limit_partition WHERE running <> 0) AS is_idle"
        )
        return bool(row["is_idle"])

    await harness.until(condition, "empty tables of limits")


@pytest.mark.slow
async def test_shared_limit_holds_while_workers_of_both_languages_are_killed(
    postgres_url: str, river_path: Path, tmp_path: Path
) -> None:
    """Three Go and three Python workers never run more jobs than the limit, while one of each is killed every 5 s."""
    assert river_path
    report = await shared_chaos(postgres_url, SharedOptions(jobs=450, seconds=32.0, seed=1), tmp_path)

    assert report.violations == [], str(report)
    assert report.num_kills >= 2 * NUM_KILLS
    assert report.most_at_once == LIMIT.at_once


def test_audit_counts_a_killed_attempt_until_its_process_is_dead() -> None:
    """An attempt without an end counts until the kill, and one more than the limit is found."""
    executions = [
        Execution("go_1", 1, 1, 0, "complete", 1.0),
        Execution("go_1", 2, 1, 0, "complete", 1.0, 2.0),
        Execution("go_2", 3, 1, 0, "complete", 4.9, 6.0),
        Execution("go_2", 4, 1, 0, "complete", 5.0, 6.0),
    ]

    most, found = exceeded(executions, {"go_1": 5.0}, 2)
    assert (most, list(found)) == (2, [])
    most, found = exceeded(executions, {"go_1": 5.5}, 2)
    assert (most, list(found)) == (
        3,
        ["at_once must be at most 2, got 3 at 5.000: job 1 at go_1, job 3 at go_2, job 4 at go_2"],
    )


@pytest.mark.parametrize(
    ("acts", "states"),
    [
        pytest.param([["snooze", 3600]], ("pending",), id="snoozed"),
        pytest.param([["retry_in", 3600], ["fail", "boom"]], ("pending",), id="failed"),
        pytest.param([["cancel", "enough"]], ("cancelled",), id="cancelled"),
        pytest.param([], ("completed",), id="completed"),
    ],
)
async def test_job_that_ends_in_go_frees_its_slot_within_a_beat(
    harness: Harness, acts: list[Act], states: tuple[str, ...]
) -> None:
    """Of two jobs that share one slot, the second starts when the first was snoozed, failed or ended in Go."""
    async with (
        # It leads, and works none of the jobs.
        harness.working("python", kinds=("other",), **limited(ONE_SHARED)),
        harness.working("go"),
    ):
        first = await harness.control("python").insert(["hold"], *acts)
        await harness.events.wait("held", job=first, client="go_a")
        second = await harness.control("go").insert(pending=True)
        waiting = await harness.row(second)
        began_at = time.monotonic()
        await harness.go.call("release", job=first)
        await harness.events.wait("begun", job=second, client="go_a")
        seconds = time.monotonic() - began_at
        await harness.until_state(second, "completed")
        row = await harness.until_state(first, *states)

    assert (waiting["state"], row["attempt"]) == ("pending", 0 if acts and acts[0][0] == "snooze" else 1)
    assert seconds < BEAT_SECONDS


@pytest.mark.parametrize(
    ("act", "state"), [(["fail_before", 3], "discarded"), (["cancel", "enough"], "cancelled")]
)
async def test_job_that_gives_up_in_go_halts_its_partition(harness: Harness, act: Act, state: str) -> None:
    """
    A Go worker takes a job that kept its slot until its next attempt, and ends it: no later job starts.

    A retry by Go runs the job again, in Python, and a resume skips it. Then the next one starts.
    """
    pool = harness.driver.pool
    first, second = await retried_and_waiting(harness, act)
    async with harness.working("go"):
        await harness.until_state(first, state)
    async with harness.working("python", **limited(HALT)):
        halted = await until_halted(harness)
        waiting = await harness.row(second)
        if state == "discarded":
            await harness.control("go").retry(first)
        else:
            await pool.run(limit_partition_resume("default", []))
        await harness.until_state(second, "completed")
        await until_nothing_counts(harness)
        rows = {id: await harness.row(id) for id in (first, second)}

    assert ([one.halted_by for one in halted], waiting["state"]) == ([first], "pending")
    assert (rows[first]["state"], rows[first]["attempted_by"][:2]) == (
        "completed" if state == "discarded" else "cancelled",
        ["gone", "go_a"],
    )
    assert rows[second]["attempted_by"] == ["python_a"]
    assert rows[first]["finalized_at"] <= rows[second]["attempted_at"]


async def until_halted(harness: Harness) -> Sequence[PartitionStatus]:
    found: Sequence[PartitionStatus] = ()

    async def condition() -> bool:
        nonlocal found
        found = await harness.driver.pool.run(limit_partition_list_halted())
        return bool(found)

    await harness.until(condition, "a halted partition")
    return found


async def retried_and_waiting(harness: Harness, act: Act) -> tuple[int, int]:
    """Insert a job that has the only slot and is available for its last attempt, and one that waits behind it."""
    pool = harness.driver.pool
    await pool.run(limit_declare({"default": HALT}))
    first, second = [
        InsertParams(
            kind="act",
            encoded_args=json.dumps({"do": acts}),
            encoded_metadata="{}",
            max_attempts=2,
            priority=1,
            queue="default",
            state=JobState.AVAILABLE,
        )
        for acts in ([act], [])
    ]
    ids = [one.job.id for one in await pool.run(limited_job_insert_many([first, second]))]
    await pool.run(limited_job_collect("default"))
    await pool.run(limited_job_admit(queue="default", limit=1, client_id=ClientId("gone")))
    await harness.fetch("UPDATE /* schema */river_job SET state = 'available' WHERE id = $1", ids[0])
    return ids[0], ids[1]


async def test_python_collects_what_go_inserts_into_its_limited_queue(harness: Harness) -> None:
    """Jobs of a Go client that knows no limit wait for slots, and never two of them run at once."""
    async with harness.working("python", **limited(ONE)) as member:
        first, second = [await harness.control("go").insert(["hold"]) for _ in range(2)]
        await harness.events.wait("held", job=first)
        await harness.until_state(second, "pending")
        await member.release(first)
        await harness.events.wait("held", job=second)
        row = await harness.row(first)
        await member.release(second)
        await harness.until_state(second, "completed")
        await until_nothing_counts(harness)

    assert row["state"] == "completed"


async def test_go_works_kinds_that_only_it_knows_in_an_exclusive_queue(harness: Harness) -> None:
    """Jobs of a kind that no Python client knows do not wait for slots, and a Go worker completes them."""
    control = harness.control("go")
    async with (
        harness.working("go", kinds=("only_go",), queues={"default": 1}),
        harness.working("python", **limited(ONE)),
    ):
        first = await control.insert(["hold"], kind="only_go")
        await harness.events.wait("held", job=first, client="go_a")
        others = [await control.insert(kind="only_go") for _ in range(2)]
        # Python has looked at all of them when it has completed this one.
        await harness.until_state(await control.insert(), "completed")
        states = [(await harness.row(id))["state"] for id in others]
        await harness.go.call("release", job=first)
        for id in (first, *others):
            await harness.until_state(id, "completed")

    assert states == ["available", "available"]


async def test_go_leader_maintains_the_jobs_of_a_limited_queue(harness: Harness) -> None:
    """
    A Go leader rescues, schedules and cleans jobs of an exclusive limit, and Python works them.

    A rescued job gives its slot back, one that waited and was deleted does not block, and nothing is counted at the end.
    """
    pool, control = harness.driver.pool, harness.control("go")
    stuck, deleted, waiting = await stuck_and_waiting(harness)
    await control.cancel(deleted)
    await harness.fetch(
        "UPDATE /* schema */river_job SET finalized_at = now() - interval '2 days' WHERE id = $1", deleted
    )
    scheduled = await control.insert(scheduled_at=(datetime.now(UTC) + timedelta(seconds=1)).isoformat())
    settings = {"queues": {"nothing": 1}, "rescue_after_seconds": 3600.0, "leads": True}
    async with harness.working("go", "go", retention_seconds={"cancelled": 3600.0}, **settings):
        await harness.until_leader("go")
        await pool.run(limited_job_collect("default"))
        async with harness.working("python", **limited(ONE)):
            for id in (waiting, scheduled, stuck):
                await harness.until_state(id, "completed")
            await until_nothing_counts(harness)
            leader = await harness.leader()
        rows = await harness.rows()

    assert leader == "go"
    assert [(row["id"], row["attempted_by"]) for row in rows] == [
        (stuck, ["gone", "python_a"]),
        (waiting, ["python_a"]),
        (scheduled, ["python_a"]),
    ]
    assert [error["error"] for error in rows[0]["errors"]] == ["Stuck job rescued by JobRescuer"]


async def stuck_and_waiting(harness: Harness) -> tuple[int, int, int]:
    """Insert a job that has the only slot since two hours, in a client that is gone, and two that wait behind it."""
    pool = harness.driver.pool
    params = InsertParams(
        kind="act",
        encoded_args='{"do": []}',
        encoded_metadata="{}",
        max_attempts=25,
        priority=1,
        queue="default",
        state=JobState.AVAILABLE,
    )
    await pool.run(limit_declare({"default": ONE}))
    stuck, deleted, waiting = [one.job.id for one in await pool.run(limited_job_insert_many([params] * 3))]
    await pool.run(limited_job_collect("default"))
    await pool.run(limited_job_admit(queue="default", limit=1, client_id=ClientId("gone")))
    await harness.fetch(
        "UPDATE /* schema */river_job SET attempted_at = now() - interval '2 hours' WHERE id = $1", stuck
    )
    return stuck, deleted, waiting
