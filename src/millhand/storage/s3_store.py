"""An S3-compatible server as an object store, on botocore."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from millhand.storage.protocol import (
    RESERVED_PREFIX,
    Capabilities,
    ObjectPage,
    ObjectVersion,
    Upload,
)
from millhand.storage.s3_bucket import S3Bucket
from millhand.storage.s3_probe import probe
from millhand.storage.s3_uploads import abort_upload, upload_pages, upload_touched_at
from millhand.storage.s3_versions import delete_version, version_pages


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
        return upload_pages(self, prefix, page_size)

    def upload_touched_at(self, upload: Upload) -> datetime:
        return upload_touched_at(self, upload)

    def abort_upload(self, upload: Upload) -> bool:
        return abort_upload(self, upload)

    def version_pages(self, prefix: str, page_size: int) -> Iterator[Sequence[ObjectVersion]]:
        return version_pages(self, prefix, page_size)

    def delete_version(self, key: str, version: str) -> None:
        delete_version(self, key, version)


def _without_reserved(page: ObjectPage, prefix: str) -> ObjectPage:
    """Leave out reserved keys, unless the prefix asks for them."""
    # One search in the joined keys takes a tenth of the time of a thousand comparisons.
    if prefix.startswith(RESERVED_PREFIX) or f"\n{RESERVED_PREFIX}" not in "\n".join(("", *page.keys)):
        return page
    kept = [index for index, key in enumerate(page.keys) if not key.startswith(RESERVED_PREFIX)]
    return ObjectPage(
        describe=lambda index: page.describe(kept[index]),
        keys=[page.keys[index] for index in kept],
        sizes=[page.sizes[index] for index in kept],
    )
