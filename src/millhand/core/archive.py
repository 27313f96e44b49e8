"""The archive of finished jobs: its settings, its files, and the filters of a search."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from millhand.core.checks import check_instants, check_lists
from millhand.core.errors import ConfigError
from millhand.core.job import JobState

ArchiveFormat: TypeAlias = Literal["parquet", "jsonl"]
# Reserved for Millhand's own objects; the orphan cleanup leaves them alone.
ARCHIVE_DIRECTORY = ".millhand/archive"  # stays when the last file is deleted
ARCHIVE_PREFIX = f"{ARCHIVE_DIRECTORY}/job/"
SUFFIXES = {"parquet": ".parquet", "jsonl": ".jsonl.gz"}
FORMATS = tuple(SUFFIXES)
EVERY_MIN = timedelta(seconds=1)
KEEP_MIN = timedelta(days=1)
MAX_DELAY_MIN = timedelta(hours=1)
DURATION_MAX = timedelta(days=36_525)
FINISHED_STATES = (JobState.CANCELLED, JobState.COMPLETED, JobState.DISCARDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """
    Where and how the leader archives finished jobs.

    Args:
        url: The object store, such as `s3://my-bucket/prefix` or `file:/srv/archive`. Each database needs its own.
        every: The time between two passes of the leader, at least a second.
        format: `parquet`, which needs `millhand[inventory]`, or `jsonl` for gzipped lines of JSON.
        keep: How long files are kept after their last job finished; None for ever.
        max_delay: How long cleaners wait for an archive that cannot be written, before they delete jobs without a copy.

    Raises: ConfigError if a setting is invalid.
    """

    url: str
    every: timedelta = timedelta(minutes=15)
    format: ArchiveFormat = "parquet"
    keep: timedelta | None = None
    max_delay: timedelta = timedelta(days=7)

    def __post_init__(self) -> None:
        if not isinstance(self.url, str) or not self.url.strip():
            raise ConfigError(
                f"archive.url must name a bucket or a directory, got {self.url!r}; write s3://my-bucket"
            )
        if self.format not in FORMATS:
            raise ConfigError(f"archive.format must be 'parquet' or 'jsonl', got {self.format!r}")
        for name, least, text in (
            ("every", EVERY_MIN, "a second"),
            ("keep", KEEP_MIN, "a day"),
            ("max_delay", MAX_DELAY_MIN, "an hour"),
        ):
            duration = getattr(self, name)
            if name == "keep" and duration is None:
                continue
            if not isinstance(duration, timedelta):
                raise ConfigError(
                    f"archive.{name} must be a timedelta, got {duration!r}; write timedelta(hours=…)"
                )
            if not least <= duration <= DURATION_MAX:
                raise ConfigError(
                    f"archive.{name} must be at least {text} and at most 100 years, got {duration!r}"
                )


class ArchiveFile(msgspec.Struct, frozen=True):
    """
    One file of the archive.

    Attributes:
        key: The key of the object below the store's URL.
        day: The day on which its jobs finished, in UTC.
        first_at: When the first of its jobs finished.
        last_at: When the last of its jobs finished.
    """

    key: str
    day: date
    first_at: datetime
    last_at: datetime
    num_jobs: int
    num_bytes: int

    @property
    def format(self) -> ArchiveFormat:
        return "parquet" if self.key.endswith(SUFFIXES["parquet"]) else "jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveFilters:
    """
    Filters of archived jobs; a job must pass each that is set. None is unset.

    Args:
        id: The id of the job.
        kinds: The kinds of the jobs.
        queues: The queues of the jobs.
        states: How the jobs finished: completed, cancelled or discarded.
        since: The jobs that finished at this instant or later.
        until: The jobs that finished before this instant.
        where: A condition in DuckDB's SQL on the columns of the files, such as `args ->> '$.to' = 'ann@example.com'`.

    Raises: TypeError for a text in place of a list; ValueError for an instant without time zone, or another state.
    """

    id: int | None = None
    kinds: Sequence[str] | None = None
    queues: Sequence[str] | None = None
    states: Sequence[JobState] | None = None
    since: datetime | None = None
    until: datetime | None = None
    where: str | None = None

    def __post_init__(self) -> None:
        check_lists(self, "kinds", "queues", "states")
        for state in self.states or ():
            if state not in FINISHED_STATES:
                raise ValueError(
                    f"states must be completed, cancelled or discarded, got {str(state)!r}; others are not archived"
                )
        check_instants(self, "since", "until")

    @property
    def is_empty(self) -> bool:
        """Whether every job passes."""
        return self == ArchiveFilters()


def check_archive_url(url: str | None, given: str) -> None:
    """Return if the store of the files, if there is one, is the given one. Raises: ConfigError."""
    if url not in (None, given):
        raise ConfigError(
            f"archive.url must be the store of the files, {url!r}, got {given!r}; set it back, or copy the files and run: "
            "UPDATE millhand_archive_cursor SET url = NULL"
        )


def check_archive_directory(root: Path) -> None:
    """Return if an archive was written to the directory. Raises: ConfigError; its file system is probably not mounted."""
    try:
        is_there = (root / ARCHIVE_DIRECTORY).is_dir()
    except OSError:  # a stale mount
        is_there = False
    if not is_there:
        raise ConfigError(
            f"archive.url must be the directory with the files of the archive, got {str(root)!r} without "
            f"{ARCHIVE_DIRECTORY}; mount its file system"
        )


def archive_url_of_database(url: str, name: str) -> str:
    """Return the URL below `url` for the database with a name in `[databases]`."""
    base, mark, options = url.partition("?") if url.startswith("s3:") else (url, "", "")
    return f"{base.rstrip('/')}/{name}{mark}{options}"


def new_file_key(day: date, first_at: datetime, format: ArchiveFormat) -> str:
    """
    Return the key of a new file. No two files have the same.

    A file that a killed pass left is therefore never the one that a later pass writes.
    """
    at = first_at.astimezone(UTC).strftime("%H%M%S")
    return f"{ARCHIVE_PREFIX}day={day.isoformat()}/{at}-{uuid.uuid4().hex}{SUFFIXES[format]}"
