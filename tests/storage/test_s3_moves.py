"""Moves between keys of a real S3 server: what a copy keeps, and what is left when the server declines the delete."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from stores import Place, bucket_of, deny_deletes

from millhand.storage import ObjectStore, StoreError, Versioning
from millhand.storage.s3_bucket import S3Bucket

pytestmark = pytest.mark.slow

OPTIONS: dict[str, Any] = {
    "ACL": "public-read",
    "CacheControl": "max-age=60",
    "ContentDisposition": "attachment",
    "ContentEncoding": "gzip",
    "ContentLanguage": "de",
    "ContentType": "text/plain",
    "Expires": datetime(2030, 1, 2, tzinfo=UTC),
    "Metadata": {"owner": "7"},
    "ServerSideEncryption": "AES256",
    "StorageClass": "REDUCED_REDUNDANCY",
    "Tagging": "a%20key=1%20%2B%201",
    "WebsiteRedirectLocation": "/elsewhere",
}


def told(bucket: S3Bucket, key: str) -> Mapping[str, Any]:
    """Return all that the server tells about an object, but its time."""
    target = bucket.object_params(key)
    head = bucket.client.head_object(**target)
    tags = bucket.client.get_object_tagging(**target)["TagSet"]
    grants = bucket.client.get_object_acl(**target)["Grants"]
    unlike = ("AcceptRanges", "LastModified", "ResponseMetadata")
    facts = {name: value for name, value in head.items() if name not in unlike}
    return facts | {"Tagging": tags, "ACL": sorted(grants, key=str)}


def on_a_server(place: Place) -> S3Bucket:
    if not place.facts.has_uploads:
        pytest.skip("a directory renames the file")
    return bucket_of(place.store)


@pytest.mark.parametrize("is_large", [False, True], ids=["copied whole", "copied in parts"])
async def test_an_object_comes_back_with_all_that_the_server_tells(place: Place, *, is_large: bool) -> None:
    """After a move there and back, the server tells the same of the object: headers, tags, class, encryption, ACL."""
    bucket = on_a_server(place)
    options = {name: value for name, value in OPTIONS.items() if name not in place.facts.untold}
    moving = S3Bucket(bucket.name, bucket.root, endpoint_url=bucket.endpoint_url, is_path_style=True)
    if is_large:
        moving.max_copy_bytes = 1
    bucket.client.put_object(**bucket.object_params("key"), Body=b"bytes", **options)
    bucket.client.put_object(**bucket.object_params("plain"), Body=b"bytes")
    before = [told(bucket, key) for key in ("key", "plain")]

    for key in ("key", "plain"):
        await asyncio.to_thread(moving.move, key, ".millhand/quarantine/1/key", None, False)
        await asyncio.to_thread(moving.move, ".millhand/quarantine/1/key", key, None, True)

    after = [told(bucket, key) for key in ("key", "plain")]
    moving.close()
    etags = [one.pop("ETag") for one in (*before, *after)]  # type: ignore[attr-defined]
    assert after == before
    assert is_large or etags[:2] == etags[2:]
    assert options.keys() - {"ACL", "Tagging"} <= before[0].keys()
    assert await place.store.get("key") == b"bytes"


async def test_a_declined_delete_leaves_no_copy(place: Place) -> None:
    """If the server denies the delete of a move, the object stays, the copy is deleted, and the error is a refusal."""
    bucket = on_a_server(place)
    if not place.facts.has_policies:
        pytest.skip("this store has no policy that binds its owner")
    seen = await place.store.put("key", b"bytes")
    deny_deletes(place.store, "key")

    with pytest.raises(StoreError) as denied:
        await place.store.move("key", ".millhand/quarantine/1/key", if_same=seen)

    bucket.client.delete_bucket_policy(Bucket=bucket.name)
    assert (denied.value.is_refusal, denied.value.reason) == (True, "AccessDenied: None")
    assert await listed(place.store) == ["key"]
    assert await listed(place.store, ".millhand/") == []


async def test_a_declined_delete_of_object_and_copy_is_no_refusal(place: Place) -> None:
    """If the server denies the delete of the copy too, the error names the copy and is no refusal."""
    bucket = on_a_server(place)
    if not place.facts.has_policies:
        pytest.skip("this store has no policy that binds its owner")
    seen = await place.store.put("key", b"bytes")
    deny_deletes(place.store, "*")

    with pytest.raises(StoreError) as denied:
        await place.store.move("key", ".millhand/quarantine/1/key", if_same=seen)

    is_writable = (await place.store.probe()).is_writable
    bucket.client.delete_bucket_policy(Bucket=bucket.name)
    copy = ".millhand/quarantine/1/key"
    assert denied.value.is_refusal is False
    assert denied.value.reason == f"AccessDenied: None; its copy {copy!r} is left, AccessDenied: None"
    assert is_writable is False
    assert await listed(place.store, ".millhand/") == [".millhand/probe/writable", copy]


async def test_a_move_whose_source_another_process_deletes_succeeds(place: Place) -> None:
    """If another process deletes the source just before the move does, the copy is the object, and no error is raised."""
    bucket = on_a_server(place)
    seen = await place.store.put("key", b"bytes")
    moving = S3Bucket(bucket.name, bucket.root, endpoint_url=bucket.endpoint_url, is_path_style=True)

    def delete_first(**_call: object) -> None:
        bucket.client.delete_object(**bucket.object_params("key"))

    moving.client.meta.events.register("before-call.s3.DeleteObject", delete_first)
    moved = await asyncio.to_thread(moving.move, "key", "elsewhere", None, True)
    moving.close()

    assert (moved.key, moved.size) == ("elsewhere", seen.size)
    assert await listed(place.store) == ["elsewhere"]


async def test_a_store_tells_whether_it_keeps_versions(place: Place) -> None:
    """A bucket without versions is OFF, one with versions ENABLED."""
    on_a_server(place)
    assert place.versioned is not None

    assert await place.store.versioning() is Versioning.OFF
    assert await place.versioned.versioning() is Versioning.ENABLED


async def test_a_moved_copy_leaves_no_version_in_quarantine(place: Place) -> None:
    """In a bucket with versions, a copy that goes back leaves neither a version nor a delete marker in quarantine."""
    on_a_server(place)
    store = place.versioned
    assert store is not None
    await store.put("key", b"bytes")

    await store.move("key", ".millhand/quarantine/1/key")
    await store.move(".millhand/quarantine/1/key", "key", if_absent=True)

    assert [one async for page in store.list_versions(prefix=".millhand/") for one in page] == []
    assert await store.get("key") == b"bytes"


async def listed(store: ObjectStore, prefix: str = "") -> list[str]:
    return [key async for page in store.list_pages(prefix=prefix) for key in page.keys]
