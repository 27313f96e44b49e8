"""Claims about the questions of a supervisor to its worker processes."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from millhand.observe.http_server import Answer, plain
from millhand.observe.process_link import (
    NUM_WAITING_MAX,
    ProcessLink,
    answer_supervisor,
    ask_all,
    parsed_answer,
)

GENEROUS_SECONDS = 30.0
Routes = dict[str, Callable[[], Answer]]


class Ends:
    """Links, and the ends of their processes."""

    def __init__(self) -> None:
        self.links: dict[int, ProcessLink] = {}
        self.others: dict[int, socket.socket] = {}

    def add(self, routes: Routes | None = None) -> int:
        """Add a process that answers with `routes`, or is silent without them; return its number."""
        number, (ours, theirs) = len(self.links), socket.socketpair()
        self.links[number] = ProcessLink(ours)
        self.others[number] = theirs
        if routes is not None:
            os.environ["MILLHAND_HEALTH_FD"] = str(os.dup(theirs.fileno()))
            theirs.close()
            answer_supervisor("MILLHAND_HEALTH_FD", routes)
        return number


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    yield ends
    for link, other in zip(ends.links.values(), ends.others.values(), strict=True):
        link.close()
        other.close()


@pytest.mark.parametrize(
    ("buffer", "parsed"),
    [
        (b"", None),
        (b"7 200 3 text/plain; charset=utf-8", None),
        (b"7 200 3 text/plain; charset=utf-8\nok", None),
        (b"7 200 3 text/plain; charset=utf-8\nok\n", (7, plain(200, "ok"), 37)),
        (b"7 200 3 text/plain; charset=utf-8\nok\n8 2", (7, plain(200, "ok"), 37)),
    ],
)
def test_answer_is_parsed_once_it_is_complete(buffer: bytes, parsed: object) -> None:
    """An answer is its head and as many bytes as that says."""
    assert parsed_answer(buffer) == parsed


def test_processes_answer_what_their_paths_do(ends: Ends) -> None:
    """Each process is asked at once and answers for itself; a large answer arrives whole."""
    large = "x" * 1_000_000
    ends.add({"/a": lambda: plain(200, "ok")})
    ends.add({"/a": lambda: plain(503, large)})

    answers = ask_all(ends.links, "/a", GENEROUS_SECONDS)

    assert answers == {0: plain(200, "ok"), 1: plain(503, large)}
    assert "MILLHAND_HEALTH_FD" not in os.environ


def test_unanswering_process_is_left_out(ends: Ends) -> None:
    """A process without an answer in time, or whose link is closed, does not hold up the others' answers."""
    ends.add({"/a": lambda: plain(200, "ok")})
    ends.add()
    gone = ends.add()
    ends.others[gone].close()

    seconds, answers = 0.02, dict[int, Answer]()
    # On a busy machine, the first process may need more time.
    while not answers and seconds < GENEROUS_SECONDS:
        answers = ask_all(ends.links, "/a", seconds)
        seconds *= 4

    assert answers == {0: plain(200, "ok")}


def test_late_answer_is_not_taken_for_the_next(ends: Ends) -> None:
    """The answer to an earlier question is dropped when the next question is asked."""
    may_answer = threading.Event()

    def slow() -> Answer:
        may_answer.wait(GENEROUS_SECONDS)
        return plain(200, "late")

    ends.add({"/slow": slow, "/a": lambda: plain(200, "ok")})

    assert ask_all(ends.links, "/slow", 0.01) == {}
    may_answer.set()
    assert ask_all(ends.links, "/a", GENEROUS_SECONDS) == {0: plain(200, "ok")}


def test_unanswering_process_is_not_asked_without_end(ends: Ends) -> None:
    """Questions without answers stop at a limit, so they cannot fill the socket."""
    number = ends.add()

    asked = [ends.links[number].ask("/a") for _ in range(NUM_WAITING_MAX + 1)]

    assert asked == [*range(1, NUM_WAITING_MAX + 1), None]
