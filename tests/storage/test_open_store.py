"""From a URL to a store: what is meant, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from millhand.errors import ConfigError
from millhand.storage import open_store
from millhand.storage.directory import DirectoryStore
from millhand.storage.s3 import S3Store


@pytest.mark.parametrize(
    "url", ["bucket", "./bucket", "file:bucket", "file:./bucket", "{here}/bucket", "file://{here}/bucket"]
)
def test_a_directory_may_be_written_in_many_ways(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path, relative or not, with `file:` or without, is one and the same store."""
    monkeypatch.chdir(tmp_path)

    store = open_store(url.format(here=tmp_path))

    assert isinstance(store, DirectoryStore)
    assert store.url == f"file://{tmp_path}/bucket"
    assert not (tmp_path / "bucket").exists()


def test_a_directory_is_made_when_asked(tmp_path: Path) -> None:
    """With `create`, and only then, the directory is there after."""
    open_store(f"file://{tmp_path}/a/b%20c", create=True)

    assert (tmp_path / "a" / "b c").is_dir()


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("s3://bucket", "s3://bucket/"),
        ("s3://bucket/", "s3://bucket/"),
        ("s3://bucket/images", "s3://bucket/images/"),
        ("s3://bucket/a%20b/", "s3://bucket/a b/"),
        ("s3://bucket?region=eu-west-1", "s3://bucket/"),
        (
            "s3://bucket/x?endpoint_url=http://127.0.0.1:9000",
            "s3://bucket/x/?endpoint_url=http://127.0.0.1:9000",
        ),
    ],
)
async def test_a_bucket_is_named_by_bucket_prefix_and_server(url: str, name: str) -> None:
    """A prefix always ends with its slash, and a bucket of another server is another bucket."""
    store = open_store(url)

    assert isinstance(store, S3Store)
    assert store.url == name
    await store.aclose()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "storage url must name a directory or a bucket, got ''; write file:./bucket or s3://bucket"),
        (
            "gs://bucket",
            "storage url must begin with file: or s3:, got 'gs://bucket'; write file:./bucket or s3://bucket",
        ),
        (
            "file://bucket/media",
            "storage url must name no host, got 'file://bucket/media'; write file:///bucket/media",
        ),
        ("file:", "storage url must name a directory, got 'file:'; write file:./bucket"),
        (
            "file:./bucket?x=1",
            "storage url takes no options, got 'file:./bucket?x=1'; percent-encode ? and # in a path",
        ),
        (__file__, f"storage url must name a directory, got {__file__!r}; it is a file"),
        (
            "s3:bucket",
            "storage url must name a bucket, got 's3:bucket'; write s3://bucket or s3://bucket/prefix",
        ),
        ("s3://", "storage url must name a bucket, got 's3://'; write s3://bucket or s3://bucket/prefix"),
        (
            "s3://bucket?endpoint=x&zone=y",
            (
                "storage url has options endpoint_url, path_style, region only, got 's3://bucket?endpoint=x&zone=y'; "
                "mend 'endpoint', 'zone'"
            ),
        ),
        (
            "s3://bucket?path_style=maybe",
            "storage url must have a path_style of true or false, got 's3://bucket?path_style=maybe'; mend 'maybe'",
        ),
        (
            "s3://bucket?endpoint_url=localhost:9000",
            (
                "storage url must have an endpoint_url of http or https, got 's3://bucket?endpoint_url=localhost:9000'; "
                "write endpoint_url=https://host:port"
            ),
        ),
    ],
)
def test_a_url_that_names_no_store_is_refused(url: str, message: str) -> None:
    """Each mistake has its sentence: the rule, what was written, and what to write."""
    with pytest.raises(ConfigError) as refused:
        open_store(url)

    assert str(refused.value) == message


def test_credentials_in_a_url_are_refused_without_being_repeated() -> None:
    """A secret in the URL is an error whose text does not hold it."""
    with pytest.raises(ConfigError) as refused:
        open_store("s3://key:hush@bucket")

    assert str(refused.value) == (
        "storage url must hold no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )


def test_a_bucket_without_the_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where botocore is not installed, the error is the command that installs it."""
    for name in [name for name in sys.modules if name.startswith("millhand.storage.s3")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.partition(".")[0] == "botocore"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "botocore", None)

    with pytest.raises(ConfigError) as refused:
        open_store("s3://bucket")

    assert str(refused.value) == (
        "storage url 's3://bucket' needs botocore, which is not installed; run: pip install 'millhand[s3]'"
    )
