"""
Read an S3 Inventory with DuckDB, in place of a listing: the objects of a bucket at the time of the report.

Rule 1: an inventory only shows where to look. Before anything is removed, or reported as missing, Millhand looks it up.
Rule 2: a report of another bucket, an incomplete one, and one without size, time and etag raise `InventoryUnusable`.
Rule 3: the report's files are downloaded once per run into a temporary directory, and read in the order of keys.

Source: Amazon S3, "Inventory list" and "Locating your inventory list": manifest.json, fileSchema, keys of CSV encoded as
in URLs, keys of Parquet as they are.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import re
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from millhand.errors import ConfigError, MillhandError
from millhand.orphans.scan.listing import each_key_once, page_of
from millhand.orphans.scan.lookup import find_object
from millhand.orphans.sources.key_sql import literal
from millhand.storage import ObjectInfo, ObjectPage, ObjectStore, open_store
from millhand.storage.protocol import RESERVED_PREFIX

if TYPE_CHECKING:
    import duckdb

MANIFEST = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\dZ/manifest\.json")
FORMATS = ("CSV", "Parquet")
NEEDED = ("key", "size", "lastmodifieddate", "etag")
PARQUET_NAMES = {
    "etag": "e_tag", "isdeletemarker": "is_delete_marker", "islatest": "is_latest",
    "lastmodifieddate": "last_modified_date",
}  # fmt: skip
MAX_AGE = timedelta(days=10)  # a weekly report and three days more
DELAY = timedelta(days=2)  # a report may lack objects that are this much older than it
MEMORY = "256MB"  # of DuckDB; beyond it, DuckDB sorts on disk

Row = tuple[str, int, str, float]


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
            files = tuple((_below(one["key"]), one["MD5checksum"]) for one in manifest_json["files"])
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


class Inventory:
    """The objects of a bucket as an inventory lists them. Use `opened_inventory` to make one."""

    def __init__(self, manifest: Manifest, files: Sequence[Path], root: str, directory: Path) -> None:
        self.manifest = manifest
        self._directory = directory
        self._source = _source_sql(manifest, files, root) if files else None

    async def expected(self, store: ObjectStore, keys: Sequence[str]) -> list[str]:
        """Return those of `keys` that must be in the report, because their objects are old enough."""
        newest = self.manifest.created_at - DELAY
        return [key for key in keys if (info := await find_object(store, key)) and info.modified_at < newest]

    async def list_pages(
        self, *, prefix: str = "", start_after: str = "", up_to: str | None = None, page_size: int = 1_000
    ) -> AsyncGenerator[ObjectPage, None]:
        """List as an `ObjectStore` does, in the order of keys, without Millhand's own objects."""
        if self._source is None:
            return
        where = f"key > {literal(start_after)} AND starts_with(key, {literal(prefix)})"
        if up_to is not None:
            where += f" AND key <= {literal(up_to)}"
        sql = f"SELECT key, size, etag, modified FROM ({self._source}) WHERE {where} ORDER BY key"
        connection = await asyncio.to_thread(_connect, self._directory)
        try:
            result = await asyncio.to_thread(connection.execute, sql)
            last = None
            while rows := await asyncio.to_thread(result.fetchmany, page_size):
                yield page_of(list(each_key_once(rows, last)), _info)  # DISTINCT would sort twice
                last = rows[-1][0]
        finally:
            await asyncio.to_thread(connection.close)


@asynccontextmanager
async def opened_inventory(url: str, store: ObjectStore, *, now: datetime) -> AsyncIterator[Inventory]:
    """
    Yield the newest report below `url`, the folder of its configuration, as the listing of `store`.

    Raises: InventoryUnusable; ConfigError, without DuckDB; StoreError.
    """
    if importlib.util.find_spec("duckdb") is None:
        raise ConfigError(
            "orphans.inventory needs duckdb, which is not installed; run: pip install 'millhand[inventory]'"
        )
    reports = open_store(url)
    bucket, root = _place(store.url)
    try:
        with tempfile.TemporaryDirectory(prefix="millhand-inventory-") as name:
            manifest = await _newest(reports)
            _check(reports.url, manifest, bucket, now)
            files = [
                await _fetched(reports, key, md5, Path(name) / str(number))
                for number, (key, md5) in enumerate(manifest.files)
            ]
            yield Inventory(manifest, files, root, Path(name))
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


def _below(key: str) -> str:
    """Return a data file's key below the folder of the configuration."""
    return f"data/{key.rpartition('/data/')[2]}"


def _columns(schema: str) -> tuple[str, ...]:
    if schema.lstrip().startswith("message"):
        names = re.findall(r"(?:required|optional)\s+\w+\s+(\w+)", schema)
    else:
        names = [name.strip() for name in schema.split(",")]
    return tuple(name.replace("_", "").lower() for name in names)


def _source_sql(manifest: Manifest, files: Sequence[Path], root: str) -> str:
    """Return SQL that reads key, size, etag and modified of the newest versions, with keys below `root`."""
    listed = ", ".join(literal(str(file)) for file in files)
    if manifest.format == "CSV":
        columns = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in manifest.columns)
        read = (
            f"read_csv([{listed}], header = false, compression = 'gzip', delim = ',', quote = '\"', "
            f"escape = '\"', columns = {{{columns}}})"
        )
        names = {name: f'"{name}"' for name in manifest.columns}
        key = f"url_decode(replace({names['key']}, '+', ' '))"
    else:
        read = f"read_parquet([{listed}])"
        names = {name: f'"{PARQUET_NAMES.get(name, name)}"' for name in manifest.columns}
        key = names["key"]
    is_latest, is_marker = names.get("islatest", "'true'"), names.get("isdeletemarker", "'false'")
    ours = literal(RESERVED_PREFIX)
    return (
        f"SELECT substr(name, {len(root) + 1}) AS key, size, etag, modified FROM (SELECT {key} AS name, "
        f"CAST({names['size']} AS BIGINT) AS size, coalesce(CAST({names['etag']} AS VARCHAR), '') AS etag, "
        f"epoch(CAST({names['lastmodifieddate']} AS TIMESTAMPTZ)) AS modified FROM {read} "
        f"WHERE lower(CAST({is_latest} AS VARCHAR)) = 'true' AND lower(CAST({is_marker} AS VARCHAR)) <> 'true') "
        f"WHERE starts_with(name, {literal(root)}) AND size IS NOT NULL "
        f"AND NOT starts_with(name, {literal(root + RESERVED_PREFIX)}) AND NOT contains(name, '/' || {ours})"
    )


def _connect(directory: Path) -> duckdb.DuckDBPyConnection:
    import duckdb  # noqa: PLC0415 - the extra may be missing

    connection = duckdb.connect()
    for setting, value in (
        ("memory_limit", MEMORY),
        ("threads", "2"),
        ("temp_directory", str(directory / "sorting")),
        ("TimeZone", "UTC"),
        ("autoinstall_known_extensions", "false"),
    ):
        connection.execute(f"SET {setting} = {literal(value)}")
    return connection


def _place(url: str) -> tuple[str | None, str]:
    """Return the bucket of a store, and the prefix that the store puts in front of its keys."""
    parts = urlsplit(url)
    return (parts.netloc, parts.path.lstrip("/")) if parts.scheme == "s3" else (None, "")


def _info(row: Row) -> ObjectInfo:
    key, size, etag, modified = row
    # HEAD returns whole seconds.
    return ObjectInfo(
        key=key, size=size, etag=etag.strip('"'), modified_at=datetime.fromtimestamp(int(modified), UTC)
    )
