"""
Reads the archive of finished jobs: finds jobs in its files, makes one a job again, and erases jobs.

Rule 1: a reader goes by the rows of the files, so it finds each outcome of a job once.
Rule 2: a few files at a time are downloaded into a temporary directory. DuckDB reads that directory alone, so a condition
        cannot read anything else, and no extension of DuckDB is needed for a bucket.
Rule 3: an erasure writes a file without the jobs, puts it in the place of the old one with one statement, and then deletes
        the old object. After a kill, a repetition goes on; objects that wait for their deletion are deleted first.
Rule 4: an erasure counts itself before it reads the rows of the files. From then on, no process adds a file with jobs that
        it read before, so no file has the jobs of rows that were deleted before.
"""

from __future__ import annotations

import asyncio
import gzip
import importlib.util
import json
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from millhand.archive.store import (
    NewFile,
    archive_erase_begin,
    archive_file_abandon,
    archive_file_begin,
    archive_file_drop,
    archive_file_forget,
    archive_file_get_removed,
    archive_file_has,
    archive_file_list,
    archive_file_replace,
    archive_get_url,
    archive_restore,
)
from millhand.archive.writer import PARQUET, connect, lines_sql, literal
from millhand.core.archive import (
    ArchiveFile,
    ArchiveFilters,
    check_archive_directory,
    check_archive_url,
    new_file_key,
)
from millhand.core.errors import UNIQUE_CONSTRAINT, ConfigError, DriverError, NotFound, UniqueConflict
from millhand.core.job import JobId, JobRow
from millhand.db.driver.protocol import Executor
from millhand.storage import ObjectNotFound, ObjectStore, Versioning
from millhand.storage.open import directory_of

if TYPE_CHECKING:
    import duckdb

BATCH_FILES = 16
BATCH_BYTES = 256 * 1024 * 1024
MEMORY = "1GB"
NUM_THREADS = 2  # each has buffers of twice the longest line
NUM_REMOVED = 100
NUM_TRIES = 5
# The longest line of a file in `jsonl` that can be read.
LINE_BYTES_MAX = 64 * 1024 * 1024
INSTANTS = ("created_at", "scheduled_at", "attempted_at", "finalized_at")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SUBJECT = "archived job"


@dataclass(frozen=True, slots=True)
class _Batch:
    """Files that were downloaded, each with its row."""

    files: Sequence[tuple[ArchiveFile, Path]]

    def sql(self) -> str:
        """Return SQL that reads all jobs of the files."""
        parquet = [str(path) for file, path in self.files if file.format == "parquet"]
        parts = [
            lines_sql(path, max_bytes=LINE_BYTES_MAX, json_type="JSON", compression="gzip")
            for file, path in self.files
            if file.format == "jsonl"
        ]
        if parquet:
            listed = ", ".join(map(literal, parquet))
            parts.append(f"SELECT * FROM read_parquet([{listed}], union_by_name = true)")
        return " UNION ALL BY NAME ".join(f"({part})" for part in parts)


