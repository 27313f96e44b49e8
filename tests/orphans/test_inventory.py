"""S3 Inventory in place of a listing, in AWS's documented layout: it supplies candidates, and the bucket decides."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from inventory_reports import FOLDER, Reports, objects_of
from world import DAY, World

from millhand.orphans import RunReport, list_findings, reconcile
from millhand.orphans.inventory.inventory_report import InventoryUnusable
from millhand.storage import ObjectInfo

pytestmark = pytest.mark.slow  # CI runs it; the default suite stays within a minute


@pytest.fixture
def reports(tmp_path: Path) -> Reports:
    """A folder without any report yet."""
    (tmp_path / FOLDER).mkdir(parents=True)
    return Reports(tmp_path)


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
