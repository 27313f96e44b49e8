"""A proxy in front of a real S3 server that declines chosen requests, as servers do with single objects."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from scripted_server import ERROR


@dataclass(kw_only=True)
class Refusals:
    """
    Which requests the proxy declines. `seen` is the method and path of each declined request.

    With `are_done`, the server carries these requests out, and the proxy loses its answer.
    """

    are_done: bool = False
    seen: list[str]
    of: Callable[[str, str, bool], tuple[int, str] | None] = lambda _method, _key, _is_copy: None


@contextmanager
def refusing(endpoint: str) -> Iterator[tuple[str, Refusals]]:
    """Forward all requests but those that `of` maps to a status and a code. Yield the proxy's address."""
    refusals = Refusals(seen=[])
    server_address = urlsplit(endpoint).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            key = unquote(urlsplit(self.path).path)
            refusal = refusals.of(self.command, key, "x-amz-copy-source" in self.headers)
            if refusal is not None:
                refusals.seen.append(f"{self.command} {key}")
            if refusal is None or refusals.are_done:
                status, headers, data = self.forward(body)
            if refusal is not None:
                status, headers, data = refusal[0], {}, ERROR % refusal[1].encode()
            self.send(status, headers, data)

        def forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
            connection = http.client.HTTPConnection(server_address)
            connection.request(self.command, self.path, body, dict(self.headers))
            response = connection.getresponse()
            data = response.read()
            connection.close()
            return response.status, dict(response.getheaders()), data

        def send(self, status: int, headers: dict[str, str], data: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("connection", "content-length", "transfer-encoding"):
                    self.send_header(name, value)
            is_head = self.command == "HEAD"
            self.send_header(
                "Content-Length", headers.get("Content-Length", "0") if is_head else str(len(data))
            )
            self.end_headers()
            self.wfile.write(b"" if is_head else data)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = respond  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Log no requests."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", refusals
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
