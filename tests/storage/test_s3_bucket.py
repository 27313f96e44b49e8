"""The objects of an S3 bucket: large copies, credentials, and buckets that do not exist."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from stores import bucket_of

from millhand.storage import ObjectStore, StoreError, open_store
from millhand.storage.s3_bucket import S3Bucket


@pytest.mark.slow
async def test_a_large_object_is_copied_in_parts(seaweed_url: str, s3_store: ObjectStore) -> None:
    """An object too large for one copy is moved in parts, with its bytes, headers and tags."""
    bucket = bucket_of(s3_store)
    part = 5 * 1024**2
    in_parts = S3Bucket(
        bucket.name,
        bucket.root,
        endpoint_url=bucket.endpoint_url,
        is_path_style=True,
        max_copy_bytes=part,
        copy_part_bytes=part,
    )
    data = bytes(range(256)) * (part // 256) + b"and a rest"
    headers = {
        "CacheControl": "max-age=60",
        "ContentDisposition": "attachment",
        "ContentEncoding": "gzip",
        "ContentLanguage": "de",
        "ContentType": "text/plain",
        "Expires": datetime(2030, 1, 2, tzinfo=UTC),
        "Metadata": {"owner": "7"},
    }
    tags = [{"Key": "a key", "Value": "1 + 1"}]

    bucket.client.put_object(
        **bucket.object_params("large"), Body=data, Tagging="a%20key=1%20%2B%201", **headers
    )
    moved = await asyncio.to_thread(in_parts.move, "large", "elsewhere", None, False)

    assert moved.size == len(data)
    assert await s3_store.get("elsewhere") == data
    response = bucket.client.head_object(**bucket.object_params("elsewhere"))
    assert headers.items() <= response.items()
    assert bucket.client.get_object_tagging(**bucket.object_params("elsewhere"))["TagSet"] == tags
    in_parts.close()


async def test_wrong_credentials_fail_the_listing(seaweed_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With wrong credentials, a listing raises an error and never looks empty."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    store = open_store(seaweed_url)

    with pytest.raises(StoreError) as denied:
        _ = [page async for page in store.list_pages()]

    assert str(denied.value).startswith("list must succeed, got SignatureDoesNotMatch: ")
    await store.aclose()


async def test_missing_credentials_name_the_variables_to_set(
    seaweed_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without credentials, the error names the two variables to set."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    store = open_store(seaweed_url)

    with pytest.raises(StoreError) as missing:
        await store.head("key")

    assert str(missing.value) == (
        "head of 'key' must succeed, got no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )
    await store.aclose()


async def test_a_missing_bucket_is_an_error(monkeypatch: pytest.MonkeyPatch, seaweed_url: str) -> None:
    """Listing or probing a bucket that does not exist raises an error and never looks empty."""
    store = open_store(seaweed_url.replace("s3://millhand-test", "s3://no-such-bucket"))

    for work in (anext(aiter(store.list_pages())), store.probe()):
        with pytest.raises(StoreError) as missing:
            await work
        assert "NoSuchBucket" in str(missing.value)
    await store.aclose()
