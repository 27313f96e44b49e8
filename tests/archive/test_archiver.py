"""The leader's archiver: each finished job is in the archive once, whatever dies and whichever leader deletes."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import duckdb
import pytest

from archives import (
    FINISHED,
    OTHERS_SECONDS,
    archive_all,
    archived,
    archiver_of,
    cursor,
    file_states,
    finish,
    objects,
    outcomes,
)
from dead_jobs import Died, Dying, delete_row
from factory import insert_job, qualified
from lent_schema import GENEROUS_SECONDS
from millhand.archive import archiver as job_archiver
from millhand.archive.archiver import PAGE_SIZE, UNFINISHED_FOR, JobArchiver
from millhand.archive.capability import ArchivedJobs
from millhand.archive.store import ArchivePage, ArchivePosition, ArchiveShape, archive_file_replace
from millhand.core.archive import ARCHIVE_DIRECTORY, ARCHIVE_PREFIX, Archive
from millhand.core.errors import ConfigError, DriverError, OperationTimeout
from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.maintenance.cleaners import JobCleaner
from millhand.engine.registration import Registration
from millhand.storage import ObjectInfo, ObjectStore, StoreError, open_store, threaded_store
from millhand.storage.directory_store import BlockingDirectoryStore
from millhand.storage.threaded_store import ThreadedStore
from millhand.testing import ManualClock


def fields_of(caplog: pytest.LogCaptureFixture, message: str) -> list[dict[str, Any]]:
    """Return the fields of each record with this message."""
    return [vars(record) for record in caplog.records if record.msg == message]


HOUR, DAY = timedelta(hours=1), timedelta(days=1)


class FaultyStore:
    """A store whose server fails as a test wants: before a request, or after it was carried out."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.fails: str | None = None
        self.url = store.url
        self.num_puts = 0

    async def put(self, key: str, data: bytes, *, if_absent: bool = False) -> Any:
        self.num_puts += 1
        if self.fails == "before":
            raise StoreError("put", "503 Slow Down", key=key)
        info = await self._store.put(key, data, if_absent=if_absent)
        if self.fails == "after":
            raise StoreError("put", "connection reset", key=key)
        return info

    async def delete(self, key: str) -> Any:
        if self.fails == "delete":
            raise StoreError("delete", "AccessDenied", key=key)
        return await self._store.delete(key)

    async def aclose(self) -> None:
        await self._store.aclose()


@pytest.mark.slow
async def test_parquet_is_read_as_it_lies(schema_driver: AsyncpgDriver, tmp_path: Path) -> None:
    """DuckDB alone reads the folder by day: each finished job with every value, and no job that is not finished."""
    pool = schema_driver.pool
    job = await finish(
        pool,
        JobState.DISCARDED,
        args='{"to": "ann@example.com", "n": 1.10, "big": 123456789012345678901234567890, "text": "a\\nb \\"é\\""}',
        attempt=3,
        attempted_at=FINISHED,
        attempted_by=["c1", "c2"],
        errors=['{"at": "2026-03-10T12:00:00Z", "attempt": 1, "error": "no", "trace": ""}'],
        kind="send",
        metadata='{"m": 1}',
        priority=2,
        queue="mail",
        tags=["t"],
        unique_key=b"key",
        unique_states=0b10000000,
    )
    later = await finish(pool, JobState.CANCELLED, finalized_at=FINISHED + DAY)
    await insert_job(pool, JobState.AVAILABLE)

    await archive_all(archiver_of(pool, tmp_path))

    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        found = connection.execute(
            f"SELECT id, kind, queue, state, attempt, max_attempts, priority, attempted_by, tags, args, metadata, errors, "
            f"unique_key, unique_states, finalized_at::VARCHAR, day::VARCHAR FROM "
            f"read_parquet('{tmp_path}/{ARCHIVE_PREFIX}*/*.parquet', hive_partitioning = true) ORDER BY finalized_at"
        ).fetchall()
        to = connection.execute(
            f"SELECT args ->> '$.to' FROM '{tmp_path}/{ARCHIVE_PREFIX}*/*.parquet' WHERE kind = 'send'"
        ).fetchall()

    text = (
        '{"n": 1.10, "to": "ann@example.com", "big": 123456789012345678901234567890, "text": "a\\nb \\"é\\""}'
    )
    errors = '[{"at": "2026-03-10T12:00:00Z", "error": "no", "trace": "", "attempt": 1}]'
    assert found == [
        (
            job.id, "send", "mail", "discarded", 3, 25, 2, ["c1", "c2"], ["t"], text, '{"m": 1}', errors,
            b"key".hex(), 0b10000000, "2026-03-10 12:00:00+00", "2026-03-10",
        ),
        (
            later.id, "kind", "default", "cancelled", 0, 25, 1, None, [], "{}", "{}", None,
            None, None, "2026-03-11 12:00:00+00", "2026-03-11",
        ),
    ]  # fmt: skip
    assert to == [("ann@example.com",)]


