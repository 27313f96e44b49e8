"""Blobs of a `SyncClient`, on a directory and on a real S3 server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from blob_urls import url_of

from client_harness import ClientHarness
from millhand.blob_store import BlobStore
from millhand.core.blob import Blob
from millhand.core.config import Config
from millhand.core.errors import ConfigError, InvalidBlob
from millhand.core.event import EventKind
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.storage import ObjectNotFound, open_store
from millhand.sync_client import SyncClient
from repeats import first_of

LARGE = bytes(range(256)) * 1_024
NOWHERE = "postgresql://nowhere.invalid/db"  # blobs need no database


@dataclass(frozen=True)
class Import:
    kind: ClassVar[str] = "import"
    rows: Blob


# The server repeats the claims, which another default test has of its calls.
@pytest.fixture(params=first_of("directory", "s3"))
def blob_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return url_of(request, tmp_path)


@pytest.fixture
def client(blob_url: str) -> Iterator[SyncClient]:
    client = SyncClient(NOWHERE, Config(blob_store=blob_url))
    yield client
    client.stop()


async def test_bytes_come_back_as_from_a_client(client: SyncClient, blob_url: str, tmp_path: Path) -> None:
    """What a `SyncClient` puts, a `BlobStore` gets, and the other way round; a stop in between closes nothing for good."""
    (tmp_path / "file").write_bytes(LARGE[::-1])
    store = BlobStore(blob_url)

    ours, file, small = client.blobs.put(LARGE), client.blobs.put(tmp_path / "file"), client.blobs.put(b"x")
    theirs = await store.put(LARGE)
    client.stop()
    client.blobs.download(file, tmp_path / "copy")
    read = [client.blobs.get(one) for one in (ours, theirs, small)]
    read_by_store = await store.get(ours)
    await store.aclose()

    assert (read, read_by_store) == ([LARGE, LARGE, b"x"], LARGE)
    assert (tmp_path / "copy").read_bytes() == LARGE[::-1]
    assert (small.key, ours.key != theirs.key) == (None, True)


def test_threads_share_the_blobs_of_a_client(client: SyncClient) -> None:
    """Puts and gets of several threads at once each have their own bytes."""
    datas = [bytes([n]) * 20_000 for n in range(16)]
    with ThreadPoolExecutor(8) as threads:
        blobs = list(threads.map(client.blobs.put, datas))
        read = list(threads.map(client.blobs.get, blobs))

    assert read == datas
    assert len({blob.key for blob in blobs}) == len(blobs)


async def test_changed_or_missing_object_is_an_error(client: SyncClient, blob_url: str) -> None:
    """Other bytes under the key are not returned, and a removed object is named."""
    changed, gone = client.blobs.put(LARGE), client.blobs.put(LARGE)
    store = open_store(blob_url)
    await store.put(str(changed.key), LARGE[::-1])
    await store.delete(str(gone.key))
    await store.aclose()

    with pytest.raises(InvalidBlob, match="blob must have the bytes that were put, got others"):
        client.blobs.get(changed)
    with pytest.raises(ObjectNotFound, match=str(gone.key)):
        client.blobs.get(gone)


def test_large_blob_without_a_store_is_refused() -> None:
    """The error names the setting, as that of a client does."""
    with pytest.raises(ConfigError, match=r"write Config\(blob_store='s3://my-bucket'\)"):
        SyncClient(NOWHERE).blobs.put(LARGE)


async def test_worker_reads_the_blob_of_a_sync_client(harness: ClientHarness, tmp_path: Path) -> None:
    """A program without an event loop puts a blob and inserts its job; the worker reads the bytes."""
    workers, seen = Workers(), []
    config = Config(blob_store=(tmp_path / "bucket").as_uri())

    @workers.add()
    async def read(job: Job[Import]) -> None:
        seen.append(await job.client.blobs.get(job.args.rows))

    def insert() -> None:
        with SyncClient(harness.url, config) as client:
            client.insert(Import(client.blobs.put(LARGE)))

    async with harness.client(workers, blob_store=config.blob_store) as client:
        with client.subscribe(EventKind.JOB_COMPLETED) as events:
            await asyncio.to_thread(insert)
            await harness.next(events)

    assert seen == [LARGE]
