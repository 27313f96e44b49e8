"""What is told of a database that is away: its beginning and its end, whatever number of parts notice."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from millhand.errors import ConnectionLost, DriverError, MillhandError, NotFound, OperationTimeout
from millhand.runtime.outage import CALM_SECONDS, CALM_SECONDS_MAX, Outage, is_away, level_of


def lost() -> ConnectionLost:
    return ConnectionLost("job_get_available", "gone")


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records]


def opened(count_kept: Callable[[], int]) -> Outage:
    outage = Outage()
    outage.open(count_kept)
    return outage


@pytest.fixture
async def outage(caplog: pytest.LogCaptureFixture) -> Outage:
    caplog.set_level(logging.DEBUG, "millhand.runtime.outage")
    return opened(lambda: 7)


async def test_outage_is_two_lines_whatever_number_notices(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    """Failures by the dozen are one line, and so are the answers that follow; the second says what was kept."""
    for _ in range(12):
        outage.record_failed(lost(), outage.now())
    for _ in range(12):
        outage.record_answered(outage.now() + 1)
    outage.close()

    assert told(caplog) == ["database unreachable", "database back"]
    begin, end = caplog.records
    assert (begin.levelname, begin.error) == ("WARNING", "job_get_available must succeed, got gone")
    assert (end.levelname, end.num_kept) == ("INFO", 7)
    assert 0 <= end.seconds < 5
    assert not outage.is_on


async def test_answer_to_what_was_sent_before_the_failure_ends_nothing(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    """It may have been given before the database went."""
    sent = outage.now()
    outage.record_failed(lost(), sent)
    outage.record_answered(sent - 1)
    outage.close()

    assert told(caplog) == ["database unreachable"]


async def test_failure_among_answers_goes_on(outage: Outage, caplog: pytest.LogCaptureFixture) -> None:
    """A database that answers one and not the other is not back yet."""
    outage.record_failed(lost(), outage.now())
    outage.record_answered(outage.now() + 1)
    outage.record_failed(lost(), outage.now() + 1)

    outage.close()
    assert told(caplog) == ["database unreachable"]


async def test_straggler_of_an_outage_begins_no_other(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    """What was sent before the first answer came again, and ends later, was told with the outage, however it ends."""
    sent = outage.now()
    outage.record_failed(lost(), sent)
    outage.record_answered(outage.now() + 1)
    late, silent = lost(), OperationTimeout("leader_attempt_elect", 5.0)
    outage.record_failed(late, sent)
    outage.close()
    outage.record_failed(silent, sent)

    assert told(caplog) == ["database unreachable", "database back"]
    assert is_away(late)
    assert is_away(silent)


async def test_deadline_that_passes_in_an_outage_is_of_it(outage: Outage) -> None:
    """Something else may have come through meanwhile; while the database is not back, that is no other trouble."""
    sent = outage.now()
    outage.record_failed(lost(), sent)
    outage.record_answered(sent - 1)
    silent = OperationTimeout("leader_attempt_elect", 5.0)
    outage.record_failed(silent, sent - 2)

    assert is_away(silent)


async def test_client_that_cannot_listen_is_not_back(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    """Statements that are answered do not end it while the connection that listens is missing."""
    outage.record_listener_lost()
    outage.record_answered(outage.now() + 1)
    outage.close()
    assert told(caplog) == ["database unreachable"]

    outage.record_listener_connected()
    outage.close()
    assert told(caplog) == ["database unreachable", "database back"]


async def test_what_was_written_before_notifications_are_heard_again_was_kept_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An outcome that came while the database was away, and was written while nothing was heard yet, is counted."""
    caplog.set_level(logging.DEBUG, "millhand.runtime.outage")
    kept = [0]
    outage = opened(lambda: kept[0])
    outage.record_listener_lost()
    kept[0] = 1
    outage.record_answered(outage.now() + 1)
    kept[0] = 0
    outage.record_listener_connected()
    outage.close()

    assert caplog.records[-1].num_kept == 1


@pytest.mark.parametrize(
    ("error", "is_gone"),
    [
        (lambda: ConnectionLost("fetch", "terminated", sqlstate="57P01"), True),
        (lambda: ConnectionLost("fetch", "cannot execute UPDATE in a read-only transaction", sqlstate="25006"), True),
        (lambda: OperationTimeout("fetch", 10.0), True),
        (lambda: DriverError("fetch", "deadlock detected", retryable=True, sqlstate="40P01"), False),
        (lambda: NotFound("job", 1), False),
    ],
    ids=["lost", "read only", "silent", "deadlock", "not found"],
)  # fmt: skip
async def test_gone_is_what_does_not_answer_or_takes_no_writes(
    outage: Outage, error: Callable[[], MillhandError], is_gone: bool
) -> None:
    """A refusal is an answer. What is gone was told, so that others need not."""
    raised = error()
    assert not is_away(raised)

    outage.record_failed(raised, outage.now())

    assert (outage.is_on, is_away(raised)) == (is_gone, is_gone)
    assert level_of(raised) == (logging.DEBUG if is_gone else logging.WARNING)


async def test_statement_that_others_hold_up_is_no_outage(outage: Outage) -> None:
    """A deadline that passes while others are answered is told of by whoever set it."""
    error = OperationTimeout("job_complete_many", 10.0)
    sent = outage.now() - 10.0
    outage.record_answered(sent)

    outage.record_failed(error, sent)

    assert (outage.is_on, is_away(error)) == (False, False)


async def test_statement_that_was_on_its_way_when_the_database_went_is_of_the_outage() -> None:
    """An answer to another one, right after it was sent, and none since, says nothing for the database."""
    at = 100.0
    outage = opened(lambda: 0)
    outage.now = lambda: at
    outage.record_answered(at)
    at = 104.9
    error = OperationTimeout("client_heartbeat", 5.0)

    outage.record_failed(error, sent=99.9)

    assert (outage.is_on, is_away(error)) == (True, True)


async def test_database_that_comes_and_goes_is_told_of_more_seldom(outage: Outage) -> None:
    """Each time that it goes again so soon it must be back for longer, up to half a minute."""
    waits = []
    for _ in range(7):
        outage.record_failed(lost(), outage.now())
        outage.record_answered(outage.now() + 1)
        waits.append(outage._calm_seconds)
        outage._end()

    assert waits == [CALM_SECONDS, 2.0, 4.0, 8.0, 16.0, CALM_SECONDS_MAX, CALM_SECONDS_MAX]