@pytest.mark.slow
async def test_lines_of_json_need_no_other_program(schema_driver: AsyncpgDriver, tmp_path: Path) -> None:
    """With `jsonl`, a file is gzipped lines of JSON, and args, metadata and errors are JSON within them."""
    pool = schema_driver.pool
    job = await finish(pool, args='{"to": "a"}', errors=['{"error": "no"}'])

    await archive_all(archiver_of(pool, tmp_path, format="jsonl"))

    [key] = objects(tmp_path)
    assert key.startswith(f"{ARCHIVE_PREFIX}day=2026-03-10/")
    assert key.endswith(".jsonl.gz")
    assert await archived(pool, tmp_path) == outcomes(job)
    with duckdb.connect() as connection:
        [(to, error)] = connection.execute(
            f"SELECT args ->> '$.to', errors ->> '$[0].error' FROM read_json('{tmp_path / key}')"
        ).fetchall()
    assert (to, error) == ("a", "no")


@pytest.mark.slow
async def test_pages_and_files_lose_no_job(
    schema_driver: AsyncpgDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs of three states and three days, many of the same instant, in small pages and files: each is archived once."""
    pool = schema_driver.pool
    monkeypatch.setattr(job_archiver, "PAGE_SIZE", 40)
    monkeypatch.setattr(job_archiver, "FILE_JOBS", 150)
    await pool.fetch(
        qualified(
            "INSERT INTO /* schema */river_job (kind, args, max_attempts, state, finalized_at) SELECT 'k', '{}', 1, "
            "(ARRAY['completed', 'cancelled', 'discarded'])[1 + n % 3]::/* schema */river_job_state, "
            "timestamptz '2026-03-10 12:00Z' + interval '1 h' * (n / 10) FROM generate_series(1, 605) AS n",
            pool,
        )
    )
    rows = await pool.fetch(qualified("SELECT id, finalized_at FROM /* schema */river_job", pool))

    archiver = archiver_of(pool, tmp_path)
    await archive_all(archiver)

    assert await archived(pool, tmp_path) == sorted((row["id"], row["finalized_at"]) for row in rows)
    files = await file_states(pool)
    assert len(files) == 6  # of 119, 240 and 240 jobs, and a day of six more
    assert max(num for _, num in files) == 160  # four pages
    days = await pool.fetch(
        qualified("SELECT first_at, last_at, day FROM /* schema */millhand_archive_file", pool)
    )
    assert {(row["first_at"].date(), row["last_at"].date()) for row in days} == {
        (row["day"],) * 2 for row in days
    }


@pytest.mark.slow
async def test_large_args_end_a_page(
    schema_driver: AsyncpgDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page ends with the job that exceeds its size, also if the args are small in the table."""
    pool = schema_driver.pool
    monkeypatch.setattr(job_archiver, "PAGE_BYTES", 100_000)
    jobs = [await finish(pool, args='{"x": "%s"}' % ("a" * 60_000)) for _ in range(5)]
    collected: list[int] = []
    add = job_archiver._Spool.add
    monkeypatch.setattr(
        job_archiver._Spool, "add", lambda spool, page: (collected.append(page.num_jobs), add(spool, page))
    )

    await archive_all(archiver_of(pool, tmp_path))

    assert collected == [2, 2, 1]
    assert await archived(pool, tmp_path) == outcomes(*jobs)


@pytest.mark.slow
async def test_unusual_instants_are_archived(schema_driver: AsyncpgDriver, tmp_path: Path) -> None:
    """Instants that Python cannot hold are the nearest that it can, and stop no pass."""
    pool = schema_driver.pool
    job = await finish(pool)
    await pool.fetch(
        qualified(
            "INSERT INTO /* schema */river_job (kind, args, max_attempts, state, finalized_at) "
            "VALUES ('k', '{}', 1, 'completed', '-infinity'), ('k', '{}', 1, 'completed', '0044-03-15 BC')",
            pool,
        )
    )

    await archive_all(archiver_of(pool, tmp_path))

    ids = [id for id, _ in await archived(pool, tmp_path)]
    assert sorted(ids) == [job.id, job.id + 1, job.id + 2]


async def test_second_pass_writes_nothing(schema_driver: AsyncpgDriver, tmp_path: Path) -> None:
    """Without jobs that finished since, a pass writes no file and makes no request."""
    pool = schema_driver.pool
    job = await finish(pool)
    await archive_all(archiver_of(pool, tmp_path))
    before = await pool.fetch(qualified("SELECT * FROM /* schema */millhand_archive_file", pool))
    store = FaultyStore(open_store(str(tmp_path)))

    await archive_all(archiver_of(pool, tmp_path, store=store))  # type: ignore[arg-type]

    assert await pool.fetch(qualified("SELECT * FROM /* schema */millhand_archive_file", pool)) == before
    assert (store.num_puts, await archived(pool, tmp_path)) == (0, outcomes(job))


@pytest.mark.slow
async def test_a_job_that_finishes_again_is_archived_again(
    schema_driver: AsyncpgDriver, tmp_path: Path
) -> None:
    """A job that was retried has an outcome more, with a later instant; the file of the first stays."""
    pool = schema_driver.pool
    job = await finish(pool, JobState.DISCARDED)
    await archive_all(archiver_of(pool, tmp_path))
    again = datetime.now(UTC) - HOUR
    await pool.fetch(
        qualified("UPDATE /* schema */river_job SET state = 'completed', finalized_at = $1", pool), [again]
    )
    await set_cursor(pool, FINISHED)

    await archive_all(archiver_of(pool, tmp_path))

    assert await archived(pool, tmp_path) == [(job.id, FINISHED), (job.id, again)]


async def set_cursor(pool: Any, at: datetime) -> None:
    """Move the cursor back to where it was when `at` was long ago."""
    await pool.fetch(
        qualified(
            "UPDATE /* schema */millhand_archive_cursor SET archived_at = $1, archived_id = 2^60", pool
        ),
        [at],
    )


async def test_a_late_commit_is_archived(
    schema_driver: AsyncpgDriver, tmp_path: Path, postgres_url: str
) -> None:
    """A transaction that began an hour ago by its clock commits after a pass: the pass stayed before its start."""
    pool = schema_driver.pool
    await archive_all(archiver_of(pool, tmp_path))
    connection = await asyncpg.connect(postgres_url)
    try:
        transaction = connection.transaction()
        await transaction.start()
        began = await connection.fetchval("SELECT now()")
        # As if all this were two hours ago: only the order matters.
        archiver = archiver_of(pool, tmp_path)
        starts: list[Any] = []
        archiver.probe = lambda moment, value=None: starts.append(value) if moment == "ended" else None  # type: ignore[method-assign]
        async with asyncio.timeout(OTHERS_SECONDS):
            while not starts or starts[-1].horizon is None:
                await archiver.run_once()
        await transaction.rollback()
    finally:
        await connection.close()

    assert datetime.fromisoformat(starts[-1].horizon) <= began


@pytest.mark.slow
async def test_an_open_transaction_that_wrote_stops_the_horizon(
    schema_driver: AsyncpgDriver, tmp_path: Path, postgres_url: str
) -> None:
    """A job that a transaction finished before a pass, and commits after it, is archived by a later pass."""
    pool = schema_driver.pool
    running = await insert_job(pool, JobState.RUNNING)
    connection = await asyncpg.connect(postgres_url)
    try:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(
            f"UPDATE {schema_driver.schema}.river_job SET state = 'completed', finalized_at = $1", FINISHED
        )
        await archiver_of(pool, tmp_path).run_once()
        before = await cursor(pool)
        await transaction.commit()
    finally:
        await connection.close()

    await archive_all(archiver_of(pool, tmp_path))

    assert before == ("-infinity", 0)
    assert await archived(pool, tmp_path) == [(running.id, FINISHED)]


@pytest.mark.slow
@pytest.mark.parametrize("is_sent", [True, False], ids=["answer lost", "not sent"])
@pytest.mark.parametrize("number", range(1, 9))
async def test_an_archiver_killed_at_any_statement_archives_each_job_once(
    schema_driver: AsyncpgDriver, postgres_url: str, tmp_path: Path, number: int, *, is_sent: bool
) -> None:
    """The next leader goes on, also if it is killed at the same statement; a day later no other file is there."""
    pool = schema_driver.pool
    jobs = [await finish(pool) for _ in range(5)]
    for _ in range(2):
        dying = Dying(pool, postgres_url, number, is_sent=is_sent)
        with contextlib.suppress(Died):
            await archiver_of(dying, tmp_path, format="jsonl").run_once()
    await archive_all(archiver_of(pool, tmp_path, format="jsonl"))
    assert await archived(pool, tmp_path) == outcomes(*jobs)

    await age_files(pool)
    await archive_all(archiver_of(pool, tmp_path, format="jsonl"))

    rows = await pool.fetch(qualified("SELECT key, state FROM /* schema */millhand_archive_file", pool))
    assert {row["state"] for row in rows} == {"ready"}
    assert objects(tmp_path) == sorted(row["key"] for row in rows)


async def age_files(pool: Any) -> None:
    await pool.fetch(
        qualified("UPDATE /* schema */millhand_archive_file SET begun_at = begun_at - $1::interval", pool),
        [UNFINISHED_FOR + HOUR],
    )


@pytest.mark.slow
@pytest.mark.parametrize("fails", ["before", "after"])
async def test_a_put_that_fails_moves_nothing(
    schema_driver: AsyncpgDriver, tmp_path: Path, fails: str
) -> None:
    """A request that fails leaves the cursor, and the next pass writes a file of its own; what was left is deleted."""
    pool = schema_driver.pool
    job = await finish(pool)
    store = FaultyStore(open_store(str(tmp_path)))
    archiver = archiver_of(pool, tmp_path, store=store)  # type: ignore[arg-type]
    store.fails = fails
    async with asyncio.timeout(OTHERS_SECONDS):
        while not store.num_puts:
            with contextlib.suppress(StoreError):
                await archiver.run_once()
    assert await cursor(pool) == ("-infinity", 0)
    assert await file_states(pool) == [("writing", 1)]

    store.fails = None
    await archive_all(archiver)
    assert len(objects(tmp_path)) == (2 if fails == "after" else 1)
    assert await archived(pool, tmp_path) == outcomes(job)

    await age_files(pool)
    store.fails = "delete"
    await archive_all(archiver_of(pool, tmp_path, store=store))  # type: ignore[arg-type]
    assert sorted(await file_states(pool)) == [("ready", 1), ("removed", 1)]
    store.fails = None
    await archive_all(archiver_of(pool, tmp_path, store=store))  # type: ignore[arg-type]
    assert (await file_states(pool), len(objects(tmp_path))) == ([("ready", 1)], 1)


async def test_two_archivers_add_each_job_once(schema_driver: AsyncpgDriver, tmp_path: Path) -> None:
    """The second of two that read the same jobs finds the cursor moved, and its file is deleted."""
    pool = schema_driver.pool
    jobs = [await finish(pool) for _ in range(3)]
    first, second = (archiver_of(pool, tmp_path, format="jsonl") for _ in range(2))
    async with asyncio.timeout(OTHERS_SECONDS):
        while not await archived(pool, tmp_path):
            await asyncio.gather(first.run_once(), second.run_once())

    await archive_all(archiver_of(pool, tmp_path, format="jsonl"))

    assert await archived(pool, tmp_path) == outcomes(*jobs)
    assert len(objects(tmp_path)) == 1
    assert await file_states(pool) == [("ready", 3)]


@pytest.mark.slow
async def test_a_file_that_was_given_up_cannot_be_added(schema_driver: AsyncpgDriver, tmp_path: Path) -> None:
    """A process that stalls for a day between PUT and commit finds its file removed: the cursor stays."""
    pool = schema_driver.pool
    job = await finish(pool)
    stalled = archiver_of(pool, tmp_path, format="jsonl")
    others: list[asyncio.Task[None]] = []

    async def meanwhile() -> None:
        await age_files(pool)
        await pool.fetch(qualified("UPDATE /* schema */millhand_archive_file SET state = 'removed'", pool))

    put = stalled._open_store().put

    async def put_and_stall(*args: Any, **options: Any) -> Any:
        info = await put(*args, **options)
        await meanwhile()
        others.append(asyncio.current_task())  # type: ignore[arg-type]
        return info

    stalled._store.put = put_and_stall  # type: ignore[union-attr, method-assign]
    async with asyncio.timeout(OTHERS_SECONDS):
        while not others:
            await stalled.run_once()
    assert await cursor(pool) == ("-infinity", 0)

    await archive_all(archiver_of(pool, tmp_path, format="jsonl"))
    assert (await archived(pool, tmp_path), len(objects(tmp_path))) == (outcomes(job), 1)


def cleaner_of(pool: Any, clock: ManualClock | None = None) -> JobCleaner:
    clock = ManualClock(datetime.now(UTC)) if clock is None else clock
    return JobCleaner(
        pool,
        clock=clock,
        keepers=[ArchivedJobs(clock)],
        cancelled_retention=HOUR,
        completed_retention=HOUR,
        discarded_retention=HOUR,
    )


async def ids(pool: Any) -> list[int]:
    rows = await pool.fetch(qualified("SELECT id FROM /* schema */river_job ORDER BY id", pool))
    return [row["id"] for row in rows]


@pytest.mark.slow
async def test_cleaner_keeps_what_is_not_archived(schema_driver: AsyncpgDriver, tmp_path: Path) -> None:
    """From an archive's first pass on, a cleaner deletes jobs of each state only once they are archived."""
    pool = schema_driver.pool
    states = (JobState.CANCELLED, JobState.COMPLETED, JobState.DISCARDED)
    jobs = [await finish(pool, state) for state in states]
    store = FaultyStore(open_store(str(tmp_path)))
    store.fails = "before"
    with contextlib.suppress(StoreError):
        await archiver_of(pool, tmp_path, store=store).run_once()  # type: ignore[arg-type]

    await cleaner_of(pool).run_once()
    kept = await ids(pool)
    store.fails = None
    await archive_all(archiver_of(pool, tmp_path, store=store))  # type: ignore[arg-type]
    await cleaner_of(pool).run_once()

    assert (kept, await ids(pool)) == ([job.id for job in jobs], [])
    assert await archived(pool, tmp_path) == outcomes(*jobs)


async def test_cleaner_without_an_archive_waits_for_none(tx: Any) -> None:
    """A fleet that has never had an archive has no cursor: old jobs are deleted at once."""
    await finish(tx)

    await cleaner_of(tx).run_once()

    assert await ids(tx) == []


@pytest.mark.slow
async def test_cleaner_waits_for_a_bucket_that_is_away_no_longer_than_max_delay(
    schema_driver: AsyncpgDriver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """For `max_delay`, and for an hour of each term, jobs are kept; then they are deleted, and each failed pass logs it."""
    pool = schema_driver.pool
    job = await finish(pool)
    store = FaultyStore(open_store(str(tmp_path)))
    store.fails = "before"
    archiver = archiver_of(pool, tmp_path, store=store, max_delay=DAY)  # type: ignore[arg-type]
    with contextlib.suppress(StoreError):
        await archiver.run_once()
    clock = ManualClock(datetime.now(UTC))
    cleaner = cleaner_of(pool, clock)
    cleaner._keepers[0].begin_term()
    kept = []

    clock.advance(timedelta(hours=2))
    await cleaner.run_once()
    kept.append(await ids(pool))
    await make_late(pool)
    cleaner._keepers[0]._grace_until = clock.monotonic() + 1
    await cleaner.run_once()
    kept.append(await ids(pool))
    store.num_puts = 0
    async with asyncio.timeout(OTHERS_SECONDS):
        while not store.num_puts:
            with contextlib.suppress(StoreError):
                await archiver.run_once()
    cleaner._keepers[0]._grace_until = 0.0
    await cleaner.run_once()

    assert (kept, await ids(pool)) == ([[job.id], [job.id]], [])
    # Open transactions of other tests on the server make passes late too, with another error.
    logged = fields_of(caplog, "jobs deleted without archive")
    [fields] = [one for one in logged if one["error_type"] == "StoreError"]
    assert fields["max_delay_seconds"] == DAY.total_seconds()


@pytest.mark.slow
@pytest.mark.parametrize(
    "error",
    [
        OperationTimeout("archive_page", 30.0),
        DriverError("archive_page", "permission denied", sqlstate="42501"),
    ],
    ids=["timeout", "no privilege"],
)
async def test_each_failure_of_a_late_pass_is_logged(
    schema_driver: AsyncpgDriver, tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """After `max_delay` without a pass, a statement that fails is logged as jobs that are deleted, and is raised."""
    pool = schema_driver.pool
    await finish(pool)
    await archive_all(archiver_of(pool, tmp_path))
    await set_cursor(pool, FINISHED - DAY)

    class Failing:
        @contextlib.asynccontextmanager
        async def begin(self) -> Any:
            yield self

        async def run(self, query: Any) -> Any:
            if query.name == "archive_page":
                raise error
            return await pool.run(query)

    archiver = archiver_of(Failing(), tmp_path, max_delay=DAY)
    caught: list[Exception] = []
    async with asyncio.timeout(OTHERS_SECONDS):
        while not caught:
            await make_late(pool)
            try:
                await archiver.run_once()
            except type(error) as raised:
                caught.append(raised)

    assert caught == [error]
    fields = fields_of(caplog, "jobs deleted without archive")[-1]
    assert (fields["max_delay_seconds"], fields["error_type"]) == (DAY.total_seconds(), type(error).__name__)


async def make_late(pool: Any) -> None:
    await pool.fetch(
        qualified("UPDATE /* schema */millhand_archive_cursor SET worked_at = now() - interval '25 h'", pool)
    )


async def test_a_late_pass_that_waits_for_a_transaction_is_logged(
    schema_driver: AsyncpgDriver, postgres_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A transaction that stays open stops the horizon: after `max_delay`, each pass says that jobs are deleted."""
    pool = schema_driver.pool
    await archive_all(archiver_of(pool, tmp_path))
    connection = await asyncpg.connect(postgres_url)
    try:
        await connection.execute("BEGIN; SELECT pg_current_xact_id()")
        await pool.fetch(
            qualified("UPDATE /* schema */millhand_archive_cursor SET seen_xid = pg_current_xact_id()", pool)
        )
        await archiver_of(pool, tmp_path, max_delay=DAY).run_once()
        before = fields_of(caplog, "jobs deleted without archive")
        await make_late(pool)
        await archiver_of(pool, tmp_path, max_delay=DAY).run_once()
    finally:
        await connection.close()

    assert before == []
    [fields] = fields_of(caplog, "jobs deleted without archive")
    assert (
        fields["error"]
        == "file of the archive must be written, got a transaction that is open since before an earlier pass"
    )
    assert fields["max_delay_seconds"] == DAY.total_seconds()


@pytest.mark.slow
async def test_cleaner_sees_an_archive_that_begins_during_its_term(
    schema_driver: AsyncpgDriver, tmp_path: Path
) -> None:
    """Tables that a migration adds after the cleaner looked are found: it keeps what is not archived."""
    pool = schema_driver.pool
    cleaner = cleaner_of(pool)
    table = "ALTER TABLE /* schema */{} RENAME TO {}"
    await pool.fetch(qualified(table.format("millhand_archive_cursor", "hidden"), pool))
    await cleaner.run_once()
    await pool.fetch(qualified(table.format("hidden", "millhand_archive_cursor"), pool))
    job = await finish(pool)
    store = FaultyStore(open_store(str(tmp_path)))
    store.fails = "before"
    with contextlib.suppress(StoreError):
        await archiver_of(pool, tmp_path, store=store).run_once()  # type: ignore[arg-type]

    await cleaner.run_once()

    assert await ids(pool) == [job.id]


@pytest.mark.slow
async def test_deletion_before_the_archive_is_logged(
    schema_driver: AsyncpgDriver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A leader in another language deletes a job that waits for a pass: the next pass names the job and the leader."""
    pool = schema_driver.pool
    job = await finish(pool, finalized_at=datetime.now(UTC))
    await archive_all(archiver_of(pool, tmp_path))
    await pool.fetch(
        qualified(
            "INSERT INTO /* schema */river_leader (leader_id, elected_at, expires_at, name) "
            "VALUES ('go_client', now(), now() + interval '1 m', 'default')",
            pool,
        )
    )
    await delete_row(pool, job.id)

    await archive_all(archiver_of(pool, tmp_path))
    await archive_all(archiver_of(pool, tmp_path))

    [fields] = fields_of(caplog, "jobs deleted before archive")
    assert (fields["job_id"], fields["leader_id"]) == (job.id, "go_client")


async def test_old_files_are_deleted(schema_driver: AsyncpgDriver, tmp_path: Path) -> None:
    """With `keep`, a file is deleted when its last job finished longer ago; without, none is."""
    pool = schema_driver.pool
    await finish(pool)
    recent = await finish(pool, finalized_at=datetime.now(UTC) - HOUR)
    await archive_all(archiver_of(pool, tmp_path))
    num_before = len(objects(tmp_path))

    await archive_all(archiver_of(pool, tmp_path, keep=DAY))

    assert (num_before, len(objects(tmp_path))) == (2, 1)
    assert await archived(pool, tmp_path) == outcomes(recent)


@pytest.mark.slow
async def test_stop_interrupts_a_file(schema_driver: AsyncpgDriver, tmp_path: Path) -> None:
    """A stop while a bucket does not answer ends the pass at once, and the cursor stays."""
    pool = schema_driver.pool
    await finish(pool)
    is_waiting = asyncio.Event()

    class Silent(FaultyStore):
        async def put(self, key: str, data: bytes, *, if_absent: bool = False) -> Any:
            is_waiting.set()
            await asyncio.Event().wait()

    archiver = archiver_of(
        pool, tmp_path, store=Silent(open_store(str(tmp_path))), every=timedelta(seconds=1)
    )  # type: ignore[arg-type]
    async with asyncio.timeout(OTHERS_SECONDS):
        await archiver.start()
        await is_waiting.wait()
        await archiver.stop()

    assert await cursor(pool) == ("-infinity", 0)
    assert await file_states(pool) == [("writing", 1)]


@pytest.mark.slow
async def test_stop_does_not_wait_for_a_request_that_hangs(
    schema_driver: AsyncpgDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread within a request cannot be interrupted: the stop returns while it still runs."""
    monkeypatch.setattr(threaded_store, "CLOSE_SECONDS", 0.01)
    pool = schema_driver.pool
    await finish(pool)
    is_waiting, is_over, has_ended = threading.Event(), threading.Event(), threading.Event()

    class Hanging(BlockingDirectoryStore):
        def put(self, key: str, data: bytes, if_absent: bool) -> ObjectInfo:
            is_waiting.set()
            is_over.wait()
            has_ended.set()
            raise StoreError("put", "timeout", key=key)

    store = ThreadedStore(Hanging(tmp_path), num_threads=1)
    archiver = archiver_of(pool, tmp_path, store=store, every=timedelta(seconds=1))
    try:
        async with asyncio.timeout(OTHERS_SECONDS):
            await archiver.start()
            await asyncio.to_thread(is_waiting.wait)
            await archiver.stop()
        assert not has_ended.is_set()
    finally:
        is_over.set()
    assert await asyncio.to_thread(has_ended.wait, GENEROUS_SECONDS)
    assert await file_states(pool) == [("writing", 1)]


@pytest.mark.slow
async def test_another_url_is_refused(schema_driver: AsyncpgDriver, tmp_path: Path) -> None:
    """The rows of files are of one store: a pass with another URL fails, until its URL is cleared."""
    pool = schema_driver.pool
    old, new = tmp_path / "old", tmp_path / "new"
    await archive_all(archiver_of(pool, old, format="jsonl"))
    await finish(pool)
    await set_cursor(pool, FINISHED - DAY)

    with pytest.raises(ConfigError) as caught:
        await archiver_of(pool, new, format="jsonl").run_once()
    refused = await file_states(pool)
    await pool.fetch(qualified("UPDATE /* schema */millhand_archive_cursor SET url = NULL", pool))
    await archive_all(archiver_of(pool, new, format="jsonl"))

    assert str(caught.value) == (
        f"archive.url must be the store of the files, {old.as_uri()!r}, got {new.as_uri()!r}; set it back, or copy the "
        "files and run: UPDATE millhand_archive_cursor SET url = NULL"
    )
    assert (refused, len(objects(new))) == ([], 1)


@pytest.mark.slow
async def test_a_directory_that_is_not_mounted_is_not_written(
    schema_driver: AsyncpgDriver, tmp_path: Path
) -> None:
    """The first pass makes the directory; once it has files, an empty one in its place is refused, and so is none."""
    pool = schema_driver.pool
    mount, elsewhere = tmp_path / "mount" / "archive", tmp_path / "elsewhere"
    jobs = [await finish(pool)]
    await archive_all(archiver_of(pool, mount, format="jsonl"))
    jobs.append(await finish(pool, finalized_at=FINISHED + HOUR))
    await set_cursor(pool, FINISHED)
    mount.rename(elsewhere)
    errors = []
    for is_there in (False, True):
        if is_there:
            mount.mkdir()
        with pytest.raises(ConfigError) as caught:
            await archiver_of(pool, mount, format="jsonl").run_once()
        errors.append(str(caught.value))
    left = list(mount.iterdir())
    mount.rmdir()
    elsewhere.rename(mount)
    await archive_all(archiver_of(pool, mount, format="jsonl"))

    text = (
        f"archive.url must be the directory with the files of the archive, got {str(mount)!r} without {ARCHIVE_DIRECTORY}; "
        "mount its file system"
    )
    assert errors == [text] * 2
    assert left == []
    assert await archived(pool, mount) == outcomes(*jobs)


@pytest.mark.slow
async def test_a_file_of_a_directory_that_is_not_mounted_is_not_forgotten(
    schema_driver: AsyncpgDriver, tmp_path: Path
) -> None:
    """The only file waits for its deletion: a pass elsewhere is refused, and the next one here deletes it."""
    pool = schema_driver.pool
    mount, elsewhere = tmp_path / "mount" / "archive", tmp_path / "elsewhere"
    await finish(pool)
    await archive_all(archiver_of(pool, mount, format="jsonl"))
    [key] = objects(mount)
    await pool.run(archive_file_replace(key, new_key=None))
    mount.rename(elsewhere)
    mount.mkdir()
    with pytest.raises(ConfigError, match="mount its file system"):
        await archiver_of(pool, mount, format="jsonl").run_once()
    mount.rmdir()
    elsewhere.rename(mount)
    left = objects(mount)
    for _ in range(2):  # the second pass finds a directory without files
        await archiver_of(pool, mount, format="jsonl").run_once()

    assert (left, objects(mount)) == ([key], [])


@pytest.mark.slow
async def test_cleaners_wait_for_an_archive_whose_url_is_wrong(
    schema_driver: AsyncpgDriver, tmp_path: Path
) -> None:
    """A pass that cannot open its store has begun the archive all the same; the next URL is kept."""
    pool = schema_driver.pool
    job = await finish(pool)
    wrong = JobArchiver(
        pool, archive=Archive(url="s3://"), clock=ManualClock(), registration=Registration(is_active=True)
    )

    with pytest.raises(ConfigError, match="must name a bucket"):
        await wrong.run_once()
    await cleaner_of(pool).run_once()
    kept = await ids(pool)
    await archive_all(archiver_of(pool, tmp_path, format="jsonl"))

    assert kept == [job.id]
    assert await archived(pool, tmp_path) == outcomes(job)


@pytest.mark.slow
async def test_a_late_pass_whose_store_is_wrong_is_logged(
    schema_driver: AsyncpgDriver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After `max_delay`, a pass that cannot open its store logs that jobs are deleted."""
    pool = schema_driver.pool
    job = await finish(pool)
    await archive_all(archiver_of(pool, tmp_path))
    await make_late(pool)
    archive = Archive(url="s3://", max_delay=DAY)
    wrong = JobArchiver(pool, archive=archive, clock=ManualClock(), registration=Registration(is_active=True))

    with pytest.raises(ConfigError, match="must name a bucket"):
        await wrong.run_once()

    [fields] = fields_of(caplog, "jobs deleted without archive")
    assert (fields["error_type"], await ids(pool)) == ("ConfigError", [job.id])


def test_a_spool_counts_bytes(tmp_path: Path) -> None:
    """The limit of a file is one of bytes: a character may have four."""
    at = ArchivePosition("-infinity", 0)
    spool = job_archiver._Spool(tmp_path / "lines", at, at)
    page = ArchivePage(
        num_found=1,
        num_jobs=1,
        lines="é🦀\n",
        max_bytes=7,
        day=FINISHED.date(),
        first_at=FINISHED,
        last_at=FINISHED,
        min_id=1,
        max_id=1,
        archived_at="infinity",
        archived_id=1,
    )

    spool.add(page)

    assert (spool.num_bytes, (tmp_path / "lines").stat().st_size) == (7, 7)


async def test_a_timeout_makes_the_pages_smaller(schema_driver: AsyncpgDriver, tmp_path: Path) -> None:
    """A pass that times out is followed by one with a quarter of the page, and a success doubles it."""
    pool = schema_driver.pool
    limits: list[int] = []

    class Slow:
        fails = True

        @contextlib.asynccontextmanager
        async def begin(self) -> Any:
            yield self

        async def run(self, query: Any) -> Any:
            if query.name == "archive_page":
                limits.append(query.params["limit"])
                if self.fails:
                    raise OperationTimeout("archive_page", 30.0)
            return await pool.run(query)

    slow = Slow()
    archiver = archiver_of(slow, tmp_path)
    async with asyncio.timeout(OTHERS_SECONDS):
        while len(limits) < 2:
            with contextlib.suppress(OperationTimeout):
                await archiver.run_once()
        slow.fails = False
        while len(limits) < 4:
            await archiver.run_once()

    assert limits == [PAGE_SIZE, PAGE_SIZE // 4, PAGE_SIZE // 16, 2 * (PAGE_SIZE // 16)]


@pytest.mark.slow
async def test_writer_that_fails_is_reported(schema_driver: AsyncpgDriver, tmp_path: Path) -> None:
    """The error of the process that writes a file is the error of the pass."""
    with pytest.raises(
        job_archiver.ArchiveNotWritten, match=r"file of the archive must be written, got .*No such file"
    ):
        await job_archiver.write_file("jsonl", tmp_path / "missing", tmp_path / "target", 1)


async def test_archiver_without_tables_or_registration_does_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An older schema is logged once; a client that is not registered makes no statement."""

    class Old:
        num = 0

        async def run(self, query: Any) -> Any:
            self.num += 1
            return ArchiveShape(is_readable=False, is_writable=False)

    old = Old()
    archiver = archiver_of(old, tmp_path)
    await archiver.run_once()
    await archiver.run_once()
    idle = JobArchiver(
        old,  # type: ignore[arg-type]
        archive=archiver._archive,
        clock=ManualClock(),
        registration=Registration(),
    )
    await idle.run_once()

    assert old.num == 2
    [fields] = fields_of(caplog, "archive tables missing")
    assert fields["remedy"] == (
        "run: millhand migrate up; with roles, also the SQL of: millhand migrate sql --grants"
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
async def test_random_finishes_deletions_and_kills_lose_no_job(
    schema_driver: AsyncpgDriver, postgres_url: str, tmp_path: Path, seed: int
) -> None:
    """Jobs finish, are retried and finish again, archivers die anywhere, cleaners delete: each outcome is there once."""
    pool = schema_driver.pool
    chance = random.Random(seed)  # noqa: S311 - repeats a play
    expected: list[tuple[int, datetime]] = []
    at = FINISHED
    await archive_all(archiver_of(pool, tmp_path, format="jsonl"))
    await set_cursor(pool, at)
    for _ in range(12):
        for _ in range(chance.randrange(4)):
            at += timedelta(minutes=chance.randrange(1, 900))
            job = await finish(pool, chance.choice((JobState.COMPLETED, JobState.DISCARDED)), finalized_at=at)
            expected += outcomes(job)
        dying = Dying(pool, postgres_url, chance.randrange(1, 12), is_sent=chance.random() < 0.5)
        with contextlib.suppress(Died):
            await archiver_of(dying, tmp_path, format="jsonl").run_once()
        # The horizon is the present, and these jobs are of the past: the next ones must come after the cursor.
        if (await cursor(pool))[1] == 0:
            await set_cursor(pool, at)
        await cleaner_of(pool).run_once()
    await archive_all(archiver_of(pool, tmp_path, format="jsonl"))
    await cleaner_of(pool).run_once()

    assert await archived(pool, tmp_path) == sorted(expected)
    assert await ids(pool) == []


async def test_store_is_opened_beside_the_event_loop(
    schema_driver: AsyncpgDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The import of an S3 library takes up to seconds, and blocks no job of a worker that runs the archive."""
    threads: list[threading.Thread] = []

    def recorded(url: str, **options: Any) -> Any:
        threads.append(threading.current_thread())
        return open_store(url, **options)

    monkeypatch.setattr(job_archiver, "open_store", recorded)

    await archiver_of(schema_driver.pool, tmp_path).run_once()

    assert len(threads) == 1
    assert threads != [threading.main_thread()]
