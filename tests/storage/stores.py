"""What the contract suite expects of each store, and the keys that it tries."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from dataclasses import dataclass, field

from servers import START_SECONDS

from millhand.storage import ObjectStore, StoreError
from millhand.storage.s3_bucket import S3Bucket
from millhand.storage.threaded_store import ThreadedStore

# Keys from real buckets that some server or client handled wrongly.
UNUSUAL_KEYS = (
    "plain",
    "a/b",
    "a.b",
    "a-b",
    "a b",
    "a+b",
    "a%2Fb",
    "a%20b",
    "100%",
    "%~escaped",
    "a//b",
    "/leading",
    "trailing/",
    "double//",
    "//",
    "a/./c",
    "a/../c",
    "..",
    ".",
    ".hidden",
    "~tilde",
    "tab\there",
    "line\nbreak",
    "return\rhere",
    "\x01control",
    "del\x7f",
    "quote\"'`",
    "<xml>&amp;]]>",
    "back\\slash",
    "col:on",
    "que?ry#hash",
    "star*[0-9]{x}",
    "semi;comma,",
    "dollar$(x)",
    "ünïcödé",
    "u\u0308",
    "日本語/ファイル",
    "emoji/🦀",
    "\ue000private",
    "\u202eright-to-left",
    "x" * 250,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What we know of a server: its capabilities, and the keys that it stores under another name."""

    has_conditional_delete: bool = True
    has_exact_start_after: bool = True
    has_policies: bool = False  # bucket policies that bind the owner too
    has_uploads: bool = True
    is_ordered: bool = True
    untold: frozenset[str] = (
        frozenset()
    )  # options of a put that the server rejects, or does not tell afterwards
    altered_keys: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """An empty store, a second one that keeps versions if the server can, and what we know of the server."""

    store: ObjectStore
    facts: Facts = field(default_factory=Facts)
    versioned: ObjectStore | None = None


DIRECTORY = Facts(has_uploads=False)
# SeaweedFS keeps objects in a tree of directories: it lists by path part and drops empty parts.
SEAWEED = Facts(
    has_exact_start_after=False,
    is_ordered=False,
    altered_keys=frozenset(("a//b", "/leading", "//", "double//", "trailing/", "back\\slash")),
    untold=frozenset(("ACL", "WebsiteRedirectLocation")),
)
# Ceph's gateway ignores If-Match on a delete.
RGW = Facts(
    has_conditional_delete=False,
    has_policies=True,
    untold=frozenset(("ServerSideEncryption", "StorageClass")),
)
EMULATOR = Facts(untold=frozenset(("ACL",)))


def deny_deletes(store: ObjectStore, key: str) -> None:
    """Deny the deletion of one key until the bucket gets another policy."""
    bucket = bucket_of(store)
    resource = f"arn:aws:s3:::{bucket.name}/{bucket.object_params(key)['Key']}"
    denied = {"Action": ["s3:DeleteObject"], "Effect": "Deny", "Principal": "*", "Resource": [resource]}
    policy = {"Statement": [denied], "Version": "2012-10-17"}
    bucket.client.put_bucket_policy(Bucket=bucket.name, Policy=json.dumps(policy))


def bucket_of(store: ObjectStore) -> S3Bucket:
    """Return the bucket of a store, for calls that no store offers."""
    assert isinstance(store, ThreadedStore)
    assert isinstance(store.blocking, S3Bucket)
    return store.blocking


def wait_until_ready(bucket: S3Bucket) -> None:
    """Wait until a server takes objects and lists them. Some need a second after their first response."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            bucket.put("ready", b"", if_absent=False)
            bucket.list_page("", "", 1_000, None)
        except StoreError:
            if time.monotonic() > deadline:
                raise
            threading.Event().wait(0.02)
        else:
            return


async def begin_upload(store: ObjectStore, key: str, *parts: bytes) -> str:
    """Begin a multipart upload, as an application does, and return its id."""
    bucket = bucket_of(store)
    begun = await asyncio.to_thread(bucket.client.create_multipart_upload, **bucket.object_params(key))
    for number, part in enumerate(parts, 1):
        await put_part(store, key, begun["UploadId"], number, part)
    return str(begun["UploadId"])


async def put_part(store: ObjectStore, key: str, upload_id: str, number: int, part: bytes) -> None:
    """Send one part of an upload."""
    bucket = bucket_of(store)
    await asyncio.to_thread(
        bucket.client.upload_part,
        **bucket.object_params(key),
        Body=part,
        PartNumber=number,
        UploadId=upload_id,
    )
