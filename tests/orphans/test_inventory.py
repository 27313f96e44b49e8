"""S3 Inventory in place of a listing, in AWS's documented layout: it supplies candidates, and the bucket decides."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import duckdb
import pytest
from world import DAY, World

from millhand.orphans import RunReport, list_findings, reconcile
from millhand.orphans.inventory.inventory_report import InventoryUnusable
from millhand.storage import ObjectInfo, ObjectStore

pytestmark = pytest.mark.slow  # CI runs it; the default suite stays within a minute

FOLDER = "inventory/my-bucket/daily"
CSV_SCHEMA = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag, StorageClass"
PARQUET_SCHEMA = (
    "message s3.inventory { required binary bucket (UTF8); required binary key (UTF8); "
    "optional binary version_id (UTF8); optional boolean is_latest; optional boolean is_delete_marker; "
    "optional int64 size; optional int64 last_modified_date (TIMESTAMP(MILLIS,true)); optional binary e_tag (UTF8); }"
)


@dataclass(frozen=True)
class Reports:
    """A directory with inventories of a bucket, as S3 writes them."""

    directory: Path

    @property
    def url(self) -> str:
        return f"file://{self.directory / FOLDER}"

    def write(
        self, objects: Sequence[ObjectInfo], *, format: str, now: datetime, num_files: int = 2, **changes: Any
    ) -> None:
        """Write a report, each object with an older version and a delete marker of something else beside it."""
        data = self.directory / FOLDER / "data"
        data.mkdir(parents=True, exist_ok=True)
        files = []
        for number in range(num_files):
            name = f"{now:%H%M%S}-{number}.{'csv.gz' if format == 'CSV' else 'parquet'}"
            written = [one for at, one in enumerate(reversed(objects)) if at % num_files == number]
            (write_csv if format == "CSV" else write_parquet)(data / name, written)
            body = (data / name).read_bytes()
            md5 = hashlib.md5(body, usedforsecurity=False).hexdigest()
            files.append({"key": f"{FOLDER}/data/{name}", "size": len(body), "MD5checksum": md5})
        manifest = {
            "sourceBucket": "my-bucket",
            "destinationBucket": "arn:aws:s3:::reports",
            "version": "2016-11-30",
            "creationTimestamp": str(int(now.timestamp() * 1000)),
            "fileFormat": format,
            "fileSchema": CSV_SCHEMA if format == "CSV" else PARQUET_SCHEMA,
            "files": files,
        }
        folder = self.directory / FOLDER / f"{now:%Y-%m-%dT%H-%MZ}"
        folder.mkdir(exist_ok=True)
        (folder / "manifest.json").write_text(json.dumps(manifest | changes))


def rows_of(objects: Sequence[ObjectInfo]) -> list[tuple[Any, ...]]:
    """Return the rows of a report, with older versions and with markers of objects that were deleted."""
    rows: list[tuple[Any, ...]] = []
    for one in objects:
        rows.append((one.key, "v1", False, False, 99_999, one.modified_at, "old"))
        rows.append((one.key, "v2", True, False, one.size, one.modified_at, one.etag))
        rows.append((f"{one.key}.deleted", "v1", True, True, None, one.modified_at, None))
    return rows


def write_csv(path: Path, objects: Sequence[ObjectInfo]) -> None:
    """Write rows as CSV: no heading, all quoted, keys encoded as in URLs, instants in ISO 8601."""
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    for key, version, is_latest, is_marker, size, modified, etag in rows_of(objects):
        instant = modified.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        flags = [str(flag).lower() for flag in (is_latest, is_marker)]
        name = quote(key, safe="/").replace("%20", "+")
        writer.writerow(
            [
                "my-bucket",
                name,
                version,
                *flags,
                "" if size is None else size,
                instant,
                etag or "",
                "STANDARD",
            ]
        )
    path.write_bytes(gzip.compress(text.getvalue().encode()))


def write_parquet(path: Path, objects: Sequence[ObjectInfo]) -> None:
    """Write rows as Parquet: names with underscores, keys as they are."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(
            "CREATE TABLE report (bucket VARCHAR, key VARCHAR, version_id VARCHAR, is_latest BOOLEAN, "
            "is_delete_marker BOOLEAN, size BIGINT, last_modified_date TIMESTAMPTZ, e_tag VARCHAR)"
        )
        for row in rows_of(objects):
            connection.execute("INSERT INTO report VALUES ('my-bucket', ?, ?, ?, ?, ?, ?, ?)", row)
        connection.execute(f"COPY report TO '{path}' (FORMAT parquet)")


@pytest.fixture
def reports(tmp_path: Path) -> Reports:
    """A folder without any report yet."""
    (tmp_path / FOLDER).mkdir(parents=True)
    return Reports(tmp_path)


