"""
Find out what an S3-compatible server really does, before anything is concluded from its answers.

What a server lacks and a run can do without is only noted (`Capabilities`). A server whose listing does not show what
was just put, shows what was not asked for, or loses keys between two pages is refused: nothing could be concluded
from what such a listing does not show.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from millhand.storage.protocol import OUR_PREFIX, PAGE_SIZE, Capabilities, ListingBroken, StoreError
from millhand.storage.s3_bucket import S3Bucket
from millhand.storage.s3_client import CONFLICT, code_of, translated

NO_SUCH_ETAG = '"00000000000000000000000000000000"'
# In the order of UTF-8 bytes. Each pair catches a kind of server: by path component, by locale, by UTF-16.
NAMES = ("B", "a", "x.y", "x/y", "x0", "\ue000", "\U00010000")
SMALL_PAGE = 3  # of the seven, so that two pages end within


def probe(bucket: S3Bucket) -> Capabilities:
    """Try everything that differs between servers on a few small objects, which are removed after."""
    base = f"{OUR_PREFIX}probe/{uuid.uuid4().hex}/"
    with translated("probe", None):
        # Of nothing: Ceph 16 answers 500 to some whole buckets in pages of one.
        answer = bucket.client.list_objects_v2(Bucket=bucket.name, MaxKeys=1, Prefix=bucket.root + base)
    store_now = _answer_time(answer)
    keys = [base + name for name in NAMES]
    try:
        for key in keys:
            bucket.put(key, b"", if_absent=False)
        _check_listing(bucket, base, keys)
        return Capabilities(
            has_conditional_delete=_honours_if_match(bucket, keys[0]),
            has_exact_start_after=_starts_after_exactly(bucket, base, keys),
            has_versions=_has_versions(bucket),
            is_ordered=_listed(bucket, base) == keys,
            is_writable=True,
            store_now=store_now,
        )
    except StoreError as error:
        if not error.is_denied:
            raise
        # Whoever may only read gets a report; order is then asserted page by page, nothing else is trusted.
        return Capabilities(
            has_conditional_delete=False,
            has_exact_start_after=False,
            has_versions=_has_versions(bucket),
            is_ordered=True,
            is_writable=False,
            store_now=store_now,
        )
    finally:
        with suppress(StoreError):
            bucket.delete_many(keys)
            _forget_versions(bucket, base)


def _check_listing(bucket: S3Bucket, base: str, keys: list[str]) -> None:
    for page_size in (PAGE_SIZE, SMALL_PAGE):
        found = sorted(_listed(bucket, base, page_size=page_size))
        if found != keys:
            missing, strays = sorted(set(keys) - set(found)), sorted(set(found) - set(keys))
            raise ListingBroken(
                "probe",
                f"a listing in pages of {page_size:,} without {missing!r}, with {strays!r} and {len(found)} keys where "
                f"{len(keys)} were just put; nothing may be concluded from it, use another server",
            )


def _honours_if_match(bucket: S3Bucket, key: str) -> bool:
    try:
        bucket.client.delete_object(**bucket.target(key), IfMatch=NO_SUCH_ETAG)
    except ClientError as error:
        return code_of(error) in CONFLICT
    bucket.put(key, b"", if_absent=False)
    return False


def _starts_after_exactly(bucket: S3Bucket, base: str, keys: list[str]) -> bool:
    between = base + "x/"  # no object; after `x.y`, before `x/y`
    return _listed(bucket, base, between) == keys[3:] and _listed(bucket, base, keys[3]) == keys[4:]


def _listed(bucket: S3Bucket, prefix: str, start_after: str = "", *, page_size: int = PAGE_SIZE) -> list[str]:
    found: list[str] = []
    token: str | None = None
    # A server that goes on for ever is stopped at more pages than there can be.
    for _ in range(len(NAMES) + 1):
        listing = bucket.list_page(prefix, start_after, page_size, token)
        found += listing.page.keys
        token = listing.token
        if token is None:
            break
    return found


def _has_versions(bucket: S3Bucket) -> bool:
    """Whether a delete leaves the object behind a marker; who may not ask is taken to have none."""
    try:
        answer = bucket.client.get_bucket_versioning(Bucket=bucket.name)
    except (ClientError, BotoCoreError):
        return False
    return bool(answer.get("Status") == "Enabled")


def _forget_versions(bucket: S3Bucket, base: str) -> None:
    """Remove the versions and markers that a probe leaves in a bucket that keeps them."""
    if not _has_versions(bucket):
        return
    with translated("probe", None):
        answer = bucket.client.list_object_versions(Bucket=bucket.name, Prefix=bucket.root + base)
        for found in (*answer.get("Versions", ()), *answer.get("DeleteMarkers", ())):
            bucket.client.delete_object(Bucket=bucket.name, Key=found["Key"], VersionId=found["VersionId"])


def _answer_time(answer: Mapping[str, Any]) -> datetime:
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    return parsedate_to_datetime(date) if date else datetime.now(UTC)
