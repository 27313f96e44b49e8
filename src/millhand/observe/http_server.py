"""
A small HTTP server in threads of its own, for probes and metrics: an event loop that hangs cannot silence it.

Rule 1: each path has one function, which returns its `Answer` at once and never waits for the event loop.
Rule 2: a request has a limit of bytes and of seconds. When many connections are open, a new one closes the oldest, so
        slow clients cannot keep a probe waiting.
Rule 3: all threads are daemons, so none of them delays the end of the process.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus

import msgspec

from millhand.core.errors import ConfigError

REQUEST_BYTES_MAX = 8 * 1024
REQUEST_SECONDS = 2.0
CONNECTIONS_MAX = 16
# More than connections, because the thread of a closed connection may still wait for its answer.
THREADS_MAX = 64
ACCEPT_PAUSE_SECONDS = 0.1
PORT_MAX = 65_535
PLAIN = "text/plain; charset=utf-8"


class Answer(msgspec.Struct, frozen=True):
    """What a path answers."""

    status: int
    content_type: str
    body: bytes


Routes = Mapping[str, Callable[[], Answer]]


class Address(msgspec.Struct, frozen=True):
    """Where a server listens; an empty host means every address of the machine."""

    host: str
    port: int

    @property
    def text(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parsed_address(text: str) -> Address:
    """Return the address of a text such as ':9464' or '127.0.0.1:9464'. Raises: ConfigError."""
    host, colon, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    is_port = (
        port.isascii() and port.isdecimal() and len(port) <= len(str(PORT_MAX)) and int(port) <= PORT_MAX
    )
    if not colon or not is_port or (":" in host and not is_bracketed) or "/" in host:
        raise ConfigError(f"listen must be like ':9464', '127.0.0.1:9464' or '[::1]:9464', got {text!r}")
    return Address(host[1:-1] if is_bracketed else host, int(port))


def plain(status: int, line: str) -> Answer:
    return Answer(status, PLAIN, f"{line}\n".encode(errors="replace"))


class HttpServer:
    """
    Answers GET and HEAD requests for `routes` until `close`.

    Raises: ConfigError if it cannot listen. Concurrency: `routes` are called in several threads at once.
    """

    def __init__(self, address: Address, routes: Routes) -> None:
        self._closed = threading.Event()
        self._connections: dict[socket.socket, None] = {}  # the oldest first
        self._lock = threading.Lock()
        self._routes = routes
        self._slots = threading.Semaphore(THREADS_MAX)
        self._socket = _listening(address)
        self.address = Address(address.host, self._socket.getsockname()[1])
        threading.Thread(target=self._accept, name="millhand-http", daemon=True).start()

    def close(self) -> None:
        """Stop listening; answers that are under way still arrive."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread, which `close` alone does not
        self._socket.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed, or the process has too many open files
                self._closed.wait(ACCEPT_PAUSE_SECONDS)
                continue
            self._remember(connection)
            self._slots.acquire()
            try:
                threading.Thread(
                    target=self._serve, args=(connection,), name="millhand-http", daemon=True
                ).start()
            except RuntimeError:  # the system allows no more threads
                self._forget(connection)

    def _remember(self, connection: socket.socket) -> None:
        with self._lock:
            while len(self._connections) >= CONNECTIONS_MAX:
                oldest = next(iter(self._connections))
                del self._connections[oldest]
                with contextlib.suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)  # its thread wakes and ends
            self._connections[connection] = None

    def _forget(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.pop(connection, None)
            connection.close()
        self._slots.release()

    def _serve(self, connection: socket.socket) -> None:
        try:
            head = _read_head(connection)
            if head is not None:
                message = response(head, self._routes)
                num_sent = 0
                with contextlib.suppress(BlockingIOError):
                    num_sent = connection.send(message, socket.MSG_DONTWAIT)
                if num_sent < len(message):
                    connection.settimeout(REQUEST_SECONDS)
                    connection.sendall(message[num_sent:])
                connection.shutdown(socket.SHUT_WR)
        except OSError:  # the client is gone or too slow
            pass
        finally:
            self._forget(connection)


def response(head: bytes, routes: Routes) -> bytes:
    """Return the response to the head of a request."""
    line, _, _ = head.partition(b"\r\n")
    words = line.split(b" ")
    answer = _answer(words, routes) if head.endswith(b"\r\n\r\n") else _refusal(head)
    status = f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"
    fields = [
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {len(answer.body)}",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    body = b"" if words[0] == b"HEAD" else answer.body
    return "\r\n".join([status, *fields, "", ""]).encode() + body


def answer_to(path: str, routes: Routes) -> Answer:
    """Return what a path answers; a function that raises answers with the type of its error."""
    route = routes.get(path)
    if route is None:
        return plain(404, f"not found; known: {', '.join(sorted(routes))}")
    try:
        return route()
    except Exception as error:  # noqa: BLE001 - each request must be answered
        return plain(500, f"failed: {type(error).__name__}")


def _answer(words: list[bytes], routes: Routes) -> Answer:
    match words:
        case [b"GET" | b"HEAD", target, version] if version.startswith(b"HTTP/"):
            return answer_to(target.partition(b"?")[0].decode("latin-1"), routes)
        case [_, _, version] if version.startswith(b"HTTP/"):
            return plain(405, "method not allowed")
        case _:
            return plain(400, "bad request")


def _refusal(head: bytes) -> Answer:
    if len(head) >= REQUEST_BYTES_MAX:
        return plain(431, f"a request must have at most {REQUEST_BYTES_MAX:,} bytes")
    return plain(408, f"a request must arrive within {REQUEST_SECONDS:g} s")


def _read_head(connection: socket.socket) -> bytes | None:
    """Return the head of a request, what arrived of it in time, or None if the client hung up."""
    deadline, head = time.monotonic() + REQUEST_SECONDS, b""
    while True:
        try:
            part = _receive(connection, REQUEST_BYTES_MAX - len(head), deadline - time.monotonic())
        except TimeoutError:
            return head
        if not part:
            return None
        head += part
        end = head.find(b"\r\n\r\n")
        if end >= 0:
            return head[: end + 4]
        if len(head) >= REQUEST_BYTES_MAX:
            return head


# Each call that can wait lets another thread run, for 5 ms if it computes. What needs no wait is therefore one call.


def _receive(connection: socket.socket, num_bytes: int, seconds: float) -> bytes:
    with contextlib.suppress(BlockingIOError):
        return connection.recv(num_bytes, socket.MSG_DONTWAIT)
    connection.settimeout(max(seconds, 0.001))
    return connection.recv(num_bytes)


def _listening(address: Address) -> socket.socket:
    try:
        return _bound(address)
    except OSError as error:
        reason = str(error.strerror or error).partition(" (while")[0]
        raise ConfigError(
            f"listen must be a free address of this machine, got {address.text!r}: {reason}"
        ) from error


def _bound(address: Address) -> socket.socket:
    if address.host in ("", "::") and socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", address.port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError as error:  # a kernel may know IPv6, and have no address of it
            if address.host or error.errno != errno.EADDRNOTAVAIL:
                raise
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return socket.create_server((address.host, address.port), family=family)
