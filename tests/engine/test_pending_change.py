"""Claims about the changes that wait to be written."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

import msgspec
import pytest

from factory import NOW, ROW
from millhand.core.event import EventKind
from millhand.core.job import JobId, JobState
from millhand.core.transition import StateChange
from millhand.engine.attempt import Attempt
from millhand.engine.pending_change import Backlog, Pending


def pending(id: int, fetched_at: datetime = NOW) -> Pending:
    row = msgspec.structs.replace(ROW, id=JobId(id), attempted_at=fetched_at)
    change = StateChange(
        row.id, JobState.COMPLETED, EventKind.JOB_COMPLETED, finalized_at=NOW, attempted_at=fetched_at
    )
    return Pending(change, Attempt(row), 0.0, is_plain=True)


def backlog_of(*changes: Pending) -> Backlog:
    backlog = Backlog()
    for one in changes:
        backlog.add(one)
    return backlog


def test_changes_are_taken_in_the_order_of_their_hand_over() -> None:
    """A batch has the first changes; those that are put back come before the others again."""
    changes = [pending(3), pending(1), pending(2)]
    backlog = backlog_of(*changes)

    batch = backlog.take(2)
    left = [*backlog.values()]
    backlog.put_first(batch)

    assert (batch, left) == (changes[:2], changes[2:])
    assert (backlog.take(3), len(backlog)) == (changes, 0)


@pytest.mark.parametrize("is_later_first", [False, True])
def test_of_two_attempts_of_a_job_the_one_fetched_later_counts(
    is_later_first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The order of the hand-over decides nothing, and the change of the earlier attempt is logged."""
    earlier, later = pending(1, NOW), pending(1, NOW + timedelta(seconds=1))
    changes = [later, earlier] if is_later_first else [earlier, later]

    with caplog.at_level(logging.WARNING, "millhand.engine"):
        backlog = backlog_of(*changes)

    assert backlog.take(2) == [later]
    assert [record.msg for record in caplog.records] == ["outcome came too late"]
