"""
What keeps the bytes: an object store, spoken to by key.

A key is any text of 1 … 1,024 UTF-8 bytes; a store that cannot hold one says `InvalidKey`, it never alters it. Two
objects are the same only if key, etag and modification time agree: an overwrite with equal bytes keeps the etag of
most servers. Keys under `.millhand/` are ours: quarantine, probes, unfinished writes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from millhand.errors import MillhandError

MAX_KEY_BYTES = 1_024
OUR_PREFIX = ".millhand/"
PAGE_SIZE = 1_000  # what S3 gives at most


class StoreError(MillhandError):
    """The object store refused an operation or did not answer. The client's own error is the cause."""

    def __init__(
        self, operation: str, reason: str, *, key: str | None = None, is_denied: bool = False
    ) -> None:
        subject = operation if key is None else f"{operation} of {key!r}"
        super().__init__(f"{subject} must succeed, got {reason}")
        self.operation = operation
        self.reason = reason
        self.key = key
        self.is_denied = is_denied


class ObjectNotFound(StoreError):
    """There is no object with the key."""

    def __init__(self, operation: str, key: str) -> None:
        super().__init__(operation, "no such object", key=key)


class ObjectChanged(StoreError):
    """The object is no longer the one that the caller saw; nothing was done."""

    def __init__(self, operation: str, key: str) -> None:
        super().__init__(operation, "another object than the one that was seen", key=key)


class ObjectLocked(StoreError):
    """A legal hold or a retention lock keeps the object; nothing was done."""

    def __init__(self, operation: str, key: str) -> None:
        super().__init__(operation, "an object under legal hold or retention", key=key)


class ObjectExists(StoreError):
    """There is an object with the key, and it must not be overwritten; nothing was done."""

    def __init__(self, operation: str, key: str) -> None:
        super().__init__(operation, "an object that is already there", key=key)


class InvalidKey(StoreError, ValueError):
    """The store cannot hold an object of this name."""


