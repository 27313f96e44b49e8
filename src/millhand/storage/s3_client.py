"""The botocore client that speaks to a server, with pages of listings kept from its parser, and its errors as ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from millhand.storage.protocol import ObjectNotFound, StoreError

if TYPE_CHECKING:
    from botocore.client import BaseClient

NUM_THREADS = 16
NOT_FOUND = frozenset(("404", "NoSuchKey", "NoSuchUpload", "NoSuchVersion", "NotFound"))
DENIED = frozenset(("403", "AccessDenied", "AllAccessDisabled", "Forbidden", "MethodNotAllowed"))
CONFLICT = frozenset(("412", "409", "PreconditionFailed", "ConditionalRequestConflict"))
HEAD_BYTES = 512  # of an answer, within which its first element begins


def make_client(endpoint_url: str | None, region: str | None, *, is_path_style: bool) -> BaseClient:
    """Return a client whose credentials, signatures, retries and errors are botocore's."""
    style = {"s3": {"addressing_style": "path"}} if is_path_style else {}
    config = Config(
        connect_timeout=10,
        max_pool_connections=NUM_THREADS,
        read_timeout=60,
        # Many servers know nothing of the newer checksums, which botocore otherwise demands.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        retries={"mode": "standard", "max_attempts": 5},
        **style,  # type: ignore[arg-type]
    )
    session = botocore.session.get_session()
    region = region or session.get_config_variable("region") or "us-east-1"
    client = session.create_client("s3", region_name=region, endpoint_url=endpoint_url, config=config)
    # First: botocore's own look for an error in a page that says 200 reads all of its XML, which takes 4 ms a page.
    client.meta.events.register_first("before-parse.s3.ListObjectsV2", _keep_body)
    return client


def conditionally(
    call: Callable[..., object], params: Mapping[str, object], condition: Mapping[str, object]
) -> None:
    """Call with a condition; on a server that refuses to know conditions, without, since a look came before."""
    try:
        call(**params, **condition)
    except ClientError as error:
        if not condition or code_of(error) != "NotImplemented":
            raise
        call(**params)


@contextmanager
def translated(operation: str, key: str | None, conflict: StoreError | None = None) -> Iterator[None]:
    """Turn botocore's errors into ours; `conflict` is what a failed condition means here."""
    try:
        yield
    except ClientError as error:
        code = code_of(error)
        if code in NOT_FOUND and key is not None:
            raise ObjectNotFound(operation, key) from error
        if code in CONFLICT and conflict is not None:
            raise conflict from error
        reason = f"{code}: {error.response.get('Error', {}).get('Message', '')}"
        raise StoreError(operation, reason, key=key, is_denied=code in DENIED) from error
    except NoCredentialsError as error:
        reason = "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise StoreError(operation, reason, key=key) from error
    except (BotoCoreError, OSError) as error:
        raise StoreError(operation, f"{type(error).__name__}: {error}", key=key) from error


def code_of(error: ClientError) -> str:
    """Return what the server calls its error."""
    return str(error.response.get("Error", {}).get("Code", "unknown"))


def _keep_body(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object) -> None:
    """Take a page's XML away from botocore's parsers, which are left an empty listing; an error stays theirs."""
    if response_dict["status_code"] == 200 and b"<ListBucketResult" in response_dict["body"][:HEAD_BYTES]:  # noqa: PLR2004
        customized_response_dict["RawBody"] = response_dict["body"]
        response_dict["body"] = b"<ListBucketResult/>"
