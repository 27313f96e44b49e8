"""Claims about what limits a queue, decided from its jobs, the fleet and the kinds of its first due jobs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from millhand.core.client_row import ClientRow, ClientState
from millhand.core.job import ClientId
from millhand.core.queue import QueueRow
from millhand.engine.fleet import Fleet
from millhand.engine.queue_report import QueueWaitReason, report
from millhand.engine.store.queue_load import DueKind, QueueLoad

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
ROW = QueueRow("mail", NOW, {}, None, NOW)
PAUSED = msgspec.structs.replace(ROW, paused_at=NOW)
LOAD = QueueLoad(
    name="mail", row=ROW, available=3, retryable=0, running=2, scheduled=0, oldest_available_at=NOW,
    next_scheduled_at=None,
)  # fmt: skip


def client(state: ClientState = ClientState.WORKING, slots: int = 5, *kinds: str) -> ClientRow:
    return ClientRow(
        id=ClientId("a"), state=state, last_seen_at=NOW, queues={"mail": slots}, kinds=kinds or ("known",)
    )


def limit(*clients: ClientRow, kinds: tuple[str, ...] = ("known",), fleet: Any = {}, **load: Any) -> Any:  # noqa: B006
    plain = Fleet(clients=clients, leaders={}, other_queues=frozenset(), is_registering=True)
    found = report(
        msgspec.structs.replace(LOAD, **load),
        msgspec.structs.replace(plain, **fleet),
        [DueKind("mail", kind, 1, NOW) for kind in kinds],
    )
    return found.limit, found.unknown_kinds


ELSEWHERE = {"other_queues": frozenset({"mail"})}
OURS_MISSING = {"is_registering": False}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (limit(client()), (None, ())),
        (limit(client(slots=2)), (QueueWaitReason.SLOTS, ())),
        (limit(client(slots=1), client(slots=1)), (QueueWaitReason.SLOTS, ())),
        (limit(client(slots=2), available=0, kinds=()), (None, ())),
        (limit(client(), row=PAUSED), (QueueWaitReason.PAUSED, ())),
        (limit(client(), row=PAUSED, available=0, kinds=()), (None, ())),
        (limit(), (QueueWaitReason.NO_CLIENT, ("known",))),
        (limit(row=None), (QueueWaitReason.NO_CLIENT, ("known",))),
        (limit(client(ClientState.STOPPED)), (QueueWaitReason.NO_CLIENT, ("known",))),
        (limit(client(ClientState.UNRESPONSIVE)), (QueueWaitReason.NO_CLIENT, ("known",))),
        (limit(client(), kinds=("new", "newer")), (QueueWaitReason.UNKNOWN_KINDS, ("new", "newer"))),
        (limit(client(), kinds=("new", "known")), (None, ("new",))),
        (limit(client(), client(ClientState.WORKING, 5, "new"), kinds=("new",)), (None, ())),
        (limit(client(), kinds=()), (None, ())),  # available, but due in a moment
        (limit(client(slots=2), kinds=("new",), fleet=ELSEWHERE), (None, None)),
        (limit(fleet=ELSEWHERE), (None, None)),
        (limit(fleet=OURS_MISSING), (QueueWaitReason.NO_CLIENT, None)),
        (limit(fleet=ELSEWHERE | OURS_MISSING), (None, None)),
    ],
)
def test_limit_of_a_queue_is_what_its_due_jobs_wait_for(found: object, expected: object) -> None:
    """A limit is named only if jobs are due, and slots and kinds only where every client of the queue registers."""
    assert found == expected
