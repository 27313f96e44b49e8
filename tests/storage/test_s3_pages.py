"""How pages are asked for, and servers that answer oddly: a scripted one, for no real server does it on demand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import pytest
from servers import CREDENTIALS

from millhand.storage import ListingBroken, StoreError, open_store

Answer = tuple[int, bytes]
Script = Callable[[str, dict[str, str]], Answer]
ERROR = b"<?xml version='1.0'?><Error><Code>%s</Code><Message>later</Message></Error>"


def page(*keys: str, token: str | None = None) -> bytes:
    contents = "".join(
        f"<Contents><Key>{key}</Key><LastModified>2026-03-01T12:00:00Z</LastModified>"
        f"<ETag>&quot;e&quot;</ETag><Size>1</Size></Contents>"
        for key in keys
    )
    end = (
        ""
        if token is None
        else f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>"
    )
    return (
        f"<?xml version='1.0'?><ListBucketResult><KeyCount>{len(keys)}</KeyCount>{end}{contents}</ListBucketResult>"
    ).encode()


class Asked:
    """The questions that a server was asked, each as its query, and the headers that came with the last."""

    def __init__(self) -> None:
        self.questions: list[dict[str, str]] = []
        self.headers: dict[str, str] = {}


@contextmanager
def scripted(script: Script, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Asked]]:
    """Serve what a script answers to method and query; yields a store's URL."""
    asked = Asked()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            question = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
            asked.questions.append(question)
            asked.headers = dict(self.headers)
            status, body = script(self.command, question)
            self.send_response(status)
            for name, value in (("ETag", '"e"'), ("Last-Modified", "Sun, 01 Mar 2026 12:00:00 GMT")):
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if self.command != "HEAD" else b"")

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"s3://bucket/r?endpoint_url=http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def listed(url: str, **question: object) -> list[str]:
    store = open_store(url)
    try:
        return [key async for found in store.list_pages(**question) for key in found.keys]  # type: ignore[arg-type]
    finally:
        await store.aclose()


def three_pages(method: str, question: dict[str, str]) -> Answer:
    token = question.get("continuation-token", "1")
    return 200, page(f"r/{token}", token=None if token == "3 +/=" else {"1": "2", "2": "3 +/="}[token])


async def test_later_pages_ask_as_the_first_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that is asked for without botocore's machinery asks for the same, is signed, and names the same client."""
    with scripted(three_pages, monkeypatch) as (url, asked):
        assert await listed(url, prefix="", page_size=7) == ["1", "2", "3 +/="]

        same = {"list-type": "2", "encoding-type": "url", "max-keys": "7", "prefix": "r/"}
        tokens = [{}, {"continuation-token": "2"}, {"continuation-token": "3 +/="}]
        assert asked.questions == [same | token for token in tokens]
        assert asked.headers["Authorization"].startswith("AWS4-HMAC-SHA256 Credential=millhand/")
        assert "Botocore/" in asked.headers["User-Agent"]
        # Which botocore itself would have sent along.
        assert "amz-sdk-invocation-id" not in asked.headers


@pytest.mark.parametrize(
    "hiccup",
    [(503, ERROR % b"SlowDown"), (200, ERROR % b"InternalError"), (500, b"")],
    ids=["503", "200", "500"],
)
async def test_a_page_that_does_not_come_is_asked_for_again(
    hiccup: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in answer to a later page, even one that says 200, is left to botocore, which asks again."""
    hiccups = [hiccup]

    def script(method: str, question: dict[str, str]) -> Answer:
        if question.get("continuation-token") == "2" and hiccups:
            return hiccups.pop()
        return three_pages(method, question)

    with scripted(script, monkeypatch) as (url, _):
        assert await listed(url) == ["1", "2", "3 +/="]


async def test_a_page_that_is_denied_is_an_error_and_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who loses permission halfway through gets the server's own error, not a shorter listing."""

    def script(method: str, question: dict[str, str]) -> Answer:
        if question.get("continuation-token") == "2":
            return 403, ERROR % b"AccessDenied"
        return three_pages(method, question)

    with scripted(script, monkeypatch) as (url, _), pytest.raises(StoreError) as denied:
        await listed(url)

    assert (str(denied.value), denied.value.is_denied) == (
        "list must succeed, got AccessDenied: later",
        True,
    )


async def test_a_bucket_whose_listing_forgets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not list what was just put to it is refused with what it lacks, before anything is judged."""

    def script(method: str, question: dict[str, str]) -> Answer:
        return 200, page() if method == "GET" else b""

    with scripted(script, monkeypatch) as (url, _):
        store = open_store(url)
        with pytest.raises(ListingBroken) as refused:
            await store.probe()
        await store.aclose()

    assert str(refused.value).startswith(
        "probe must succeed, got a listing in pages of 1,000 without ['.millhand/probe/"
    )
    assert str(refused.value).endswith(
        "with [] and 0 keys where 7 were just put; nothing may be concluded from it, use another server"
    )


async def test_a_listing_up_to_a_key_asks_for_no_page_beyond(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who needs a listing up to a key gets the page that reaches it, and the server is not asked for another."""
    with scripted(three_pages, monkeypatch) as (url, asked):
        assert await listed(url, up_to="2") == ["1", "2"]
        assert len(asked.questions) == 2
