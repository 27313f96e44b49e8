"""
Turn a blocking store into an `ObjectStore`: every call runs in a thread. `ObjectStore` documents the calls.

`InlineStore` runs them in the caller's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from millhand.storage.protocol import (
    PAGE_SIZE,
    Capabilities,
    ExpiryRule,
    ObjectInfo,
    ObjectPage,
    ObjectVersion,
    Upload,
    Versioning,
)

if TYPE_CHECKING:
    from millhand.storage.directory_store import BlockingDirectoryStore
    from millhand.storage.s3_store import BlockingS3Store

T = TypeVar("T")

# A request to a server that does not answer takes minutes to fail, and Python cannot interrupt its thread.
CLOSE_SECONDS = 2.0


class ThreadedStore:
    """An `ObjectStore` on a blocking one, in `num_threads` threads of its own, or in those of the event loop."""

    def __init__(
        self, blocking: BlockingDirectoryStore | BlockingS3Store, num_threads: int | None = None
    ) -> None:
        self.blocking = blocking
        pool = ThreadPoolExecutor(num_threads, thread_name_prefix="millhand-store") if num_threads else None
        self._calls: set[Future[Any]] = set()
        self._threads = pool

    @property
    def url(self) -> str:
        return self.blocking.url

    async def probe(self) -> Capabilities:
        return await self._run(self.blocking.probe)

    async def versioning(self) -> Versioning:
        return await self._run(self.blocking.versioning)

    async def expiry_rules(self) -> Sequence[ExpiryRule]:
        return await self._run(self.blocking.expiry_rules)

    def list_pages(
        self, *, prefix: str = "", start_after: str = "", up_to: str | None = None, page_size: int = PAGE_SIZE
    ) -> AsyncGenerator[ObjectPage, None]:
        pages = self.blocking.pages(prefix, start_after, up_to, page_size)
        return read_ahead(lambda: self._run(next, pages, None))

    async def head(self, key: str) -> ObjectInfo:
        return await self._run(self.blocking.head, key)

    async def get(self, key: str) -> bytes:
        return await self._run(self.blocking.get, key)

    async def get_from_parents(self, key: str) -> Sequence[bytes]:
        return await self._run(self.blocking.get_from_parents, key)

    async def download(self, key: str, path: Path) -> None:
        await self._run(self.blocking.download, key, path)

    async def put(self, key: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:
        return await self._run(self.blocking.put, key, data, if_absent)

    async def delete(self, key: str, *, if_same: ObjectInfo | None = None) -> bool:
        return await self._run(self.blocking.delete, key, if_same)

    async def delete_many(self, keys: Sequence[str]) -> Mapping[str, str]:
        return await self._run(self.blocking.delete_many, keys)

    async def move(
        self, source: str, target: str, *, if_same: ObjectInfo | None = None, if_absent: bool = False
    ) -> ObjectInfo:
        return await self._run(self.blocking.move, source, target, if_same, if_absent)

    def list_uploads(
        self, *, prefix: str = "", page_size: int = PAGE_SIZE
    ) -> AsyncIterator[Sequence[Upload]]:
        return self._each(self.blocking.upload_pages(prefix, page_size))

    async def upload_touched_at(self, upload: Upload) -> datetime:
        return await self._run(self.blocking.upload_touched_at, upload)

    async def abort_upload(self, upload: Upload) -> bool:
        return await self._run(self.blocking.abort_upload, upload)

    def list_versions(
        self, *, prefix: str = "", page_size: int = PAGE_SIZE
    ) -> AsyncIterator[Sequence[ObjectVersion]]:
        return self._each(self.blocking.version_pages(prefix, page_size))

    async def delete_version(self, key: str, version: str) -> None:
        await self._run(self.blocking.delete_version, key, version)

    async def copy_version(self, key: str, version: str) -> None:
        await self._run(self.blocking.copy_version, key, version)

    async def aclose(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False)
            await _ended([asyncio.wrap_future(call) for call in tuple(self._calls)])
        self.blocking.close()

    def _run(self, function: Callable[..., T], *args: object) -> asyncio.Future[T]:
        if self._threads is None:
            return asyncio.get_running_loop().run_in_executor(None, function, *args)
        call = self._threads.submit(function, *args)
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        return asyncio.wrap_future(call)

    async def _each(self, pages: Iterator[T]) -> AsyncIterator[T]:
        while (page := await self._run(next, pages, None)) is not None:
            yield page


async def _ended(calls: Sequence[asyncio.Future[Any]]) -> None:
    """Wait until the calls have ended, for `CLOSE_SECONDS` at most."""
    if not calls:
        return
    done, pending = await asyncio.wait(calls, timeout=CLOSE_SECONDS)
    for call in pending:
        call.cancel()
    for call in done:
        if not call.cancelled():
            call.exception()  # its caller has it


class InlineStore:
    """
    Gets and puts of a blocking store as coroutines that never wait for an event loop.

    Concurrency: any number of threads may use it. After `aclose`, the next call connects again.
    """

    def __init__(self, blocking: BlockingDirectoryStore | BlockingS3Store) -> None:
        self._blocking = blocking

    async def get(self, key: str) -> bytes:
        return self._blocking.get(key)

    async def put(self, key: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:
        return self._blocking.put(key, data, if_absent)

    async def aclose(self) -> None:
        self._blocking.close()


async def read_ahead(submit: Callable[[], asyncio.Future[T | None]]) -> AsyncGenerator[T, None]:
    """Yield what `submit` returns until it is None, and fetch the next page while the caller works on this one."""
    coming = submit()
    try:
        while (page := await coming) is not None:
            coming = submit()
            yield page
    finally:
        # A caller that stops early must leave no running call and no unread exception behind.
        await asyncio.wait((coming,))
        if not coming.cancelled():
            coming.exception()
