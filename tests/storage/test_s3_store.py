"""What only an S3 server has: pages in XML, large copies, permissions, and a run over an unordered bucket."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stores import bucket_of

from millhand.driver.asyncpg import AsyncpgDriver
from millhand.orphans import Mode, OrphansConfig, ReferenceSource, reconcile, restore
from millhand.storage import ListingBroken, ObjectStore, StoreError, open_store
from millhand.storage.s3 import S3Store
from millhand.storage.s3_bucket import S3Bucket
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
    """Write a page as a server does, without the URL encoding."""
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
def test_a_page_is_read_whatever_the_order_of_its_elements(order: str) -> None:
    """Each server's page yields the same keys, sizes, etags and times."""
    listing = parse_listing(page(["a", "b&c", "<d>"], order=order), root="", prefix="")

    assert (list(listing.page.keys), list(listing.page.sizes), listing.token) == (
        ["a", "b&c", "<d>"],
        [0, 1, 2],
        None,
    )
    described = listing.page.describe(2)
    assert (described.key, described.size, described.etag) == ("<d>", 2, f"{2:032x}")
    assert described.modified_at == datetime(2026, 3, 1, 12, tzinfo=UTC)


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), min_size=1)
    )
)
def test_a_page_gives_back_any_key_that_xml_can_hold(keys: list[str]) -> None:
    """Whatever the keys, they are read as they were written."""
    assert list(parse_listing(page(keys), root="", prefix="").page.keys) == keys


def test_a_page_is_decoded_only_if_the_server_says_that_it_encoded() -> None:
    """A server that ignores the wish for URL encoding means its plus signs and percents."""
    encoded = "<EncodingType>url</EncodingType>"

    assert list(parse_listing(page(["a+b%2Bc"]), root="", prefix="").page.keys) == ["a+b%2Bc"]
    assert list(parse_listing(page(["a+b%2Bc", "%01"], end=encoded), root="", prefix="").page.keys) == [
        "a b+c",
        "\x01",
    ]


def test_a_page_that_goes_on_names_the_next() -> None:
    """The token of the next page is unescaped, and none is an error if there should be one."""
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
            "list of 'p/' must succeed, got an answer that is no listing: b'<Error><Code>SlowDown</Code></Error>'",
        ),
        (
            page(["r/p/a", "r/q/b"]),
            "list of 'p/' must succeed, got key 'r/q/b', which does not begin with 'r/p/'",
        ),
    ],
    ids=["count", "column", "no listing", "stray key"],
)
def test_a_page_that_contradicts_itself_is_refused(body: bytes, message: str) -> None:
    """A page with a row too few, or a key that was not asked for, proves nothing and is an error."""
    with pytest.raises(ListingBroken) as broken:
        parse_listing(body, root="r/", prefix="p/")

    assert str(broken.value) == message


@pytest.mark.parametrize("column", ["<ETag>", "<LastModified>"])
def test_an_object_is_not_described_by_another_s_columns(column: str) -> None:
    """Where one object has no etag, or no time, none of its page is described, for it might be by its neighbour's."""
    whole = page(["a", "b"])
    begin = whole.index(column.encode())
    end = whole.index(b"</", begin)
    body = whole[:begin] + whole[whole.index(b">", end) + 1 :]
    listed = parse_listing(body, root="", prefix="").page

    with pytest.raises(ListingBroken, match=r"got a page of unequal columns \{'keys': 2, "):
        listed.describe(1)


