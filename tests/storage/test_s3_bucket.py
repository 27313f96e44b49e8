"""The objects of an S3 bucket: large copies, credentials, and buckets that do not exist."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from scripted_server import ERROR, scripted
from servers import CREDENTIALS
from stores import bucket_of

from millhand.storage import ObjectStore, StoreError, Versioning, open_store
from millhand.storage.s3_bucket import S3Bucket


@pytest.mark.slow
async def test_a_large_object_is_copied_in_parts(seaweed_url: str, s3_store: ObjectStore) -> None:
    """An object too large for one copy is moved in parts, with its bytes, headers and tags."""
    bucket = bucket_of(s3_store)
    part = 5 * 1024**2
    in_parts = S3Bucket(bucket.name, bucket.root, endpoint_url=bucket.endpoint_url, is_path_style=True)
    in_parts.max_copy_bytes = in_parts.copy_part_bytes = part
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "code"), [(403, "SignatureDoesNotMatch"), (404, "NoSuchBucket")], ids=["credentials", "bucket"]
)
async def test_an_error_of_the_server_fails_listing_and_probe(
    monkeypatch: pytest.MonkeyPatch, status: int, code: str
) -> None:
    """With wrong credentials or a missing bucket, listing and probe raise an error and the store never looks empty."""
    with scripted(lambda _method, _query: (status, ERROR % code.encode()), monkeypatch) as (url, _):
        await check_fails(url, code)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [(403, "AccessDenied", Versioning.UNKNOWN), (501, "NotImplemented", Versioning.OFF)],
)
async def test_versioning_is_unknown_only_if_it_may_not_be_read(
    monkeypatch: pytest.MonkeyPatch, status: int, code: str, expected: Versioning
) -> None:
    """A server without versions keeps none; one that denies the question may keep them."""
    with scripted(lambda _method, _query: (status, ERROR % code.encode()), monkeypatch) as (url, _):
        store = open_store(url)
        versioning = await store.versioning()
        await store.aclose()

    assert versioning is expected


@pytest.mark.slow
async def test_wrong_credentials_fail_on_a_real_server(
    seaweed_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real server rejects wrong credentials with an error, for listing and probe."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")

    await check_fails(seaweed_url, "SignatureDoesNotMatch")


@pytest.mark.slow
async def test_a_missing_bucket_fails_on_a_real_server(seaweed_url: str) -> None:
    """A real server reports a missing bucket as an error, for listing and probe."""
    await check_fails(seaweed_url.replace("s3://millhand-test", "s3://no-such-bucket"), "NoSuchBucket")


async def check_fails(url: str, code: str) -> None:
    """Check that listing and probe raise the server's error."""
    store = open_store(url)
    for call in (anext(aiter(store.list_pages())), store.probe()):
        with pytest.raises(StoreError, match=f" must succeed, got {code}: "):
            await call
    await store.aclose()


@pytest.mark.slow
async def test_missing_credentials_name_the_variables_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials, the error names the two variables to set."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    store = open_store("s3://bucket?endpoint_url=http://127.0.0.1:1")

    with pytest.raises(StoreError) as missing:
        await store.head("key")

    assert str(missing.value) == (
        "head of 'key' must succeed, got no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )
    await store.aclose()


GRANT = (
    "<Grant><Grantee xmlns:xsi='http://www.w3.org/2001/XMLSchema-instance' xsi:type='{}'>{}</Grantee>"
    "<Permission>{}</Permission></Grant>"
)
PUBLIC = GRANT.format("Group", "<URI>http://acs.amazonaws.com/groups/global/AllUsers</URI>", "READ")
OWN = GRANT.format("CanonicalUser", "<ID>me</ID>", "FULL_CONTROL")
ME, NAMELESS = "<Owner><ID>me</ID></Owner>", "<Owner><DisplayName>me</DisplayName></Owner>"
# The owner and grants of an object, those of its copy, and whether the move sets the ACL of the copy.
ACLS = (
    (ME, OWN, ME, OWN, False),
    (ME, OWN + PUBLIC, ME, OWN, True),
    (ME, PUBLIC, ME, PUBLIC, False),
    ("", "", "", "", False),
    ("", PUBLIC, "", "", True),
    ("", PUBLIC, "", PUBLIC, False),
    ("", PUBLIC, ME, OWN, True),
    (NAMELESS, OWN, NAMELESS, OWN, False),
    (NAMELESS, GRANT.format("Group", "<URI>x</URI>", "FULL_CONTROL"), NAMELESS, OWN, True),
    (ME, "<Grant><Permission>FULL_CONTROL</Permission></Grant>", ME, OWN, False),
)


@pytest.mark.slow
async def test_an_acl_without_owner_or_grantee_ends_no_move(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server may leave out the owner, its id or a grantee. The copy still gets the grants if its own ACL has others."""
    changed: list[bool] = []
    answers: list[bytes] = []

    def script(method: str, query: dict[str, str]) -> tuple[int, bytes]:
        if "acl" in query:
            changed[-1] |= method == "PUT"
            return 200, answers.pop(0) if method == "GET" else b""
        copied = b"<CopyObjectResult><ETag>&quot;e&quot;</ETag></CopyObjectResult>"
        return (204, b"") if method == "DELETE" else (200, copied if method == "PUT" else b"")

    with scripted(script, monkeypatch) as (url, _):
        store = open_store(url)
        for owner, grants, copys_owner, copys_grants, _ in ACLS:
            changed.append(False)
            answers[:] = [
                f"<AccessControlPolicy>{of}<AccessControlList>{list_}</AccessControlList></AccessControlPolicy>".encode()
                for of, list_ in ((owner, grants), (copys_owner, copys_grants))
            ]
            await store.move("key", "copy")
        await store.aclose()

    assert changed == [is_set for *_, is_set in ACLS]
