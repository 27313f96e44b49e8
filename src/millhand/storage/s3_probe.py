"""
Find out what an S3-compatible server does, before a run relies on it.

`Capabilities` records features that a run can do without. The listing must work: the probe raises an error if it lacks an
object that was just put, shows an unknown one, or loses keys between two pages.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from botocore.exceptions import ClientError

from millhand.storage.protocol import (
    PAGE_SIZE,
    RESERVED_PREFIX,
    Capabilities,
    ListingBroken,
    StoreError,
    Versioning,
)
from millhand.storage.s3_bucket import S3Bucket
from millhand.storage.s3_client import CONFLICT, code_of, translate_errors

NO_SUCH_ETAG = '"00000000000000000000000000000000"'
# In UTF-8 byte order. Each pair detects a server with another order: by path component, by locale, by UTF-16.
NAMES = ("B", "a", "x.y", "x/y", "x0", "\ue000", "\U00010000")
SMALL_PAGE = 3  # less than the seven names, so that a listing has several pages


def probe(bucket: S3Bucket) -> Capabilities:
    """Try what differs between servers on a few small objects, and delete them afterwards."""
    base = f"{RESERVED_PREFIX}probe/{uuid.uuid4().hex}/"
    with translate_errors("probe", None):
        # An empty prefix: Ceph 16 responds with 500 to some whole buckets in pages of one.
        response = bucket.client.list_objects_v2(Bucket=bucket.name, MaxKeys=1, Prefix=bucket.root + base)
    # Read-only credentials suffice for a report. The scan then checks the order of each page.
    date = response["ResponseMetadata"]["HTTPHeaders"].get("date")
    read_only = Capabilities(
        has_conditional_delete=False,
        has_exact_start_after=False,
        has_versions=bucket.versioning() is Versioning.ENABLED,
        is_ordered=True,
        is_writable=False,
        store_now=parsedate_to_datetime(date) if date else datetime.now(UTC),
    )
    keys = [base + name for name in NAMES]
    try:
        _check_deletes(bucket)
        for key in keys:
            bucket.put(key, b"", if_absent=False)
        _check_listing(bucket, base, keys)
        between = base + "x/"  # not an object; after `x.y`, before `x/y`
        tried = replace(
            read_only,
            has_conditional_delete=_supports_if_match(bucket, keys[0]),
            has_exact_start_after=(
                _listed(bucket, base, between) == keys[3:] and _listed(bucket, base, keys[3]) == keys[4:]
            ),
            is_ordered=_listed(bucket, base) == keys,
            is_writable=True,
        )
        return replace(tried, hiding_error=_hiding_error(bucket, keys[0]) if tried.has_versions else "")
    except StoreError as error:
        if not error.is_denied:
            raise
        return read_only
    finally:
        with suppress(StoreError):
            bucket.delete_many(keys)
            _delete_versions(bucket, base)


def _check_deletes(bucket: S3Bucket) -> None:
    """Put and delete an object under a fixed key, so that at most one is left where deletes are denied."""
    key = f"{RESERVED_PREFIX}probe/writable"
    with translate_errors("probe", None):
        bucket.client.put_object(**bucket.object_params(key), Body=b"")
        bucket.client.delete_object(**bucket.object_params(key))
    with suppress(StoreError):
        _delete_versions(bucket, key)


def _check_listing(bucket: S3Bucket, base: str, keys: list[str]) -> None:
    for page_size in (PAGE_SIZE, SMALL_PAGE):
        found = sorted(_listed(bucket, base, page_size=page_size))
        if found != keys:
            missing, strays = sorted(set(keys) - set(found)), sorted(set(found) - set(keys))
            raise ListingBroken(
                "probe",
                f"a listing in pages of {page_size:,} without {missing!r}, with {strays!r} and {len(found)} keys where "
                f"{len(keys)} were just put; such a listing proves nothing, use another server",
            )


def _supports_if_match(bucket: S3Bucket, key: str) -> bool:
    with translate_errors("probe", None):
        try:
            bucket.client.delete_object(**bucket.object_params(key), IfMatch=NO_SUCH_ETAG)
        except ClientError as error:
            return code_of(error) in CONFLICT
    bucket.put(key, b"", if_absent=False)
    return False


def _hiding_error(bucket: S3Bucket, key: str) -> str:
    """Hide an object behind a delete marker and bring it back. Return why that failed, or an empty text."""
    try:
        with translate_errors("delete", None):
            bucket.client.delete_object(**bucket.object_params(key))
        with translate_errors("list versions", None):
            response = bucket.client.list_object_versions(Bucket=bucket.name, Prefix=bucket.root + key)
        with translate_errors("delete version", None):
            for found in response.get("DeleteMarkers", ()):
                bucket.client.delete_object(
                    Bucket=bucket.name, Key=found["Key"], VersionId=found["VersionId"]
                )
        bucket.head(key, "bring back")
    except StoreError as error:
        if not error.is_refusal:
            raise
        return str(error)
    return ""


def _listed(bucket: S3Bucket, prefix: str, start_after: str = "", *, page_size: int = PAGE_SIZE) -> list[str]:
    found: list[str] = []
    token: str | None = None
    # The limit ends the loop on a server that never returns a last page.
    for _ in range(len(NAMES) + 1):
        listing = bucket.list_page(prefix, start_after, page_size, token)
        found += listing.page.keys
        token = listing.token
        if token is None:
            break
    return found


def _delete_versions(bucket: S3Bucket, base: str) -> None:
    """Delete the versions and markers that a probe leaves in a bucket with versions."""
    if bucket.versioning() in (Versioning.OFF, Versioning.UNKNOWN):
        return
    with translate_errors("probe", None):
        response = bucket.client.list_object_versions(Bucket=bucket.name, Prefix=bucket.root + base)
        for found in (*response.get("Versions", ()), *response.get("DeleteMarkers", ())):
            bucket.client.delete_object(Bucket=bucket.name, Key=found["Key"], VersionId=found["VersionId"])
