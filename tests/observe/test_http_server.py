"""Claims about the HTTP server of probes and metrics."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from millhand.core.errors import ConfigError
from millhand.observe import http_server
from millhand.observe.http_server import (
    CONNECTIONS_MAX,
    REQUEST_BYTES_MAX,
    Address,
    Answer,
    HttpServer,
    parsed_address,
    plain,
    response,
)

LOCAL = Address("127.0.0.1", 0)


def fail() -> Answer:
    raise ValueError("a secret")


ROUTES = {"/a": lambda: plain(200, "fine"), "/b": lambda: plain(503, "why"), "/c": fail}


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":9464", Address("", 9464)),
        ("127.0.0.1:9464", Address("127.0.0.1", 9464)),
        ("[::1]:0", Address("::1", 0)),
        ("localhost:65535", Address("localhost", 65535)),
    ],
)
def test_address_is_host_and_port(text: str, address: Address) -> None:
    """An address is a port after an optional host, an IPv6 address in brackets."""
    assert parsed_address(text) == address
    assert address.text == text


@pytest.mark.parametrize(
    "text", ["9464", "host", ":", ":65536", ":-1", ":٣", "::1:9464", "http://host:9464", ":1e3"]
)
def test_address_of_another_form_is_refused(text: str) -> None:
    """Any other text is an error that shows the form."""
    with pytest.raises(ConfigError) as raised:
        parsed_address(text)

    assert str(raised.value) == f"listen must be like ':9464', '127.0.0.1:9464' or '[::1]:9464', got {text!r}"


@pytest.mark.parametrize(
    ("request_line", "status", "body"),
    [
        ("GET /a HTTP/1.1", "200 OK", "fine\n"),
        ("GET /a?x=1 HTTP/1.0", "200 OK", "fine\n"),
        ("HEAD /a HTTP/1.1", "200 OK", ""),
        ("GET /b HTTP/1.1", "503 Service Unavailable", "why\n"),
        ("GET /c HTTP/1.1", "500 Internal Server Error", "failed: ValueError\n"),
        ("GET /d HTTP/1.1", "404 Not Found", "not found; known: /a, /b, /c\n"),
        ("GET /\xe9 HTTP/1.1", "404 Not Found", "not found; known: /a, /b, /c\n"),
        ("POST /a HTTP/1.1", "405 Method Not Allowed", "method not allowed\n"),
        ("GET /a", "400 Bad Request", "bad request\n"),
        ("\x16\x03\x01", "400 Bad Request", "bad request\n"),
        ("", "400 Bad Request", "bad request\n"),
    ],
)
def test_request_gets_its_response(request_line: str, status: str, body: str) -> None:
    """Each path has its answer, wrong requests have an error, and an error of ours shows its type alone."""
    head, _, given = response(f"{request_line}\r\nHost: x\r\n\r\n".encode("latin-1"), ROUTES).partition(
        b"\r\n\r\n"
    )

    lines = head.decode().split("\r\n")
    assert (lines[0], given.decode()) == (f"HTTP/1.1 {status}", body)
    if body:
        assert f"Content-Length: {len(body)}" in lines


@contextlib.contextmanager
def connected(server: HttpServer) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.address.port), timeout=30.0) as connection:
        yield connection


def answered(connection: socket.socket, request: bytes = b"GET /a HTTP/1.1\r\n\r\n") -> bytes:
    """Send a request and return the whole response."""
    connection.sendall(request)
    return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.fixture
def server() -> Iterator[HttpServer]:
    server = HttpServer(LOCAL, ROUTES)
    yield server
    server.close()


def test_request_may_arrive_in_pieces(server: HttpServer) -> None:
    """The head of a request is put together, whatever its pieces."""
    with connected(server) as connection:
        connection.sendall(b"GET /a HT")
        connection.sendall(b"TP/1.1\r\n\r")

        assert answered(connection, b"\n").endswith(b"\r\n\r\nfine\n")


def test_long_request_is_refused(server: HttpServer) -> None:
    """A head without an end is refused at its limit."""
    with connected(server) as connection:
        assert answered(connection, b"x" * REQUEST_BYTES_MAX).startswith(b"HTTP/1.1 431 ")


def test_slow_clients_do_not_delay_a_probe(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever number of clients send nothing, the next request is answered at once: the oldest of them is closed."""
    monkeypatch.setattr(http_server, "REQUEST_SECONDS", 600.0)
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connected(server)) for _ in range(CONNECTIONS_MAX + 4)]
        with connected(server) as connection:
            assert answered(connection).startswith(b"HTTP/1.1 200 ")

        assert slow[0].recv(1) == b""  # one that had waited out its time would read the answer 408


@pytest.mark.slow
def test_slow_request_is_answered_with_a_timeout(server: HttpServer) -> None:
    """A request that does not arrive in two seconds is refused, and its connection closed."""
    with connected(server) as connection:
        assert answered(connection, b"GET /a").startswith(b"HTTP/1.1 408 ")


def test_taken_address_is_an_error(server: HttpServer) -> None:
    """An address in use is an error with the setting's name."""
    with pytest.raises(ConfigError) as raised:
        HttpServer(server.address, ROUTES)

    assert str(raised.value) == (
        f"listen must be a free address of this machine, got '{server.address.text}': Address already in use"
    )


def test_closed_server_refuses_connections(server: HttpServer) -> None:
    """After `close` nothing listens at the address."""
    server.close()

    with pytest.raises(ConnectionRefusedError), connected(server):
        pass


def test_server_of_any_address_answers_on_both_protocols() -> None:
    """Without a host it listens on IPv4, and on IPv6 where the machine has it."""
    server = HttpServer(Address("", 0), ROUTES)
    try:
        with connected(server) as connection:
            assert answered(connection).startswith(b"HTTP/1.1 200 ")
    finally:
        server.close()
