"""An S3 Inventory in one bucket about another one, on a real S3 server."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from inventory_reports import FOLDER, Reports, objects_of
from world import DAY, World

from millhand.orphans import reconcile
from millhand.storage import ObjectInfo, open_store

sys.path.append(str(Path(__file__).parents[1] / "storage"))  # the servers are there
from servers import CREDENTIALS, seaweed
from stores import bucket_of, wait_until_ready

pytestmark = pytest.mark.slow

BUCKET, ROOT = "my-bucket", "media/"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A server with the bucket of the application and the one of its reports."""
    with pytest.MonkeyPatch.context() as patch, seaweed() as address:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        bucket = bucket_of(open_store(f"s3://{BUCKET}?endpoint_url={address}"))
        for name in (BUCKET, "reports"):
            bucket.client.create_bucket(Bucket=name)
        wait_until_ready(bucket)
        bucket.close()
        yield address


@pytest.fixture
async def in_bucket(world: World, endpoint: str) -> AsyncIterator[World]:
    """The application with its objects below a prefix of its bucket, and reports in another."""
    store = open_store(f"s3://{BUCKET}/{ROOT}?endpoint_url={endpoint}")
    url = f"s3://reports/{FOLDER}?endpoint_url={endpoint}"
    yield replace(world, store=store, config=replace(world.config, inventory=url))
    await store.aclose()


async def publish(world: World, objects: list[ObjectInfo], directory: Path) -> None:
    """Put a report into its bucket; its keys are those of the whole bucket."""
    whole = [replace(one, key=ROOT + one.key) for one in objects]
    elsewhere = replace(objects[0], key="other/orphan.png")
    Reports(directory).write([*whole, elsewhere], format="Parquet", now=world.now)
    reports = open_store(str(world.config.inventory))
    for path in (directory / FOLDER).rglob("*.*"):
        if path.is_file():
            await reports.put(path.relative_to(directory / FOLDER).as_posix(), path.read_bytes())
    await reports.aclose()


async def test_a_bucket_is_scanned_by_a_report_in_another_bucket(in_bucket: World, tmp_path: Path) -> None:
    """The run reads the report's files from their bucket, sees the keys below the store's prefix, and removes orphans."""
    world = in_bucket
    await world.pair("live.png", "grün/a b.png")
    for number in range(50):
        await world.put(f"orphans/{number:02}.png")
    await publish(world, await objects_of(world.store), tmp_path)

    first = await reconcile(world.executor, world.store, world.config, now=world.now + DAY)
    second = await reconcile(world.executor, world.store, world.config, now=world.now + 9 * DAY)

    assert (first.state, first.objects, first.orphan_objects, first.missing) == ("completed", 52, 50, 0)
    assert (second.state, second.deleted) == ("completed", 50)
    assert await world.keys() == sorted(["live.png", "grün/a b.png"])
