"""Parsing a page of a listing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millhand.storage import ListingBroken
from millhand.storage.s3_listing import parse_listing

MODIFIED = "2026-03-01T12:00:00.123Z"
CONTENTS = {
    "aws": "<Key>{key}</Key><LastModified>{modified}</LastModified><ETag>&quot;{etag}&quot;</ETag>"
    "<ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm><Size>{size}</Size><StorageClass>STANDARD</StorageClass>",
    "seaweed": "<Key>{key}</Key><ETag>&#34;{etag}&#34;</ETag><Size>{size}</Size><LastModified>{modified}</LastModified>",
    "with owner": "<Size>{size}</Size><Owner><ID>Key</ID><DisplayName>Size</DisplayName></Owner>"
    '<ETag>"{etag}"</ETag><LastModified>{modified}</LastModified><Key>{key}</Key>',
}


def page(keys: Sequence[str], *, order: str = "aws", count: int | None = None, end: str = "") -> bytes:
    """Return a page as a server writes it, without URL encoding."""
    contents = CONTENTS[order]
    bodies = [
        contents.format(key=escape(key), modified=MODIFIED, etag=f"{number:032x}", size=number)
        for number, key in enumerate(keys)
    ]
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>b</Name><Prefix></Prefix><KeyCount>{len(keys) if count is None else count}</KeyCount>"
        + "".join(f"<Contents>{body}</Contents>" for body in bodies)
        + end
        + "</ListBucketResult>"
    ).encode()


@pytest.mark.parametrize("order", CONTENTS)
def test_a_page_is_parsed_in_any_order_of_its_elements(order: str) -> None:
    """Pages of different servers have the same keys, sizes, etags and times."""
    listing = parse_listing(page(["a", "b&c", "<d>"], order=order), root="", prefix="")

    assert (list(listing.page.keys), list(listing.page.sizes), listing.token) == (
        ["a", "b&c", "<d>"],
        [0, 1, 2],
        None,
    )
    described = listing.page.describe(2)
    assert (described.key, described.size, described.etag) == ("<d>", 2, f"{2:032x}")
    assert described.modified_at == datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize("order", CONTENTS)
def test_the_texts_of_a_page_say_what_each_object_says(order: str) -> None:
    """Etag and time are the same, whatever their form, and an empty page has none."""
    bodies = [page(["a", "b&c"], order=order), page([], order=order)]
    for etag in ("W/{}", "{}-12", "a&amp;b{}"):
        bodies.append(bodies[0].replace(f"{1:032x}".encode(), etag.format(1).encode()))
    for time in ("2026-03-01T12:00:00Z", "2026-03-01T13:00:00+01:00", "2026-03-01T12:00:00.5Z"):
        bodies.append(bodies[0].replace(MODIFIED.encode(), time.encode(), 1))

    for body in bodies:
        listed = parse_listing(body, root="", prefix="").page
        infos = [listed.describe(index) for index in range(len(listed.keys))]
        assert listed.texts is not None
        texts = [(etag, datetime.fromisoformat(time)) for etag, time in listed.texts()]
        assert texts == [(info.etag, info.modified_at) for info in infos]


@pytest.mark.slow
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), min_size=1)
    )
)
def test_a_page_holds_any_key_that_xml_can_hold(keys: list[str]) -> None:
    """Every key is parsed as it was written."""
    assert list(parse_listing(page(keys), root="", prefix="").page.keys) == keys


def test_a_page_is_decoded_only_if_the_server_declares_the_encoding() -> None:
    """Plus and percent signs are literal if the server ignored the request for URL encoding."""
    encoded = "<EncodingType>url</EncodingType>"

    assert list(parse_listing(page(["a+b%2Bc"]), root="", prefix="").page.keys) == ["a+b%2Bc"]
    assert list(parse_listing(page(["a+b%2Bc", "%01"], end=encoded), root="", prefix="").page.keys) == [
        "a b+c",
        "\x01",
    ]


def test_a_truncated_page_holds_the_next_token() -> None:
    """The token of the next page is unescaped, and a truncated page without one is an error."""
    truncated = "<IsTruncated>true</IsTruncated>"
    token = f"{truncated}<NextContinuationToken>a&amp;b==</NextContinuationToken>"

    assert parse_listing(page(["a"], end=token), root="", prefix="").token == "a&b=="
    with pytest.raises(ListingBroken):
        parse_listing(page(["a"], end=truncated), root="", prefix="")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            page(["a", "b"], count=3),
            (
                "list of 'p/' must succeed, got a page of unequal columns "
                "{'keys': 2, 'sizes': 2, 'KeyCount': 3}"
            ),
        ),
        (
            page(["a"]).replace(b"<Size>0</Size>", b""),
            (
                "list of 'p/' must succeed, got a page of unequal columns "
                "{'keys': 1, 'sizes': 0, 'KeyCount': 1}"
            ),
        ),
        (
            b"<Error><Code>SlowDown</Code></Error>",
            "list of 'p/' must succeed, got a response that is no listing: b'<Error><Code>SlowDown</Code></Error>'",
        ),
        (
            page(["r/p/a", "r/q/b"]),
            "list of 'p/' must succeed, got key 'r/q/b', which does not begin with 'r/p/'",
        ),
    ],
    ids=["count", "column", "no listing", "stray key"],
)
def test_a_page_that_contradicts_itself_raises_listing_broken(body: bytes, message: str) -> None:
    """A page that lacks an element, or holds a key outside the prefix, is an error."""
    with pytest.raises(ListingBroken) as broken:
        parse_listing(body, root="r/", prefix="p/")

    assert str(broken.value) == message


@pytest.mark.parametrize("column", ["<ETag>", "<LastModified>"])
def test_a_page_with_a_missing_column_describes_no_object(column: str) -> None:
    """If one object has no etag or no time, `describe` raises, because it could return a neighbour's value."""
    whole = page(["a", "b"])
    begin = whole.index(column.encode())
    end = whole.index(b"</", begin)
    body = whole[:begin] + whole[whole.index(b">", end) + 1 :]
    listed = parse_listing(body, root="", prefix="").page

    with pytest.raises(ListingBroken, match=r"got a page of unequal columns \{'keys': 2, "):
        listed.describe(1)
