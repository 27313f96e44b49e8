from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from test_attempts import NOW, details

from millhand.core.client_row import ClientRow, ClientState
from millhand.core.job import ClientId, JobState
from millhand.core.queue import QueueRow
from millhand.web.waiting import wait_of

LATER = NOW + timedelta(minutes=3)


def client(**fields: Any) -> ClientRow:
    given = {"state": ClientState.WORKING, "queues": {"default": 5}, "kinds": ("send_mail",)}
    return ClientRow(id=ClientId("a"), last_seen_at=NOW, **{**given, **fields})


@pytest.mark.parametrize(
    ("job", "paused", "clients", "num_running", "expected"),
    [
        ({"state": JobState.RUNNING}, False, [client()], 1, None),
        ({"state": JobState.COMPLETED}, False, [client()], 0, None),
        ({"state": JobState.PENDING}, False, [client()], 0, ("pending", None)),
        ({"state": JobState.SCHEDULED, "scheduled_at": LATER}, True, [], 0, ("scheduled", LATER)),
        ({"state": JobState.RETRYABLE, "scheduled_at": LATER}, True, [], 0, ("retry", LATER)),
        ({"state": JobState.RETRYABLE}, False, [client()], 0, ("fetch", None)),
        ({}, True, [client()], 0, ("paused", NOW)),
        ({}, False, [], 0, ("no_client", None)),
        ({}, False, [client(queues={"other": 1})], 0, ("no_client", None)),
        ({}, False, [client(state=ClientState.UNRESPONSIVE)], 0, ("no_client", None)),
        ({}, False, [client(state=ClientState.UNREGISTERED)], 0, ("fetch", None)),
        ({}, False, [client(kinds=("resize",))], 0, ("unknown_kind", None)),
        ({}, False, [client(kinds=("resize",)), client()], 0, ("fetch", None)),
        ({}, False, [client(), client()], 9, ("fetch", None)),
        ({}, False, [client(), client()], 10, ("slots", None)),
    ],
)
def test_page_says_what_a_job_waits_for(
    job: dict[str, Any],
    paused: bool,
    clients: list[ClientRow],
    num_running: int,
    expected: tuple[object, object] | None,
) -> None:
    """The first reason that holds is given; a client in another language rules out that a client is missing."""
    queue = QueueRow("default", NOW, {}, NOW if paused else None, NOW)

    wait = wait_of(details(**job), now=NOW, queue=queue, clients=clients, num_running=num_running)

    assert (wait and (wait.reason.value, wait.until)) == expected
