"""Open an object store by its URL."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from millhand.core.errors import ConfigError
from millhand.core.secret import masked_url
from millhand.storage.directory_store import BlockingDirectoryStore
from millhand.storage.protocol import ObjectStore
from millhand.storage.threaded_store import InlineStore, ThreadedStore

if TYPE_CHECKING:
    from millhand.storage.s3_store import BlockingS3Store

S3_OPTIONS = ("endpoint_url", "path_style", "region")
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
BOOLEANS = {"true": True, "false": False}


def open_store(url: str, *, create: bool = False, is_durable: bool = False) -> ObjectStore:
    """
    Return the store at `url`: `file:///srv/media`, `file:./media`, a plain path, or `s3://bucket/prefix`.

    S3 takes options: `s3://bucket/prefix?endpoint_url=http://127.0.0.1:8333&region=eu-west-1&path_style=true`.
    The call does not connect. With `create`, it makes a missing directory. With `is_durable`, a put into a directory returns
    once the disk has it.

    Raises: ConfigError, for an invalid URL, and for a directory that cannot be made.
    """
    return ThreadedStore(*_open(url, create=create, is_durable=is_durable))


def open_inline_store(url: str, *, create: bool = False) -> InlineStore:
    """Return the gets and puts of the store at `url`, in the caller's thread. Raises: as `open_store`."""
    return InlineStore(_open(url, create=create)[0])


def directory_of(url: str) -> Path | None:
    """Return the directory that a URL names; None for a bucket. Raises: ConfigError."""
    return None if url.startswith("s3:") else _directory_path(url)


def _open(
    url: str, *, create: bool, is_durable: bool = False
) -> tuple[BlockingDirectoryStore | BlockingS3Store, int | None]:
    """Return a blocking store, and how many threads of its own it needs; None for those of the event loop."""
    if not url.strip():
        raise _url_error(url, "must name a directory or a bucket", "write file:./bucket or s3://bucket")
    if url.startswith("s3:"):
        return _open_s3(url)
    path = _directory_path(url)
    if create:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"storage url must name a directory that this process can make, got {masked_url(url)!r} and "
                f"{error.strerror!r}; make it, or name another one"
            ) from error
    elif path.exists() and not path.is_dir():
        raise _url_error(url, "must name a directory", "it is a file")
    return BlockingDirectoryStore(path, is_durable=is_durable), None


def _directory_path(url: str) -> Path:
    if not url.startswith("file:"):
        if SCHEME.match(url):
            raise _url_error(url, "must begin with file: or s3:", "write file:./bucket or s3://bucket")
        return Path(url).expanduser()
    parts = _split(url, url)
    if parts.netloc not in ("", "localhost"):
        raise _url_error(url, "must name no host", f"write file:///{parts.netloc}{parts.path}")
    if parts.query or parts.fragment:
        raise _url_error(url, "takes no options", "percent-encode ? and # in a path")
    if not parts.path:
        raise _url_error(url, "must name a directory", "write file:./bucket")
    return Path(unquote(parts.path))


def _open_s3(url: str) -> tuple[BlockingS3Store, int]:
    parts = _split(url, url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    endpoint_url = options.get("endpoint_url") or None
    endpoint = _split(url, endpoint_url or "")
    if "@" in parts.netloc or "@" in endpoint.netloc:
        raise ConfigError(
            "storage url must hold no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if not BUCKET.fullmatch(parts.netloc):
        raise _url_error(url, "must name a bucket", "write s3://bucket or s3://bucket/prefix")
    if unknown := sorted(set(options) - set(S3_OPTIONS)):
        remedy = f"remove or correct {', '.join(map(repr, unknown))}"
        raise _url_error(url, f"has options {', '.join(S3_OPTIONS)} only", remedy)
    if endpoint_url is not None and (endpoint.scheme not in ("http", "https") or endpoint.query):
        rule = "must have an endpoint_url of http or https without options"
        raise _url_error(url, rule, "write endpoint_url=https://host:port")
    path_style = options.get("path_style", "false" if endpoint_url is None else "true")
    if path_style not in BOOLEANS:
        raise _url_error(url, "must have a path_style of true or false", f"correct {path_style!r}")
    try:
        from millhand.storage.s3_client import NUM_THREADS  # noqa: PLC0415 - the extra may be missing
        from millhand.storage.s3_store import BlockingS3Store  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "botocore":
            raise
        raise ConfigError(
            f"storage url {url!r} needs botocore, which is not installed; run: pip install 'millhand[s3]'"
        ) from error
    # A root ends with a slash, so that `images` never matches `images2`.
    root = unquote(parts.path).removeprefix("/")
    bucket = BlockingS3Store(
        parts.netloc,
        root if not root or root.endswith("/") else root + "/",
        endpoint_url=endpoint_url,
        is_path_style=BOOLEANS[path_style],
        region=options.get("region") or None,
    )
    return bucket, NUM_THREADS


def _split(url: str, part: str) -> SplitResult:
    try:
        return urlsplit(part)
    except ValueError:  # its text may have the password
        raise _url_error(url, "must be a URL", "write an IPv6 address in []") from None


def _url_error(url: str, rule: str, remedy: str) -> ConfigError:
    return ConfigError(f"storage url {rule}, got {masked_url(url)!r}; {remedy}")
