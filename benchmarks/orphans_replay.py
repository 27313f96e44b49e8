"""
A server that answers ListObjectsV2 from memory, faster than any client asks, so that only the client is measured.

    python benchmarks/orphans_replay.py NUM_OBJECTS    # prints its port, serves until its input ends

Keys are `0000000/0000.bin` and so on, in order, 1,000 per page. A page is a template with the first number filled in.
Start-after is exact, tokens are page numbers, writes are denied, and nothing is checked.
"""

from __future__ import annotations

import re
import socket
import sys
import threading
from collections.abc import Callable
from urllib.parse import parse_qs, unquote, urlsplit

PER_PAGE = 1_000
PLACE = b"@@@@@@@"
MODIFIED = "2026-03-01T12:00:00.000Z"
ENTRY = (
    "<Contents><Key>{place}/{number:04}.bin</Key>"
    f"<LastModified>{MODIFIED}</LastModified>"
    "<ETag>&quot;{number:032x}&quot;</ETag><Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
)
HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>'
    '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>replay</Name><Prefix></Prefix>'
    "<KeyCount>{count}</KeyCount><MaxKeys>1000</MaxKeys><EncodingType>url</EncodingType>{end}"
)
TAIL = b"</ListBucketResult>"
KEY = re.compile(r"(\d{7})/(\d{4})\.bin")
SIZE = 1_000
OK = "HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nDate: {date}\r\nContent-Length: {length}\r\n\r\n"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
DENIED = (
    b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Type: application/xml\r\nContent-Length: 44\r\n\r\n"
    b"<Error><Code>AccessDenied</Code></Error>    "
)


class Replay:
    """The pages of a bucket with this many objects."""

    def __init__(self, num_objects: int) -> None:
        self.num_pages = -(-num_objects // PER_PAGE)
        entries = [
            ENTRY.format(place=PLACE.decode(), number=number, size=SIZE).encode()
            for number in range(PER_PAGE)
        ]
        self.length = len(entries[0])
        self.template = b"".join(entries)

    def page(self, number: int, skip: int) -> bytes:
        """Write page `number` without its first `skip` objects."""
        if number >= self.num_pages:
            return HEAD.format(count=0, end="<IsTruncated>false</IsTruncated>").encode() + TAIL
        end = "<IsTruncated>false</IsTruncated>"
        if number + 1 < self.num_pages:
            end = (
                f"<IsTruncated>true</IsTruncated><NextContinuationToken>{number + 1}</NextContinuationToken>"
            )
        entries = self.template[skip * self.length :].replace(PLACE, b"%07d" % number)
        return HEAD.format(count=PER_PAGE - skip, end=end).encode() + entries + TAIL

    def answer(self, method: str, target: str) -> bytes:
        """Answer one request."""
        parts = urlsplit(target)
        question = parse_qs(parts.query, keep_blank_values=True)
        key = unquote(parts.path).strip("/").partition("/")[2]
        if method == "HEAD":
            return self._describe(key)
        if method != "GET":
            return DENIED
        if "uploads" in question:
            return _ok(
                b"<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>"
            )
        if "location" in question:
            return _ok(b"<LocationConstraint/>")
        if key:
            return NOT_FOUND
        if question.get("prefix", [""])[0]:  # no key has it
            return _ok(self.page(self.num_pages, 0))
        if token := question.get("continuation-token"):
            return _ok(self.page(int(token[0]), 0))
        found = KEY.match(question.get("start-after", [""])[0])
        number, skip = (int(found[1]), int(found[2]) + 1) if found else (0, 0)
        return _ok(self.page(number + skip // PER_PAGE, skip % PER_PAGE))

    def _describe(self, key: str) -> bytes:
        found = KEY.fullmatch(key)
        if not found or int(found[1]) >= self.num_pages:
            return NOT_FOUND
        return (
            f"HTTP/1.1 200 OK\r\nDate: {_date()}\r\nLast-Modified: Sun, 01 Mar 2026 12:00:00 GMT\r\n"
            f'ETag: "{int(found[2]):032x}"\r\nContent-Length: {SIZE}\r\n\r\n'
        ).encode()


def _ok(body: bytes) -> bytes:
    return OK.format(date=_date(), length=len(body)).encode() + body


def _date() -> str:
    from email.utils import formatdate  # noqa: PLC0415 - only requests that return the time need it

    return formatdate(usegmt=True)


def _serve(connection: socket.socket, answer: Callable[[str, str], bytes]) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    waiting = b""
    while data := connection.recv(65_536):
        waiting += data
        while b"\r\n\r\n" in waiting:
            head, _, waiting = waiting.partition(b"\r\n\r\n")
            method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
            connection.sendall(answer(method, target))
            if method not in ("GET", "HEAD"):
                connection.close()  # its body is not read
                return


def main() -> None:
    replay = Replay(int(sys.argv[1]))
    server = socket.create_server(("127.0.0.1", 0), backlog=64)
    print(server.getsockname()[1], flush=True)

    def accept() -> None:
        while True:
            connection, _ = server.accept()
            threading.Thread(target=_serve, args=(connection, replay.answer), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
