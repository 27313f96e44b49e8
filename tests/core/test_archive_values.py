"""The settings of an archive, and the filters of its searches."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from millhand.core.archive import Archive, ArchiveFile, ArchiveFilters, new_file_key
from millhand.core.config import Config, QueueConfig
from millhand.core.errors import ConfigError
from millhand.core.job import JobState

AT = datetime(2026, 11, 25, 10, 15, tzinfo=UTC)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": " "}, "archive.url must name a bucket or a directory, got ' '; write s3://my-bucket"),
        ({"format": "csv"}, "archive.format must be 'parquet' or 'jsonl', got 'csv'"),
        ({"every": 15}, "archive.every must be a timedelta, got 15; write timedelta(hours=…)"),
        (
            {"every": timedelta(0)},
            "archive.every must be at least a second and at most 100 years, got datetime.timedelta(0)",
        ),
        (
            {"keep": timedelta(hours=1)},
            "archive.keep must be at least a day and at most 100 years, got datetime.timedelta(seconds=3600)",
        ),
        (
            {"max_delay": timedelta(0)},
            "archive.max_delay must be at least an hour and at most 100 years, got datetime.timedelta(0)",
        ),
    ],
)
def test_archive_refuses_what_is_invalid(settings: dict[str, Any], message: str) -> None:
    """The error names the setting, the rule and the value."""
    with pytest.raises(ConfigError) as caught:
        Archive(**{"url": "s3://bucket", **settings})

    assert str(caught.value) == message


def test_config_refuses_an_archive_of_jobs_that_are_deleted_at_once() -> None:
    """A client that keeps no completed job has nothing to archive; a queue may be left out."""
    archive = Archive(url="s3://bucket")

    with pytest.raises(ConfigError) as caught:
        Config(archive=archive, keep_completed=False)
    with pytest.raises(ConfigError) as wrong:
        Config(archive="s3://bucket")  # type: ignore[arg-type]

    assert str(caught.value) == (
        "keep_completed must be True with an archive, got False; a job that is deleted when it completes is not archived; "
        "set keep_completed=False for the queues or workers whose jobs need no archive"
    )
    assert str(wrong.value) == (
        "archive must be an Archive, got 's3://bucket'; write Archive(url='s3://my-bucket')"
    )
    assert Config(archive=archive, queues={"noise": QueueConfig(max_workers=1, keep_completed=False)})


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"kinds": "a"}, "kinds must be a list, got 'a'; write ['a']"),
        (
            {"states": [JobState.RUNNING]},
            "states must be completed, cancelled or discarded, got 'running'; others are not archived",
        ),
        (
            {"since": datetime(2026, 1, 1)},  # noqa: DTZ001 - that is the fault
            "since must be an aware instant, got datetime.datetime(2026, 1, 1, 0, 0); write datetime(…, tzinfo=UTC)",
        ),
    ],
)
def test_filters_refuse_what_is_invalid(filters: dict[str, Any], message: str) -> None:
    """The error names the filter, the rule and the value."""
    with pytest.raises((TypeError, ValueError)) as caught:
        ArchiveFilters(**filters)

    assert str(caught.value) == message


def test_no_two_files_have_the_same_key() -> None:
    """A key has day and time, and cannot be made again; its end is the format."""
    keys = {new_file_key(date(2026, 11, 25), AT, "parquet") for _ in range(10)}
    file = ArchiveFile(new_file_key(date(2026, 11, 25), AT, "jsonl"), date(2026, 11, 25), AT, AT, 1, 1)

    assert len(keys) == 10
    assert all(key.startswith(".millhand/archive/job/day=2026-11-25/101500-") for key in keys)
    assert file.format == "jsonl"
    assert ArchiveFilters().is_empty