@pytest.mark.slow
async def test_a_large_object_is_copied_in_parts(seaweed_url: str, s3_store: ObjectStore) -> None:
    """An object that is too large for one copy is moved in parts, byte for byte, and with what is said of it."""
    bucket = bucket_of(s3_store)
    part = 5 * 1024**2
    store = S3Store(
        S3Bucket(
            bucket.name,
            bucket.root,
            endpoint_url=bucket.endpoint_url,
            is_path_style=True,
            max_copy_bytes=part,
            copy_part_bytes=part,
        )
    )
    data = bytes(range(256)) * (part // 256) + b"and a rest"
    said = {
        "CacheControl": "max-age=60",
        "ContentDisposition": "attachment",
        "ContentEncoding": "gzip",
        "ContentLanguage": "de",
        "ContentType": "text/plain",
        "Expires": datetime(2030, 1, 2, tzinfo=UTC),
        "Metadata": {"owner": "7"},
    }
    tags = [{"Key": "a key", "Value": "1 + 1"}]

    bucket.client.put_object(**bucket.target("large"), Body=data, Tagging="a%20key=1%20%2B%201", **said)
    moved = await store.move("large", "elsewhere")

    assert moved.size == len(data)
    assert await store.get("elsewhere") == data
    described = bucket.client.head_object(**bucket.target("elsewhere"))
    assert said.items() <= described.items()
    assert bucket.client.get_object_tagging(**bucket.target("elsewhere"))["TagSet"] == tags
    await store.aclose()


async def test_wrong_credentials_are_an_error_that_says_denied(
    seaweed_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may not even list gets an error, never an empty listing."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    store = open_store(seaweed_url)

    with pytest.raises(StoreError) as denied:
        _ = [page async for page in store.list_pages()]

    assert str(denied.value).startswith("list must succeed, got SignatureDoesNotMatch: ")
    await store.aclose()


async def test_missing_credentials_name_their_variables(
    seaweed_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without credentials, the error is the two variables to set."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    store = open_store(seaweed_url)

    with pytest.raises(StoreError) as missing:
        await store.head("key")

    assert str(missing.value) == (
        "head of 'key' must succeed, got no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )
    await store.aclose()


async def test_a_server_that_is_not_there_is_an_error(
    monkeypatch: pytest.MonkeyPatch, seaweed_url: str
) -> None:
    """A bucket that does not exist is an error of the listing and of the probe, not a bucket without objects."""
    store = open_store(seaweed_url.replace("s3://millhand-test", "s3://no-such-bucket"))

    for work in (anext(aiter(store.list_pages())), store.probe()):
        with pytest.raises(StoreError) as missing:
            await work
        assert "NoSuchBucket" in str(missing.value)
    await store.aclose()


async def test_a_run_over_an_unordered_bucket_judges_as_over_any_other(
    s3_store: ObjectStore, schema_driver: AsyncpgDriver
) -> None:
    """On a real S3 server that lists by directory, no live object is taken for an orphan, and what goes comes back."""
    executor, schema = schema_driver.pool, schema_driver.schema
    await executor.execute_script(f"CREATE TABLE {schema}.files (key text PRIMARY KEY)")
    live = [
        f"{stem}{end}" for stem in ("a", "b", "é") for end in ("/x", ".x", "-x", "0x", "/y/z", " x", "+x")
    ]
    for key in [*live, "a/orphan", "z.orphan"]:
        await s3_store.put(key, key.encode())
    await executor.fetch(f"INSERT INTO {schema}.files SELECT unnest($1::text[])", [[*live, "missing"]])
    config = OrphansConfig(
        sources=(ReferenceSource(name="files", table=f"{schema}.files"),),
        mode=Mode.DELETE,
        max_share=1.0,
        min_overlap=0.5,
        page_size=4,
    )
    now = datetime.now(UTC) + timedelta(hours=2)

    first = await reconcile(executor, s3_store, config, now=now)
    second = await reconcile(executor, s3_store, config, now=now + timedelta(days=7))
    left = [key async for found in s3_store.list_pages() for key in found.keys]
    restored = await restore(executor, s3_store, run=second.run_id)
    again = await s3_store.get("a/orphan")

    await executor.execute_script(f"DROP TABLE {schema}.files")
    assert (first.objects, first.rows, first.orphan_objects, first.missing) == (23, 22, 2, 1)
    assert (second.deleted, second.refused) == (2, 0)
    assert sorted(left) == sorted(live)
    assert (restored.restored, again) == (2, b"a/orphan")
