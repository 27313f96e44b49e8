"""Statements for the archive of finished jobs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from millhand.core.archive import ArchiveFile
from millhand.core.job import JobId, JobRow
from millhand.db.query import Query, parse_none
from millhand.engine.store.job_row import parse_job

NO_LIMIT = 2**62


class ArchivePosition(NamedTuple):
    """A place in the order of finished jobs: an instant as PostgreSQL's text, which may be infinite, and an id."""

    at: str
    id: int


class ArchiveShape(NamedTuple):
    """Whether this role may read the tables of the archive, and whether it may write them. Neither without the tables."""

    is_readable: bool
    is_writable: bool


class ArchiveStart(NamedTuple):
    """
    What a pass that begins sees.

    `horizon` is the instant up to which it may archive, or None if transactions of an earlier pass are still open.
    `is_late` says that cleaners no longer wait for the archive. `is_deleted` says that the job `waiting_id` was deleted
    before it was archived. `num_erasures` is how many erasures had begun. `url`
    is the store of the files, or None before the first pass that has one.
    """

    at: datetime
    xid: str
    archived_at: str
    archived_id: int
    horizon: str | None
    is_of_other_server: bool
    is_late: bool
    waiting_id: JobId | None
    is_deleted: bool | None
    leader_id: str | None
    num_erasures: int
    url: str | None
    has_files: bool

    @property
    def position(self) -> ArchivePosition:
        return ArchivePosition(self.archived_at, self.archived_id)


class ArchivePage(NamedTuple):
    """
    Finished jobs of one day as lines of JSON.

    `num_found` is how many jobs the page found, of any day and size, and `num_jobs` how many it returns. Without jobs, the
    rest is empty or None. `max_bytes` is the length of the longest line.
    """

    num_found: int
    num_jobs: int
    lines: str
    max_bytes: int
    day: date
    first_at: datetime
    last_at: datetime
    min_id: int
    max_id: int
    archived_at: str
    archived_id: int

    @property
    def position(self) -> ArchivePosition:
        return ArchivePosition(self.archived_at, self.archived_id)


class NewFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is about to be written."""

    key: str
    day: date
    first_at: datetime
    last_at: datetime
    min_id: int
    max_id: int
    num_jobs: int
    num_bytes: int


def archive_get_shape() -> Query[ArchiveShape]:
    """Return whether this role may read and write the tables."""
    return Query("archive_get_shape", {}, lambda rows: ArchiveShape(*rows[0]))


def archive_begin(
    *,
    late: timedelta,
    max_delay: timedelta,
    open_at_most: timedelta,
    url: str | None,
    now: datetime | None = None,
) -> Query[ArchiveStart]:
    """
    Return how far the archive reaches, and up to which instant a pass that begins now may archive.

    A job is committed within `late` of its instant, or in a transaction that began at most `open_at_most` ago. The first
    `url` is kept.
    """
    params = {"late": late, "max_delay": max_delay, "now": now, "open_at_most": open_at_most, "url": url}
    return Query("archive_begin", params, lambda rows: ArchiveStart(*rows[0]))


def archive_page_settings() -> Query[None]:
    """Set how this transaction plans. Each `archive_page` follows it."""
    return Query("archive_page_settings", {}, parse_none)


def archive_page(
    position: ArchivePosition, *, day: date | None, horizon: str, is_nested: bool, limit: int, max_bytes: int
) -> Query[ArchivePage]:
    """
    Return up to `limit` jobs of one day that finished after a position and before the horizon, in their order.

    Without `day`, it is that of the first job. The page ends with the line that exceeds `max_bytes`. With `is_nested`, args,
    metadata and errors are JSON within the line, and otherwise texts of JSON.
    """
    params = {
        "after_at": position.at,
        "after_id": position.id,
        "day": day,
        "horizon": horizon,
        "is_nested": is_nested,
        "limit": limit,
        "max_bytes": max_bytes,
    }
    return Query("archive_page", params, lambda rows: ArchivePage(*rows[0]))


def archive_file_begin(file: NewFile, *, num_erasures: int, now: datetime | None = None) -> Query[bool]:
    """Record a file that is about to be written; return False if an erasure began since `num_erasures` was read."""
    params = {**msgspec.structs.asdict(file), "now": now, "num_erasures": num_erasures}
    return Query("archive_file_begin", params, bool)


def archive_file_commit(
    key: str, *, begin: ArchivePosition, end: ArchivePosition, num_erasures: int, now: datetime | None = None
) -> Query[bool]:
    """
    Add a file that was written, and move the cursor from `begin` to `end`.

    Return False if the cursor is elsewhere, or an erasure began since `num_erasures` was read.

    Concurrency: of two copiers with the same jobs, one gets True.
    """
    params = {
        "archived_at": end.at,
        "archived_id": end.id,
        "from_at": begin.at,
        "from_id": begin.id,
        "key": key,
        "now": now,
        "num_erasures": num_erasures,
    }
    return Query("archive_file_commit", params, lambda rows: bool(rows[0][0]))


def archive_end(
    position: ArchivePosition,
    *,
    horizon: str | None,
    is_seen: bool,
    seen_at: datetime,
    seen_xid: str,
    now: datetime | None = None,
) -> Query[None]:
    """
    Record that a pass has archived all jobs below its horizon, and with `is_seen` its start.

    The cursor moves to the horizon if it is still at `position`.
    """
    params = {
        "from_at": position.at,
        "from_id": position.id,
        "horizon": horizon,
        "is_seen": is_seen,
        "now": now,
        "seen_at": seen_at,
        "seen_xid": seen_xid,
    }
    return Query("archive_end", params, parse_none)


def archive_file_expire(
    *, keep: timedelta | None, unfinished_for: timedelta, now: datetime | None = None
) -> Query[None]:
    """Mark files that are older than `keep`, and those that were not finished, so that they are deleted."""
    params = {"keep": keep, "now": now, "unfinished_for": unfinished_for}
    return Query("archive_file_expire", params, parse_none)


def archive_file_drop(key: str) -> Query[None]:
    """Mark a file that was written in vain, so that it is deleted."""
    return Query("archive_file_drop", {"key": key}, parse_none)


def archive_erase_begin() -> Query[int]:
    """
    Count an erasure and return the new number, or 0 for an archive that has never begun.

    Concurrency: what read jobs before it adds no file after it. `archive_file_abandon` follows it.
    """
    return Query("archive_erase_begin", {}, lambda rows: int(rows[0][0]) if rows else 0)


def archive_file_abandon() -> Query[None]:
    """Mark the files that are being written, so that none of them is added."""
    return Query("archive_file_abandon", {}, parse_none)


def archive_file_replace(key: str, *, new_key: str | None) -> Query[bool]:
    """
    Put a file that was written in the place of another, or with None remove that; return False if it is gone.

    Concurrency: of two that replace the same file, one gets True.
    """
    return Query("archive_file_replace", {"key": key, "new_key": new_key}, lambda rows: bool(rows[0][0]))


def archive_file_get_removed(*, limit: int, after: str = "") -> Query[list[str]]:
    """Return the keys of files that are to be deleted, in their order, those after a key."""
    params = {"after": after, "limit": limit}
    return Query("archive_file_get_removed", params, lambda rows: [row[0] for row in rows])


def archive_file_forget(keys: Sequence[str]) -> Query[None]:
    """Delete the rows of files whose objects were deleted."""
    return Query("archive_file_forget", {"keys": list(keys)}, parse_none)


def archive_get_url() -> Query[str | None]:
    """Return the store of the files, or None if there are none yet."""
    return Query("archive_get_url", {}, lambda rows: rows[0][0])


def archive_file_has(key: str) -> Query[bool]:
    """Return whether a file is there for readers."""
    return Query("archive_file_has", {"key": key}, lambda rows: bool(rows[0][0]))


def archive_file_list(
    *,
    id: int | None = None,
    limit: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Query[list[ArchiveFile]]:
    """Return the files that may hold the job with an id, or jobs of a time, the newest first."""
    params = {"id": id, "limit": NO_LIMIT if limit is None else limit, "since": since, "until": until}
    return Query("archive_file_list", params, lambda rows: [ArchiveFile(*row) for row in rows])


def archive_restore(job: dict[str, Any], *, now: datetime | None = None) -> Query[JobRow | None]:
    """Insert an archived job again, available now, and return its row; None if the id has a row."""
    return Query("archive_restore", {**job, "now": now}, lambda rows: parse_job(rows[0]) if rows else None)
