r"""
Let the supervisor ask its worker processes what a path answers, each through a pair of sockets.

    supervisor ──▶ "7 /livez\n"                       one line a question, with its number
    process    ──▶ "7 503 51 text/plain…\n" + body    from a thread of its own, so a hung event loop answers too

An answer that comes too late is read and dropped with the next question.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
import time
from collections.abc import Iterator, Mapping

from millhand.observe.http_server import Answer, Routes, answer_to

NUM_WAITING_MAX = 16
PIECE_BYTES = 64 * 1024


class ProcessLink:
    """The supervisor's end. Concurrency: its owner calls it from one thread at a time."""

    def __init__(self, end: socket.socket) -> None:
        end.settimeout(0)
        self._buffer = bytearray()
        self._number = 0
        self._num_waiting = 0
        self.is_closed = False
        self.end = end

    def ask(self, path: str) -> int | None:
        """Send a question and return its number; None if the process does not answer earlier ones."""
        if self._num_waiting >= NUM_WAITING_MAX or self.is_closed:
            return None
        self._number += 1
        try:
            self.end.sendall(f"{self._number} {path}\n".encode())
        except OSError:
            return None
        self._num_waiting += 1
        return self._number

    def read(self) -> Iterator[tuple[int, Answer]]:
        """Read what has arrived, and yield each complete answer with the number of its question."""
        with contextlib.suppress(BlockingIOError):
            while not self.is_closed:
                try:
                    piece = self.end.recv(PIECE_BYTES)
                except ConnectionError:
                    piece = b""
                self._buffer += piece
                self.is_closed = not piece
        while (parsed := parsed_answer(self._buffer)) is not None:
            number, answer, num_bytes = parsed
            del self._buffer[:num_bytes]
            self._num_waiting -= 1
            yield number, answer

    def close(self) -> None:
        self.is_closed = True
        self.end.close()


def ask_all(links: Mapping[int, ProcessLink], path: str, seconds: float) -> dict[int, Answer]:
    """Ask all processes at once; return the answers that come within `seconds`, by the number of the process."""
    deadline = time.monotonic() + seconds
    answers: dict[int, Answer] = {}
    with selectors.DefaultSelector() as selector:
        asked = {}
        for number, link in links.items():
            list(link.read())  # answers that came too late
            asked[number] = link.ask(path)
            if not link.is_closed and asked[number] is not None:
                selector.register(link.end, selectors.EVENT_READ, number)
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                number, link = key.data, links[key.data]
                for question, answer in link.read():
                    if question == asked[number]:
                        answers[number] = answer
                if number in answers or link.is_closed:
                    selector.unregister(link.end)
    return answers


def parsed_answer(buffer: bytes | bytearray) -> tuple[int, Answer, int] | None:
    """Return the first answer of a buffer, its question's number and its length; None if it is not complete."""
    end = buffer.find(b"\n")
    if end < 0:
        return None
    number, status, length, content_type = buffer[:end].decode().split(" ", 3)
    begin, stop = end + 1, end + 1 + int(length)
    if len(buffer) < stop:
        return None
    return int(number), Answer(int(status), content_type, bytes(buffer[begin:stop])), stop


def answer_supervisor(variable: str, routes: Routes) -> None:
    """Answer a supervisor in a thread, if it asks at the file descriptor in an environment variable."""
    text = os.environ.pop(variable, "")  # child processes of jobs answer nothing
    if not text.isdecimal():
        return
    try:
        end = socket.socket(fileno=int(text))
    except OSError:  # the variable was inherited, but not the socket
        return
    end.set_inheritable(False)
    end.settimeout(None)
    threading.Thread(target=_answer, args=(end, routes), name="millhand-health", daemon=True).start()


def _answer(end: socket.socket, routes: Routes) -> None:
    with contextlib.suppress(OSError), end, end.makefile("rb") as lines:
        for line in lines:
            number, _, path = line.decode().rstrip("\n").partition(" ")
            answer = answer_to(path, routes)
            head = f"{number} {answer.status} {len(answer.body)} {answer.content_type}\n"
            end.sendall(head.encode() + answer.body)