class ListingBroken(StoreError):
    """A listing contradicts itself, so nothing may be concluded from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """One object as its store describes it; `is_locked` (legal hold, retention) is known after `head` only."""

    key: str
    size: int
    etag: str
    modified_at: datetime
    is_locked: bool = False
    version: str | None = None

    def is_same_as(self, other: ObjectInfo) -> bool:
        """Whether both describe one object; equal bytes put again have the same etag, but another time."""
        return (self.etag, self.size, self.modified_at) == (other.etag, other.size, other.modified_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectVersion:
    """
    One version of an object, or a marker that one was deleted; of a key, at most one is the latest.

    Where a store keeps no versions, each object is its own only version.
    """

    key: str
    version: str
    etag: str
    is_delete_marker: bool
    is_latest: bool
    modified_at: datetime
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """An upload in parts that is neither completed nor aborted."""

    key: str
    upload_id: str
    initiated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectPage:
    """
    Some objects in the order in which the store listed them, in columns.

    A pass over millions of objects looks at keys and sizes; the few that matter are described one by one.

    Shape: `keys` and `sizes` are of one length; `num_skipped` things in between are no objects (links, other files).
    """

    describe: Callable[[int], ObjectInfo]
    keys: Sequence[str]
    num_skipped: int = 0
    sizes: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """
    What a store was seen to do, by `ObjectStore.probe`.

    A server that ignores `If-Match` deletes all the same, so a condition is only worth something where it was tried.
    `has_versions` says that a delete leaves the object behind a marker.
    """

    has_conditional_delete: bool
    has_exact_start_after: bool
    has_versions: bool
    is_ordered: bool
    is_writable: bool
    store_now: datetime


class ObjectStore(Protocol):
    """
    A place for objects. Everything raised is a `StoreError`.

    Concurrency: safe from any number of tasks of one event loop.
    """

    @property
    def url(self) -> str:
        """What names this store in logs and in the ledger; without credentials."""
        ...

    async def probe(self) -> Capabilities:
        """Find out what the store really does, with a few small objects under `.millhand/probe/`, removed after."""
        ...

    def list_pages(
        self, *, prefix: str = "", start_after: str = "", up_to: str | None = None, page_size: int = PAGE_SIZE
    ) -> AsyncGenerator[ObjectPage, None]:
        """
        List the objects whose key starts with `prefix` and comes after `start_after`.

        A page that reaches `up_to` may be the last, for a caller who needs no more of a listing in order.

        Shape: pages of 1 … `page_size` objects; none for an empty listing. In key order (UTF-8 bytes) where the store
        is ordered. Ours under `.millhand/` are listed only when `prefix` asks for them.
        """
        ...

    async def head(self, key: str) -> ObjectInfo:
        """Describe one object. Raises: ObjectNotFound."""
        ...

    async def get(self, key: str) -> bytes:
        """Read one small object. Raises: ObjectNotFound."""
        ...

    async def get_above(self, key: str) -> Sequence[bytes]:
        """
        Read the small objects that have `key` at each place above this store's root, from the top down.

        What may not be read there is passed over: whoever is confined to a prefix cannot know.
        """
        ...

    async def save(self, key: str, path: Path) -> None:
        """Write one object, of any size, into a file of ours. Raises: ObjectNotFound."""
        ...

    async def put(self, key: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:
        """Write one small object, whole or not at all. Raises: InvalidKey; ObjectExists, if `if_absent`."""
        ...

    async def delete(self, key: str, *, if_same: ObjectInfo | None = None) -> bool:
        """
        Delete one object; False says that there was none.

        Raises: ObjectChanged when it is not `if_same` any more; ObjectLocked.
        """
        ...

    async def delete_many(self, keys: Sequence[str]) -> Mapping[str, str]:
        """Delete objects whatever they are and return the reason for each key that could not be deleted."""
        ...

    async def move(
        self, source: str, target: str, *, if_same: ObjectInfo | None = None, if_absent: bool = False
    ) -> ObjectInfo:
        """
        Give an object another key, bytes and metadata unchanged; the source goes only when the target is whole.

        A crash in between leaves the object under its old key, its new one or both, never under none.

        Raises: ObjectNotFound; ObjectChanged when the source is not `if_same` any more; ObjectLocked; ObjectExists if
        `if_absent`.
        """
        ...

    def list_uploads(
        self, *, prefix: str = "", page_size: int = PAGE_SIZE
    ) -> AsyncIterator[Sequence[Upload]]:
        """List uploads in parts that are neither completed nor aborted; a store without such has none."""
        ...

    async def upload_touched_at(self, upload: Upload) -> datetime:
        """Return when the newest part of an upload came, or when it began. Raises: ObjectNotFound."""
        ...

    async def abort_upload(self, upload: Upload) -> bool:
        """Give an upload up and see that it is gone, late parts included; False says that it was gone before."""
        ...

    def list_versions(
        self, *, prefix: str = "", page_size: int = PAGE_SIZE
    ) -> AsyncIterator[Sequence[ObjectVersion]]:
        """List all versions and delete markers of the keys that start with `prefix`, of a key the newest first."""
        ...

    async def delete_version(self, key: str, version: str) -> None:
        """Remove one version for good; without its delete marker, an object is there again. Idempotent."""
        ...

    async def aclose(self) -> None:
        """Let go of connections and threads; idempotent."""
        ...


def check_key(operation: str, key: str, *, root: str = "") -> None:
    """Raise `InvalidKey` for what is no key anywhere; `root` is what the store puts in front of it."""
    try:
        num_bytes = len((root + key).encode())
    except UnicodeEncodeError:
        raise InvalidKey(operation, "a lone surrogate; keys are UTF-8 text", key=key) from None
    if not key or num_bytes > MAX_KEY_BYTES:
        raise InvalidKey(
            operation, f"{num_bytes} bytes; a key has 1 to {MAX_KEY_BYTES:,} bytes of UTF-8", key=key
        )
