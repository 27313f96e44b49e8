"""
Reads and writes blobs: small ones in the row of their job, others in an object store.

Rule 1: a put writes the object before its caller can insert a job, so that no job refers to bytes that are not there. If the
        insert never happens, the orphan cleanup finds the object.
Rule 2: a get reads only keys that a put can have made, because any program may write a row. It checks size and hash.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from millhand.core.blob import BLOB_BYTES_MAX, INLINE_BYTES_MAX, KEY_RE, Blob, BlobReference, new_blob_key
from millhand.core.errors import ConfigError, InvalidBlob

if TYPE_CHECKING:
    from millhand.storage import ObjectStore
    from millhand.storage.threaded_store import InlineStore

P = ParamSpec("P")
R = TypeVar("R")


class BlobStore:
    """
    The blobs of a client, as `client.blobs`, or of a program that is no client: `BlobStore("s3://my-bucket")`.

    Args:
        url: The URL of the object store. Without it, only blobs of up to 16 KiB can be put.

    Concurrency: belongs to one event loop. The store is opened at the first use, and again after `aclose`.
    """

    def __init__(self, url: str | None = None) -> None:
        self._lock = threading.Lock()
        self._url = url
        self._store: ObjectStore | InlineStore | None = None

    async def put(self, data: bytes | Path) -> Blob:
        """
        Store bytes, or those of a file, and return the blob for args or an output. Do it before your transaction.

        Raises: InvalidBlob for more than 256 MiB, or a value of another type; ConfigError if there are more than 16 KiB and
        no store; StoreError.
        """
        if isinstance(data, Path):
            data = await self._run(_read, data)
        if not isinstance(data, bytes):
            raise InvalidBlob(f"blob must be bytes or a Path, got {type(data).__name__}; write text.encode()")
        _check_size(len(data))
        if len(data) <= INLINE_BYTES_MAX:
            return Blob(BlobReference(size=len(data), sha256=_hash(data), data=data))
        store, key = await self._opened(len(data)), new_blob_key()
        sha256 = await self._run(_hash, data)
        await store.put(key, data, if_absent=True)
        return Blob(BlobReference(size=len(data), sha256=sha256, key=key))

    async def get(self, blob: Blob) -> bytes:
        """
        Return the bytes of a blob.

        Raises: InvalidBlob if they are not the ones that were put; ObjectNotFound; ConfigError without a store; StoreError.
        """
        data = blob.reference.data
        if data is None:
            _check_size(blob.size)
            store = await self._opened(blob.size)
            data = await store.get(_checked_key(blob))
        if (len(data), await self._run(_hash, data)) != (blob.size, blob.sha256):
            raise InvalidBlob(
                f"blob must have the bytes that were put, got others in {blob!r}; put them again, and insert the job again"
            )
        return data

    async def download(self, blob: Blob, path: Path) -> None:
        """Write the bytes of a blob into a file. Raises: as `get`; OSError."""
        await self._run(path.write_bytes, await self.get(blob))

    async def aclose(self) -> None:
        """Close the connections to the store. Idempotent."""
        store, self._store = self._store, None
        if store is not None:
            await store.aclose()

    async def _run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.to_thread(function, *args, **kwargs)

    def _open(self, url: str) -> ObjectStore | InlineStore:
        from millhand.storage import open_store  # noqa: PLC0415 - most clients have no blobs

        return open_store(url, create=True)

    async def _opened(self, size: int) -> ObjectStore | InlineStore:
        # In a thread: the first call imports botocore, which takes seconds on a busy machine.
        store = self._store
        return await self._run(self._require_store, size) if store is None else store

    def _require_store(self, size: int) -> ObjectStore | InlineStore:
        if not self._url:
            raise ConfigError(
                f"blob_store must be set for a blob of {size:,} bytes, because the row of a job takes {INLINE_BYTES_MAX:,} "
                "at most, got none; write Config(blob_store='s3://my-bucket')"
            )
        with self._lock:
            store = self._store
            if store is None:
                store = self._store = self._open(self._url)
            return store


class InlineBlobStore(BlobStore):
    """The blobs of a `SyncClient`: no call waits for an event loop. Concurrency: any number of threads may use it."""

    async def _run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return function(*args, **kwargs)

    def _open(self, url: str) -> InlineStore:
        from millhand.storage.open import open_inline_store  # noqa: PLC0415 - most clients have no blobs

        return open_inline_store(url, create=True)


def _read(path: Path) -> bytes:
    _check_size(path.stat().st_size)
    return path.read_bytes()


def _check_size(size: int) -> None:
    if size > BLOB_BYTES_MAX:
        raise InvalidBlob(
            f"blob must have at most {BLOB_BYTES_MAX:,} bytes, got {size:,}; store it as an object of your own, and put its "
            "key into the args"
        )


def _checked_key(blob: Blob) -> str:
    if blob.key is None or not KEY_RE.fullmatch(blob.key):
        raise InvalidBlob(
            f"key of a blob must be one that a put made, got {blob.key!r}; use client.blobs.put"
        )
    return blob.key


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
