"""
The interface of every object store, its values and its errors.

A key is any text of 1 to 1,024 UTF-8 bytes. A store never alters a key; it raises `InvalidKey` if it cannot hold one.
Two objects are the same only if key, etag and modification time agree: on most servers an overwrite with equal bytes
keeps the etag. Keys under `.millhand/` are reserved for Millhand: quarantine, probes, unfinished writes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Protocol

from millhand.core.errors import MillhandError

MAX_KEY_BYTES = 1_024
RESERVED_PREFIX = ".millhand/"
PAGE_SIZE = 1_000  # the largest page of S3


class StoreError(MillhandError):
    """
    The object store rejected an operation or did not respond. `__cause__` is the original error.

    `is_refusal` means that the store declined this one request and did nothing. Otherwise the request may have been
    carried out.
    """

    def __init__(
        self,
        operation: str,
        reason: str,
        *,
        key: str | None = None,
        is_denied: bool = False,
        is_refusal: bool = False,
    ) -> None:
        subject = operation if key is None else f"{operation} of {key!r}"
        super().__init__(f"{subject} must succeed, got {reason}")
        self.operation = operation
        self.reason = reason
        self.key = key
        self.is_denied = is_denied
        self.is_refusal = is_refusal or is_denied


class ObjectError(StoreError):
    """The object is not in the state that the operation needs; nothing was done."""

    state: ClassVar[str]

    def __init__(self, operation: str, key: str) -> None:
        super().__init__(operation, self.state, key=key, is_refusal=True)


class ObjectNotFound(ObjectError):
    """No object has this key."""

    state = "no such object"


class ObjectChanged(ObjectError):
    """The object changed since the caller read it; nothing was done."""

    state = "an object that changed since it was read"


class ObjectLocked(ObjectError):
    """A legal hold or a retention lock protects the object; nothing was done."""

    state = "an object under legal hold or retention"


class ObjectExists(ObjectError):
    """An object has this key and must not be overwritten; nothing was done."""

    state = "an object that already exists"


class InvalidKey(StoreError, ValueError):
    """The store cannot hold an object under this key."""

    def __init__(self, operation: str, reason: str, *, key: str | None) -> None:
        super().__init__(operation, reason, key=key, is_refusal=True)


class ListingBroken(StoreError):
    """A listing contradicts itself, so it proves nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """One object as its store describes it. Only `head` fills `is_locked` (legal hold, retention)."""

    key: str
    size: int
    etag: str
    modified_at: datetime
    is_locked: bool = False
    version: str | None = None

    def is_same_as(self, other: ObjectInfo) -> bool:
        """Return whether both describe one object. Equal bytes put again keep the etag but get a new time."""
        return (self.etag, self.size, self.modified_at) == (other.etag, other.size, other.modified_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectVersion:
    """
    One version of an object, or a delete marker. At most one version of a key is the latest.

    In a store without versions, each object is its own only version.
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
    """A multipart upload that is neither completed nor aborted."""

    key: str
    upload_id: str
    initiated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectPage:
    """
    Some objects in the order of the listing, as columns.

    A scan over millions of objects reads keys and sizes only; `describe` builds the `ObjectInfo` of one index. If `texts` is
    there, it returns etag and time of all objects, the time in ISO 8601. It takes a tenth of the time of describing each.

    Shape: `keys` and `sizes` have one length. `num_skipped` counts entries that are no objects (links, other files).
    """

    describe: Callable[[int], ObjectInfo]
    keys: Sequence[str]
    num_skipped: int = 0
    sizes: Sequence[int]
    texts: Callable[[], Sequence[tuple[str, str]]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """
    What a store does in fact, as tried by `ObjectStore.probe`.

    A server that ignores `If-Match` deletes anyway, so only a tried condition can be relied on. With `has_versions`, a
    delete keeps the object behind a delete marker. `hiding_error` is why the probe could not bring one back.
    """

    has_conditional_delete: bool
    has_exact_start_after: bool
    has_versions: bool
    hiding_error: str = ""
    is_ordered: bool
    is_writable: bool
    store_now: datetime


class Versioning(StrEnum):
    """
    Whether a store keeps the versions of an object. Once enabled, it can only be suspended.

    UNKNOWN says that these credentials may not read it.
    """

    OFF = "off"
    ENABLED = "enabled"
    SUSPENDED = "suspended"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpiryRule:
    """
    A lifecycle rule of the store that deletes objects whose key starts with `prefix`, perhaps only some of them.

    `after` is the age at which it deletes an object, `after_noncurrent` that of a version behind another one. In this
    store's keys; a rule of a whole bucket has an empty prefix.
    """

    name: str
    prefix: str
    after: timedelta | None = None
    after_noncurrent: timedelta | None = None


class ObjectStore(Protocol):
    """
    A place for objects. Every error is a `StoreError`.

    Concurrency: safe from any number of tasks of one event loop.
    """

    @property
    def url(self) -> str:
        """The name of this store in logs and in the ledger, without credentials."""
        ...

    async def probe(self) -> Capabilities:
        """Try what the store does, with a few small objects under `.millhand/probe/` that are deleted afterwards."""
        ...

    async def versioning(self) -> Versioning:
        """Return whether the store keeps versions at this moment; UNKNOWN if we may not read that."""
        ...

    async def expiry_rules(self) -> Sequence[ExpiryRule]:
        """Return the lifecycle rules that delete objects of this store; none if it has no such rules. Raises: StoreError."""
        ...

    def list_pages(
        self, *, prefix: str = "", start_after: str = "", up_to: str | None = None, page_size: int = PAGE_SIZE
    ) -> AsyncGenerator[ObjectPage, None]:
        """
        List the objects whose key starts with `prefix` and comes after `start_after`.

        The listing may stop after a page that reaches `up_to`.

        Shape: pages of 1 to `page_size` objects; none for an empty listing. In key order (UTF-8 bytes) if the store
        is ordered. Reserved keys under `.millhand/` are listed only if `prefix` starts with it.
        """
        ...

    async def head(self, key: str) -> ObjectInfo:
        """Return the description of one object. Raises: ObjectNotFound."""
        ...

    async def get(self, key: str) -> bytes:
        """Return the bytes of one small object. Raises: ObjectNotFound."""
        ...

    async def get_from_parents(self, key: str) -> Sequence[bytes]:
        """
        Return the small objects named `key` in each parent prefix of this store's root, from the top down.

        Objects that these credentials may not read are left out.
        """
        ...

    async def download(self, key: str, path: Path) -> None:
        """Write one object of any size into a local file. Raises: ObjectNotFound."""
        ...

    async def put(self, key: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:
        """Write one small object atomically. Raises: InvalidKey; ObjectExists, if `if_absent`."""
        ...

    async def delete(self, key: str, *, if_same: ObjectInfo | None = None) -> bool:
        """
        Delete one object and return whether there was one.

        Raises: ObjectChanged if it is no longer `if_same`; ObjectLocked.
        """
        ...

    async def delete_many(self, keys: Sequence[str]) -> Mapping[str, str]:
        """Delete objects without a condition. Return the reason for each key that could not be deleted."""
        ...

    async def move(
        self, source: str, target: str, *, if_same: ObjectInfo | None = None, if_absent: bool = False
    ) -> ObjectInfo:
        """
        Change the key of an object and keep its bytes and metadata; delete the source once the target is complete.

        After a crash the object is under its old key, its new key or both, never under neither. After an error with
        `is_refusal` it is under its old key alone, unless `if_absent`.

        Raises: ObjectNotFound; ObjectChanged if the source is no longer `if_same`; ObjectLocked; ObjectExists if
        `if_absent`.
        """
        ...

    def list_uploads(
        self, *, prefix: str = "", page_size: int = PAGE_SIZE
    ) -> AsyncIterator[Sequence[Upload]]:
        """List multipart uploads that are neither completed nor aborted."""
        ...

    async def upload_touched_at(self, upload: Upload) -> datetime:
        """Return when the newest part of an upload arrived, or when it began. Raises: ObjectNotFound."""
        ...

    async def abort_upload(self, upload: Upload) -> bool:
        """Abort an upload, late parts included, check that it is gone, and return whether it was there."""
        ...

    def list_versions(
        self, *, prefix: str = "", page_size: int = PAGE_SIZE
    ) -> AsyncIterator[Sequence[ObjectVersion]]:
        """List all versions and delete markers of keys that start with `prefix`, newest first for each key."""
        ...

    async def delete_version(self, key: str, version: str) -> None:
        """Delete one version permanently. Deleting a delete marker brings the object back. Idempotent."""
        ...

    async def copy_version(self, key: str, version: str) -> None:
        """
        Make a new version of a key without an object, by copying an older version, which stays.

        Raises: ObjectNotFound; ObjectExists.
        """
        ...

    async def aclose(self) -> None:
        """Close connections and threads. Idempotent. A call that does not end within seconds is abandoned."""
        ...


def check_key(operation: str, key: str, *, root: str = "") -> None:
    """Raise `InvalidKey` for a key that no store accepts. `root` is the store's own prefix."""
    try:
        num_bytes = len((root + key).encode())
    except UnicodeEncodeError:
        raise InvalidKey(operation, "a lone surrogate; keys are UTF-8 text", key=key) from None
    if not key or num_bytes > MAX_KEY_BYTES:
        raise InvalidKey(
            operation, f"{num_bytes} bytes; a key has 1 to {MAX_KEY_BYTES:,} bytes of UTF-8", key=key
        )
