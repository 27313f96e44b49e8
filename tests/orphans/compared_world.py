"""Reports and rows as tables of an engine, and what a comparison of them must return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from inventory_reports import write_csv, write_parquet

from millhand.orphans.inventory.difference_sql import CanaryKeys, Compared
from millhand.storage import ObjectInfo

NOW = datetime(2026, 11, 20, 1, tzinfo=UTC)
COLUMNS = ("bucket", "key", "versionid", "islatest", "isdeletemarker", "size", "lastmodifieddate", "etag")
CANARIES = CanaryKeys.of(NOW, "it's\\scope")
COMPARED = Compared(
    canaries=CANARIES,
    columns=COLUMNS,
    excluded=("skip'\\/",),
    is_encoded=False,
    is_typed=False,
    prefix="",
    report="inventory",
    root="media/",
    rows="millhand_rows",
)
Row = tuple[str, str, int | None, str | None, str]


def world_of(keys: Sequence[str]) -> tuple[list[ObjectInfo], list[Row], set[tuple[Any, ...]]]:
    """Return objects below `media/`, rows, and the differences, counts included. Each key has one case in turn."""
    objects: list[ObjectInfo] = []
    rows: list[Row] = []
    found: set[tuple[Any, ...]] = {
        ("no_row", "", CANARIES.object_only, 1, 0),
        ("no_object", "", CANARIES.row_only, 1, 0),
    }

    def put(key: str, size: int = 3, etag: str = "e1") -> None:
        objects.append(ObjectInfo(key=f"media/{key}", size=size, etag=f'"{etag}"', modified_at=NOW))

    for number, key in enumerate(keys):
        match number % 8:
            case 0:  # they agree
                put(key)
                rows += [("uploads", key, 3, "e1", "ready"), ("avatars", key, None, None, "ready")]
            case 1:
                put(key)
                found.add(("no_row", "", key, 1, 3))
            case 2:
                rows.append(("uploads", key, 3, None, "ready"))
                found.add(("no_object", "uploads", key, 1, 0))
            case 3:
                put(key)
                rows += [("uploads", key, None, None, "pending"), ("avatars", key, None, None, "ready")]
                found.add(("state", "uploads", key, 1, 3))
            case 4:
                put(key)
                rows.append(("uploads", key, 4, None, "ready"))
                found.add(("size", "uploads", key, 1, 3))
            case 5:
                put(key)
                rows.append(("uploads", key, 3, "e2", "other"))
                found.add(("etag", "uploads", key, 1, 3))
            case 6:  # no condition says anything of this row, and it names nothing
                rows.append(("uploads", key, None, None, "other"))
            case 7:  # out of scope
                put(f".millhand/{key}")
                put(f"skip'\\/{key}")
                rows.append(("uploads", f"skip'\\/{key}", None, None, "ready"))
    objects.append(ObjectInfo(key="elsewhere", size=9, etag="", modified_at=NOW))
    in_scope = [one for one in objects if not one.key.startswith(("media/.mill", "media/skip", "elsewhere"))]
    found.add(("all_objects", "", "", len(in_scope), sum(one.size for one in in_scope)))
    for source in ("uploads", "avatars"):
        own = [row for row in rows if row[0] == source]
        live = [row for row in own if row[4] in ("ready", "other") and not row[1].startswith("skip")]
        found.add(("all_rows", source, "", len(own), 0))
        found.add(("ready_rows", source, "", len(live), 0))
    return objects, rows, found


def write_report(directory: Path, objects: Sequence[ObjectInfo], *, is_encoded: bool) -> Path:
    """Write a report as S3 does, and return its file."""
    path = directory / ("report.csv.gz" if is_encoded else "report.parquet")
    (write_csv if is_encoded else write_parquet)(path, objects)
    return path


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as PostgreSQL's COPY does: texts with line breaks are quoted, and an empty value is null."""

    def text(value: object) -> str:
        return "" if value is None else '"' + str(value).replace('"', '""') + '"'

    path.write_bytes("".join(",".join(map(text, row)) + "\n" for row in rows).encode())


def encoded(compared: Compared) -> Compared:
    """Return the same comparison for a report in CSV."""
    return replace(compared, is_encoded=True, columns=(*COLUMNS, "storageclass"))
