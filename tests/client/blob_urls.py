"""Fixtures of the tests of blobs: the URLs of a directory, and of a bucket on a real S3 server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from millhand.storage import open_store

sys.path.append(str(Path(__file__).parents[1] / "storage"))  # for the S3 server
from servers import CREDENTIALS, seaweed
from stores import bucket_of, wait_until_ready


@pytest.fixture(scope="module")
def bucket_url() -> Iterator[str]:
    """The URL of an empty bucket on an S3 server."""
    with pytest.MonkeyPatch.context() as patch, seaweed() as address:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        url = f"s3://blobs?endpoint_url={address}"
        bucket = bucket_of(open_store(url))
        bucket.client.create_bucket(Bucket="blobs")
        wait_until_ready(bucket)
        bucket.close()
        yield url


@pytest.fixture(params=["directory", "s3"])
def blob_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store; the directory does not exist yet."""
    return url_of(request, tmp_path)


def url_of(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of the store that a parameter names."""
    if request.param == "directory":
        return (tmp_path / "bucket").as_uri()
    url: str = request.getfixturevalue("bucket_url")
    return url