async def objects_of(store: ObjectStore) -> list[ObjectInfo]:
    """Return all objects of a store as HEAD has them."""
    return [await store.head(key) async for page in store.list_pages() for key in page.keys]


async def run(world: World, reports: Reports, *, after: timedelta = timedelta(0)) -> RunReport:
    """Run with the newest report."""
    world.now += after
    config = replace(world.config, inventory=reports.url)
    return await reconcile(world.executor, world.store, config, now=world.now)


@pytest.mark.parametrize("format", [pytest.param("CSV", marks=pytest.mark.slow), "Parquet"])
async def test_orphans_of_an_inventory_are_looked_up_before_they_go(
    world: World, reports: Reports, format: str
) -> None:
    """An object that two reports have and no row names goes if it is unchanged; newer and changed objects stay."""
    await world.pair("live.png")
    for key in ("orphan.png", "overwritten.png", "gone.png"):
        await world.put(key)
    reports.write(await whole_seconds(world), format=format, now=world.now)
    first = await run(world, reports, after=DAY)
    reports.write(await whole_seconds(world), format=format, now=world.now + 7 * DAY)
    await world.put("overwritten.png", b"another object")
    await world.store.delete("gone.png")
    await world.pair("new.png")
    touch(world, "new.png", world.now + 6 * DAY)

    second = await run(world, reports, after=8 * DAY)

    assert (first.state, first.is_first, first.orphan_objects) == ("completed", True, 3)
    assert (second.state, second.deleted, second.missing) == ("completed", 1, 0)
    assert await world.keys() == ["live.png", "new.png", "overwritten.png"]
    assert await world.row_keys() == ["live.png", "new.png"]
    assert "orphan.png" not in [
        finding.key for finding in await list_findings(world.executor, kind="missing")
    ]


def touch(world: World, key: str, when: datetime) -> None:
    """Set the time of an object, in whole seconds, as S3 has them."""
    seconds = int(when.timestamp())
    os.utime(Path(world.store.url.removeprefix("file://")) / key, (seconds, seconds))


async def whole_seconds(world: World) -> list[ObjectInfo]:
    """Give all objects times of whole seconds, and return them."""
    found = [one for one in await objects_of(world.store) if not one.key.startswith(".millhand/")]
    for one in found:
        touch(world, one.key, one.modified_at)
    return await objects_of(world.store)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fileFormat": "ORC"}, "must be in CSV or Parquet, got 'ORC'; change its configuration"),
        (
            {"fileSchema": "Bucket, Key, Size"},
            (
                "must have size, time and etag, got \"none of ['lastmodifieddate', 'etag']\"; "
                "add Size, LastModifiedDate and ETag to its configuration"
            ),
        ),
        (
            {"files": [{"key": "x"}]},
            (
                "must have a manifest.json of S3 Inventory, got \"'MD5checksum'\"; "
                "check that it is the folder of an S3 Inventory's configuration"
            ),
        ),
        (
            {"creationTimestamp": "1514944800000"},
            (
                "must not be older than 10 days, got '2018-01-03T02:00:00+00:00'; "
                "check why there is no newer one, or remove orphans.inventory"
            ),
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_an_unusable_inventory_ends_the_run(
    world: World, reports: Reports, changes: dict[str, Any], message: str
) -> None:
    """A report that cannot replace a listing ends the run with a rule and a remedy."""
    await world.put("a")
    reports.write(await objects_of(world.store), format="CSV", now=world.now, **changes)

    with pytest.raises(InventoryUnusable) as raised:
        await run(world, reports)

    assert str(raised.value) == f"inventory {reports.url} {message}"


async def test_an_incomplete_inventory_ends_the_run(world: World, reports: Reports) -> None:
    """A file with another checksum than in the manifest ends the run: its objects would look missing."""
    await world.put("a")
    reports.write(await objects_of(world.store), format="CSV", now=world.now, num_files=1)
    [data] = (reports.directory / FOLDER / "data").iterdir()
    data.write_bytes(data.read_bytes()[:-1])

    with pytest.raises(InventoryUnusable) as raised:
        await run(world, reports)

    assert re.search(r"must have a 'data/.*csv\.gz' with MD5 \w{32}, got '\w{32}'; ", str(raised.value))


async def test_a_folder_without_a_report_ends_the_run(world: World, reports: Reports) -> None:
    """A folder without a report is not treated as a bucket without objects."""
    with pytest.raises(InventoryUnusable) as raised:
        await run(world, reports)

    assert str(raised.value).endswith(
        "must have a report, got 'no manifest.json'; set the folder that contains data/ and a folder for each date, "
        "and wait for the first report"
    )