class ArchiveControl:
    """
    Reads and changes the archive in `store`.

    `missing` has the keys of files that have a row and no object. Methods that read files leave them out.

    Raises: ConfigError without DuckDB, and where a directory is not mounted: from `begin_erasure`, and from each method that
        reads files.
    Concurrency: several may read and erase at once, while a leader archives.
    """

    def __init__(self, pool: Executor, store: ObjectStore) -> None:
        self._pool = pool
        self._store = store
        self.missing: set[str] = set()

    async def check_url(self) -> None:
        """Return if the files are in this store. Raises: ConfigError."""
        check_archive_url(await self._pool.run(archive_get_url()), self._store.url)

    async def files(
        self, *, limit: int | None = None, since: datetime | None = None, until: datetime | None = None
    ) -> list[ArchiveFile]:
        """Return the files with jobs of a time, the newest first."""
        return await self._pool.run(archive_file_list(limit=limit, since=since, until=until))

    async def search(self, filters: ArchiveFilters, *, limit: int) -> list[dict[str, Any]]:
        """
        Return up to `limit` outcomes of jobs that match, those that finished last first.

        Shape: each is the columns of `archive_writer.COLUMNS`, with instants as datetimes. A job that was retried has an
        outcome for each of its ends.
        Raises: duckdb.Error for an invalid condition; ObjectNotFound; StoreError.
        """
        tries = 0
        while True:
            try:
                return await self._search(filters, limit)
            except ObjectNotFound:
                # The file was replaced or deleted since its row was read.
                tries += 1
                if tries == NUM_TRIES:
                    raise

    async def restore(self, id: int) -> JobRow | None:
        """
        Insert an archived job again, under its id and available now; return its row, or None if the id has a row.

        Raises: NotFound; UniqueConflict if another job has its unique key.
        """
        found = await self.search(ArchiveFilters(id=id), limit=1)
        if not found:
            raise NotFound(SUBJECT, id)
        job = {name: value for name, value in found[0].items() if name not in ("state", "finalized_at")}
        errors = None if job["errors"] is None else json.loads(job["errors"])
        job["errors"] = None if errors is None else [json.dumps(error) for error in errors]
        try:
            return await self._pool.run(archive_restore(job))
        except DriverError as error:
            if error.constraint == UNIQUE_CONSTRAINT:
                raise UniqueConflict(JobId(id)) from error
            raise

    async def find(self, filters: ArchiveFilters) -> list[tuple[ArchiveFile, int]]:
        """Return the files with jobs that match, and how many each has. Raises: as `search`."""
        found: list[tuple[ArchiveFile, int]] = []
        async for connection, batch in self._batches(filters):
            for file, path in batch.files:
                sql = f"SELECT count(*) FROM ({_Batch([(file, path)]).sql()}) WHERE {_condition(filters)}"
                [(num,)] = await _fetch(connection, sql)
                if num:
                    found.append((file, num))
        return found

    async def begin_erasure(self) -> int:
        """
        Return the number of a new erasure. `find` follows it, and then `erase` with the number.

        Files that are being written are abandoned, and objects that wait for their deletion are deleted.
        Raises: StoreError for an object that stays.
        """
        removed = await self._pool.run(archive_file_get_removed(limit=1, after=""))
        if removed or await self.files(limit=1):
            await self._check_directory()
        erasure = await self._pool.run(archive_erase_begin())
        await self._pool.run(archive_file_abandon())
        await self.delete_removed()
        return erasure

    async def erase(
        self,
        file: ArchiveFile,
        filters: ArchiveFilters,
        *,
        erasure: int,
        on_erased: Callable[[int], None] = lambda _: None,
    ) -> int:
        """
        Write a file anew without the jobs that match, and return how many there were. `erasure` is of `begin_erasure`.

        `on_erased` is called with the number before the old object is deleted, because that may fail.

        Raises: ObjectNotFound if the file was replaced or deleted meanwhile, or a later erasure has begun; else as `search`.
        """
        with tempfile.TemporaryDirectory(prefix="millhand-archive-") as name:
            directory = Path(name)
            path, target = directory / "old", directory / "new"
            await self._store.download(file.key, path)
            num_jobs, new = await asyncio.to_thread(_rewrite, file, path, target, filters)
            if not num_jobs:
                return 0
            if new is not None:
                if not await self._pool.run(archive_file_begin(new, num_erasures=erasure)):
                    raise ObjectNotFound("erase", file.key)
                await self._store.put(new.key, await asyncio.to_thread(target.read_bytes), if_absent=True)
        if not await self._pool.run(archive_file_replace(file.key, new_key=None if new is None else new.key)):
            if new is not None:
                await self._pool.run(archive_file_drop(new.key))
                await self.delete_removed()
            raise ObjectNotFound("erase", file.key)
        on_erased(num_jobs)
        await self.delete_removed()
        return num_jobs

    async def versioning(self) -> Versioning:
        """Return whether the bucket keeps what is deleted as a version. Raises: StoreError."""
        return await self._store.versioning()

    async def delete_removed(self) -> int:
        """Delete the objects of files that were replaced, and return how many. Raises: StoreError for one that stays."""
        num_deleted, key = 0, ""
        while keys := await self._pool.run(archive_file_get_removed(limit=NUM_REMOVED, after=key)):
            for key in keys:
                await self._store.delete(key)
                await self._pool.run(archive_file_forget([key]))
                num_deleted += 1
        return num_deleted

    async def _search(self, filters: ArchiveFilters, limit: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        replaced = ", ".join(f"epoch_us({name}) AS {name}" for name in INSTANTS)
        async for connection, batch in self._batches(filters):
            newest = max(file.last_at for file, _ in batch.files)
            if len(found) >= limit and newest < found[limit - 1]["finalized_at"]:
                break
            sql = (
                f"SELECT * REPLACE ({replaced}) FROM ({batch.sql()}) WHERE {_condition(filters)}\n"
                f"ORDER BY finalized_at DESC, id DESC LIMIT {limit:d}"
            )
            found += await asyncio.to_thread(_rows, connection, sql)
            found.sort(key=lambda one: (one["finalized_at"], one["id"]), reverse=True)
            del found[limit:]
        return found

    async def _batches(
        self, filters: ArchiveFilters
    ) -> AsyncIterator[tuple[duckdb.DuckDBPyConnection, _Batch]]:
        """Yield the files that may have jobs that match, some at a time, and download the next ones meanwhile."""
        if importlib.util.find_spec("duckdb") is None:
            raise ConfigError(
                "the archive needs duckdb to be searched, which is not installed; run: pip install 'millhand[inventory]'"
            )
        files = await self._pool.run(
            archive_file_list(id=filters.id, since=filters.since, until=filters.until)
        )
        if files:
            await self._check_directory()
        with tempfile.TemporaryDirectory(prefix="millhand-archive-") as name:
            directory = Path(name)
            connection = await asyncio.to_thread(connect, directory, memory=MEMORY, num_threads=NUM_THREADS)
            batches = list(_split(files))
            coming = None if not batches else asyncio.ensure_future(self._download(batches[0], directory))
            try:
                for number in range(len(batches)):
                    assert coming is not None  # noqa: S101 - there is a batch
                    batch = await coming
                    following = batches[number + 1 : number + 2]
                    coming = (
                        asyncio.ensure_future(self._download(following[0], directory)) if following else None
                    )
                    if batch.files:
                        yield connection, batch
                    for _, path in batch.files:
                        path.unlink()
            finally:
                if coming is not None:
                    coming.cancel()
                    await asyncio.gather(coming, return_exceptions=True)
                await asyncio.to_thread(connection.close)

    async def _check_directory(self) -> None:
        root = directory_of(self._store.url)
        if root is not None:
            await asyncio.to_thread(check_archive_directory, root)

    async def _download(self, files: Sequence[ArchiveFile], directory: Path) -> _Batch:
        paths = [directory / file.key.rpartition("/")[2] for file in files]
        downloads = (self._store.download(file.key, path) for file, path in zip(files, paths, strict=True))
        results = await asyncio.gather(*downloads, return_exceptions=True)
        found: list[tuple[ArchiveFile, Path]] = []
        for file, path, result in zip(files, paths, results, strict=True):
            if result is None:
                found.append((file, path))
            elif isinstance(result, ObjectNotFound) and await self._pool.run(archive_file_has(file.key)):
                # Not replaced: that changes the row first, and then deletes the object.
                self.missing.add(file.key)
            else:
                raise result
        return _Batch(found)


@asynccontextmanager
async def opened_archive(pool: Executor, store: ObjectStore) -> AsyncIterator[ArchiveControl]:
    """Yield the control of an archive, and close its store afterwards."""
    try:
        yield ArchiveControl(pool, store)
    finally:
        await store.aclose()


def _split(files: Sequence[ArchiveFile]) -> Iterator[list[ArchiveFile]]:
    batch: list[ArchiveFile] = []
    num_bytes = 0
    for file in files:
        if batch and (len(batch) == BATCH_FILES or num_bytes + file.num_bytes > BATCH_BYTES):
            yield batch
            batch, num_bytes = [], 0
        batch.append(file)
        num_bytes += file.num_bytes
    if batch:
        yield batch


def _condition(filters: ArchiveFilters) -> str:
    """Return the SQL of the filters. A line ends it, so that a comment in `where` ends too."""
    parts = [] if filters.id is None else [f"id = {filters.id:d}"]
    for column, names in (("kind", filters.kinds), ("queue", filters.queues), ("state", filters.states)):
        if names is not None:
            parts.append(f"{column} IN ({', '.join(literal(str(name)) for name in names) or 'NULL'})")
    for sign, at in ((">=", filters.since), ("<", filters.until)):
        if at is not None:
            parts.append(f"finalized_at {sign} {literal(at.astimezone(UTC).isoformat())}::TIMESTAMPTZ")
    if filters.where is not None:
        parts.append(f"({filters.where}\n)")
    return " AND ".join(parts) or "TRUE"


async def _fetch(connection: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[Any, ...]]:
    return await asyncio.to_thread(lambda: connection.execute(sql).fetchall())


def _rows(connection: duckdb.DuckDBPyConnection, sql: str) -> list[dict[str, Any]]:
    result = connection.execute(sql)
    names = [column[0] for column in result.description or ()]
    rows = [dict(zip(names, row, strict=True)) for row in result.fetchall()]
    for row in rows:
        for name in INSTANTS:
            microseconds = row[name]
            row[name] = None if microseconds is None else EPOCH + timedelta(microseconds=microseconds)
    return rows


def _rewrite(
    file: ArchiveFile, path: Path, target: Path, filters: ArchiveFilters
) -> tuple[int, NewFile | None]:
    """Write a file without the jobs that match. Return how many there were, and the new file, if it has a job. Blocks."""
    source, condition = _Batch([(file, path)]).sql(), f"coalesce({_condition(filters)}\n, FALSE)"
    with connect(path.parent, memory=MEMORY, num_threads=NUM_THREADS) as connection:
        [(num_jobs,)] = connection.execute(f"SELECT count(*) FROM ({source}) WHERE {condition}").fetchall()
        if not num_jobs:
            return 0, None
        rest = f"SELECT * FROM ({source}) WHERE NOT {condition}"
        [(num_left, min_id, max_id, first_at, last_at)] = connection.execute(
            "SELECT count(*), min(id), max(id), epoch_us(min(finalized_at)), epoch_us(max(finalized_at)) "
            f"FROM ({rest})"
        ).fetchall()
        if not num_left:
            return num_jobs, None
        if file.format == "parquet":
            connection.execute(f"COPY ({rest}) TO {literal(str(target))} ({PARQUET})")
        else:
            left = connection.execute(f"SELECT id, epoch_us(finalized_at) FROM ({rest})").fetchall()
            _copy_lines(path, target, set(left))
    first = EPOCH + timedelta(microseconds=first_at)
    return num_jobs, NewFile(
        key=new_file_key(file.day, first, file.format),
        day=file.day,
        first_at=first,
        last_at=EPOCH + timedelta(microseconds=last_at),
        min_id=min_id,
        max_id=max_id,
        num_jobs=num_left,
        num_bytes=target.stat().st_size,
    )


def _copy_lines(path: Path, target: Path, left: set[tuple[int, int]]) -> None:
    """Copy the lines of the jobs that are left, as they are."""
    with gzip.open(path, "rb") as old, gzip.open(target, "wb") as new:
        for line in old:
            job = json.loads(line)
            at = (datetime.fromisoformat(job["finalized_at"]) - EPOCH) // timedelta(microseconds=1)
            if (job["id"], at) in left:
                new.write(line)
