"""Claims about the warning of a leader about queues in which jobs wait and that no client works."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from factory import NOW, insert_job
from millhand.core.client_row import ClientRow, ClientState
from millhand.core.job import ClientId
from millhand.db.driver.protocol import Executor
from millhand.engine.fleet import Fleet
from millhand.engine.maintenance.unworked_queues import REMEDY, WAIT, UnworkedQueues, unworked_queues
from millhand.engine.registration import Registration
from millhand.history.writer import HistoryWriter
from millhand.testing import ManualClock


def client(state: ClientState, *queues: str) -> ClientRow:
    return ClientRow(id=ClientId("a"), state=state, last_seen_at=NOW, queues=dict.fromkeys(queues, 1))


@pytest.mark.parametrize(
    ("clients", "others", "expected"),
    [
        ([], [], [("mails", REMEDY)]),
        ([client(ClientState.WORKING, "default")], [], [("mails", REMEDY)]),
        ([client(ClientState.WORKING, "default", "mail")], [], [("mails", "did you mean 'mail'?")]),
        ([client(ClientState.WORKING, "mails")], [], []),
        ([client(ClientState.STOPPED, "mails")], [], [("mails", REMEDY)]),
        ([], ["mails"], []),
    ],
)
def test_queue_is_unworked_if_no_client_of_any_language_works_it(
    clients: list[ClientRow], others: list[str], expected: list[tuple[str, str]]
) -> None:
    """The remedy names the queue that a mistyped one resembles."""
    fleet = Fleet(clients=tuple(clients), leaders={}, other_queues=frozenset(others), is_registering=True)

    assert list(unworked_queues(["mails"], fleet)) == expected


async def test_unworked_queue_is_logged_once_while_its_jobs_wait(
    tx: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged again if its jobs were worked meanwhile; a short wait is not logged."""
    queues, long = UnworkedQueues(tx), {"mails": WAIT}
    short = {"mails": WAIT - timedelta(seconds=1)}

    counts = []
    for waits in (short, long, long, {}, long):
        await queues.check(waits, NOW)
        counts.append(len(caplog.records))

    assert counts == [0, 1, 1, 1, 2]
    fields: dict[str, Any] = vars(caplog.records[-1])
    assert [fields[name] for name in ("msg", "queue", "seconds", "remedy")] == [
        "queue not worked", "mails", 30, REMEDY
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("registration", "expected"), [(Registration(is_active=True), ["mails"]), (None, [])]
)
async def test_leader_warns_of_a_queue_that_no_client_works(
    tx: Executor, caplog: pytest.LogCaptureFixture, registration: Registration | None, expected: list[str]
) -> None:
    """The leader's record of each minute finds the queue; the writer of a fleet without a leader logs nothing."""
    [row] = await tx.fetch("SELECT now() AS now")
    await insert_job(tx, queue="mails", scheduled_at=row["now"] - timedelta(minutes=5))
    await insert_job(tx, queue="fresh", scheduled_at=row["now"])
    writer = HistoryWriter(tx, clock=ManualClock(row["now"]), holder="me", registration=registration)

    await writer.run_once()

    assert [record.queue for record in caplog.records if record.msg == "queue not worked"] == expected  # type: ignore[attr-defined]
