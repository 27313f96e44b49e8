"""The objects of blobs: kept while a job names them, and cleaned up afterwards, by runs over real tables and stores."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import ClassVar

import pytest
from world import DAY, PLAIN, World

from factory import insert_job
from millhand.blob_store import BlobStore
from millhand.core.args.codec import encode_args
from millhand.core.blob import BLOB_PREFIX, Blob
from millhand.core.job import JobState
from millhand.core.orphans import BLOB_SOURCE
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.jobs.orphan_cleanup import OrphanCleanup, add_orphan_cleanup
from millhand.orphans import Mode, explain
from millhand.orphans.rehearsal import rehearse
from millhand.orphans.sources.blobs import with_blobs
from millhand.orphans.sources.references import SourceFailed, open_references
from millhand.storage import open_store

HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)
LARGE = b"x" * 20_000


@dataclass(frozen=True)
class Import:
    kind: ClassVar[str] = "import"
    rows: Blob


def key(number: int) -> str:
    return f"{BLOB_PREFIX}{number:032x}"


def blob_of(number: int) -> dict[str, object]:
    return {"millhand:blob": {"key": key(number), "size": 20_000, "sha256": "aa"}}


async def put_blobs(world: World, *numbers: int) -> None:
    for number in numbers:
        await world.put(key(number), LARGE)


async def put_job(world: World, number: int, state: JobState = JobState.AVAILABLE, **columns: object) -> int:
    args = json.dumps({"deep": [{"rows": blob_of(number)}]})
    return (await insert_job(world.executor, state, **({"args": args} | columns))).id


@pytest.fixture
async def s3_world(world: World, s3_endpoint: str, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """The application with its objects in a bucket of an S3 server."""
    store = open_store(f"s3://{PLAIN}/{request.node.name}?endpoint_url={s3_endpoint}")
    yield replace(world, store=store)
    await store.aclose()


@pytest.mark.slow
async def test_jobs_in_every_state_keep_their_blobs(world: World) -> None:
    """No run removes what a row of a job names, by its args or output; what no row names is removed after the grace."""
    await _keep_blobs_of_every_state(world)


@pytest.mark.slow
async def test_jobs_in_every_state_keep_their_blobs_on_a_server(s3_world: World) -> None:
    """The same on a real S3 server."""
    await _keep_blobs_of_every_state(s3_world)


async def _keep_blobs_of_every_state(world: World) -> None:
    states = list(JobState)
    await world.pair("live")
    await put_blobs(world, *range(len(states) + 2))
    for number, state in enumerate(states):
        await put_job(world, number, state)
    output = json.dumps({"output": {"report": blob_of(len(states))}})
    await put_job(world, len(states), JobState.COMPLETED, args="{}", metadata=output)

    before = await world.runs(2 * HOUR, WEEK - HOUR)
    due = await world.run(after=HOUR)
    later = await world.runs(WEEK, WEEK)

    assert (before.orphan_objects, before.deleted, due.deleted, later.deleted) == (1, 0, 1, 0)
    assert await world.keys() == ["live", *sorted(key(number) for number in range(len(states) + 1))]


@pytest.mark.slow
async def test_blob_of_a_deleted_job_is_removed_by_the_usual_rules(world: World) -> None:
    """Quarantine first and two runs a grace apart; a job that names it again restores it."""
    await world.pair("live")
    await put_blobs(world, 1, 2, 3)
    ids = [await put_job(world, number) for number in (1, 2, 3)]
    await world.runs(2 * HOUR, WEEK, mode=Mode.QUARANTINE)
    await world.sql("DELETE FROM {schema}.river_job WHERE id = ANY($1)", ids[:2])

    first = await world.run(after=HOUR, mode=Mode.QUARANTINE)
    second = await world.run(after=WEEK, mode=Mode.QUARANTINE)
    between = await world.keys()
    await put_job(world, 2)
    third = await world.run(after=HOUR, mode=Mode.QUARANTINE)

    assert [(one.orphan_objects, one.quarantined, one.restored) for one in (first, second, third)] == [
        (2, 0, 0),
        (2, 2, 0),
        (0, 0, 1),
    ]
    assert between == ["live", key(3)]
    assert await world.keys() == ["live", key(2), key(3)]


@pytest.mark.slow
async def test_dead_letter_keeps_its_blob(world: World) -> None:
    """The copy of a discarded job can be retried when its row is gone, so its blob stays until the copy is deleted."""
    await world.pair("live")
    await put_blobs(world, 1)
    id = await put_job(world, 1, JobState.DISCARDED)
    names = (
        "id, attempt, max_attempts, created_at, finalized_at, scheduled_at, priority, args, kind, metadata"
    )
    columns = f"{names}, queue, tags"
    await world.sql(
        f"INSERT INTO {{schema}}.millhand_dead_job ({columns}) SELECT {columns} FROM {{schema}}.river_job WHERE id = $1",
        id,
    )
    await world.sql("DELETE FROM {schema}.river_job WHERE id = $1", id)

    kept = await world.runs(2 * HOUR, WEEK, WEEK)
    await world.sql("DELETE FROM {schema}.millhand_dead_job")
    removed = await world.runs(HOUR, WEEK)

    assert (kept.deleted, removed.deleted) == (0, 1)


@pytest.mark.slow
async def test_blob_that_no_job_ever_named_is_removed(world: World) -> None:
    """A put whose insert was rolled back leaves an orphan, also if no row of any job names a blob."""
    await world.pair("live")
    await put_blobs(world, 1)

    report = await world.runs(2 * HOUR, WEEK)

    assert report.deleted == 1
    assert await world.keys() == ["live"]


@pytest.mark.slow
async def test_real_put_and_insert_are_recognized(world: World) -> None:
    """The key that `client.blobs.put` writes and the args that an insert encodes are the ones that the cleanup reads."""
    blobs = BlobStore(world.store.url)
    await world.pair("live")
    kept, lost = await blobs.put(LARGE), await blobs.put(LARGE)
    await blobs.aclose()
    await insert_job(world.executor, args=encode_args(Import(kept)))

    await world.runs(2 * HOUR, WEEK)

    assert await world.keys() == ["live", kept.key]
    assert lost.key not in await world.keys()


@pytest.mark.slow
async def test_row_of_another_schema_counts(world: World) -> None:
    """Each schema that River migrated in this database keeps its blobs."""
    other = f"{world.schema}_other"
    await world.pair("live")
    await put_blobs(world, 1, 2)
    await world.executor.execute_script(
        f"CREATE SCHEMA {other}; CREATE TABLE {other}.river_migration (); "
        f"CREATE TABLE {other}.river_job (args jsonb); "
        f"INSERT INTO {other}.river_job VALUES ('{json.dumps(blob_of(1))}')"
    )
    try:
        await world.runs(2 * HOUR, WEEK)
    finally:
        await world.executor.execute_script(f"DROP SCHEMA {other} CASCADE")

    assert await world.keys() == ["live", key(1)]


@pytest.mark.slow
async def test_malformed_blobs_stop_no_run(world: World) -> None:
    """Any program may write a row: values that are no blobs name no object, and keys elsewhere are not kept by it."""
    malformed = [
        "1",
        '{"millhand:blob": 1}',
        '{"millhand:blob": {"key": 5}}',
        '{"millhand:blob": {"key": "other"}}',
    ]
    await world.pair("live")
    await world.put("other")
    await put_blobs(world, 1)
    await put_job(world, 1)
    for text in malformed:
        await insert_job(world.executor, args=f'{{"a": [{text}]}}')

    report = await world.runs(2 * HOUR, WEEK)

    assert (report.state, report.deleted) == ("completed", 1)
    assert await world.keys() == ["live", key(1)]


@pytest.mark.slow
async def test_cleanup_of_a_parent_of_the_store_leaves_blobs_alone(world: World) -> None:
    """If the cleanup scans a bucket, and blobs lie in a folder of it, rows name them without the folder: no orphans."""
    await world.pair("live")
    await put_blobs(world, 1)
    for number in (1, 2):
        await world.put(f"app/{key(number)}", LARGE)
    await put_job(world, 1)

    report = await world.runs(2 * HOUR, WEEK, WEEK)

    assert (report.objects, report.orphan_objects, report.deleted) == (2, 0, 0)
    assert await world.keys() == [f"app/{key(1)}", f"app/{key(2)}", "live", key(1)]


async def test_worlds_without_blobs_are_as_before(world: World) -> None:
    """No source is added, and the first and the last blob make no run a first run."""
    without = await with_blobs(world.executor, world.store, world.config)
    await put_blobs(world, 1)
    patterns = replace(world.config, key_patterns=("^live/",))
    added = await with_blobs(world.executor, world.store, patterns)

    assert without is world.config
    assert [source.name for source in added.sources] == ["uploads", "avatars", BLOB_SOURCE]
    assert added.fingerprint == patterns.fingerprint


@pytest.mark.slow
async def test_blobs_need_no_pattern_of_keys(world: World) -> None:
    """With `key_patterns`, an orphaned blob is removed, and an object that no pattern fits is kept as before."""
    await world.pair("live")
    await world.put("other")
    await put_blobs(world, 1, 2)
    await put_job(world, 1)

    report = await world.runs(2 * HOUR, WEEK, key_patterns=("live",))

    assert (report.unclassified, report.deleted) == (1, 1)
    assert await world.keys() == ["live", key(1), "other"]


async def test_table_that_cannot_be_read_ends_the_run(world: World) -> None:
    """Jobs that the role of the cleanup may not read could name blobs, so the run removes nothing."""
    role = f"{world.schema}_limited"
    await world.pair("live")
    await put_blobs(world, 1)
    await world.executor.execute_script(
        f"CREATE ROLE {role}; GRANT USAGE ON SCHEMA {world.schema} TO {role}; "
        f"GRANT SELECT ON {world.schema}.uploads, {world.schema}.avatars TO {role}"
    )
    try:
        async with world.executor.begin() as tx:
            await tx.fetch(f"SET LOCAL ROLE {role}")
            config = await with_blobs(tx, world.store, world.config)
            with pytest.raises(
                SourceFailed,
                match=r"source 'millhand_blobs' must return all its rows, got .*permission denied",
            ):
                await open_references(tx, config)
    finally:
        await world.executor.execute_script(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.slow
async def test_explanation_and_rehearsal_know_blobs(world: World) -> None:
    """`millhand orphans explain` names the source of a blob, and a rehearsal does not remove it."""
    await world.pair("live")
    await put_blobs(world, 1)
    await put_job(world, 1)

    explained = await explain(world.executor, world.store, world.config, key(1), now=world.now)
    rehearsed = await rehearse(world.executor, world.store, world.config, days=30, now=world.now + DAY)

    assert f"  row: {BLOB_SOURCE} is ready" in explained.lines()
    assert (rehearsed.live, rehearsed.removals) == (2, ())


@pytest.mark.slow
async def test_job_of_the_cleanup_runs_for_blobs_alone(world: World, tmp_path: Path) -> None:
    """Without declared sources, it compares blobs if there are any; an empty or missing store is nothing to do."""
    bare = replace(world.config, sources=())
    await put_blobs(world, 1, 2)
    await put_job(world, 1)
    outputs = []
    for store in (world.store, open_store(str(tmp_path / "missing"))):
        workers = Workers()
        add_orphan_cleanup(workers, world.executor, store, bare)
        worker = workers.get("orphan_cleanup")
        assert worker is not None
        row = await insert_job(world.executor, JobState.RUNNING, kind="orphan_cleanup")
        job = Job(row, OrphanCleanup())
        await worker.call(job)
        outputs.append(job.metadata_updates.get("output", {}).get("objects"))

    assert outputs == [2, None]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 12))])
async def test_no_play_loses_a_blob_that_a_job_names(world: World, seed: int) -> None:
    """
    Puts, inserts, retries, ends and deletions of jobs alternate with runs in mode `delete`, in a random order.

    After each run, every blob that a row names has its bytes. At the end, nothing else is left.
    """
    chance = random.Random(seed)  # noqa: S311 - a test
    put_at: dict[int, datetime] = {}
    named: dict[int, int] = {}
    world = replace(world, config=replace(world.config, page_size=2))
    await world.pair("live")
    for _ in range(30):
        free = [one for one, at in put_at.items() if one not in named and world.now - at < 6 * DAY]
        match chance.choice(["put", "put", "insert", "insert", "state", "delete", "run", "run"]):
            case "put":
                number = len(put_at)
                await put_blobs(world, number)
                put_at[number] = world.now
            case "insert" if free:
                number = chance.choice(free)
                named[number] = await put_job(world, number, chance.choice(list(JobState)))
            case "state" if named:
                sql = "UPDATE {schema}.river_job SET state = 'available', finalized_at = NULL WHERE id = $1"
                await world.sql(sql, chance.choice(list(named.values())))
            case "delete" if named:
                await world.sql(
                    "DELETE FROM {schema}.river_job WHERE id = $1", named.pop(chance.choice(list(named)))
                )
            case "run":
                report = await world.run(after=chance.choice([HOUR, DAY, 4 * DAY, WEEK]))
                assert report.state == "completed"
                assert {key(number) for number in named} <= set(await world.keys())
    await world.runs(2 * HOUR, WEEK, WEEK)

    assert await world.keys() == sorted(["live", *map(key, named)])
