"""Claims about the page /metrics of a worker, and of a supervisor for its worker processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

import pytest
from prometheus_client.parser import text_string_to_metric_families

from client_harness import GENEROUS
from millhand.core.metrics import definitions
from millhand.core.metrics.points import Points, number
from millhand.observe.http_server import Answer, plain
from millhand.observe.process_link import ProcessLink, answer_supervisor, ask_all
from millhand.process.metrics_page import PAGE_PATH, page_of_processes, worker_routes
from millhand.process.observer import ObserveSettings
from millhand.process.supervisor import LINK_VARIABLE
from millhand.process.supervisor_observer import SupervisorObserver

SETTINGS = ObserveSettings(address=None, file=None, live_seconds=120.0, manager=None)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the supervisor wait for answers as long as a busy machine takes."""

    def ask(links: Mapping[int, ProcessLink], path: str, _seconds: float) -> dict[int, Answer]:
        return ask_all(links, path, GENEROUS)

    monkeypatch.setattr("millhand.process.supervisor_observer.ask_all", ask)


def slots(num_slots: int) -> list[Points]:
    return [number(definitions.SLOTS, num_slots, "mail")]


def samples(answer: Answer, name: str) -> list[tuple[dict[str, str], float]]:
    """Return the labels and values of a metric on a page."""
    assert (answer.status, answer.content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    families = text_string_to_metric_families(answer.body.decode())
    return [(one.labels, one.value) for family in families for one in family.samples if one.name == name]


async def test_supervisor_merges_the_pages_of_its_processes() -> None:
    """The page of a supervisor has each process's values with its number; a process that fails or exited is left out."""
    observer = SupervisorObserver(SETTINGS, 3)
    for process, num_slots in ((0, 3), (1, 4)):
        os.environ[LINK_VARIABLE] = str(observer.add(process).detach())
        answer_supervisor(LINK_VARIABLE, worker_routes(lambda num_slots=num_slots: slots(num_slots)))  # type: ignore[misc]
    os.environ[LINK_VARIABLE] = str(observer.add(2).detach())
    answer_supervisor(LINK_VARIABLE, {})

    both = observer.routes[PAGE_PATH]()
    observer.remove(1)
    one = observer.routes[PAGE_PATH]()
    for process in (0, 2):
        observer.remove(process)
    await observer.__aexit__(None, None, None)

    assert samples(both, "millhand_slots") == [
        ({"process": "0", "queue": "mail"}, 3.0),
        ({"process": "1", "queue": "mail"}, 4.0),
    ]
    assert [labels for labels, _ in samples(both, "process_resident_memory_bytes")] == [
        {"process": "0"},
        {"process": "1"},
    ]
    assert samples(one, "millhand_slots") == [({"process": "0", "queue": "mail"}, 3.0)]


def test_page_without_the_library_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without prometheus_client, both pages say how to install it, and no probe is affected."""
    for name in [one for one in sys.modules if one.split(".")[0] == "prometheus_client"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "millhand.observe.prometheus", raising=False)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    answer = plain(503, "metrics need prometheus_client; run: pip install 'millhand[metrics]'")

    assert worker_routes(lambda: slots(1))[PAGE_PATH]() == answer
    assert page_of_processes({}) == answer
