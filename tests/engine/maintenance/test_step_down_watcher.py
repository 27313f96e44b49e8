"""A leader finds clients in another language and steps down for them."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import Any

import pytest

from factory import NOW, insert_job
from millhand.core.client_row import ClientState
from millhand.core.job import ClientId, JobState
from millhand.db.driver.protocol import Executor
from millhand.engine.election_backoff import ElectionBackoff
from millhand.engine.elector import Term
from millhand.engine.maintenance.cleaners import ClientCleaner
from millhand.engine.maintenance.step_down_watcher import (
    EvidenceLog,
    StepDownWatcher,
    before_term,
    format_evidence,
)
from millhand.engine.registration import Registration
from millhand.engine.store.client import ClientHeartbeatParams, Sighting, client_heartbeat, client_list
from millhand.engine.store.queue import (
    queue_create_or_set_updated_at,
    queue_pause,
    queue_resume,
    queue_update,
)
from millhand.testing import ManualClock, Probe

A = ClientId("a")
UNANSWERED = ElectionBackoff(other_leader_id=None, vacant_since=0.0)
TAKEN = ElectionBackoff(other_leader_id=ClientId("go"), vacant_since=0.0)


class Leader:
    """A watcher with a leadership whose term the test sets."""

    def __init__(self, tx: Executor, *, is_active: bool = True) -> None:
        self.clock = ManualClock()
        self.num_steps_down = 0
        self.backoff_before_term: ElectionBackoff | None = None
        self.term: Term | None = None
        self.tx = tx
        elector: Any = self
        self.watcher = StepDownWatcher(
            tx, elector, clock=self.clock, registration=Registration(is_active=is_active)
        )
        self.probe = Probe(self.watcher)

    async def begin(self, backoff: ElectionBackoff | None = None) -> None:
        """Begin a term, after the given backoff."""
        [row] = await self.tx.fetch("SELECT clock_timestamp() AS now")
        self.backoff_before_term, self.term = backoff, Term(A, row["now"])

    async def steps_down(self) -> bool:
        """Run a pass, and return whether it stepped down."""
        before = self.num_steps_down
        await self.watcher.run_once()
        return self.num_steps_down > before

    def step_down(self) -> None:
        self.num_steps_down += 1


async def attempt(tx: Executor, by: str) -> None:
    [row] = await tx.fetch("SELECT clock_timestamp() AS now")
    await insert_job(tx, JobState.RUNNING, attempted_at=row["now"], attempted_by=[by])


async def touch(tx: Executor, name: str, seconds_ago: float) -> None:
    """Update the queue's row in a whole second: one microsecond in a thousand is the mark of a command."""
    [row] = await tx.fetch("SELECT date_trunc('second', clock_timestamp()) AS now")
    await tx.run(queue_create_or_set_updated_at(name, now=row["now"] - timedelta(seconds=seconds_ago)))


async def report(tx: Executor, id: str, *, seen_at: datetime | None = None) -> None:
    values = ClientHeartbeatParams(
        id=ClientId(id),
        hostname="here",
        kinds=(),
        pid=1,
        queue_updates={},
        queues={},
        heartbeat_interval=timedelta(seconds=5),
        version="0",
    )
    await tx.run(client_heartbeat(values, started_at=None, now=seen_at))


async def test_leader_among_registered_clients_keeps_leading(tx: Executor) -> None:
    """The work of registered clients is no evidence."""
    leader = Leader(tx)
    await report(tx, "b")
    await attempt(tx, "b")
    await leader.begin()

    assert [await leader.steps_down() for _ in range(2)] == [False, False]


async def test_leader_keeps_leading_after_queues_were_controlled(tx: Executor) -> None:
    """Pauses, resumes and new metadata of queues that no client works any more are no evidence; a later update is."""
    leader = Leader(tx)
    for name in ("paused", "resumed", "described"):
        await touch(tx, name, 3_600)
    [row] = await tx.fetch("SELECT clock_timestamp() - interval '30 s' AS then")
    await tx.run(queue_pause("*", now=row["then"]))
    await tx.run(queue_resume("resumed", now=row["then"]))
    await tx.run(queue_update("described", metadata={"owner": "ann"}, now=row["then"]))
    await leader.begin()

    first = await leader.steps_down()
    await touch(tx, "resumed", 20)

    assert (first, await leader.steps_down()) == (False, True)


