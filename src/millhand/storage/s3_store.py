"""
An S3-compatible server as an object store, on botocore.

Servers differ in how they encode keys in listings of uploads and versions, so these listings request no encoding. A key
that XML cannot hold then fails the listing, which is safer than a shorter one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from millhand.storage.protocol import (
    RESERVED_PREFIX,
    Capabilities,
    ListingBroken,
    ObjectNotFound,
    ObjectPage,
    ObjectVersion,
    StoreError,
    Upload,
)
from millhand.storage.s3_bucket import S3Bucket
from millhand.storage.s3_client import translate_errors
from millhand.storage.s3_listing import bare_etag, whole_seconds
from millhand.storage.s3_probe import probe

MAX_ABORTS = 3  # a part that arrives during an abort keeps the upload until the next abort


class BlockingS3Store(S3Bucket):
    """A bucket with its listing, multipart uploads and versions. Thread-safe."""

    @property
    def url(self) -> str:
        # The same name on another server is another bucket.
        server = f"?endpoint_url={self.endpoint_url}" if self.endpoint_url else ""
        return f"s3://{self.name}/{self.root}{server}"

    def probe(self) -> Capabilities:
        return probe(self)

    def pages(self, prefix: str, start_after: str, up_to: str | None, page_size: int) -> Iterator[ObjectPage]:
        token: str | None = None
        while True:
            listing = self.list_page(prefix, start_after, page_size, token)
            keys, token = listing.page.keys, listing.token
            page = _without_reserved(listing.page, prefix)
            if page.keys:
                yield page
            if token is None or (up_to is not None and keys and keys[-1] >= up_to):
                return

    def upload_pages(self, prefix: str, page_size: int) -> Iterator[Sequence[Upload]]:
        markers = ("KeyMarker", "UploadIdMarker")
        for response in self._responses(
            "list uploads", "list_multipart_uploads", prefix, markers, MaxUploads=page_size
        ):
            uploads = (
                Upload(
                    initiated_at=whole_seconds(item["Initiated"]),
                    key=item["Key"].removeprefix(self.root),
                    upload_id=item["UploadId"],
                )
                for item in response.get("Uploads", ())
            )
            yield [upload for upload in uploads if _is_listed(upload.key, prefix)]

    def upload_touched_at(self, upload: Upload) -> datetime:
        newest = upload.initiated_at
        marker: dict[str, int] = {}
        while True:
            with translate_errors("list parts", upload.key):
                response = self.client.list_parts(**self._upload_params(upload), **marker)
            parts = response.get("Parts", ())
            newest = max([newest, *(whole_seconds(part["LastModified"]) for part in parts)])
            following = int(response.get("NextPartNumberMarker") or 0)
            if not response.get("IsTruncated") or following <= marker.get("PartNumberMarker", 0):
                return newest
            marker = {"PartNumberMarker": following}

    def abort_upload(self, upload: Upload) -> bool:
        for attempt in range(MAX_ABORTS + 1):
            try:
                self.upload_touched_at(upload)
                if attempt == MAX_ABORTS:
                    break
                # Some servers report success even without such an upload, so we read it first.
                with translate_errors("abort", upload.key):
                    self.client.abort_multipart_upload(**self._upload_params(upload))
            except ObjectNotFound:
                return attempt > 0
        raise StoreError("abort", f"an upload that is still there after {MAX_ABORTS} aborts", key=upload.key)

    def version_pages(self, prefix: str, page_size: int) -> Iterator[Sequence[ObjectVersion]]:
        markers = ("KeyMarker", "VersionIdMarker")
        for response in self._responses(
            "list versions", "list_object_versions", prefix, markers, MaxKeys=page_size
        ):
            found = [self._version(item, is_marker=False) for item in response.get("Versions", ())]
            found += [self._version(item, is_marker=True) for item in response.get("DeleteMarkers", ())]
            # botocore returns two lists, which loses the order between them.
            found.sort(key=lambda one: (one.key, not one.is_latest, -one.modified_at.timestamp()))
            yield [version for version in found if _is_listed(version.key, prefix)]

    def delete_version(self, key: str, version: str) -> None:
        with translate_errors("delete", key):
            self.client.delete_object(**self.object_params(key), VersionId=version)

    def _responses(
        self, operation: str, method: str, prefix: str, markers: tuple[str, str], **limit: int
    ) -> Iterator[Mapping[str, Any]]:
        """Yield the responses of a listing. Each response names the `markers` of the next page."""
        position: dict[str, str] = {}
        while True:
            with translate_errors(operation, prefix or None):
                call = getattr(self.client, method)
                response = call(Bucket=self.name, Prefix=self.root + prefix, **limit, **position)
            yield response
            if not response.get("IsTruncated"):
                return
            # Only what the server returned: SeaweedFS names an upload alone, and finds nothing with a key beside it.
            following = {name: value for name in markers if (value := response.get(f"Next{name}"))}
            if not following or following == position:
                reason = "a page that is not the last and names no next one"
                raise ListingBroken(operation, reason, key=prefix or None)
            position = following

    def _upload_params(self, upload: Upload) -> dict[str, str]:
        return {**self.object_params(upload.key), "UploadId": upload.upload_id}

    def _version(self, item: Mapping[str, Any], *, is_marker: bool) -> ObjectVersion:
        return ObjectVersion(
            etag=bare_etag(item.get("ETag", "")),
            is_delete_marker=is_marker,
            is_latest=bool(item["IsLatest"]),
            key=item["Key"].removeprefix(self.root),
            modified_at=whole_seconds(item["LastModified"]),
            size=int(item.get("Size", 0)),
            version=item["VersionId"],
        )


def _is_listed(key: str, prefix: str) -> bool:
    """Return whether a listing of `prefix` shows `key`: reserved keys only if the prefix asks for them."""
    return prefix.startswith(RESERVED_PREFIX) or not key.startswith(RESERVED_PREFIX)


def _without_reserved(page: ObjectPage, prefix: str) -> ObjectPage:
    # One search in the joined keys takes a tenth of the time of a thousand comparisons.
    if prefix.startswith(RESERVED_PREFIX) or f"\n{RESERVED_PREFIX}" not in "\n".join(("", *page.keys)):
        return page
    kept = [index for index, key in enumerate(page.keys) if not key.startswith(RESERVED_PREFIX)]
    return ObjectPage(
        describe=lambda index: page.describe(kept[index]),
        keys=[page.keys[index] for index in kept],
        sizes=[page.sizes[index] for index in kept],
    )
