"""The stores that the contract suite runs on: a directory, two real S3 servers and an emulator."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from ceph import rgw
from servers import CREDENTIALS, emulator, seaweed
from stores import DIRECTORY, EMULATOR, RGW, SEAWEED, Facts, Place, bucket_of, wait_until_ready

from millhand.storage import ObjectStore, open_store
from millhand.storage.s3_bucket import S3Bucket

BUCKET = "millhand-test"
VERSIONED = "millhand-versions"
SERVERS: dict[str, Facts] = {"seaweed": SEAWEED, "rgw": RGW, "emulator": EMULATOR}


@pytest.fixture(scope="session")
def seaweed_url() -> Iterator[str]:
    """The URL of a bucket on a SeaweedFS server for this run, with credentials set."""
    yield from _served(seaweed)


@pytest.fixture(scope="session")
def rgw_url() -> Iterator[str]:
    """The URL of a bucket on a Ceph gateway for this run, with credentials set."""
    yield from _served(rgw)


@pytest.fixture(scope="session")
def emulator_url() -> Iterator[str]:
    """The URL of a bucket on an emulator for this run, with credentials set."""
    yield from _served(emulator)


@pytest.fixture
def directory_store(tmp_path: Path) -> ObjectStore:
    """A store on an empty directory."""
    return open_store((tmp_path / "bucket").as_uri(), create=True)


@pytest.fixture
async def s3_store(seaweed_url: str) -> AsyncIterator[ObjectStore]:
    """A store on an empty prefix of the SeaweedFS server."""
    store = open_store(_below(seaweed_url))
    yield store
    await store.aclose()


# The contract takes seconds on a server. The tests of each S3 module run every time.
@pytest.fixture(params=["directory", *(pytest.param(name, marks=pytest.mark.slow) for name in SERVERS)])
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    """Each store that must pass the contract."""
    if request.param == "directory":
        yield Place(store=request.getfixturevalue("directory_store"), facts=DIRECTORY)
        return
    url = _below(request.getfixturevalue(f"{request.param}_url"))
    store, versioned = open_store(url), open_store(url.replace(BUCKET, VERSIONED))
    yield Place(store=store, facts=SERVERS[request.param], versioned=versioned)
    await store.aclose()
    await versioned.aclose()


def _below(url: str) -> str:
    """Return the URL of a prefix that no other test uses."""
    return url.replace("?", f"/{uuid.uuid4().hex}?")


def _served(server: Callable[[], contextlib.AbstractContextManager[str]]) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        with server() as endpoint:
            url = f"s3://{BUCKET}?endpoint_url={endpoint}"
            _prepare(bucket_of(open_store(url)))
            yield url


def _prepare(bucket: S3Bucket) -> None:
    for name in (BUCKET, VERSIONED):
        bucket.client.create_bucket(Bucket=name)
    bucket.client.put_bucket_versioning(Bucket=VERSIONED, VersioningConfiguration={"Status": "Enabled"})
    wait_until_ready(bucket)
    bucket.close()
