"""
Any S3-compatible server as an object store, on botocore.

botocore is synchronous, so each call of `S3Bucket` runs in a thread of the store's own small pool.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from millhand.storage.protocol import (
    OUR_PREFIX,
    PAGE_SIZE,
    Capabilities,
    ObjectInfo,
    ObjectPage,
    ObjectVersion,
    Upload,
)
from millhand.storage.s3_bucket import S3Bucket
from millhand.storage.s3_client import NUM_THREADS
from millhand.storage.s3_history import (
    abort_upload,
    delete_version,
    upload_pages,
    upload_touched_at,
    version_pages,
)
from millhand.storage.s3_listing import Listing
from millhand.storage.s3_probe import probe

T = TypeVar("T")


class S3Store:
    """
    The objects of a bucket.

    Concurrency: up to 16 calls at once; more wait for a thread.
    """

    def __init__(self, bucket: S3Bucket) -> None:
        self._bucket = bucket
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="millhand-s3")

    @property
    def url(self) -> str:
        # The same name on another server is another bucket.
        server = f"?endpoint_url={self._bucket.endpoint_url}" if self._bucket.endpoint_url else ""
        return f"s3://{self._bucket.name}/{self._bucket.root}{server}"

    async def probe(self) -> Capabilities:
        return await self._run(probe, self._bucket)

    async def list_pages(
        self, *, prefix: str = "", start_after: str = "", up_to: str | None = None, page_size: int = PAGE_SIZE
    ) -> AsyncGenerator[ObjectPage, None]:
        coming = self._submit(self._bucket.list_page, prefix, start_after, page_size, None)
        try:
            while True:
                listing = await coming
                # One page ahead: the server works on the next while the caller asks the database about this one.
                if _is_far_enough(listing, up_to):
                    listing = replace(listing, token=None)
                if listing.token is not None:
                    coming = self._submit(self._bucket.list_page, prefix, "", page_size, listing.token)
                page = _without_ours(listing.page, prefix)
                if page.keys:
                    yield page
                if listing.token is None:
                    return
        finally:
            await asyncio.wait((coming,))
            if not coming.cancelled():
                coming.exception()

    async def head(self, key: str) -> ObjectInfo:
        return await self._run(self._bucket.head, "head", key)

    async def get(self, key: str) -> bytes:
        return await self._run(self._bucket.get, key)

    async def get_above(self, key: str) -> Sequence[bytes]:
        return await self._run(self._bucket.get_above, key)

    async def save(self, key: str, path: Path) -> None:
        await self._run(self._bucket.save, key, path)

    async def put(self, key: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:
        return await self._run(self._bucket.put, key, data, if_absent)

    async def delete(self, key: str, *, if_same: ObjectInfo | None = None) -> bool:
        return await self._run(self._bucket.delete, key, if_same)

    async def delete_many(self, keys: Sequence[str]) -> Mapping[str, str]:
        return await self._run(self._bucket.delete_many, keys)

    async def move(
        self, source: str, target: str, *, if_same: ObjectInfo | None = None, if_absent: bool = False
    ) -> ObjectInfo:
        return await self._run(self._bucket.move, source, target, if_same, if_absent)

    async def list_uploads(
        self, *, prefix: str = "", page_size: int = PAGE_SIZE
    ) -> AsyncIterator[Sequence[Upload]]:
        pages = upload_pages(self._bucket, prefix, page_size)
        while (page := await self._run(next, pages, None)) is not None:
            yield page

    async def upload_touched_at(self, upload: Upload) -> datetime:
        return await self._run(upload_touched_at, self._bucket, upload)

    async def abort_upload(self, upload: Upload) -> bool:
        return await self._run(abort_upload, self._bucket, upload)

    async def list_versions(
        self, *, prefix: str = "", page_size: int = PAGE_SIZE
    ) -> AsyncIterator[Sequence[ObjectVersion]]:
        pages = version_pages(self._bucket, prefix, page_size)
        while (page := await self._run(next, pages, None)) is not None:
            yield page

    async def delete_version(self, key: str, version: str) -> None:
        await self._run(delete_version, self._bucket, key, version)

    async def aclose(self) -> None:
        await asyncio.to_thread(self._threads.shutdown)
        self._bucket.close()

    def _submit(self, function: Callable[..., T], *args: object) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    async def _run(self, function: Callable[..., T], *args: object) -> T:
        return await self._submit(function, *args)


def _is_far_enough(listing: Listing, up_to: str | None) -> bool:
    keys = listing.page.keys
    return up_to is not None and bool(keys) and keys[-1] >= up_to


def _without_ours(page: ObjectPage, prefix: str) -> ObjectPage:
    """Leave out what is ours, unless it was asked for."""
    # Joined, because looking at a thousand keys one by one takes ten times as long.
    if prefix.startswith(OUR_PREFIX) or f"\n{OUR_PREFIX}" not in "\n".join(("", *page.keys)):
        return page
    kept = [index for index, key in enumerate(page.keys) if not key.startswith(OUR_PREFIX)]
    return ObjectPage(
        describe=lambda index: page.describe(kept[index]),
        keys=[page.keys[index] for index in kept],
        sizes=[page.sizes[index] for index in kept],
    )
