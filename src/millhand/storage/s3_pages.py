"""
Request pages of a listing without the work that botocore does for any call.

botocore makes the first request, and we keep its URL, signer and headers as a template. Later requests copy the template
and use the same signer and connections. If a response is no page (an error, a redirect, a broken connection), botocore
repeats the request and handles the error.

botocore alone takes about 2 ms a page, and 4 ms more to search a response with status 200 for an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError

if TYPE_CHECKING:
    from botocore.client import BaseClient

OPERATION = "ListObjectsV2"
OK = 200
HEAD_BYTES = 512  # the first element of a response begins within these
# The parameters of a page and their names on the wire.
WIRE_NAMES = {
    "ContinuationToken": "continuation-token",
    "EncodingType": "encoding-type",
    "MaxKeys": "max-keys",
    "Prefix": "prefix",
    "StartAfter": "start-after",
}
# Signatures that depend on request, key and clock only. Others need a session first.
SIGNATURES = ("s3v4", "v4")


@dataclass(frozen=True, slots=True)
class RequestTemplate:
    """How botocore addresses and signs a request for a page."""

    context: Mapping[str, Any]
    signer: Any
    url: str
    user_agent: str


class PageRequests:
    """Requests for pages of one bucket's listings. Thread-safe."""

    def __init__(self, client: BaseClient, bucket: str) -> None:
        self._bucket = bucket
        self._client: Any = client
        self._template: RequestTemplate | None = None
        client.meta.events.register(f"before-sign.s3.{OPERATION}", self._record_template)
        client.meta.events.register_first(f"before-parse.s3.{OPERATION}", _keep_body)

    def page(self, params: Mapping[str, str | int]) -> bytes:
        """Return the XML of a page. Raises: ClientError; BotoCoreError."""
        template = self._template
        body = None if template is None else self._send(template, params)
        if body is not None:
            return body
        response = self._client.list_objects_v2(Bucket=self._bucket, **params)
        kept: bytes = response["RawBody"]
        return kept

    def _send(self, template: RequestTemplate, params: Mapping[str, str | int]) -> bytes | None:
        """Send one request. Return None if the response is no page."""
        query = "&".join(
            [
                "list-type=2",
                *(f"{WIRE_NAMES[name]}={quote(str(value), safe='')}" for name, value in params.items()),
            ]
        )
        request = AWSRequest(
            method="GET", url=f"{template.url}?{query}", headers={"User-Agent": template.user_agent}
        )
        request.context.update(template.context)
        try:
            template.signer.sign(OPERATION, request)
            response = self._client._endpoint.http_session.send(request.prepare())  # noqa: SLF001 - its connections
        except BotoCoreError:
            return None
        body: bytes = response.content
        return body if response.status_code == OK and _is_page(body) else None

    def _record_template(
        self, request: AWSRequest, request_signer: object, signature_version: object, **_: object
    ) -> None:
        if self._template is None and request.url is not None and signature_version in SIGNATURES:
            self._template = RequestTemplate(
                context=dict(request.context),
                signer=request_signer,
                url=request.url.partition("?")[0],
                user_agent=str(request.headers.get("User-Agent", "")),
            )


def _is_page(body: bytes) -> bool:
    return b"<ListBucketResult" in body[:HEAD_BYTES]


def _keep_body(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object) -> None:
    """Keep a page's XML and give botocore's parser an empty listing. botocore still parses errors."""
    if response_dict["status_code"] == OK and _is_page(response_dict["body"]):
        customized_response_dict["RawBody"] = response_dict["body"]
        response_dict["body"] = b"<ListBucketResult/>"