async def test_leader_steps_down_for_unregistered_clients(
    tx: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    """It logs an attempt of an unregistered client and a queue that no client declares, and steps down."""
    caplog.set_level(logging.INFO)
    leader = Leader(tx)
    await attempt(tx, "go")
    await touch(tx, "theirs", 30)
    await leader.begin()

    stepped_down = await leader.steps_down()

    assert stepped_down
    assert [(record.msg, record.reason) for record in caplog.records] == [  # type: ignore[attr-defined]
        ("clients in another language suspected", "client go, queue theirs")
    ]


async def test_step_down_without_an_answer_is_not_repeated(
    tx: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    """An unregistered client that does not lead costs one step-down, and the log says that no other client led."""
    caplog.set_level(logging.INFO)
    leader = Leader(tx)
    await attempt(tx, "go")
    await leader.begin()
    await leader.steps_down()
    caplog.clear()

    await leader.begin(UNANSWERED)
    await attempt(tx, "go")
    again = await leader.steps_down()
    leader.clock.advance(3600)
    later = await leader.steps_down()

    assert (again, later) == (False, False)
    assert [(record.msg, record.reason) for record in caplog.records] == [  # type: ignore[attr-defined]
        ("leadership not taken by others", "client go")
    ]


@pytest.mark.slow
async def test_next_step_down_waits_after_one_without_an_answer(tx: Executor) -> None:
    """Evidence of another client leads to a step-down a minute after the first, two after the second."""
    leader = Leader(tx)
    await leader.begin()
    pauses = []
    for number in range(3):
        await attempt(tx, f"go_{number}")
        stepped_down = await leader.steps_down()
        while not stepped_down:
            leader.clock.advance(1)
            pauses.append(number)
            stepped_down = await leader.steps_down()
        await leader.begin(UNANSWERED)
        await leader.steps_down()

    assert 54 <= pauses.count(1) <= 67
    assert 108 <= pauses.count(2) <= 133
    assert pauses.count(0) == 0


async def test_answered_step_down_ends_the_delay(tx: Executor) -> None:
    """After another client led, evidence leads to a step-down at once."""
    leader = Leader(tx)
    await attempt(tx, "go_1")
    await leader.begin()
    first = await leader.steps_down()

    await leader.begin(TAKEN)
    after = await leader.steps_down()
    await attempt(tx, "go_2")
    second = await leader.steps_down()

    assert (first, after, second) == (True, False, True)


async def test_evidence_before_the_term_is_handled_after_a_backoff(tx: Executor) -> None:
    """A client that starts later is evidence by the row that it updates."""
    leader = Leader(tx)
    await attempt(tx, "go")
    await touch(tx, "theirs", 30)
    await leader.begin(TAKEN)
    before = await leader.steps_down()

    later = datetime.fromisoformat("2024-01-01T00:00:00Z")
    await touch(tx, "theirs", 10.5)
    leader.term = Term(A, later)
    leader.backoff_before_term = None
    after = await leader.steps_down()

    assert (before, after) == (False, True)


async def test_watcher_without_an_active_registration_makes_no_statement(tx: Executor) -> None:
    """Without an active registration a pass does nothing."""
    leader = Leader(tx, is_active=False)
    await attempt(tx, "go")
    await leader.begin()

    assert not await leader.steps_down()
    assert leader.probe.num("kept leading") == 0


async def test_pass_that_ends_after_the_term_does_nothing(tx: Executor) -> None:
    """A term that ended during the query is not resigned."""
    leader = Leader(tx)
    await attempt(tx, "go")

    assert not await leader.steps_down()


def test_update_at_the_beginning_of_a_term_is_not_handled() -> None:
    """A client that starts at this moment could not bid before the term."""
    term = Term(A, NOW)
    old = Sighting("queue", "old", NOW - timedelta(seconds=2.1))
    new = Sighting("queue", "new", NOW - timedelta(seconds=1.9))
    client = Sighting("client", "go", NOW + timedelta(seconds=1))

    settled = before_term([old, new, client], term)

    assert settled == [("queue", "old", old.seen_at), ("client", "go", None)]
    log = EvidenceLog()
    log.handle(settled)
    assert log.unhandled([old, new, client]) == [("queue", "new", new.seen_at)]


def test_evidence_is_one_line() -> None:
    """Five items by name, the others as a number."""
    clues = [("client", f"go_{number}", None) for number in range(7)]

    assert format_evidence(clues) == "client go_0, client go_1, client go_2, client go_3, client go_4, 2 more"


async def test_client_cleaner_deletes_rows_without_a_heartbeat_for_a_day(tx: Executor) -> None:
    """Without an active registration it deletes nothing."""
    await report(tx, "gone", seen_at=NOW - timedelta(hours=24, seconds=1))
    await report(tx, "fresh", seen_at=NOW - timedelta(hours=24))
    clock = ManualClock(NOW)

    await ClientCleaner(tx, clock=clock, registration=Registration()).run_once()
    before = len(await tx.run(client_list()))
    await ClientCleaner(tx, clock=clock, registration=Registration(is_active=True)).run_once()

    assert before == 2
    assert [(row.id, row.state) for row in await tx.run(client_list())] == [
        ("fresh", ClientState.UNRESPONSIVE)
    ]
