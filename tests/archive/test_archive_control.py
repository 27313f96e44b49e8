"""Reading, restoring and erasing archived jobs."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from archives import FINISHED, archive_all, archived, archiver_of, file_states, finish, objects, outcomes
from dead_jobs import delete_row
from factory import get_job, insert_job, qualified
from lent_schema import GENEROUS_SECONDS
from millhand.archive import control as archive_control
from millhand.archive.control import ArchiveControl
from millhand.core.archive import ArchiveFilters
from millhand.core.errors import ConfigError, NotFound, UniqueConflict
from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.storage import ObjectNotFound, ObjectStore, Versioning, open_store

DAY = timedelta(days=1)
FORMATS = pytest.mark.parametrize("format", ["parquet", "jsonl"])
ANN = ArchiveFilters(where="args ->> '$.to' = 'ann' -- a comment")


def control_of(driver: AsyncpgDriver, directory: Path, store: ObjectStore | None = None) -> ArchiveControl:
    return ArchiveControl(driver.pool, open_store(str(directory)) if store is None else store)


async def world(driver: AsyncpgDriver, directory: Path, format: str) -> list[int]:
    """Archive four jobs of three days, two of them in one file; their rows are deleted."""
    pool = driver.pool
    jobs = [
        await finish(
            pool, state, kind=kind, queue=queue, args=f'{{"to": "{to}"}}', finalized_at=FINISHED + days * DAY
        )
        for state, kind, queue, to, days in (
            (JobState.COMPLETED, "send", "mail", "ann", 0),
            (JobState.COMPLETED, "send", "mail", "bob", 0),
            (JobState.DISCARDED, "pay", "mail", "ann", 1),
            (JobState.CANCELLED, "pay", "other", "cid", 2),
        )
    ]
    await archive_all(archiver_of(pool, directory, format=format))
    await delete_row(pool, *(job.id for job in jobs))
    return [job.id for job in jobs]


@pytest.mark.slow
@FORMATS
async def test_search_finds_what_every_filter_selects(
    schema_driver: AsyncpgDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    """The jobs that finished last come first, over several batches of files, up to the limit."""
    monkeypatch.setattr(archive_control, "BATCH_FILES", 1)
    one, two, three, four = await world(schema_driver, tmp_path, format)
    control = control_of(schema_driver, tmp_path)

    async def ids(limit: int = 10, **filters: Any) -> list[int]:
        return [job["id"] for job in await control.search(ArchiveFilters(**filters), limit=limit)]

    assert await ids() == [four, three, two, one]
    assert await ids(limit=2) == [four, three]
    assert await ids(id=two) == [two]
    assert await ids(kinds=["send"]) == [two, one]
    assert await ids(queues=["other"]) == [four]
    assert await ids(states=[JobState.DISCARDED, JobState.CANCELLED]) == [four, three]
    assert await ids(since=FINISHED + DAY) == [four, three]
    assert await ids(until=FINISHED + DAY) == [two, one]
    assert await ids(where=ANN.where) == [three, one]
    [job] = await control.search(ArchiveFilters(id=three), limit=1)
    assert (job["state"], json.loads(job["args"])) == ("discarded", {"to": "ann"})
    assert job["finalized_at"] == FINISHED + DAY
    assert [file.num_jobs for file in await control.files()] == [1, 1, 2]
    assert [file.day for file in await control.files(since=FINISHED + 2 * DAY)] == [
        (FINISHED + 2 * DAY).date()
    ]


@pytest.mark.slow
async def test_search_refuses_what_is_no_condition(schema_driver: AsyncpgDriver, tmp_path: Path) -> None:
    """A condition reads no file and changes nothing."""
    await world(schema_driver, tmp_path, "parquet")
    control = control_of(schema_driver, tmp_path)
    (tmp_path / "secret").write_text("s")

    for where in (
        "no_column = 1",
        "1 = 1) UNION SELECT 1 --",
        f"1 IN (SELECT 1 FROM read_text('{tmp_path}/secret'))",
    ):
        with pytest.raises(duckdb.Error):
            await control.search(ArchiveFilters(where=where), limit=1)


async def test_search_needs_duckdb(
    schema_driver: AsyncpgDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what to install."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)

    with pytest.raises(ConfigError) as caught:
        await control_of(schema_driver, tmp_path).search(ANN, limit=1)

    assert str(caught.value) == (
        "the archive needs duckdb to be searched, which is not installed; run: pip install 'millhand[inventory]'"
    )


@pytest.mark.slow
@FORMATS
async def test_restore_makes_a_job_again(schema_driver: AsyncpgDriver, tmp_path: Path, format: str) -> None:
    """Every value of the row is as it was, but the job is available with an attempt more; its row is not replaced."""
    pool = schema_driver.pool
    job = await finish(
        pool,
        JobState.DISCARDED,
        args='{"n": 1.5, "to": "ann"}',
        attempt=25,
        attempted_at=FINISHED,
        attempted_by=["c1"],
        errors=['{"at": "2026-03-10T12:00:00Z", "attempt": 1, "error": "no", "trace": ""}'],
        kind="send",
        metadata='{"m": 1, "cancel_attempted_at": "x"}',
        priority=2,
        queue="mail",
        tags=["t"],
        unique_key=b"key",
        unique_states=0b10000000,
    )
    await archive_all(archiver_of(pool, tmp_path, format=format))
    await delete_row(pool, job.id)
    control = control_of(schema_driver, tmp_path)

    restored = await control.restore(job.id)
    again = await control.restore(job.id)

    assert again is None
    assert restored == await get_job(pool, job.id)
    assert restored is not None
    assert (restored.state, restored.finalized_at, restored.max_attempts) == (JobState.AVAILABLE, None, 26)
    same = ("args", "attempt", "attempted_at", "attempted_by", "created_at", "errors", "kind", "priority")
    for name in (*same, "queue", "tags", "unique_key", "unique_states"):
        assert getattr(restored, name) == getattr(job, name), name
    assert restored.metadata == {"m": 1}


@pytest.mark.slow
async def test_restore_refuses_what_cannot_be(schema_driver: AsyncpgDriver, tmp_path: Path) -> None:
    """A job that is not in the archive, and one whose unique key another job has, are named."""
    pool = schema_driver.pool
    unique = {"unique_key": b"key", "unique_states": 0b11111111}
    job = await finish(pool, **unique)
    await archive_all(archiver_of(pool, tmp_path))
    await delete_row(pool, job.id)
    await insert_job(pool, **unique)
    control = control_of(schema_driver, tmp_path)

    with pytest.raises(NotFound, match="archived job"):
        await control.restore(job.id + 100)
    with pytest.raises(UniqueConflict):
        await control.restore(job.id)


@pytest.mark.slow
@FORMATS
async def test_erase_writes_files_without_the_jobs(
    schema_driver: AsyncpgDriver, tmp_path: Path, format: str
) -> None:
    """A file keeps its other jobs, a file without others is deleted, and no object has the erased ones."""
    pool = schema_driver.pool
    _, two, _, four = await world(schema_driver, tmp_path, format)
    control = control_of(schema_driver, tmp_path)
    found = await control.find(ANN)

    erasure = await control.begin_erasure()
    erased = [await control.erase(file, ANN, erasure=erasure) for file, _ in found]

    assert ([num for _, num in found], erased) == ([1, 1], [1, 1])
    assert await archived(pool, tmp_path) == [(two, FINISHED), (four, FINISHED + 2 * DAY)]
    assert len(objects(tmp_path)) == 2
    assert await control.find(ANN) == []
    assert (await control.search(ANN, limit=9), await control.versioning()) == ([], Versioning.OFF)


@pytest.mark.slow
async def test_erase_works_after_the_archive_was_stopped(
    schema_driver: AsyncpgDriver, tmp_path: Path
) -> None:
    """Without the row of the cursor, which a person deletes to stop the archive, a file is still written anew."""
    pool = schema_driver.pool
    await finish(pool, args='{"to": "ann"}')
    kept = await finish(pool, args='{"to": "bob"}')
    await archive_all(archiver_of(pool, tmp_path))
    await pool.fetch(qualified("DELETE FROM /* schema */millhand_archive_cursor", pool))
    control = control_of(schema_driver, tmp_path)

    erasure = await control.begin_erasure()
    [(file, num_jobs)] = await control.find(ANN)
    num_erased = await control.erase(file, ANN, erasure=erasure)

    assert (file.num_jobs, num_jobs, num_erased) == (2, 1, 1)
    assert [one["id"] for one in await control.search(ArchiveFilters(), limit=9)] == [kept.id]


class DyingStore:
    """A store that fails around its n-th call, after it was carried out or before."""

    def __init__(self, store: ObjectStore, number: int, *, is_sent: bool) -> None:
        self._is_sent = is_sent
        self._left = number
        self._store = store

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        async def call(*args: Any, **options: Any) -> Any:
            self._left -= 1
            if self._left == 0 and not self._is_sent:
                raise KeyboardInterrupt
            result = await method(*args, **options)
            if self._left == 0:
                raise KeyboardInterrupt
            return result

        return call


@pytest.mark.slow
@pytest.mark.parametrize("is_sent", [True, False], ids=["answer lost", "not sent"])
@pytest.mark.parametrize("number", range(1, 5))
async def test_an_erasure_killed_at_any_request_can_be_repeated(
    schema_driver: AsyncpgDriver, tmp_path: Path, number: int, *, is_sent: bool
) -> None:
    """No job is lost or doubled; the repetition and a pass a day later leave no object with the erased jobs."""
    pool = schema_driver.pool
    _, two, _, four = await world(schema_driver, tmp_path, "jsonl")
    control = control_of(schema_driver, tmp_path)
    dying = control_of(
        schema_driver,
        tmp_path,
        DyingStore(open_store(str(tmp_path)), number, is_sent=is_sent),  # type: ignore[arg-type]
    )
    erasure = await control.begin_erasure()
    with contextlib.suppress(KeyboardInterrupt):
        for file, _ in await control.find(ANN):
            await dying.erase(file, ANN, erasure=erasure)

    erasure = await control.begin_erasure()
    for file, _ in await control.find(ANN):
        await control.erase(file, ANN, erasure=erasure)
    await pool.fetch(
        qualified("UPDATE /* schema */millhand_archive_file SET begun_at = begun_at - interval '2 d'", pool)
    )
    await archive_all(archiver_of(pool, tmp_path, format="jsonl"))

    assert await archived(pool, tmp_path) == [(two, FINISHED), (four, FINISHED + 2 * DAY)]
    assert (len(objects(tmp_path)), await file_states(pool)) == (2, [("ready", 1)] * 2)


@pytest.mark.slow
async def test_of_two_erasures_of_a_file_one_is_done(schema_driver: AsyncpgDriver, tmp_path: Path) -> None:
    """The second finds the file replaced, leaves nothing behind, and can be repeated."""
    await world(schema_driver, tmp_path, "parquet")
    control = control_of(schema_driver, tmp_path)
    bob = ArchiveFilters(where="args ->> '$.to' = 'bob'")
    [(file, _)] = await control.find(bob)
    erasure = await control.begin_erasure()
    assert await control.erase(file, ANN, erasure=erasure) == 1

    with pytest.raises(ObjectNotFound):
        await control.erase(file, bob, erasure=erasure)
    [(file, num)] = await control.find(bob)
    assert await control.erase(file, bob, erasure=erasure) == num
    assert len(objects(tmp_path)) == len(await control.files())


class DuringPass:
    """A pool whose n-th statement with this name comes after something else."""

    def __init__(self, pool: Any, name: str, action: Callable[[], Awaitable[object]]) -> None:
        self._action: Callable[[], Awaitable[object]] | None = action
        self._name = name
        self._pool = pool

    def begin(self) -> Any:
        return self._pool.begin()

    async def run(self, query: Any) -> Any:
        if query.name == self._name and self._action is not None:
            action, self._action = self._action, None
            await action()
        return await self._pool.run(query)


@pytest.mark.slow
@FORMATS
@pytest.mark.parametrize("statement", ["archive_file_begin", "archive_file_commit"])
async def test_a_pass_that_read_a_job_before_an_erasure_does_not_archive_it(
    schema_driver: AsyncpgDriver, tmp_path: Path, statement: str, format: str
) -> None:
    """The row is deleted and the archive erased while a pass has the job in its file: no object has it, then or later."""
    pool = schema_driver.pool
    ann, bob = [await finish(pool, args=f'{{"to": "{to}"}}') for to in ("ann", "bob")]
    control = control_of(schema_driver, tmp_path)
    found: list[object] = []

    async def erase() -> None:
        await delete_row(pool, ann.id)
        await control.begin_erasure()
        found.append(await control.find(ANN))

    during = DuringPass(pool, statement, erase)
    async with asyncio.timeout(GENEROUS_SECONDS):
        while not found:
            await archiver_of(during, tmp_path, format=format).run_once()
    left = objects(tmp_path)
    await archive_all(archiver_of(pool, tmp_path, format=format))

    assert (found, left) == ([[]], [])
    assert await archived(pool, tmp_path) == outcomes(bob)
    assert await control.find(ANN) == []
    assert len(objects(tmp_path)) == 1


@pytest.mark.slow
async def test_an_erasure_deletes_what_a_killed_process_left(
    schema_driver: AsyncpgDriver, tmp_path: Path
) -> None:
    """An object without a finished row is deleted at once, and again by passes of a day, because it may still come."""
    pool = schema_driver.pool
    await world(schema_driver, tmp_path, "jsonl")
    await pool.fetch(
        qualified("UPDATE /* schema */millhand_archive_file SET state = 'writing' WHERE num_jobs = 2", pool)
    )
    control = control_of(schema_driver, tmp_path)
    [key] = [
        row["key"]
        for row in await pool.fetch(
            qualified("SELECT key FROM /* schema */millhand_archive_file WHERE state = 'writing'", pool)
        )
    ]

    await control.begin_erasure()
    at_once = (key in objects(tmp_path), await file_states(pool))
    (tmp_path / key).parent.mkdir(exist_ok=True)
    (tmp_path / key).write_bytes(b"late")
    await archive_all(archiver_of(pool, tmp_path, format="jsonl"))
    later = (key in objects(tmp_path), await file_states(pool))
    await pool.fetch(
        qualified("UPDATE /* schema */millhand_archive_file SET begun_at = begun_at - interval '2 d'", pool)
    )
    await archive_all(archiver_of(pool, tmp_path, format="jsonl"))

    assert at_once == later == (False, [("abandoned", 2), ("ready", 1), ("ready", 1)])
    assert await file_states(pool) == [("ready", 1), ("ready", 1)]


@pytest.mark.slow
async def test_a_later_erasure_stops_an_earlier_one(schema_driver: AsyncpgDriver, tmp_path: Path) -> None:
    """The earlier one writes no file any more, and says that it must be repeated; nothing is lost."""
    pool = schema_driver.pool
    one, two, three, four = await world(schema_driver, tmp_path, "jsonl")
    control = control_of(schema_driver, tmp_path)
    erasure = await control.begin_erasure()
    found = [file for file, _ in await control.find(ANN) if file.num_jobs > 1]
    await control.begin_erasure()

    with pytest.raises(ObjectNotFound):
        await control.erase(found[0], ANN, erasure=erasure)

    assert sorted(id for id, _ in await archived(pool, tmp_path)) == [one, two, three, four]


@pytest.mark.slow
async def test_search_goes_on_if_a_file_is_replaced(schema_driver: AsyncpgDriver, tmp_path: Path) -> None:
    """A file that is replaced while it is read is read anew; one that has a row and no object is left out and named."""
    _, two, _, four = await world(schema_driver, tmp_path, "jsonl")
    control = control_of(schema_driver, tmp_path)
    download = control._store.download
    lock = asyncio.Lock()
    replaced: list[str] = []

    async def download_late(key: str, path: Path) -> None:
        async with lock:  # no file of the first try is read before
            if not replaced:
                replaced.append(key)
                other = control_of(schema_driver, tmp_path)
                erasure = await other.begin_erasure()
                for file, _ in await other.find(ANN):
                    await other.erase(file, ANN, erasure=erasure)
        await download(key, path)

    control._store.download = download_late  # type: ignore[method-assign]
    found = await control.search(ArchiveFilters(kinds=["send"]), limit=9)
    missing_before = set(control.missing)
    [lost] = [key for key in objects(tmp_path) if "day=2026-03-10" in key]
    (tmp_path / lost).unlink()
    rest = await control.search(ArchiveFilters(), limit=9)

    assert [job["id"] for job in found] == [two]
    assert ([job["id"] for job in rest], missing_before, control.missing) == ([four], set(), {lost})


@pytest.mark.slow
async def test_control_refuses_another_store(schema_driver: AsyncpgDriver, tmp_path: Path) -> None:
    """The rows of files are of one store."""
    await world(schema_driver, tmp_path, "jsonl")

    await control_of(schema_driver, tmp_path).check_url()
    with pytest.raises(
        ConfigError, match=r"archive.url must be the store of the files, 'file:.*', got 'file:"
    ):
        await control_of(schema_driver, tmp_path / "other").check_url()


def test_filters_have_instants_of_each_zone() -> None:
    """Bounds are compared as instants."""
    at = datetime(2026, 3, 10, 12, tzinfo=UTC)
    assert archive_control._condition(ArchiveFilters(since=at)) == (
        "finalized_at >= '2026-03-10T12:00:00+00:00'::TIMESTAMPTZ"
    )
    assert outcomes() == []
