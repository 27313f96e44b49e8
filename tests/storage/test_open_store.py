"""Opening a store by its URL, and the errors for invalid ones."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import pytest

from millhand.core.errors import ConfigError
from millhand.storage import open_store
from planted import BAD_STORE_URLS, found_in


@pytest.mark.parametrize(
    "url", ["bucket", "./bucket", "file:bucket", "file:./bucket", "{here}/bucket", "file://{here}/bucket"]
)
def test_a_directory_has_several_urls(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path, relative or absolute, with `file:` or without, names the same store."""
    monkeypatch.chdir(tmp_path)

    store = open_store(url.format(here=tmp_path))

    assert store.url == f"file://{tmp_path}/bucket"
    assert not (tmp_path / "bucket").exists()


def test_a_directory_is_made_when_asked(tmp_path: Path) -> None:
    """`create` makes the directory and its parents."""
    open_store(f"file://{tmp_path}/a/b%20c", create=True)

    assert (tmp_path / "a" / "b c").is_dir()


def test_a_directory_that_cannot_be_made_is_a_config_error(tmp_path: Path) -> None:
    """The error has the URL and what the system says."""
    (tmp_path / "file").touch()
    url = f"file://{tmp_path}/file/objects"

    with pytest.raises(ConfigError) as invalid:
        open_store(url, create=True)

    assert str(invalid.value) == (
        f"storage url must name a directory that this process can make, got {url!r} and 'Not a directory'; "
        "make it, or name another one"
    )


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
    """The name of a store ends its prefix with a slash, and holds the server."""
    store = open_store(url)

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
                "remove or correct 'endpoint', 'zone'"
            ),
        ),
        (
            "s3://bucket?path_style=maybe",
            "storage url must have a path_style of true or false, got 's3://bucket?path_style=maybe'; correct 'maybe'",
        ),
        (
            "s3://bucket?endpoint_url=localhost:9000",
            (
                "storage url must have an endpoint_url of http or https without options, "
                "got 's3://bucket?endpoint_url=localhost:9000'; "
                "write endpoint_url=https://host:port"
            ),
        ),
        ("s3://[", "storage url must be a URL, got 's3://['; write an IPv6 address in []"),
        ("file://[/x", "storage url must be a URL, got 'file://[/x'; write an IPv6 address in []"),
        (
            "s3://bucket?endpoint_url=http://[db",
            "storage url must be a URL, got 's3://bucket?endpoint_url=http://[db'; write an IPv6 address in []",
        ),
    ],
)
def test_an_invalid_url_raises_config_error(url: str, message: str) -> None:
    """Each error names the rule, the URL and the remedy."""
    with pytest.raises(ConfigError) as invalid:
        open_store(url)

    assert str(invalid.value) == message


@pytest.mark.parametrize("url", BAD_STORE_URLS.values(), ids=BAD_STORE_URLS)
def test_the_error_for_a_secret_in_a_url_does_not_repeat_it(url: str) -> None:
    """A URL with a secret raises ConfigError, and neither the error nor its causes hold the secret."""
    with pytest.raises(ConfigError) as invalid:
        open_store(url)

    assert found_in("\n".join(traceback.format_exception(invalid.value))) == []


@pytest.mark.parametrize(
    "url", ["s3://key:hush@bucket", "s3://bucket?endpoint_url=http://key:hush@localhost:9000"]
)
def test_the_error_for_credentials_in_a_url_names_the_variables(url: str) -> None:
    """Credentials before a host belong into variables of the environment."""
    with pytest.raises(ConfigError) as invalid:
        open_store(url)

    assert str(invalid.value) == (
        "storage url must hold no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )


def test_opening_a_bucket_without_the_extra_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without botocore, the error holds the command that installs it."""
    for name in [name for name in sys.modules if name.startswith("millhand.storage.s3")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.partition(".")[0] == "botocore"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "botocore", None)

    with pytest.raises(ConfigError) as invalid:
        open_store("s3://bucket")

    assert str(invalid.value) == (
        "storage url 's3://bucket' needs botocore, which is not installed; run: pip install 'millhand[s3]'"
    )
