"""Statements that report on limits."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from factory import insert_job, qualified
from millhand.core.job import ClientId, JobId, JobState
from millhand.core.limit import Limit
from millhand.db.driver.protocol import Executor
from millhand.limits.job_store import limited_job_admit, limited_job_collect, limited_job_park
from millhand.limits.report_store import (
    LimitedJobs,
    limit_count_jobs,
    limit_get_changes,
    limit_get_place,
    limit_get_shape,
    limit_partition_get,
)
from millhand.limits.store import limit_declare, limit_partition_hold

LIMIT = Limit(at_once=2, total=9, by_args=["tenant"])


async def fill(tx: Executor, limit: Limit, *tenants: str, num_admitted: int = 0) -> list[JobId]:
    """Return the jobs of queue `reports`, by id; the first ones have slots."""
    await tx.run(limit_declare({"reports": limit}))
    jobs = [await insert_job(tx, queue="reports", args=f'{{"tenant": "{tenant}"}}') for tenant in tenants]
    await tx.run(limited_job_collect("reports"))
    if num_admitted:
        await tx.run(limited_job_admit(queue="reports", limit=num_admitted, client_id=ClientId("a")))
    return [job.id for job in jobs]


async def test_only_queues_with_a_limit_are_counted(tx: Executor) -> None:
    """The numbers are those of the named queues that have a limit, also if no job is limited."""
    await tx.run(limit_declare({"idle": LIMIT}))
    await fill(tx, LIMIT, "a", "a", "a", "b", num_admitted=9)

    found = await tx.run(limit_count_jobs(["reports", "idle", "other"]))

    assert found == {
        "idle": LimitedJobs(num_waiting=0, num_slots=0, num_later=0),
        "reports": LimitedJobs(num_waiting=1, num_slots=3, num_later=0),
    }


async def test_later_jobs_of_a_shared_queue_are_counted_apart(tx: Executor) -> None:
    """A pending job that waits for its time has a place without a number before it."""
    await tx.run(limit_declare({"reports": Limit(at_once=1, shared=True)}))
    job = await insert_job(
        tx, JobState.SCHEDULED, queue="reports", scheduled_at=(await _now(tx)) + timedelta(hours=1)
    )
    await tx.run(limited_job_park())

    place = await tx.run(limit_get_place(job.id))

    assert (await tx.run(limit_count_jobs(["reports"])))["reports"].num_later == 1
    assert place is not None
    assert (place.is_later, place.due_at, place.num_before) == (True, job.scheduled_at, None)


async def test_place_has_the_jobs_before_it_in_its_partition(tx: Executor) -> None:
    """Jobs of other partitions and jobs with slots are not before it; without a limit or a row there is no place."""
    first, second, third, fourth, _, other = await fill(
        tx, LIMIT, "a", "a", "a", "a", "a", "b", num_admitted=3
    )
    unlimited = await insert_job(tx)

    places = {id: await tx.run(limit_get_place(id)) for id in (first, second, third, fourth, other)}

    assert await tx.run(limit_get_place(unlimited.id)) is None
    assert {id: (one.has_slot, one.num_before, one.behind) for id, one in places.items() if one} == {
        first: (True, None, None),
        second: (True, None, None),
        third: (False, 0, None),
        fourth: (False, 1, None),
        other: (True, None, None),
    }
    place = places[fourth]
    assert place is not None
    assert (place.partition, place.running, place.at_once, place.total, place.num_running, place.by_args) == (
        '["a"]', 2, 2, 9, 3, ("tenant",),
    )  # fmt: skip


@pytest.mark.parametrize("num_admitted", [0, 1])
async def test_place_in_order_is_behind_the_first_job(tx: Executor, num_admitted: int) -> None:
    """A job in order waits behind the one that has the slot, or without one behind the first that waits."""
    first, second, third = await fill(tx, Limit(in_order=True), "a", "b", "c", num_admitted=num_admitted)

    behind = {
        id: place and place.behind
        for id in (first, second, third)
        if (place := await tx.run(limit_get_place(id)))
    }

    assert behind == {first: None, second: first, third: first}


async def test_partition_is_found_by_its_key_however_it_is_spaced(tx: Executor) -> None:
    """A key is JSON; one that no job had yet is no partition."""
    await fill(tx, LIMIT, "a")

    found = await tx.run(limit_partition_get("reports", '[  "a"]'))

    assert found is not None
    assert (found.key, found.waiting) == ('["a"]', 1)
    assert await tx.run(limit_partition_get("reports", '["b"]')) is None
    assert await tx.run(limit_partition_get("reports", "sha256:00")) is None


async def test_partition_of_long_values_is_found_by_them_and_by_its_digest(tx: Executor) -> None:
    """A key of more than 200 bytes is a digest in the table, and its values lead there too."""
    await fill(tx, LIMIT, "a" * 300)

    by_values = await tx.run(limit_partition_get("reports", f'["{"a" * 300}"]'))

    assert by_values is not None
    assert by_values.key.startswith("sha256:")
    assert await tx.run(limit_partition_get("reports", by_values.key)) == by_values


async def test_changes_text_differs_after_a_hold(tx: Executor) -> None:
    """The text is the same until a limit or a hold changes."""
    empty = await tx.run(limit_get_changes())
    await fill(tx, LIMIT, "a")
    texts = [await tx.run(limit_get_changes()), await tx.run(limit_get_changes())]
    await tx.run(limit_partition_hold("reports", ["a"], timedelta(hours=1)))
    texts.append(await tx.run(limit_get_changes()))

    assert empty == ""
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("is_granted", [True, False])
async def test_tables_that_a_role_may_not_read_are_as_if_missing(tx: Executor, is_granted: bool) -> None:
    """The owner has the tables; another role has them only if it may read all of them."""
    assert await tx.run(limit_get_shape())
    tables = ["millhand_limit", "millhand_limit_partition", "millhand_limited_job"]
    await tx.fetch("CREATE ROLE reader_of_limits", [])
    await tx.fetch("GRANT USAGE ON SCHEMA public TO reader_of_limits", [])
    for table in tables if is_granted else tables[:2]:
        await tx.fetch(qualified(f"GRANT SELECT ON /* schema */{table} TO reader_of_limits", tx), [])
    await tx.fetch("SET LOCAL ROLE reader_of_limits", [])

    assert await tx.run(limit_get_shape()) is is_granted


async def test_missing_tables_are_missing(tx: Executor) -> None:
    """A schema without one of the tables has none."""
    await tx.fetch(qualified("ALTER TABLE /* schema */millhand_limit RENAME TO hidden_limit", tx), [])

    assert not await tx.run(limit_get_shape())


async def _now(tx: Executor) -> datetime:
    [row] = await tx.fetch("SELECT now() AS now", [])
    now: datetime = row["now"]
    return now
