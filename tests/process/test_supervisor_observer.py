"""Claims about the answers of a supervisor for all of its processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from client_harness import GENEROUS
from millhand.observe.http_server import Answer, plain
from millhand.observe.process_link import ProcessLink, answer_supervisor, ask_all
from millhand.process.observer import ObserveSettings
from millhand.process.supervisor import LINK_VARIABLE
from millhand.process.supervisor_observer import SupervisorObserver

OK = plain(200, "ok")
SETTINGS = ObserveSettings(address=None, file=None, live_seconds=120.0, manager=None)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the supervisor wait for answers as long as a busy machine takes."""

    def ask(links: Mapping[int, ProcessLink], path: str, _seconds: float) -> dict[int, Answer]:
        return ask_all(links, path, GENEROUS)

    monkeypatch.setattr("millhand.process.supervisor_observer.ask_all", ask)


class Fleet:
    """An observer of two processes, which are threads of this one."""

    def __init__(self) -> None:
        self.observer = SupervisorObserver(SETTINGS, 2)

    def start(self, number: int, routes: dict[str, Answer]) -> None:
        """Start a process that answers so."""
        end = self.observer.add(number)
        os.environ[LINK_VARIABLE] = str(end.detach())
        functions: dict[str, Callable[[], Answer]] = {
            path: lambda answer=answer: answer  # type: ignore[misc]
            for path, answer in routes.items()
        }
        answer_supervisor(LINK_VARIABLE, functions)

    def answers(self, *paths: str) -> list[Answer]:
        return [self.observer.routes[path]() for path in paths]


@pytest.fixture
async def fleet() -> Iterator[Fleet]:
    fleet = Fleet()
    yield fleet
    for number in list(fleet.observer._processes):
        fleet.observer.remove(number)
    await fleet.observer.__aexit__(None, None, None)


def test_supervisor_answers_for_all(fleet: Fleet) -> None:
    """The fleet is ready once each process is, and its start stays complete when one exits."""
    fleet.start(0, {"/readyz": OK, "/livez": OK, "/startupz": OK})
    before = fleet.answers("/startupz", "/livez", "/readyz")
    fleet.start(1, {"/readyz": plain(503, "database unreachable"), "/livez": OK, "/startupz": OK})
    both = fleet.answers("/startupz", "/healthz", "/readyz")
    fleet.observer.remove(1)
    after = fleet.answers("/startupz", "/livez", "/readyz")

    assert before == [plain(503, "process 1: not running"), OK, plain(503, "process 1: not running")]
    assert both == [OK, OK, plain(503, "process 1: database unreachable")]
    assert after == [OK, OK, plain(503, "process 1: not running")]


def test_hung_process_fails_the_probe(fleet: Fleet) -> None:
    """The answer of a process that hangs is the answer of all, with its number."""
    fleet.start(0, {"/livez": OK})
    fleet.start(1, {"/livez": plain(503, "event loop hangs for 130.0 s at jobs.py:3 f")})

    assert fleet.answers("/livez") == [plain(503, "process 1: event loop hangs for 130.0 s at jobs.py:3 f")]


def test_stopping_supervisor_is_not_ready(fleet: Fleet) -> None:
    """After a signal the fleet is not ready, and still live."""
    fleet.start(0, {"/livez": OK})
    fleet.observer.on_stopping()

    assert fleet.answers("/readyz", "/livez") == [plain(503, "stopping"), OK]


def test_other_paths_can_be_asked(fleet: Fleet) -> None:
    """`ask` returns the answers to any path, such as that of metrics, by the number of the process."""
    fleet.start(0, {"/metrics": plain(200, "a 1")})
    fleet.start(1, {"/metrics": plain(200, "a 2")})

    assert fleet.observer.ask("/metrics") == {0: plain(200, "a 1"), 1: plain(200, "a 2")}


def open_sockets() -> set[str]:
    """Return the sockets that this process holds, each with its number in the kernel.

    A count of all files would also fall when the garbage collector closes what an earlier test left.
    """
    files = set()
    for file in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # The listing's own file.
            files.add(str(file.readlink()))
    return {file for file in files if file.startswith("socket:")}


def test_removed_processes_keep_no_sockets_open(fleet: Fleet) -> None:
    """A process that ends again and again leaves no open socket, also if no probe ever asks."""
    before = open_sockets()
    for _ in range(100):
        fleet.observer.add(0).close()
        fleet.observer.remove(0)

    assert open_sockets() <= before
