"""A scripted HTTP server that returns responses which no real S3 server returns on demand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import pytest
from servers import CREDENTIALS

Response = tuple[int, bytes]
Script = Callable[[str, dict[str, str]], Response]
ERROR = b"<?xml version='1.0'?><Error><Code>%s</Code><Message>later</Message></Error>"


def page(*keys: str, token: str | None = None) -> bytes:
    """Return a page of a listing."""
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


class Requests:
    """The queries of the requests that a server got, and the headers of the last one."""

    def __init__(self) -> None:
        self.queries: list[dict[str, str]] = []
        self.headers: dict[str, str] = {}


@contextmanager
def scripted(script: Script, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Requests]]:
    """Serve what `script` returns for method and query. Yield the URL of a store and its requests."""
    requests = Requests()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            query = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
            requests.queries.append(query)
            requests.headers = dict(self.headers)
            status, body = script(self.command, query)
            self.send_response(status)
            for name, value in (("ETag", '"e"'), ("Last-Modified", "Sun, 01 Mar 2026 12:00:00 GMT")):
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if self.command != "HEAD" else b"")

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = respond  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Log no requests."""

    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"s3://bucket/r?endpoint_url=http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
