from __future__ import annotations

import pytest

from factory import insert_job
from millhand.core.errors import NotFound
from millhand.core.job import JobId, JobState
from millhand.db.driver.protocol import Executor
from millhand.engine.store.bulk_change import (
    BulkAction,
    BulkChange,
    BulkState,
    NotStartable,
    bulk_change_claim,
    bulk_change_collect,
    bulk_change_complete,
    bulk_change_get,
    bulk_change_hold,
    bulk_change_insert,
    bulk_change_next_batch,
    bulk_change_record,
    bulk_change_start,
    bulk_change_stop,
    job_change_many,
)


async def _begun(tx: Executor) -> BulkChange:
    limits = {"only_queues": None, "only_kinds": ["send_mail"]}
    insert = bulk_change_insert(
        action=BulkAction.RETRY,
        search="kind:x",
        time_zone="UTC",
        actor="ada",
        role="admin",
        address="",
        **limits,
    )
    return await tx.run(insert)


async def _ready(tx: Executor, *batches: list[int]) -> BulkChange:
    change = await _begun(tx)
    for number, ids in enumerate(batches, 1):
        to = None if number == len(batches) else "c"
        counts = {"x": len(ids)}
        await tx.run(
            bulk_change_collect(
                change, [JobId(id) for id in ids], collected_to=to, kinds=counts, queues=counts
            )
        )
    return await tx.run(bulk_change_get(change.id))


async def test_change_has_one_holder_at_a_time(tx: Executor) -> None:
    """A second process gets nothing while the first one holds the change, and the first one gets it again."""
    change = await _begun(tx)

    first = await tx.run(bulk_change_claim("one"))
    second = await tx.run(bulk_change_claim("two"))
    again = await tx.run(bulk_change_claim("one"))

    assert first is not None
    assert again is not None
    assert (first.id, second, again.id) == (change.id, None, change.id)
    assert await tx.run(bulk_change_hold(first, "one"))
    assert not await tx.run(bulk_change_hold(first, "two"))


async def test_change_of_a_dead_process_is_free_after_a_while(tx: Executor) -> None:
    """A holder whose time has passed loses the change to the next process, and cannot write any more."""
    await _begun(tx)
    first = await tx.run(bulk_change_claim("one"))
    await tx.fetch("UPDATE millhand_bulk_change SET expires_at = now() - interval '1 s'")

    second = await tx.run(bulk_change_claim("two"))

    assert first is not None
    assert second is not None
    assert not await tx.run(bulk_change_hold(first, "one"))


async def test_batches_are_done_in_their_order_once(tx: Executor) -> None:
    """Each batch comes once, and the numbers of changed and left jobs add up to all."""
    ready = await _ready(tx, [3, 1], [2])
    await tx.run(bulk_change_start(ready.id, jobs_per_second=None))
    change = await tx.run(bulk_change_claim("one"))
    assert change is not None
    seen = []
    while (batch := await tx.run(bulk_change_next_batch(change.id, limit=500))) is not None:
        seen.append(batch.job_ids)
        await tx.run(bulk_change_record(change, batch, batch.job_ids[:1], {"left": 1}))

    assert await tx.run(bulk_change_complete(change, "one"))
    done = await tx.run(bulk_change_get(change.id))
    assert seen == [[3, 1], [2]]
    assert (done.state, done.num_jobs, done.num_changed, done.num_skipped) == (BulkState.COMPLETED, 3, 2, 1)
    assert (done.only_queues, done.only_kinds) == (None, ("send_mail",))


async def test_change_starts_when_it_is_ready_and_stops_while_it_is_unfinished(tx: Executor) -> None:
    """A change that still collects cannot be started, and a completed one cannot be stopped; the error says so."""
    begun = await _begun(tx)
    with pytest.raises(NotStartable) as early:
        await tx.run(bulk_change_start(begun.id, jobs_per_second=None))
    ready = await _ready(tx, [1])
    await tx.run(bulk_change_stop(ready.id, reason="enough"))
    with pytest.raises(NotStartable) as late:
        await tx.run(bulk_change_stop(ready.id, reason="again"))

    assert (
        str(early.value) == f"bulk change must be ready or stopped, got bulk change {begun.id}, which is not"
    )
    assert str(late.value) == f"bulk change must be unfinished, got bulk change {ready.id}, which is not"


async def test_retry_of_many_jobs_leaves_those_whose_unique_key_is_held(tx: Executor) -> None:
    """Another job holds a key, or an earlier job of the batch gets it: such jobs are returned, and the others retried."""
    keys = {"held": JobState.DISCARDED, "free": JobState.DISCARDED, "own": JobState.RETRYABLE}
    first, second = [
        {
            key: (await insert_job(tx, state, unique_key=key.encode(), unique_states=0b1111_0101)).id
            for key, state in keys.items()
        }
        for keys in (keys, {**keys, "own": JobState.DISCARDED})
    ]
    await insert_job(tx, JobState.COMPLETED, unique_key=b"held", unique_states=0b1111_0101)

    done = await tx.run(job_change_many(BulkAction.RETRY, [*second.values(), *first.values()]))

    assert sorted(done.ids) == [first["free"], first["own"]]
    assert sorted(done.conflicting) == sorted([first["held"], *second.values()])


async def test_missing_change_is_not_found(tx: Executor) -> None:
    """A change that does not exist is reported by its id."""
    with pytest.raises(NotFound, match="bulk change must exist, found none with id 7"):
        await tx.run(bulk_change_get(7))
