"""Reports of S3 Inventory in AWS's documented layout, for tests."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import duckdb

from millhand.storage import ObjectInfo, ObjectStore

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


async def objects_of(store: ObjectStore) -> list[ObjectInfo]:
    """Return all objects of a store as HEAD has them."""
    return [await store.head(key) async for page in store.list_pages() for key in page.keys]
