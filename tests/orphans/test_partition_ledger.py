"""Partitions in the ledger: claims, cursors, and processes that lost their run."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from world import World

from factory import GENEROUS_SECONDS
from millhand.db.query import Query
from millhand.orphans.ledger import (
    Finding,
    Run,
    RunLost,
    Totals,
    finding_list,
    finding_put_many,
    run_insert,
    run_list,
    run_take_over,
)
from millhand.orphans.scan.partition_ledger import (
    Partition,
    key_bounds,
    partition_advance,
    partition_claim,
    partition_count,
    partition_list,
    partition_replace,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


async def begun(world: World, *stretches: tuple[str, str | None]) -> Run:
    """Begin a run with these partitions, and two canaries."""
    query = run_insert(bucket="b", mode="delete", fingerprint="f", now=NOW, is_ordered=True)
    run = await world.executor.run(query)
    assert run is not None
    await world.executor.run(partition_replace(run, stretches or (("", "m"), ("m", None)), ["a", "z"]))
    return run


async def claimed(world: World, run: Run) -> Partition:
    partition = await world.executor.run(partition_claim(run))
    assert partition is not None
    return partition


def advanced(
    run: Run, partition: Partition, *, low: str, high: str | None, now: datetime = NOW
) -> Query[None]:
    return partition_advance(
        run, partition, low=low, high=high, totals=Totals(objects=5), live_canaries=["a"], now=now
    )


async def test_partitions_are_listed_in_the_order_of_keys_with_their_canaries(world: World) -> None:
    """Each canary belongs to the stretch that its key is in, and every cursor is at the start."""
    run = await begun(world)

    partitions = await world.executor.run(partition_list(run))

    assert [(one.low, one.high, one.cursor_key, one.canaries) for one in partitions] == [
        ("", "m", "", ("a",)),
        ("m", None, "m", ("z",)),
    ]
    assert [(one.num_partitions, one.is_at_start) for one in partitions] == [(2, True), (2, False)]


@pytest.mark.slow
async def test_a_partition_is_claimed_once_in_an_epoch(world: World) -> None:
    """Two claims return two partitions, and the third returns none."""
    run = await begun(world)

    numbers = [(await claimed(world, run)).number for _ in range(2)]

    assert numbers == [0, 1]
    assert await world.executor.run(partition_claim(run)) is None


async def test_a_run_that_is_taken_over_claims_its_partitions_again(world: World) -> None:
    """The new epoch gets every partition that is not done, at its cursor; the old epoch gets none."""
    run = await begun(world)
    first, second = await claimed(world, run), await claimed(world, run)
    await world.executor.run(advanced(run, first, low="", high="c"))
    await world.executor.run(advanced(run, second, low="m", high=None))

    taken = await world.executor.run(run_take_over(run, now=NOW + MINUTE))
    assert taken is not None
    again = await claimed(world, taken)

    assert (again.number, again.cursor_key, again.totals, again.live_canaries) == (
        0,
        "c",
        Totals(objects=5),
        ("a",),
    )
    assert await world.executor.run(partition_claim(taken)) is None
    assert await world.executor.run(partition_claim(run)) is None


async def test_a_process_that_lost_its_run_writes_nothing(world: World) -> None:
    """After a takeover the old claim cannot move the cursor, before the partition is claimed again and after."""
    run = await begun(world)
    partition = await claimed(world, run)
    taken = await world.executor.run(run_take_over(run, now=NOW + MINUTE))
    assert taken is not None

    for _ in range(2):
        for query in (
            advanced(run, partition, low="", high="c"),
            partition_count(run, Totals(), is_end=True, now=NOW),
        ):
            with pytest.raises(RunLost):
                await world.executor.run(query)
        await world.executor.run(partition_claim(taken))

    partitions = await world.executor.run(partition_list(taken))
    assert [one.cursor_key for one in partitions] == ["", "m"]


async def test_a_claim_that_commits_while_an_older_write_waits_stops_it(world: World) -> None:
    """
    A write of the old process that waits for the lock of the new claim changes nothing.

    Its snapshot still has the old epoch of the run, so the epoch in the partition's own row decides.
    """
    run = await begun(world)
    partition = await claimed(world, run)
    async with asyncio.TaskGroup() as group, world.executor.begin() as tx:
        taken = await tx.run(run_take_over(run, now=NOW + MINUTE))
        assert taken is not None
        again = await tx.run(partition_claim(taken))
        late = group.create_task(lost(world, run, partition))
        await has_waiter(world)

    assert late.result()
    partitions = await world.executor.run(partition_list(taken))
    assert again is not None
    assert [one.cursor_key for one in partitions] == ["", "m"]


async def lost(world: World, run: Run, partition: Partition) -> bool:
    """Advance a partition, and return whether that raised RunLost."""
    try:
        await world.executor.run(advanced(run, partition, low="", high="c"))
    except RunLost:
        return True
    return False


async def has_waiter(world: World) -> None:
    """Return once a statement on the partitions waits for a lock."""
    sql = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
        "AND query LIKE '%millhand_orphan_partition%' AND datname = current_database()"
    )
    async with asyncio.timeout(GENEROUS_SECONDS):
        while (await world.sql(sql))[0]["count"] == 0:
            continue


@pytest.mark.slow
async def test_an_advance_deletes_findings_of_earlier_runs_in_its_stretch(world: World) -> None:
    """Findings of this run, and of other stretches, stay."""
    run = await begun(world)
    partition = await claimed(world, run)
    for run_id, keys in ((run.id - 1, "acz"), (run.id, "b")):
        found = [
            Finding(
                key=key,
                kind="orphan",
                reference="none",
                rule=11,
                is_present=True,
                first_seen_at=NOW,
                last_seen_at=NOW,
            )
            for key in keys
        ]
        await world.executor.run(finding_put_many("b", run_id, found, now=NOW))

    await world.executor.run(advanced(run, partition, low="", high="b"))

    left = await world.executor.run(finding_list(bucket="b", kind=None, after=0, limit=10))
    assert sorted(one.key for one in left) == ["b", "c", "z"]


async def test_an_advance_to_the_end_is_done_and_beats(world: World) -> None:
    """The cursor at the partition's end makes it done, and the run's heartbeat is written every ten seconds."""
    run = await begun(world)
    partition = await claimed(world, run)

    await world.executor.run(advanced(run, partition, low="", high="m", now=NOW + MINUTE))

    (now_run,) = await world.executor.run(run_list(bucket="b", limit=1))
    partitions = await world.executor.run(partition_list(run))
    assert [one.is_done for one in partitions] == [True, False]
    assert now_run.heartbeat_at == NOW + MINUTE


async def test_the_end_of_a_scan_counts_partitions_once(world: World) -> None:
    """The run's totals include those of its partitions, which are emptied in the same statement."""
    run = await begun(world)
    await world.executor.run(advanced(run, await claimed(world, run), low="", high="m"))

    await world.executor.run(partition_count(run, Totals(objects=5), is_end=True, now=NOW))

    (now_run,) = await world.executor.run(run_list(bucket="b", limit=1))
    partitions = await world.executor.run(partition_list(run))
    assert now_run.totals == Totals(objects=5)
    assert [one.totals for one in partitions] == [Totals(), Totals()]


@pytest.mark.slow
async def test_new_partitions_replace_those_of_the_run(world: World) -> None:
    """After a restart the partitions are unclaimed and empty, and surplus ones are gone."""
    run = await begun(world)
    await world.executor.run(advanced(run, await claimed(world, run), low="", high="m"))

    await world.executor.run(partition_replace(run, [("", None)], []))

    (partition,) = await world.executor.run(partition_list(run))
    assert (partition.high, partition.is_done, partition.run_epoch, partition.totals) == (
        None,
        False,
        0,
        Totals(),
    )
    assert (await claimed(world, run)).number == 0


async def test_key_bounds_come_from_the_statistics(world: World) -> None:
    """A table that was analyzed has bounds and rows; an unknown table has none."""
    await world.sql("INSERT INTO {schema}.uploads (key) SELECT n::text FROM generate_series(1, 1000) AS n")
    await world.sql("ANALYZE {schema}.uploads")

    found = await world.executor.run(key_bounds(f"{world.schema}.uploads", "key"))

    assert found is not None
    assert (found.rows, len(found.bounds) > 10) == (1000, True)
    assert await world.executor.run(key_bounds(f"{world.schema}.no_such_table", "key")) is None
