"""
Read a report of S3 Inventory: its manifest, and its files.

Rule 1: a report only shows where to look. The run looks each object up before it records or removes anything.
Rule 2: a report of another bucket, an incomplete one, and one without size, time and etag raise `InventoryUnusable`.

Source: Amazon S3, "Inventory list" and "Locating your inventory list": manifest.json, fileSchema, keys of CSV encoded as
in URLs, keys of Parquet as they are.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from millhand.core.errors import MillhandError
from millhand.storage import ObjectStore, open_store

MANIFEST = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\dZ/manifest\.json")
FORMATS = ("CSV", "Parquet")
NEEDED = ("key", "size", "lastmodifieddate", "etag")
PARQUET_NAMES = {
    "etag": "e_tag", "isdeletemarker": "is_delete_marker", "islatest": "is_latest",
    "lastmodifieddate": "last_modified_date",
}  # fmt: skip
MAX_AGE = timedelta(days=10)  # a weekly report and three days more
DELAY = timedelta(days=2)  # a report may lack objects that are this much older than it


class InventoryUnusable(MillhandError):
    """An S3 Inventory cannot replace the listing of the bucket. The run ends and has changed nothing."""

    def __init__(self, url: str, rule: str, got: object, remedy: str) -> None:
        super().__init__(f"inventory {url} {rule}, got {got!r}; {remedy}")
        self.url = url


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The manifest of a report. `columns` are in the order of the files, in lower case and without underscores."""

    bucket: str
    columns: tuple[str, ...]
    created_at: datetime
    files: tuple[tuple[str, str], ...]
    format: str

    @classmethod
    def of(cls, url: str, text: bytes) -> Manifest:
        """Raises: InventoryUnusable."""
        try:
            manifest_json = json.loads(text)
            created_at = datetime.fromtimestamp(int(manifest_json["creationTimestamp"]) / 1000, UTC)
            # Their keys below the folder of the configuration.
            files = tuple(
                (f"data/{one['key'].rpartition('/data/')[2]}", one["MD5checksum"])
                for one in manifest_json["files"]
            )
            manifest = cls(
                bucket=manifest_json["sourceBucket"],
                columns=_columns(manifest_json["fileSchema"]),
                created_at=created_at,
                files=files,
                format=manifest_json["fileFormat"],
            )
        except (KeyError, TypeError, ValueError) as error:
            remedy = "check that it is the folder of an S3 Inventory's configuration"
            raise InventoryUnusable(
                url, "must have a manifest.json of S3 Inventory", str(error), remedy
            ) from error
        if manifest.format not in FORMATS:
            raise InventoryUnusable(
                url, "must be in CSV or Parquet", manifest.format, "change its configuration"
            )
        if lacking := [name for name in NEEDED if name not in manifest.columns]:
            remedy = "add Size, LastModifiedDate and ETag to its configuration"
            raise InventoryUnusable(url, "must have size, time and etag", f"none of {lacking}", remedy)
        return manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The newest report below a folder. `root` is what the store puts in front of its keys in the bucket."""

    manifest: Manifest
    reports: ObjectStore
    root: str

    @property
    def url(self) -> str:
        return self.reports.url

    @property
    def is_encoded(self) -> bool:
        """Whether its keys are encoded as in URLs, and its columns have no types."""
        return self.manifest.format == "CSV"

    @property
    def file_urls(self) -> list[str]:
        """The addresses of its files, for an engine that reads them itself."""
        parts = urlsplit(self.url)
        folder = f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")
        return [f"{folder}/{key}" for key, _ in self.manifest.files]

    @property
    def column_names(self) -> list[str]:
        """The columns as Parquet files name them."""
        return [PARQUET_NAMES.get(name, name) for name in self.manifest.columns]

    async def download(self, directory: Path) -> list[Path]:
        """Download its files. Raises: InventoryUnusable, for a file that differs from the manifest; StoreError."""
        return [
            await _fetched(self.reports, key, md5, directory / str(number))
            for number, (key, md5) in enumerate(self.manifest.files)
        ]


@asynccontextmanager
async def newest_report(url: str, store: ObjectStore, *, now: datetime) -> AsyncIterator[Report]:
    """
    Yield the newest report below `url`, the folder of its configuration, about the bucket of `store`.

    Raises: InventoryUnusable; StoreError.
    """
    reports = open_store(url)
    parts = urlsplit(store.url)
    bucket, root = (parts.netloc, parts.path.lstrip("/")) if parts.scheme == "s3" else (None, "")
    try:
        manifest = await _newest(reports)
        _check(reports.url, manifest, bucket, now)
        yield Report(manifest=manifest, reports=reports, root=root)
    finally:
        await reports.aclose()


async def _newest(reports: ObjectStore) -> Manifest:
    manifests: list[str] = []
    async with aclosing(reports.list_pages()) as pages:
        async for page in pages:
            manifests += [key for key in page.keys if MANIFEST.fullmatch(key)]
    if not manifests:
        remedy = (
            "set the folder that contains data/ and a folder for each date, and wait for the first report"
        )
        raise InventoryUnusable(reports.url, "must have a report", "no manifest.json", remedy)
    return Manifest.of(reports.url, await reports.get(max(manifests)))


def _check(url: str, manifest: Manifest, bucket: str | None, now: datetime) -> None:
    if bucket is not None and manifest.bucket != bucket:
        remedy = f"set the inventory of bucket {bucket!r}"
        raise InventoryUnusable(url, "must be of the bucket that is scanned", manifest.bucket, remedy)
    if now - manifest.created_at > MAX_AGE:
        remedy = "check why there is no newer one, or remove orphans.inventory"
        rule = f"must not be older than {MAX_AGE.days} days"
        raise InventoryUnusable(url, rule, manifest.created_at.isoformat(), remedy)


async def _fetched(reports: ObjectStore, key: str, md5: str, path: Path) -> Path:
    await reports.download(key, path)
    got = await asyncio.to_thread(_md5, path)
    if got != md5:
        remedy = "it was not written or not read completely; try again"
        raise InventoryUnusable(reports.url, f"must have a {key!r} with MD5 {md5}", got, remedy)
    return path


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _columns(schema: str) -> tuple[str, ...]:
    if schema.lstrip().startswith("message"):
        names = re.findall(r"(?:required|optional)\s+\w+\s+(\w+)", schema)
    else:
        names = [name.strip() for name in schema.split(",")]
    return tuple(name.replace("_", "").lower() for name in names)
