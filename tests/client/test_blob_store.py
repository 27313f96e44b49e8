"""Blobs: bytes beside args, on a directory and on a real S3 server."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import attrs
import msgspec
import pytest

from client_harness import ClientHarness
from millhand import storage
from millhand.blob_store import BlobStore
from millhand.core.args.codec import decoder_of, encode_args
from millhand.core.args.secret_fields import Secret, encrypt_args, reencrypt_args
from millhand.core.args.secret_keys import SecretKeys
from millhand.core.blob import BLOB_BYTES_MAX, BLOB_PREFIX, INLINE_BYTES_MAX, Blob, BlobReference
from millhand.core.config import Config
from millhand.core.errors import ConfigError, InvalidBlob, InvalidJob, InvalidSecret
from millhand.core.event import EventKind
from millhand.core.result import result_of
from millhand.core.schedule import JobSchedule, encode_schedule
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.storage import ObjectNotFound, open_store

LARGE = bytes(range(256)) * 1_024
SMALL = b"small \x00\xff"
KEYS = SecretKeys({"new": b"n" * 32})


@pytest.fixture
async def blobs(blob_url: str) -> AsyncIterator[BlobStore]:
    store = BlobStore(blob_url)
    yield store
    await store.aclose()


@dataclass(frozen=True)
class Import:
    kind: ClassVar[str] = "import"
    rows: Blob
    more: list[Blob] = field(default_factory=list)


@pytest.mark.slow
async def test_large_bytes_are_an_object_and_come_back(
    blobs: BlobStore, blob_url: str, tmp_path: Path
) -> None:
    """The blob has the key of a new object, its size and hash; a get, a download and a put of a file have the same bytes."""
    first, second = await blobs.put(LARGE), await blobs.put(LARGE)
    await blobs.download(first, tmp_path / "copy")
    third = await blobs.put(tmp_path / "copy")
    await blobs.aclose()
    read = [await blobs.get(one) for one in (first, second, third)]
    store = open_store(blob_url)
    keys = [key async for page in store.list_pages(prefix=BLOB_PREFIX) for key in page.keys]
    await store.aclose()

    assert read == [LARGE] * 3
    assert len({first.key, second.key, third.key}) == 3
    assert {first.key, second.key, third.key} <= set(keys)
    assert (first.size, first.sha256) == (len(LARGE), hashlib.sha256(LARGE).hexdigest())
    assert repr(first) == f"Blob(262,144 bytes, {first.key})"


async def test_small_bytes_are_in_the_row_and_need_no_store() -> None:
    """Up to 16 KiB are in the args themselves; more is refused with the remedy."""
    blobs = BlobStore()
    small, most, none = [await blobs.put(one) for one in (SMALL, b"x" * INLINE_BYTES_MAX, b"")]
    args = encode_args(Import(small, [none]))

    assert json.loads(args)["rows"] == {
        "millhand:blob": {"size": 8, "sha256": hashlib.sha256(SMALL).hexdigest(), "data": "c21hbGwgAP8="}
    }
    assert decoder_of(Import, "import")(args) == Import(small, [none])
    assert [await blobs.get(one) for one in (small, most, none)] == [SMALL, b"x" * INLINE_BYTES_MAX, b""]
    assert repr(small) == "Blob(8 bytes, in the row)"
    with pytest.raises(ConfigError) as caught:
        await blobs.put(b"x" * (INLINE_BYTES_MAX + 1))
    assert str(caught.value) == (
        "blob_store must be set for a blob of 16,385 bytes, because the row of a job takes 16,384 at most, got none; write "
        "Config(blob_store='s3://my-bucket')"
    )


@pytest.mark.slow
async def test_worker_reads_a_blob_and_returns_one(harness: ClientHarness, blob_url: str) -> None:
    """Args of a dataclass and of a function, and an output, refer to objects; a caller reads the worker's."""
    workers = Workers()

    @workers.add(output=True)
    async def turn(job: Job[Import]) -> Blob:
        data = await job.client.blobs.get(job.args.rows)
        return await job.client.blobs.put(data[::-1])

    @workers.add(output=True)
    async def measure(rows: Blob) -> int:
        return rows.size

    async with harness.client(workers, blob_store=blob_url) as client:
        with client.subscribe(EventKind.JOB_COMPLETED) as events:
            blob = await client.blobs.put(LARGE)
            turned = await client.insert(Import(blob))
            measured = await client.insert(measure.args(blob))
            for _ in range(2):
                await harness.next(events)
        result = result_of(await harness.row(turned.job.id), Blob)
        assert await client.blobs.get(result) == LARGE[::-1]

    assert len(turned.job.encoded_args) < 250
    assert (await harness.row(measured.job.id)).output == len(LARGE)


class AsStruct(msgspec.Struct, rename="camel"):
    kind: ClassVar[str] = "as_struct"
    the_rows: Blob | None = None


@attrs.frozen
class AsAttrs:
    kind: ClassVar[str] = "as_attrs"
    rows: dict[str, Blob]


