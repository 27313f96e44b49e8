"""
Page through the listings of uploads and versions.

Servers differ in how they encode keys in these listings, so we request no encoding. A key that XML cannot hold then fails
the listing, which is safer than a shorter one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from millhand.storage.protocol import RESERVED_PREFIX, ListingBroken
from millhand.storage.s3_bucket import S3Bucket
from millhand.storage.s3_client import translate_errors


def responses(
    bucket: S3Bucket,
    operation: str,
    method: str,
    prefix: str,
    page_limit: Mapping[str, int],
    markers: tuple[str, str],
) -> Iterator[Mapping[str, Any]]:
    """
    Yield the responses of a listing, page by page. Blocks.

    `markers` names the parameters that lead to the next page. Each response holds them with `Next` in front.

    Raises: ListingBroken; StoreError.
    """
    position: dict[str, str] = {}
    while True:
        with translate_errors(operation, prefix or None):
            call = getattr(bucket.client, method)
            response = call(Bucket=bucket.name, Prefix=bucket.root + prefix, **page_limit, **position)
        yield response
        if not response.get("IsTruncated"):
            return
        # Only what the server returned: SeaweedFS names an upload alone, and finds nothing more with a key beside it.
        following = {name: value for name in markers if (value := response.get(f"Next{name}"))}
        if not following or following == position:
            raise ListingBroken(
                operation, "a page that is not the last and names no next one", key=prefix or None
            )
        position = following


def is_listed(key: str, prefix: str) -> bool:
    """Return whether a listing of `prefix` shows `key`: reserved keys only if the prefix asks for them."""
    return prefix.startswith(RESERVED_PREFIX) or not key.startswith(RESERVED_PREFIX)
