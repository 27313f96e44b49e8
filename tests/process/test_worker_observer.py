"""Claims about what a worker process answers."""

from __future__ import annotations

from millhand.process.metrics_page import PAGE_PATH
from millhand.process.observer import ObserveSettings
from millhand.process.worker_observer import WorkerObserver

SETTINGS = ObserveSettings(address=None, file=None, live_seconds=120.0, manager=None)


async def test_worker_answers_before_its_client_starts() -> None:
    """While a worker starts, its page has the metrics of the process and none of a client."""
    answer = WorkerObserver(SETTINGS).routes[PAGE_PATH]()

    assert answer.status == 200
    assert b"\nmillhand_event_loop_lag_seconds " in answer.body
    assert b"\nprocess_cpu_seconds_total " in answer.body
    assert b"millhand_slots" not in answer.body
