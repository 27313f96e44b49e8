"""Versions and delete markers of an S3 bucket."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from millhand.storage.protocol import ObjectVersion
from millhand.storage.s3_bucket import S3Bucket
from millhand.storage.s3_client import translate_errors
from millhand.storage.s3_listing import bare_etag, whole_seconds
from millhand.storage.s3_paging import is_listed, responses


def version_pages(bucket: S3Bucket, prefix: str, page_size: int) -> Iterator[Sequence[ObjectVersion]]:
    """Yield all versions and delete markers, newest first for each key. Blocks."""
    for response in responses(
        bucket,
        "list versions",
        "list_object_versions",
        prefix,
        {"MaxKeys": page_size},
        ("KeyMarker", "VersionIdMarker"),
    ):
        found = [_version(bucket, item, is_marker=False) for item in response.get("Versions", ())]
        found += [_version(bucket, item, is_marker=True) for item in response.get("DeleteMarkers", ())]
        # botocore returns two lists, which loses the order between them.
        found.sort(key=lambda one: (one.key, not one.is_latest, -one.modified_at.timestamp()))
        yield [version for version in found if is_listed(version.key, prefix)]


def delete_version(bucket: S3Bucket, key: str, version: str) -> None:
    """Delete one version, or one delete marker, permanently. Blocks."""
    with translate_errors("delete", key):
        bucket.client.delete_object(**bucket.object_params(key), VersionId=version)


def _version(bucket: S3Bucket, item: Mapping[str, Any], *, is_marker: bool) -> ObjectVersion:
    return ObjectVersion(
        etag=bare_etag(item.get("ETag", "")),
        is_delete_marker=is_marker,
        is_latest=bool(item["IsLatest"]),
        key=item["Key"].removeprefix(bucket.root),
        modified_at=whole_seconds(item["LastModified"]),
        size=int(item.get("Size", 0)),
        version=item["VersionId"],
    )