@pytest.mark.parametrize("make", [AsStruct, lambda blob: AsAttrs({"a": blob})])
def test_blob_is_a_field_of_each_kind_of_class(make: Any) -> None:
    """What is inserted decodes to the same value."""
    args = make(Blob(BlobReference(size=1, sha256="aa", key=f"{BLOB_PREFIX}{'0' * 32}")))

    assert decoder_of(type(args), args.kind)(encode_args(args)) == args


@pytest.mark.slow
async def test_changed_or_missing_object_is_an_error(blobs: BlobStore, blob_url: str) -> None:
    """Other bytes under the key are not returned, and a removed object is named."""
    changed, gone = await blobs.put(LARGE), await blobs.put(LARGE)
    store = open_store(blob_url)
    await store.put(str(changed.key), LARGE[::-1])
    await store.delete(str(gone.key))
    await store.aclose()

    with pytest.raises(InvalidBlob) as caught:
        await blobs.get(changed)
    with pytest.raises(ObjectNotFound, match=str(gone.key)):
        await blobs.get(gone)
    assert str(caught.value) == (
        f"blob must have the bytes that were put, got others in Blob(262,144 bytes, {changed.key}); put them again, and "
        "insert the job again"
    )


@pytest.mark.parametrize(
    "key", ["media/secret.pdf", f"{BLOB_PREFIX}../media", f"{BLOB_PREFIX}{'0' * 31}", "", None]
)
async def test_row_cannot_name_another_object(tmp_path: Path, key: str | None) -> None:
    """A program that may insert jobs cannot let a worker read an object that is no blob."""
    with pytest.raises(InvalidBlob) as caught:
        await BlobStore(tmp_path.as_uri()).get(Blob(BlobReference(size=1, sha256="aa", key=key)))

    assert (
        str(caught.value) == f"key of a blob must be one that a put made, got {key!r}; use client.blobs.put"
    )


async def test_wrong_values_are_refused(tmp_path: Path) -> None:
    """The error names the rule and the remedy, and a file that is too large is not read."""
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(BLOB_BYTES_MAX + 1)

    with pytest.raises(InvalidBlob, match=r"blob must be bytes or a Path, got str; write text\.encode\(\)"):
        await BlobStore().put("text")  # type: ignore[arg-type]
    with pytest.raises(InvalidBlob) as caught:
        await BlobStore(tmp_path.as_uri()).put(large)
    assert str(caught.value) == (
        "blob must have at most 268,435,456 bytes, got 268,435,457; store it as an object of your own, and put its key into "
        "the args"
    )
    with pytest.raises(InvalidBlob, match="must have at most 268,435,456 bytes, got 300,000,000"):
        await BlobStore(tmp_path.as_uri()).get(Blob(BlobReference(size=300_000_000, sha256="", key="x")))
    with pytest.raises(
        ConfigError, match="blob_store must be the URL of a store, got PosixPath; write 's3://my-bucket'"
    ):
        Config(blob_store=tmp_path)  # type: ignore[arg-type]


@dataclass(frozen=True)
class SecretImport:
    kind: ClassVar[str] = "secret_import"
    rows: Annotated[Blob, Secret]


async def test_blob_that_the_cleanup_could_not_see_is_refused() -> None:
    """A secret field and a kept schedule have no blob, because no row would name its object."""
    blob = await BlobStore().put(SMALL)
    encoded = encode_args(SecretImport(blob))
    in_row = json.dumps(json.loads(encoded))

    for call in (
        lambda: encrypt_args(encoded, ["rows"], "secret_import", KEYS),
        lambda: reencrypt_args(in_row, ["rows"], "secret_import", KEYS),
    ):
        with pytest.raises(InvalidSecret) as caught:
            call()
        assert str(caught.value) == (
            "secret field 'rows' of kind 'secret_import' must have no Blob, got one: the orphan cleanup could not read its "
            "key, and would remove the object; encrypt the bytes before client.blobs.put"
        )
    with pytest.raises(InvalidJob) as refused:
        encode_schedule(JobSchedule(id="nightly", args=Import(blob), cron="@daily"))
    assert str(refused.value) == (
        "args of schedule 'nightly' must have no Blob, got one: its object would be removed when no job has it; use a "
        "periodic job that puts the blob for each run"
    )
    plain = encrypt_args('{"rows":"\\"millhand:blob\\":"}', ["rows"], "secret_import", KEYS)
    assert "millhand:secret" in plain  # a text of a user that only looks like a blob


async def test_store_is_opened_once_beside_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The import of an S3 library takes up to seconds, and blocks no job of the worker; puts at once share the store."""
    threads: list[threading.Thread] = []

    def recorded(url: str, **options: Any) -> Any:
        threads.append(threading.current_thread())
        return open_store(url, **options)

    monkeypatch.setattr(storage, "open_store", recorded)
    blobs = BlobStore(tmp_path.as_uri())

    await asyncio.gather(*(blobs.put(bytes([n]) * (INLINE_BYTES_MAX + 1)) for n in range(8)))
    await blobs.aclose()

    assert len(threads) == 1
    assert threads != [threading.main_thread()]
