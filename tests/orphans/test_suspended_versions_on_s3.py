"""Runs over a bucket whose versions are suspended during the run, on real S3 servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from adversary import ChaosStore
from ceph import rgw
from servers import CREDENTIALS
from stores import bucket_of, wait_until_ready
from world import World

from millhand.orphans import reconcile, restore
from millhand.storage import ObjectNotFound, open_store

pytestmark = pytest.mark.slow

HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)


@pytest.fixture(scope="session")
def rgw_endpoint() -> Iterator[str]:
    """A Ceph gateway, with credentials set."""
    with pytest.MonkeyPatch.context() as patch, rgw() as address:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        yield address


@pytest.fixture(params=["s3_endpoint", "rgw_endpoint"], ids=["seaweed", "rgw"])
async def bucketed(world: World, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """The application with a bucket of its own, without versions yet."""
    name = request.node.name.replace("[", "-").rstrip("]").replace("_", "-")[-50:].strip("-")
    store = open_store(f"s3://{name}?endpoint_url={request.getfixturevalue(request.param)}")
    bucket_of(store).client.create_bucket(Bucket=name)
    wait_until_ready(bucket_of(store))
    await store.delete("ready")
    yield replace(world, store=store)
    await store.aclose()


def set_versions(world: World, status: str) -> None:
    bucket = bucket_of(world.store)
    bucket.client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": status})


async def versions(world: World, prefix: str) -> list[tuple[str, bool]]:
    pages = world.store.list_versions(prefix=prefix)
    return sorted([(one.key, one.is_delete_marker) async for page in pages for one in page])


@pytest.mark.parametrize("moment", ["probe", "move"])
async def test_an_object_without_version_id_survives_that_versions_are_suspended(
    bucketed: World, moment: str
) -> None:
    """Whether versions are suspended after the probe or right before the move, the object can be restored."""
    world = bucketed
    await world.pair("live")
    await world.put("orphan", b"12345")
    set_versions(world, "Enabled")
    await world.run(after=2 * HOUR)
    world.now += WEEK

    async def suspend(operation: str) -> None:
        if operation in {"probe": ("list",), "move": ("move", "delete")}[moment]:
            set_versions(world, "Suspended")

    report = await reconcile(world.executor, ChaosStore(world.store, suspend), world.config, now=world.now)
    with pytest.raises(ObjectNotFound):
        await world.store.head("orphan")
    back = await restore(world.executor, world.store, key="orphan", now=world.now)

    assert (report.state, report.deleted, back.restored) == ("completed", 1, 1)
    assert await world.store.get("orphan") == b"12345"
    # Ceph's gateway leaves a marker without bytes where versions are suspended.
    assert [one for one in await versions(world, ".millhand/quarantine/") if not one[1]] == []


async def test_a_version_survives_that_versions_are_suspended(bucketed: World) -> None:
    """An object with a version id that a run hides while versions are suspended keeps its version and its bytes."""
    world = bucketed
    set_versions(world, "Enabled")
    await world.pair("live")
    await world.put("orphan", b"12345")
    await world.run(after=2 * HOUR)
    world.now += WEEK

    async def suspend(operation: str) -> None:
        if operation == "delete":
            set_versions(world, "Suspended")

    report = await reconcile(world.executor, ChaosStore(world.store, suspend), world.config, now=world.now)
    back = await restore(world.executor, world.store, key="orphan", now=world.now)

    assert (report.state, report.deleted) == ("completed", 1)
    # SeaweedFS does not delete a marker without a version id, and restore reports the object as kept.
    assert (back.restored, back.kept) in ((1, 0), (0, 1))
    [version] = [one async for page in world.store.list_versions(prefix="orphan") for one in page if one.size]
    target = bucket_of(world.store).object_params("orphan")
    response = bucket_of(world.store).client.get_object(**target, VersionId=version.version)
    assert response["Body"].read() == b"12345"


async def test_purge_leaves_neither_a_copy_nor_the_version_behind_its_marker(bucketed: World) -> None:
    """The purge of a copy in a bucket with versions deletes all versions of it, and those of the moved object."""
    world = bucketed
    await world.pair("live")
    await world.put("orphan", b"12345")
    set_versions(world, "Enabled")
    await world.runs(2 * HOUR, WEEK)
    between = await versions(world, "orphan")

    report = await world.run(after=WEEK)

    assert (report.state, report.purged) == ("completed", 1)
    assert between == [("orphan", False), ("orphan", True)]
    assert await versions(world, "orphan") == []
    assert await versions(world, ".millhand/quarantine/") == []
    assert await world.keys() == ["live"]
