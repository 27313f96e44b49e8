"""Multipart uploads of an S3 bucket that are neither completed nor aborted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from millhand.storage.protocol import ObjectNotFound, StoreError, Upload
from millhand.storage.s3_bucket import S3Bucket
from millhand.storage.s3_client import translate_errors
from millhand.storage.s3_listing import whole_seconds
from millhand.storage.s3_paging import is_listed, responses

MAX_ABORTS = 3  # a part that arrives during an abort keeps the upload until the next abort


def upload_pages(bucket: S3Bucket, prefix: str, page_size: int) -> Iterator[Sequence[Upload]]:
    """Yield the open uploads. Blocks."""
    for response in responses(
        bucket,
        "list uploads",
        "list_multipart_uploads",
        prefix,
        {"MaxUploads": page_size},
        ("KeyMarker", "UploadIdMarker"),
    ):
        uploads = (_upload(bucket, item) for item in response.get("Uploads", ()))
        yield [upload for upload in uploads if is_listed(upload.key, prefix)]


def upload_touched_at(bucket: S3Bucket, upload: Upload) -> datetime:
    """Return when the newest part arrived, or the upload began. Blocks. Raises: ObjectNotFound."""
    newest = upload.initiated_at
    marker: dict[str, int] = {}
    while True:
        with translate_errors("list parts", upload.key):
            response = bucket.client.list_parts(**_upload_params(bucket, upload), **marker)
        parts = response.get("Parts", ())
        newest = max([newest, *(whole_seconds(part["LastModified"]) for part in parts)])
        following = int(response.get("NextPartNumberMarker") or 0)
        if not response.get("IsTruncated") or following <= marker.get("PartNumberMarker", 0):
            return newest
        marker = {"PartNumberMarker": following}


def abort_upload(bucket: S3Bucket, upload: Upload) -> bool:
    """Abort an upload, check that it is gone, and return whether it was there. Blocks."""
    for attempt in range(MAX_ABORTS + 1):
        try:
            upload_touched_at(bucket, upload)
            if attempt == MAX_ABORTS:
                break
            # Some servers report success even without such an upload, so we read it first.
            with translate_errors("abort", upload.key):
                bucket.client.abort_multipart_upload(**_upload_params(bucket, upload))
        except ObjectNotFound:
            return attempt > 0
    raise StoreError("abort", f"an upload that is still there after {MAX_ABORTS} aborts", key=upload.key)


def _upload_params(bucket: S3Bucket, upload: Upload) -> dict[str, str]:
    return {**bucket.object_params(upload.key), "UploadId": upload.upload_id}


def _upload(bucket: S3Bucket, item: Mapping[str, Any]) -> Upload:
    return Upload(
        initiated_at=whole_seconds(item["Initiated"]),
        key=item["Key"].removeprefix(bucket.root),
        upload_id=item["UploadId"],
    )
