"""The manifest of a report: its columns and files, and the addresses that another engine reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from inventory_reports import CSV_SCHEMA, FOLDER, PARQUET_SCHEMA, Reports, objects_of
from world import World

from millhand.orphans.inventory.inventory_report import Manifest, newest_report

TEXT = """{{
    "sourceBucket": "my-bucket", "creationTimestamp": "1763600400000", "fileFormat": "{format}",
    "fileSchema": "{schema}", "files": [{{"key": "inventory/my-bucket/daily/data/1.gz", "MD5checksum": "0a"}}]
}}"""


@pytest.mark.parametrize(("format", "schema"), [("CSV", CSV_SCHEMA), ("Parquet", PARQUET_SCHEMA)])
def test_a_manifest_names_columns_alike_in_both_formats(format: str, schema: str) -> None:
    """Columns are in the order of the files, in lower case and without underscores; files are below data/."""
    manifest = Manifest.of("s3://reports", TEXT.format(format=format, schema=schema).encode())

    assert manifest.columns[:8] == (
        "bucket",
        "key",
        "versionid",
        "islatest",
        "isdeletemarker",
        "size",
        "lastmodifieddate",
        "etag",
    )
    assert manifest.files == (("data/1.gz", "0a"),)
    assert manifest.created_at.isoformat() == "2025-11-20T01:00:00+00:00"


@pytest.mark.slow
async def test_the_newest_report_is_taken(world: World, tmp_path: Path) -> None:
    """Of several reports the newest counts; its files have addresses, and are downloaded as they are."""
    (tmp_path / FOLDER).mkdir(parents=True)
    reports = Reports(tmp_path)
    await world.put("a")
    for minutes in (0, 5):
        now = world.now.replace(minute=10 + minutes)
        reports.write(await objects_of(world.store), format="CSV", now=now, num_files=1)
    (tmp_path / "files").mkdir()

    async with newest_report(reports.url, world.store, now=world.now) as report:
        [path] = await report.download(tmp_path / "files")
        [url] = report.file_urls

    assert f"{report.manifest.created_at:%M}" == "15"
    assert Path(url.removeprefix("file://")).read_bytes() == path.read_bytes()
    assert (report.is_encoded, report.root) == (True, "")
    assert report.column_names == [
        "bucket",
        "key",
        "versionid",
        "is_latest",
        "is_delete_marker",
        "size",
        "last_modified_date",
        "e_tag",
        "storageclass",
    ]
