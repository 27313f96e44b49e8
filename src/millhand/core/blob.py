"""
A blob: bytes that a job refers to, in its args or its output.

Rule 1: a small blob is in the row itself. A larger one is an object in a store, and the row has its key, size and hash.
Rule 2: each object has a key of its own, which no other put ever uses. So an object never changes.
Rule 3: in JSON, a blob is `{"millhand:blob": {…}}`, at any depth. By this name, the orphan cleanup finds the references.
"""

from __future__ import annotations

import re
import uuid

import msgspec

BLOB_KEY = "millhand:blob"
BLOB_PREFIX = "millhand-blobs/"
KEY_RE = re.compile(rf"{BLOB_PREFIX}[0-9a-f]{{32}}", re.ASCII)
# The args of a fetch of 1,000 jobs with such blobs have some 20 MB.
INLINE_BYTES_MAX = 16 * 1024
# A put and a get hold all bytes in memory.
BLOB_BYTES_MAX = 256 * 1024 * 1024

# How the JSON text of args begins a blob. Within a string of a user, the quotes are escaped.
_MARK = f'"{BLOB_KEY}":'


class BlobReference(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """
    Where the bytes of a blob are, and how to check them.

    Attributes:
        size: In bytes.
        sha256: In hexadecimal.
        key: The key of the object; None for a small blob.
        data: The bytes of a small blob, base64 in JSON; None for an object.
    """

    size: int
    sha256: str
    key: str | None = None
    data: bytes | None = None


class Blob(msgspec.Struct, frozen=True):
    """
    Bytes in the args or the output of a job. `client.blobs.put(data)` makes it, and `client.blobs.get(blob)` reads it.

    It can be a field of a dataclass, an attrs class or a msgspec Struct, a parameter of a worker function, or an output.
    """

    reference: BlobReference = msgspec.field(name=BLOB_KEY)

    def __repr__(self) -> str:
        where = "in the row" if self.key is None else self.key
        return f"Blob({self.size:,} bytes, {where})"

    @property
    def key(self) -> str | None:
        """The key of its object in the store; None if the bytes are in the row."""
        return self.reference.key

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return self.reference.size

    @property
    def sha256(self) -> str:
        """The SHA-256 of its bytes, in hexadecimal."""
        return self.reference.sha256


def new_blob_key() -> str:
    """Return a key that no other blob has."""
    return f"{BLOB_PREFIX}{uuid.uuid4().hex}"


def has_blob(encoded: str) -> bool:
    """Return whether the JSON text of args has a blob. Shape: as Millhand's encoder writes it, without blanks."""
    return _MARK in encoded
