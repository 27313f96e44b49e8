"""
What an S3 bucket holds besides its objects: versions, delete markers, and uploads in parts that nobody completed.

Servers differ in how they encode keys here and in what they say of it, so no encoding is asked for; a key that XML
cannot hold then fails the listing, which is an error and no shorter answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from millhand.storage.protocol import (
    OUR_PREFIX,
    ListingBroken,
    ObjectNotFound,
    ObjectVersion,
    StoreError,
    Upload,
)
from millhand.storage.s3_bucket import S3Bucket
from millhand.storage.s3_client import translated
from millhand.storage.s3_listing import bare_etag

MAX_ABORTS = 3  # parts that were on their way when an upload was aborted keep it until it is aborted again


def upload_pages(bucket: S3Bucket, prefix: str, page_size: int) -> Iterator[Sequence[Upload]]:
    """Yield the uploads that are neither completed nor aborted. Blocks."""
    markers: dict[str, str] = {}
    while True:
        with translated("list uploads", prefix or None):
            answer = bucket.client.list_multipart_uploads(
                Bucket=bucket.name, MaxUploads=page_size, Prefix=bucket.root + prefix, **markers
            )
        found = answer.get("Uploads", ())
        yield [
            upload for upload in (_upload(bucket, item) for item in found) if _is_asked(upload.key, prefix)
        ]
        if not answer.get("IsTruncated"):
            return
        # As they are given: SeaweedFS names an upload alone, and with a key beside it finds nothing more.
        following = {
            "KeyMarker": answer.get("NextKeyMarker"),
            "UploadIdMarker": answer.get("NextUploadIdMarker"),
        }
        markers = _advanced("list uploads", prefix, markers, following)


def upload_touched_at(bucket: S3Bucket, upload: Upload) -> datetime:
    """Return when the newest part came, or the upload began. Blocks. Raises: ObjectNotFound."""
    newest = upload.initiated_at
    marker: dict[str, int] = {}
    while True:
        with translated("list parts", upload.key):
            answer = bucket.client.list_parts(**_named(bucket, upload), **marker)
        newest = max([newest, *(_instant(part["LastModified"]) for part in answer.get("Parts", ()))])
        following = int(answer.get("NextPartNumberMarker") or 0)
        if not answer.get("IsTruncated") or following <= marker.get("PartNumberMarker", 0):
            return newest
        marker = {"PartNumberMarker": following}


def abort_upload(bucket: S3Bucket, upload: Upload) -> bool:
    """Give up an upload and see that it is gone; False when it was gone before. Blocks."""
    for attempt in range(MAX_ABORTS + 1):
        try:
            upload_touched_at(bucket, upload)
            if attempt == MAX_ABORTS:
                break
            # Some servers call it a success whether there was an upload or not, hence the look before.
            with translated("abort", upload.key):
                bucket.client.abort_multipart_upload(**_named(bucket, upload))
        except ObjectNotFound:
            return attempt > 0
    raise StoreError("abort", f"an upload that is still there after {MAX_ABORTS} aborts", key=upload.key)


def version_pages(bucket: S3Bucket, prefix: str, page_size: int) -> Iterator[Sequence[ObjectVersion]]:
    """Yield all versions and delete markers; of one key the newest first. Blocks."""
    markers: dict[str, str] = {}
    while True:
        with translated("list versions", prefix or None):
            answer = bucket.client.list_object_versions(
                Bucket=bucket.name, MaxKeys=page_size, Prefix=bucket.root + prefix, **markers
            )
        found = [_version(bucket, item, is_marker=False) for item in answer.get("Versions", ())]
        found += [_version(bucket, item, is_marker=True) for item in answer.get("DeleteMarkers", ())]
        # botocore tells the two apart, and thereby loses the order between them.
        found.sort(key=lambda version: (version.key, not version.is_latest, _backwards(version.modified_at)))
        yield [version for version in found if _is_asked(version.key, prefix)]
        if not answer.get("IsTruncated"):
            return
        following = {
            "KeyMarker": answer.get("NextKeyMarker"),
            "VersionIdMarker": answer.get("NextVersionIdMarker"),
        }
        markers = _advanced("list versions", prefix, markers, following)


def delete_version(bucket: S3Bucket, key: str, version: str) -> None:
    """Remove one version, or one delete marker, for good. Blocks."""
    with translated("delete", key):
        bucket.client.delete_object(**bucket.target(key), VersionId=version)


def _advanced(
    operation: str, prefix: str, before: Mapping[str, str], after: Mapping[str, str | None]
) -> dict[str, str]:
    following = {name: value for name, value in after.items() if value}
    if not following or following == before:
        raise ListingBroken(
            operation, "a page that is not the last and names no next one", key=prefix or None
        )
    return following


def _named(bucket: S3Bucket, upload: Upload) -> dict[str, str]:
    return {**bucket.target(upload.key), "UploadId": upload.upload_id}


def _upload(bucket: S3Bucket, found: Mapping[str, Any]) -> Upload:
    return Upload(
        initiated_at=_instant(found["Initiated"]),
        key=found["Key"].removeprefix(bucket.root),
        upload_id=found["UploadId"],
    )


def _version(bucket: S3Bucket, found: Mapping[str, Any], *, is_marker: bool) -> ObjectVersion:
    return ObjectVersion(
        etag=bare_etag(found.get("ETag", "")),
        is_delete_marker=is_marker,
        is_latest=bool(found["IsLatest"]),
        key=found["Key"].removeprefix(bucket.root),
        modified_at=_instant(found["LastModified"]),
        size=int(found.get("Size", 0)),
        version=found["VersionId"],
    )


def _instant(found: datetime) -> datetime:
    return found.astimezone(UTC).replace(microsecond=0)


def _backwards(instant: datetime) -> float:
    return -instant.timestamp()


def _is_asked(key: str, prefix: str) -> bool:
    return prefix.startswith(OUR_PREFIX) or not key.startswith(OUR_PREFIX)
