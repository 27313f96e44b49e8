"""
Read one page of `ListObjectsV2`.

This is the only part of S3 that is not left to botocore: its general XML parser takes longer over a page than the
network does. Each kind of element is collected by itself, so the order of elements inside `<Contents>`, which
differs between servers, does not matter; that the columns belong together is proved by their equal lengths and by the
server's own `KeyCount`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from html import unescape
from urllib.parse import unquote_plus

from millhand.storage.protocol import ListingBroken, ObjectInfo, ObjectPage

KEY = re.compile(rb"<Key>([^<]*)</Key>")
SIZE = re.compile(rb"<Size>(\d+)</Size>")
ETAG = re.compile(rb"<ETag>([^<]*)</ETag>")
MODIFIED = re.compile(rb"<LastModified>([^<]*)</LastModified>")
KEY_COUNT = re.compile(rb"<KeyCount>(\d+)</KeyCount>")
TOKEN = re.compile(rb"<NextContinuationToken>([^<]*)</NextContinuationToken>")
NEEDS_DECODING = re.compile("[%+&]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """One page, and the token of the next; None on the last."""

    page: ObjectPage
    token: str | None


def parse_listing(body: bytes, *, root: str, prefix: str) -> Listing:
    """
    Read the XML of one page; `root` is cut off the keys, and each must begin with `root` and `prefix`.

    Raises: ListingBroken, for a page that contradicts itself or the question.
    """
    if b"<ListBucketResult" not in body:
        raise _broken(prefix, f"an answer that is no listing: {body[:80]!r}")
    keys, sizes, etags, modified = (column.findall(body) for column in (KEY, SIZE, ETAG, MODIFIED))
    lengths = {"keys": len(keys), "sizes": len(sizes), "etags": len(etags), "times": len(modified)}
    if (count := KEY_COUNT.search(body)) is not None:
        lengths["KeyCount"] = int(count[1])
    if len(set(lengths.values())) != 1:
        raise _broken(prefix, f"a page of unequal columns {lengths!r}")
    texts = _cut(_decode_keys(keys, is_url_encoded=b"<EncodingType>url</EncodingType>" in body), root, prefix)
    page = ObjectPage(
        describe=lambda index: _describe(texts[index], sizes[index], etags[index], modified[index]),
        keys=texts,
        sizes=[int(size) for size in sizes],
    )
    return Listing(page=page, token=_token(body, prefix))


def instant_of(text: str) -> datetime:
    """Read a server's time; whole seconds, because `HEAD` knows no smaller unit and the two are compared."""
    return datetime.fromisoformat(text).astimezone(UTC).replace(microsecond=0)


def bare_etag(text: str) -> str:
    """Return an etag without its quotes."""
    return text.removeprefix("W/").strip('"')


def _describe(key: str, size: bytes, etag: bytes, modified: bytes) -> ObjectInfo:
    return ObjectInfo(
        key=key,
        size=int(size),
        etag=bare_etag(unescape(etag.decode())),
        modified_at=instant_of(modified.decode()),
    )


def _decode_keys(raw: list[bytes], *, is_url_encoded: bool) -> list[str]:
    # One decoding for the whole page: an encoded key holds no line break.
    text = b"\n".join(raw).decode("utf-8", "surrogateescape")
    texts = text.split("\n") if raw else []
    if len(texts) != len(raw):
        texts = [key.decode("utf-8", "surrogateescape") for key in raw]
    if not NEEDS_DECODING.search(text):
        return texts
    return [_decode(key, is_url_encoded) if NEEDS_DECODING.search(key) else key for key in texts]


def _decode(key: str, is_url_encoded: bool) -> str:
    key = unescape(key)
    return unquote_plus(key, errors="surrogateescape") if is_url_encoded else key


def _cut(keys: list[str], root: str, prefix: str) -> list[str]:
    wanted = root + prefix
    if wanted and (strays := [key for key in keys if not key.startswith(wanted)]):
        raise _broken(prefix, f"key {strays[0]!r}, which does not begin with {wanted!r}")
    return [key[len(root) :] for key in keys] if root else keys


def _token(body: bytes, prefix: str) -> str | None:
    if b"<IsTruncated>true</IsTruncated>" not in body:
        return None
    if (found := TOKEN.search(body)) is None:
        raise _broken(prefix, "a page that is not the last and names no next one")
    return unescape(found[1].decode())


def _broken(prefix: str, reason: str) -> ListingBroken:
    return ListingBroken("list", reason, key=prefix or None)
