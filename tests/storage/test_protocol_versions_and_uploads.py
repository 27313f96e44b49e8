"""The contract of `ObjectStore`: multipart uploads, versions and delete markers, on each store that has them."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from botocore.exceptions import ClientError
from stores import Place, begin_upload, bucket_of, put_part

from millhand.storage import (
    ObjectExists,
    ObjectLocked,
    ObjectNotFound,
    ObjectStore,
    ObjectVersion,
    StoreError,
    Upload,
    open_store,
)

LOCKABLE = "millhand-locks"
MINUTE = timedelta(minutes=1)
UNUSUAL_KEYS = ("a b+c%20", "ünï/日本語", "que?ry#hash", "quote\"'`<&>")


async def uploads(store: ObjectStore, **question: object) -> list[Upload]:
    return [upload async for page in store.list_uploads(**question) for upload in page]  # type: ignore[arg-type]


async def versions(store: ObjectStore, **question: object) -> list[ObjectVersion]:
    return [version async for page in store.list_versions(**question) for version in page]  # type: ignore[arg-type]


def with_uploads(place: Place) -> ObjectStore:
    if not place.facts.has_uploads:
        pytest.skip("a directory has no multipart uploads")
    return place.store


def with_versions(place: Place) -> ObjectStore:
    if place.versioned is None:
        pytest.skip("a directory keeps no versions")
    return place.versioned


async def test_a_store_without_uploads_has_none(place: Place) -> None:
    """Without uploads the listing is empty, and aborting a missing one returns False."""
    gone = Upload(key="key", upload_id="2~nonesuch", initiated_at=datetime.now(UTC))
    await place.store.put("key", b"whole")

    assert await uploads(place.store) == []
    assert await place.store.abort_upload(gone) is False
    assert await place.store.get("key") == b"whole"


async def test_an_upload_is_listed_until_it_is_aborted(place: Place) -> None:
    """An open upload is listed with its key, id and time. After an abort it is gone with its parts."""
    store = with_uploads(place)
    upload_id = await begin_upload(store, "videos/a", b"part")
    other_id = await begin_upload(store, "videos2/a", b"part")

    (found,) = await uploads(store, prefix="videos/")

    assert (found.key, found.upload_id) == ("videos/a", upload_id)
    assert abs(found.initiated_at - datetime.now(UTC)) < MINUTE
    assert await store.abort_upload(found) is True
    assert await store.abort_upload(found) is False
    assert [upload.upload_id for upload in await uploads(store)] == [other_id]
    with pytest.raises(ObjectNotFound):
        await store.upload_touched_at(found)


async def test_an_upload_is_as_old_as_its_newest_part(place: Place) -> None:
    """An upload is dated by its newest part, because a client that still sends parts is at work."""
    store = with_uploads(place)
    upload_id = await begin_upload(store, "key", b"first", b"second")
    long_ago = Upload(key="key", upload_id=upload_id, initiated_at=datetime(2020, 1, 1, tzinfo=UTC))

    touched_at = await store.upload_touched_at(long_ago)

    assert abs(touched_at - datetime.now(UTC)) < MINUTE


async def test_a_late_part_does_not_revive_an_upload(place: Place) -> None:
    """The server rejects a part that is sent after the abort, and the upload stays gone."""
    store = with_uploads(place)
    upload_id = await begin_upload(store, "key", b"first")
    (found,) = await uploads(store)
    await store.abort_upload(found)

    with pytest.raises(ClientError):
        await put_part(store, "key", upload_id, 2, b"late")

    assert await uploads(store) == []


@pytest.mark.parametrize("key", UNUSUAL_KEYS, ids=ascii)
async def test_an_upload_of_an_unusual_key_is_listed_and_aborted(place: Place, key: str) -> None:
    """However a server encodes keys in its listing of uploads, we read the key of the upload."""
    store = with_uploads(place)
    await begin_upload(store, key, b"part")

    (found,) = await uploads(store)

    assert found.key == key
    assert await store.abort_upload(found) is True


async def test_uploads_are_listed_over_pages(place: Place) -> None:
    """More uploads than a page holds are listed once each, several of one key too."""
    store = with_uploads(place)
    begun = [await begin_upload(store, f"d/{number // 2}") for number in range(7)]

    found = await uploads(store, prefix="d/", page_size=2)

    assert sorted(upload.upload_id for upload in found) == sorted(begun)


async def test_an_object_is_its_only_version_in_a_store_without_versions(place: Place) -> None:
    """A store without versions lists each object as its latest version, and none after its deletion."""
    await place.store.put("a/b", b"first")
    await place.store.put("a/b", b"second!")
    await place.store.put("a2", b"")

    (found,) = await versions(place.store, prefix="a/")

    assert (found.key, found.version, found.size) == ("a/b", "null", 7)
    assert (found.is_latest, found.is_delete_marker) == (True, False)
    await place.store.delete_version("a/b", "null")
    assert [version.key for version in await versions(place.store)] == ["a2"]


async def test_the_probe_detects_a_bucket_with_versions(place: Place) -> None:
    """The probe detects that the bucket keeps versions, and leaves none of its own."""
    store = with_versions(place)

    found = await store.probe()

    assert found.has_versions is True
    assert await versions(store, prefix=".millhand/") == []


async def test_a_deleted_object_comes_back_without_its_marker(place: Place) -> None:
    """A delete leaves a marker. Deleting the marker brings the object back as it was."""
    store = with_versions(place)
    await store.put("key", b"first")
    seen = await store.put("key", b"second!")

    assert await store.delete("key", if_same=seen) is True
    with pytest.raises(ObjectNotFound):
        await store.head("key")
    marker, second, first = await versions(store)
    await store.delete_version("key", marker.version)

    assert (marker.is_delete_marker, marker.is_latest) == (True, True)
    assert (second.size, second.etag, second.is_latest) == (7, seen.etag, False)
    assert (first.size, first.is_delete_marker) == (5, False)
    assert await store.get("key") == b"second!"
    assert (await store.head("key")).version == second.version


async def test_one_version_is_deleted_and_no_other(place: Place) -> None:
    """Deleting a version keeps the others, and deleting it twice is no error."""
    store = with_versions(place)
    await store.put("key", b"first")
    await store.put("key", b"second!")
    _, first = await versions(store)

    await store.delete_version("key", first.version)
    await store.delete_version("key", first.version)

    assert [version.size for version in await versions(store)] == [7]
    assert await store.get("key") == b"second!"


async def test_a_version_behind_a_marker_comes_back_as_a_copy(place: Place) -> None:
    """A copy of it is the newest version, with its bytes and metadata. It does not need the old version, or the marker."""
    store = with_versions(place)
    bucket = bucket_of(store)
    bucket.client.put_object(**bucket.object_params("key"), Body=b"first", ContentType="image/png")
    await store.delete("key", if_same=await store.head("key"))
    marker, first = await versions(store)

    await store.copy_version("key", first.version)
    with pytest.raises(ObjectExists):
        await store.copy_version("key", first.version)
    for one in (first, marker):
        await store.delete_version("key", one.version)

    [copied] = await versions(store)
    assert (copied.is_latest, copied.version != first.version) == (True, True)
    assert await store.get("key") == b"first"
    assert bucket.client.head_object(**bucket.object_params("key"))["ContentType"] == "image/png"
    with pytest.raises(ObjectNotFound):
        await store.copy_version("gone", first.version)


async def test_versions_are_listed_over_pages(place: Place) -> None:
    """More versions and markers than a page holds are listed once each, and none of another prefix."""
    store = with_versions(place)
    for number in range(9):
        await store.put(f"d/{number % 3}", str(number).encode())
    await store.delete("d/1")
    await store.put("d2", b"")

    found = await versions(store, prefix="d/", page_size=2)

    assert len({(version.key, version.version) for version in found}) == len(found) == 10
    assert [version.key for version in found if version.is_delete_marker] == ["d/1"]
    assert sorted(version.key for version in found if version.is_latest) == ["d/0", "d/1", "d/2"]


async def test_a_locked_object_is_neither_deleted_nor_moved(place: Place) -> None:
    """An object under legal hold is described as locked, and no call deletes or moves it."""
    store = with_versions(place)
    bucket = bucket_of(store)
    lockable = open_store(store.url.replace(bucket.name, LOCKABLE))
    with contextlib.suppress(ClientError):  # made by an earlier test
        bucket.client.create_bucket(Bucket=LOCKABLE, ObjectLockEnabledForBucket=True)
    free = await lockable.put("key", b"bytes")
    bucket.client.put_object_legal_hold(
        **bucket_of(lockable).object_params("key"), LegalHold={"Status": "ON"}
    )

    held = await lockable.head("key")

    assert (free.is_locked, held.is_locked) == (False, True)
    with pytest.raises(ObjectLocked):
        await lockable.delete("key", if_same=held)
    with pytest.raises(ObjectLocked):
        await lockable.move("key", "elsewhere", if_same=held)
    with pytest.raises(StoreError) as denied:
        await lockable.delete_version("key", str(held.version))
    assert denied.value.is_denied
    assert await lockable.get("key") == b"bytes"
    await lockable.aclose()


async def test_a_move_in_a_bucket_with_versions_keeps_the_old_version(place: Place) -> None:
    """After a move the old key has a delete marker, and the old version is still behind it."""
    store = with_versions(place)
    await store.put("old", b"bytes")

    await store.move("old", "new")

    assert await store.get("new") == b"bytes"
    assert [version.is_delete_marker for version in await versions(store, prefix="old")] == [True, False]
