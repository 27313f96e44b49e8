"""
Archives finished jobs in an object store, before a leader in any language deletes them.

Rule 1: nothing is moved when a job is deleted. A job is archived soon after it finished, and then any leader may delete it.
Rule 2: jobs are archived in the order of (finalized_at, id). The cursor is the last one; our cleaner deletes none beyond it.
Rule 3: the cursor never passes a commit that is late. It stays before what finished five minutes before an earlier pass,
        and before each transaction that was open then.
Rule 4: first the row of the file with state `writing`, then the PUT, then one statement that makes the file `ready` and
        moves the cursor, if that is still where the file begins. So two copiers add each job once. A kill leaves at most a
        file that no reader sees. It is deleted a day later.
Rule 5: what waits in memory has a bound: a page of lines here, and a file in the process of `archive_writer`.
Rule 6: a bucket that is away stops the cursor, and so the cleaner, for `max_delay` at most. Then jobs are deleted without a
        copy, and each pass that fails, or waits for an open transaction, logs it.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from millhand.archive.store import (
    ArchivePage,
    ArchivePosition,
    ArchiveStart,
    NewFile,
    archive_begin,
    archive_end,
    archive_file_begin,
    archive_file_commit,
    archive_file_drop,
    archive_file_expire,
    archive_file_forget,
    archive_file_get_removed,
    archive_get_shape,
    archive_page,
    archive_page_settings,
)
from millhand.core.archive import (
    ARCHIVE_DIRECTORY,
    Archive,
    check_archive_directory,
    check_archive_url,
    new_file_key,
)
from millhand.core.clock import Clock
from millhand.core.errors import DriverError, MillhandError, OperationTimeout
from millhand.core.log.logger import logger_of
from millhand.core.sqlstate import MISSING
from millhand.db.driver.protocol import Executor
from millhand.db.query import Query
from millhand.engine.error_text import error_fields
from millhand.engine.maintenance.batch import STATEMENT_SECONDS
from millhand.engine.registration import Registration
from millhand.engine.service import IntervalService, Stopped, WakeReason
from millhand.storage import ObjectStore, StoreError, open_store
from millhand.storage.open import directory_of

T = TypeVar("T")

logger = logger_of(__name__)

PAGE_SIZE = 5_000
PAGE_SIZE_MIN = 10
PAGE_BYTES = 4 * 1024 * 1024
FILE_JOBS = 100_000
FILE_BYTES = 64 * 1024 * 1024
PAGE_PAUSE_SECONDS = 0.05
CLEAN_SECONDS = 3_600.0
# The clocks of a fleet differ by less than this, and a job is committed within it.
LATE = timedelta(minutes=5)
# A transaction that is open for longer only reads, such as a dump.
OPEN_AT_MOST = timedelta(hours=1)
UNFINISHED_FOR = timedelta(days=1)
NUM_REMOVED = 100
OPEN_TRANSACTION = (
    "file of the archive must be written, got a transaction that is open since before an earlier pass"
)


class ArchiveNotWritten(MillhandError):
    """The process that writes a file has failed, or a transaction stops the pass. The next pass writes the file."""


@dataclass(slots=True)
class _Spool:
    """The lines of a file that is collected, in a temporary file."""

    path: Path
    begin: ArchivePosition
    end: ArchivePosition
    day: date | None = None
    max_bytes: int = 0
    num_bytes: int = 0
    num_jobs: int = 0
    is_last: bool = False
    pages: list[ArchivePage] = field(default_factory=list)

    @property
    def is_full(self) -> bool:
        return self.num_jobs >= FILE_JOBS or self.num_bytes >= FILE_BYTES

    def add(self, page: ArchivePage) -> None:
        """Append the lines of a page. Blocks."""
        with self.path.open("ab") as file:
            self.num_bytes += file.write(page.lines.encode())
        self.day, self.end = page.day, page.position
        self.max_bytes = max(self.max_bytes, page.max_bytes)
        self.num_jobs += page.num_jobs
        self.pages.append(page._replace(lines=""))


class JobArchiver(IntervalService):
    """
    Archives finished jobs as the leader of role `periodic`, and deletes files that are older than `archive.keep`.

    While `registration` is not active, or without the tables of migration 15, a pass does nothing. `now` returns the time
    for tests, or None for the database's.
    """

    def __init__(
        self,
        pool: Executor,
        *,
        archive: Archive,
        clock: Clock,
        registration: Registration,
        now: Callable[[], datetime | None] = lambda: None,
        store: ObjectStore | None = None,
    ) -> None:
        super().__init__()
        self._archive = archive
        self._clean_at = 0.0
        self._clock = clock
        self._has_warned = False
        self._is_late = False
        self._is_there = False
        self._now = now
        self._page_size = PAGE_SIZE
        self._pool = pool
        self._registration = registration
        self._store = store
        self.interval_seconds = archive.every.total_seconds()

    async def run(self, started: Callable[[], None]) -> None:
        self._is_there, self._is_late, self._clean_at = False, False, 0.0
        try:
            await super().run(started)
        finally:
            store, self._store = self._store, None
            if store is not None:
                await store.aclose()

    async def run_once(self) -> None:
        if not self._registration.is_active or not await self._has_tables():
            return
        try:
            await self._archive_and_clean()
        except Stopped:
            return
        except Exception as error:
            self._log_if_late(error)
            if isinstance(error, OperationTimeout):
                self._page_size = max(PAGE_SIZE_MIN, self._page_size // 4)
            if isinstance(error, DriverError):
                self._is_there = False
                if error.sqlstate in MISSING:
                    return
            raise

    def _log_if_late(self, error: Exception) -> None:
        if self._is_late:
            fields = {"max_delay_seconds": self._archive.max_delay.total_seconds(), **error_fields(error)}
            logger.error("jobs deleted without archive", extra=fields)

    async def _has_tables(self) -> bool:
        self._is_there = self._is_there or (await self._run(archive_get_shape())).is_writable
        if not self._is_there and not self._has_warned:
            self._has_warned = True
            remedy = "run: millhand migrate up; with roles, also the SQL of: millhand migrate sql --grants"
            logger.warning("archive tables missing", extra={"remedy": remedy})
        return self._is_there

    async def _archive_and_clean(self) -> None:
        start = await self._begin()
        self.probe("began", start)
        check_archive_url(start.url, self._open_store().url)
        await asyncio.to_thread(_check_directory, self._open_store().url, has_files=start.has_files)
        if start.is_deleted:
            fields = {"job_id": start.waiting_id, "leader_id": start.leader_id}
            logger.warning("jobs deleted before archive", extra=fields)
        position: ArchivePosition | None = start.position
        if start.horizon is None:
            self._log_if_late(ArchiveNotWritten(OPEN_TRANSACTION))
        else:
            position = await self._archive_until(start, start.horizon)
        if position is None:  # another client archives, an erasure has begun, or this one stops
            return
        await self._end(start, position)
        if start.horizon is not None:  # it read a page in time
            self._page_size = min(2 * self._page_size, PAGE_SIZE)
        if self._clock.monotonic() >= self._clean_at:
            await self._clean()
            self._clean_at = self._clock.monotonic() + CLEAN_SECONDS

    async def _begin(self) -> ArchiveStart:
        url: str | None = None
        try:
            # In a thread: the first call imports botocore, which takes seconds on a busy machine.
            url = (await asyncio.to_thread(self._open_store)).url
        finally:
            # Also without a store: from the first pass on, cleaners keep what is not archived.
            start = await self._run(
                archive_begin(
                    late=LATE,
                    max_delay=self._archive.max_delay,
                    open_at_most=OPEN_AT_MOST,
                    url=url,
                    now=self._now(),
                )
            )
            self._is_late = start.is_late
        return start

    async def _archive_until(self, start: ArchiveStart, horizon: str) -> ArchivePosition | None:
        """Write files of all jobs up to the horizon; return the position of the last, or None if others go on."""
        num_files, num_jobs, position = 0, 0, start.position
        with tempfile.TemporaryDirectory(prefix="millhand-archive-") as name:
            while True:
                path = Path(name) / f"{num_files}.jsonl"
                spool = await self._collect(_Spool(path, position, position), horizon)
                if spool is None:
                    return None
                if spool.num_jobs:
                    if not await self._write(spool, start.num_erasures):
                        return None
                    num_files, num_jobs, position = num_files + 1, num_jobs + spool.num_jobs, spool.end
                if spool.is_last:
                    break
        if num_jobs:
            logger.info("jobs archived", extra={"num_jobs": num_jobs, "num_files": num_files})
        self.probe("archived", num_jobs)
        return position

    async def _collect(self, spool: _Spool, horizon: str) -> _Spool | None:
        """Read pages until the file is full, its day ends, or no job is left. Return None if the service stops."""
        while not spool.is_full:
            limit = self._page_size
            page = await self._page(spool, horizon, limit)
            if page.num_jobs:
                await asyncio.to_thread(spool.add, page)
            self.probe("page", page)
            spool.is_last = page.num_found == page.num_jobs and page.num_found < limit
            if spool.is_last or not page.num_jobs:
                return spool
            if await self.wake_event.wait(PAGE_PAUSE_SECONDS) is WakeReason.STOP:
                return None
        return spool

    async def _page(self, spool: _Spool, horizon: str, limit: int) -> ArchivePage:
        query = archive_page(
            spool.end,
            day=spool.day,
            horizon=horizon,
            is_nested=self._archive.format == "jsonl",
            limit=limit,
            max_bytes=PAGE_BYTES,
        )
        async with self._pool.begin() as transaction:
            await transaction.run(archive_page_settings().within(STATEMENT_SECONDS))
            return await transaction.run(query.within(STATEMENT_SECONDS))

    async def _write(self, spool: _Spool, num_erasures: int) -> bool:
        """Write the file of a spool and move the cursor; return False if another client has moved it, or erases."""
        target = spool.path.with_suffix(".file")
        await self.unless_stopped(write_file(self._archive.format, spool.path, target, spool.max_bytes))
        data = await asyncio.to_thread(target.read_bytes)
        for path in (spool.path, target):
            await asyncio.to_thread(path.unlink)
        file = self._file(spool, len(data))
        self.probe("written", file)
        if not await self._run(archive_file_begin(file, num_erasures=num_erasures, now=self._now())):
            return False
        self.probe("file began", file)
        await self.unless_stopped(self._open_store().put(file.key, data, if_absent=True))
        self.probe("put", file)
        query = archive_file_commit(
            file.key, begin=spool.begin, end=spool.end, num_erasures=num_erasures, now=self._now()
        )
        if not await self._run(query):
            await self._run(archive_file_drop(file.key))
            await self._delete_removed()  # at once: its jobs may have been erased
            logger.debug("archive moved by another client", extra={"num_jobs": spool.num_jobs})
            return False
        self.probe("committed", file)
        return True

    def _file(self, spool: _Spool, num_bytes: int) -> NewFile:
        first, last = spool.pages[0], spool.pages[-1]
        return NewFile(
            key=new_file_key(first.day, first.first_at, self._archive.format),
            day=first.day,
            first_at=first.first_at,
            last_at=last.last_at,
            min_id=min(page.min_id for page in spool.pages),
            max_id=max(page.max_id for page in spool.pages),
            num_jobs=spool.num_jobs,
            num_bytes=num_bytes,
        )

    async def _end(self, start: ArchiveStart, position: ArchivePosition) -> None:
        is_seen = start.horizon is not None or start.is_of_other_server
        await self._run(
            archive_end(
                position,
                horizon=start.horizon,
                is_seen=is_seen,
                seen_at=start.at,
                seen_xid=start.xid,
                now=self._now(),
            )
        )
        self.probe("ended", start)

    async def _clean(self) -> None:
        """Delete the files that are too old, and those that a killed pass left."""
        query = archive_file_expire(keep=self._archive.keep, unfinished_for=UNFINISHED_FOR, now=self._now())
        await self._run(query)
        await self._delete_removed()

    async def _delete_removed(self) -> None:
        num_deleted, after = 0, ""
        while keys := await self._run(archive_file_get_removed(limit=NUM_REMOVED, after=after)):
            failed = await self.unless_stopped(self._delete(keys))
            self.probe("deleted", keys)
            await self._run(archive_file_forget([key for key in keys if key not in failed]))
            num_deleted += len(keys) - len(failed)
            if failed:
                key, reason = next(iter(failed.items()))
                logger.warning(
                    "archive files not deleted",
                    extra={"num_files": len(failed), "key": key, "reason": reason},
                )
                break
            after = keys[-1]
        if num_deleted:
            logger.info("archive files deleted", extra={"num_files": num_deleted})

    async def _delete(self, keys: Sequence[str]) -> dict[str, str]:
        """Delete objects with their versions, and return the reason for each that stays. Raises: StoreError."""
        store = self._open_store()
        results = await asyncio.gather(*map(store.delete, keys), return_exceptions=True)
        failed: dict[str, str] = {}
        for key, result in zip(keys, results, strict=True):
            if isinstance(result, StoreError):
                failed[key] = result.reason
            elif isinstance(result, BaseException):
                raise result
        return failed

    def _open_store(self) -> ObjectStore:
        if self._store is None:
            self._store = open_store(self._archive.url, is_durable=True)
        return self._store

    async def _run(self, query: Query[T]) -> T:
        return await self._pool.run(query.within(STATEMENT_SECONDS))


async def write_file(format: str, source: Path, target: Path, max_bytes: int) -> None:
    """Run a process that writes the file of a spool. Raises: ArchiveNotWritten."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # a module of the working directory must not take the place of a library
        "-m",
        "millhand.archive.writer",
        format,
        str(source),
        str(target),
        str(max_bytes),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stderr=asyncio.subprocess.PIPE,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        reason = (
            errors.decode(errors="replace").strip().partition("\n")[0] or f"exit code {process.returncode}"
        )
        raise ArchiveNotWritten(f"file of the archive must be written, got {reason}")


def _check_directory(url: str, *, has_files: bool) -> None:
    """Make the directory of a new archive. Raises: ConfigError for one with files whose directory is not there."""
    root = directory_of(url)
    if root is None:
        return
    if has_files:
        check_archive_directory(root)
    else:
        (root / ARCHIVE_DIRECTORY).mkdir(parents=True, exist_ok=True)
