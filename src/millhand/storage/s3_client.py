"""The botocore client, and its errors as ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from millhand.storage.protocol import ObjectNotFound, StoreError

if TYPE_CHECKING:
    from botocore.client import BaseClient

NUM_THREADS = 16
NOT_FOUND = frozenset(("404", "NoSuchKey", "NoSuchUpload", "NoSuchVersion", "NotFound"))
DENIED = frozenset(("403", "AccessDenied", "AllAccessDisabled", "Forbidden", "MethodNotAllowed"))
UNKNOWN = frozenset(
    ("408", "429", "RequestTimeout")
)  # the server answered, but the request may come to it yet
CONFLICT = frozenset(("412", "409", "PreconditionFailed", "ConditionalRequestConflict"))


def make_client(endpoint_url: str | None, region: str | None, *, is_path_style: bool) -> BaseClient:
    style = {"s3": {"addressing_style": "path"}} if is_path_style else {}
    config = Config(
        connect_timeout=10,
        max_pool_connections=NUM_THREADS,
        read_timeout=60,
        # Many servers do not know the newer checksums that botocore requires by default.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        retries={"mode": "standard", "max_attempts": 5},
        **style,  # type: ignore[arg-type]
    )
    session = botocore.session.get_session()
    region = region or session.get_config_variable("region") or "us-east-1"
    return session.create_client("s3", region_name=region, endpoint_url=endpoint_url, config=config)


def call_with_condition(
    call: Callable[..., object], params: Mapping[str, object], condition: Mapping[str, object]
) -> None:
    """Call with a condition. If the server rejects conditions, call without: the caller has checked it before."""
    try:
        call(**params, **condition)
    except ClientError as error:
        if not condition or code_of(error) != "NotImplemented":
            raise
        call(**params)


@contextmanager
def translate_errors(operation: str, key: str | None, conflict: StoreError | None = None) -> Iterator[None]:
    """Turn botocore's errors into ours. `conflict` is the error for a failed condition."""
    try:
        yield
    except ClientError as error:
        code = code_of(error)
        if code in NOT_FOUND and key is not None:
            raise ObjectNotFound(operation, key) from error
        if code in CONFLICT and conflict is not None:
            raise conflict from error
        reason = f"{code}: {error.response.get('Error', {}).get('Message', '')}"
        raise StoreError(
            operation, reason, key=key, is_denied=code in DENIED, is_refusal=is_refusal(error)
        ) from error
    except NoCredentialsError as error:
        reason = "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise StoreError(operation, reason, key=key) from error
    except (BotoCoreError, OSError) as error:
        raise StoreError(operation, f"{type(error).__name__}: {error}", key=key) from error


def is_refusal(error: ClientError) -> bool:
    """Return whether the server declined the request and did nothing."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
    return status // 100 == 4 and not {str(status), code_of(error)} & UNKNOWN  # noqa: PLR2004 - 400 to 499


def code_of(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown"))
