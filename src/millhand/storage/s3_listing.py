"""
Parse one page of `ListObjectsV2`.

botocore's general XML parser takes longer over a page than the network does, so this parser collects each kind of element
by itself. The order of elements inside `<Contents>` differs between servers and does not matter. Equal lengths and the
server's own `KeyCount` prove that the columns belong together. Keys and sizes are checked at once, the other columns when
a caller first asks for them.
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
# The usual forms, which need no conversion but a zone.
PLAIN_ETAG = re.compile(rb"<ETag>(?:&quot;|&#34;|\")([0-9a-f-]*)(?:&quot;|&#34;|\")</ETag>")
PLAIN_MODIFIED = re.compile(rb"<LastModified>(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?Z</LastModified>")
NEEDS_DECODING = ("%", "+", "&")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """One page, and the token of the next page; None on the last."""

    page: ObjectPage
    token: str | None


def parse_listing(body: bytes, *, root: str, prefix: str) -> Listing:
    """Parse one page, and cut `root` off the keys. Raises: ListingBroken if it contradicts itself or the request."""
    if b"<ListBucketResult" not in body:
        raise _broken(prefix, f"a response that is no listing: {body[:80]!r}")
    keys, sizes = KEY.findall(body), SIZE.findall(body)
    lengths = {"keys": len(keys), "sizes": len(sizes)}
    if (count := KEY_COUNT.search(body)) is not None:
        lengths["KeyCount"] = int(count[1])
    _check_lengths(prefix, lengths)
    texts = _cut(_decode_keys(keys, is_url_encoded=b"<EncodingType>url</EncodingType>" in body), root, prefix)
    describer = _Describer(body, texts, prefix)
    page = ObjectPage(describe=describer, keys=texts, sizes=list(map(int, sizes)), texts=describer.texts)
    return Listing(page=page, token=_token(body, prefix))


def whole_seconds(instant: datetime) -> datetime:
    """Return a server's time in UTC and whole seconds: HEAD has no smaller unit, and the two are compared."""
    return instant.astimezone(UTC).replace(microsecond=0)


def bare_etag(text: str) -> str:
    return text.removeprefix("W/").strip('"')


class _Describer:
    """Describe objects of a page. Most pages never need it, so the other columns are parsed at the first call."""

    def __init__(self, body: bytes, keys: list[str], prefix: str) -> None:
        self._body = body
        self._keys = keys
        self._prefix = prefix
        self._columns: tuple[list[bytes], ...] = ()

    def __call__(self, index: int) -> ObjectInfo:
        """Return one object. Raises: ListingBroken, if the other columns are not as long as the keys."""
        if not self._columns:
            columns = tuple(column.findall(self._body) for column in (SIZE, ETAG, MODIFIED))
            lengths = {"keys": self._keys, **dict(zip(("sizes", "etags", "times"), columns, strict=True))}
            _check_lengths(self._prefix, {name: len(column) for name, column in lengths.items()})
            self._columns = columns
        size, etag, modified = (column[index] for column in self._columns)
        return ObjectInfo(
            key=self._keys[index],
            size=int(size),
            etag=bare_etag(unescape(etag.decode())),
            modified_at=whole_seconds(datetime.fromisoformat(modified.decode())),
        )

    def texts(self) -> list[tuple[str, str]]:
        """Return etag and time of all objects. Raises: as for one."""
        etags, times = PLAIN_ETAG.findall(self._body), PLAIN_MODIFIED.findall(self._body)
        if len(self._keys) == len(etags) == len(times) > 0:
            zoned = b"Z\n".join([*times, b""]).decode().split("\n")[:-1]
            return list(zip(b"\n".join(etags).decode().split("\n"), zoned, strict=True))
        infos = map(self, range(len(self._keys)))
        return [(info.etag, info.modified_at.isoformat()) for info in infos]


def _decode_keys(raw: list[bytes], *, is_url_encoded: bool) -> list[str]:
    # Decode the page at once. A line break inside a key shows as a wrong number of keys.
    text = b"\n".join(raw).decode("utf-8", "surrogateescape")
    if any(mark in text for mark in NEEDS_DECODING):
        text = _decode(text, is_url_encoded)
    texts = text.split("\n") if raw else []
    if len(texts) == len(raw):
        return texts
    return [_decode(key.decode("utf-8", "surrogateescape"), is_url_encoded) for key in raw]


def _decode(text: str, is_url_encoded: bool) -> str:
    text = unescape(text)
    return unquote_plus(text, errors="surrogateescape") if is_url_encoded else text


def _cut(keys: list[str], root: str, prefix: str) -> list[str]:
    wanted = root + prefix
    if wanted and (strays := [key for key in keys if not key.startswith(wanted)]):
        raise _broken(prefix, f"key {strays[0]!r}, which does not begin with {wanted!r}")
    return [key[len(root) :] for key in keys] if root else keys


def _check_lengths(prefix: str, lengths: dict[str, int]) -> None:
    if len(set(lengths.values())) != 1:
        raise _broken(prefix, f"a page of unequal columns {lengths!r}")


def _token(body: bytes, prefix: str) -> str | None:
    if b"<IsTruncated>true</IsTruncated>" not in body:
        return None
    if (found := TOKEN.search(body)) is None:
        raise _broken(prefix, "a page that is not the last and names no next one")
    return unescape(found[1].decode())


def _broken(prefix: str, reason: str) -> ListingBroken:
    return ListingBroken("list", reason, key=prefix or None)
