"""The outage detector: when an outage begins and ends, and its log lines."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from millhand.core.errors import ConnectionLost, DriverError, MillhandError, NotFound, OperationTimeout
from millhand.engine.outage import CALM_SECONDS, CALM_SECONDS_MAX, Outage, OutageListener, is_away, level_of


def lost() -> ConnectionLost:
    return ConnectionLost("job_get_available", "gone")


def emitted(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.msg for record in caplog.records]


def opened(count_kept: Callable[[], int]) -> Outage:
    outage = Outage()
    outage.open(count_kept)
    return outage


@pytest.fixture
async def outage(caplog: pytest.LogCaptureFixture) -> Outage:
    caplog.set_level(logging.DEBUG, "millhand.engine.outage")
    return opened(lambda: 7)


async def test_outage_has_two_log_lines(outage: Outage, caplog: pytest.LogCaptureFixture) -> None:
    """Any number of failures logs one line, and any number of answers another, with the number of kept outcomes."""
    for _ in range(12):
        outage.record_failed(lost(), outage.now())
    for _ in range(12):
        outage.record_answered(outage.now() + 1)
    outage.close()

    assert emitted(caplog) == ["database unreachable", "database back"]
    begin, end = caplog.records
    assert (begin.levelname, begin.error) == ("WARNING", "job_get_available must succeed, got gone")
    assert (end.levelname, end.num_kept) == ("INFO", 7)
    assert 0 <= end.seconds < 5
    assert not outage.is_on


async def test_each_reason_of_an_outage_is_logged_once(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that refuses for another reason than before is logged; one that stops and starts has no other reason."""
    restarts, stopped = ConnectionLost("x", "starts", sqlstate="57P03"), lost()
    standby = ConnectionLost("x", "a standby", sqlstate="25006")
    refusal = ConnectionLost("x", "wrong password", sqlstate="28P01")
    for error in (stopped, restarts, standby, standby, refusal, stopped, standby):
        outage.record_failed(error, outage.now())
    outage.record_answered(outage.now() + 1)
    outage.close()

    assert [(record.msg, getattr(record, "error", None)) for record in caplog.records] == [
        ("database unreachable", str(stopped)),
        ("database still unreachable", str(standby)),
        ("database still unreachable", str(refusal)),
        ("database back", None),
    ]


async def test_listener_that_is_back_first_ends_the_outage(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    """If the listener connects before a statement is answered, the recovery takes no time, and never less."""
    now = 100.0
    outage.now = lambda: now
    outage.record_failed(lost(), 99.0)
    now = 110.0
    outage.record_listener_connected()
    now = 112.0
    outage.record_answered(111.0)
    outage.close()

    end = caplog.records[-1]
    assert (end.msg, end.seconds, end.recovery_seconds) == ("database back", 10.0, 0.0)


async def test_answer_to_an_earlier_statement_does_not_end_an_outage(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    """It may have been sent before the outage began."""
    sent = outage.now()
    outage.record_failed(lost(), sent)
    outage.record_answered(sent - 1)
    outage.close()

    assert emitted(caplog) == ["database unreachable"]


async def test_failure_among_answers_continues_the_outage(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    """The database is not back while another statement fails."""
    outage.record_failed(lost(), outage.now())
    outage.record_answered(outage.now() + 1)
    outage.record_failed(lost(), outage.now() + 1)

    outage.close()
    assert emitted(caplog) == ["database unreachable"]


async def test_late_failure_begins_no_other_outage(outage: Outage, caplog: pytest.LogCaptureFixture) -> None:
    """A statement sent before the first answer belongs to the outage, even if it fails after its end."""
    sent = outage.now()
    outage.record_failed(lost(), sent)
    outage.record_answered(outage.now() + 1)
    late, silent = lost(), OperationTimeout("leader_attempt_elect", 5.0)
    outage.record_failed(late, sent)
    outage.close()
    outage.record_failed(silent, sent)

    assert emitted(caplog) == ["database unreachable", "database back"]
    assert is_away(late)
    assert is_away(silent)


async def test_timeout_during_an_outage_belongs_to_it(outage: Outage) -> None:
    """Even if another statement was answered meanwhile."""
    sent = outage.now()
    outage.record_failed(lost(), sent)
    outage.record_answered(sent - 1)
    silent = OperationTimeout("leader_attempt_elect", 5.0)
    outage.record_failed(silent, sent - 2)

    assert is_away(silent)


async def test_outage_lasts_while_the_listener_is_lost(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    """Answers to statements do not end it before the listener is connected again."""
    outage.record_listener_lost()
    outage.record_answered(outage.now() + 1)
    outage.close()
    assert emitted(caplog) == ["database unreachable"]

    outage.record_listener_connected()
    outage.close()
    assert emitted(caplog) == ["database unreachable", "database back"]


class ReadOnlyListener:
    """A listener that a standby accepts and does not let listen."""

    async def connect(self) -> None: ...

    async def listen(self, topic: str, _receive: Callable[[str], None]) -> None:
        raise ConnectionLost(topic, "cannot execute LISTEN during recovery", sqlstate="25006")


async def test_listener_that_connects_and_may_not_listen_ends_no_outage(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    """However late the refusal comes: until then, the outage is not about to be over."""
    listener = OutageListener(ReadOnlyListener(), outage)  # type: ignore[arg-type]  # all that is called
    outage.record_listener_lost()

    await listener.connect()
    was_reachable = outage.is_reachable
    with pytest.raises(ConnectionLost):
        await listener.listen("river_insert", print)
    outage.close()

    assert not was_reachable
    assert emitted(caplog) == ["database unreachable", "database still unreachable"]  # now as a standby


async def test_answer_ends_the_pauses_of_others_at_most_once_a_second() -> None:
    """A lost listener need not wait for the end of its pause, and connects no faster than that where it alone fails."""
    outage, woken, now = Outage(), [], [100.0]
    outage.open(int, wake=lambda: woken.append(now[0]))
    outage.now = lambda: now[0]
    outage.record_answered(now[0])
    outage.record_listener_lost()
    outage.record_answered(now[0] - 1)  # sent before the loss

    for _ in range(10):
        now[0] += 0.25
        outage.record_answered(now[0])
        outage.record_listener_lost(lost())  # it failed again
    outage.record_listener_connected()
    now[0] += 2
    outage.record_answered(now[0])
    outage.close()

    assert woken == [100.25, 101.25, 102.25, 104.5]


async def test_end_of_an_outage_tells_the_recovery_from_the_outage(caplog: pytest.LogCaptureFixture) -> None:
    """The database was away until its first answer; until the listener was connected, the client recovered."""
    caplog.set_level(logging.INFO, "millhand.engine.outage")
    outage, now = Outage(), [100.0]
    outage.open(int)
    outage.now = lambda: now[0]
    outage.record_listener_lost()
    for seconds in (20, 4):
        now[0] += seconds
        outage.record_answered(now[0])
    outage.record_listener_connected()
    outage.close()

    end: Any = caplog.records[-1]
    assert (end.msg, end.seconds, end.recovery_seconds) == ("database back", 20.0, 4.0)


async def test_outcomes_written_before_the_listener_is_back_count_as_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The number is the largest during the outage."""
    caplog.set_level(logging.DEBUG, "millhand.engine.outage")
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
async def test_lost_connections_and_timeouts_begin_an_outage(
    outage: Outage, error: Callable[[], MillhandError], is_gone: bool
) -> None:
    """An error of the database is an answer; errors covered by the outage have `is_away`."""
    raised = error()
    assert not is_away(raised)

    outage.record_failed(raised, outage.now())

    assert (outage.is_on, is_away(raised)) == (is_gone, is_gone)
    assert level_of(raised) == (logging.DEBUG if is_gone else logging.WARNING)


async def test_statement_that_waits_for_a_lock_is_no_outage(outage: Outage) -> None:
    """A timeout while other statements are answered is logged by its caller."""
    error = OperationTimeout("job_complete_many", 10.0)
    sent = outage.now() - 10.0
    outage.record_answered(sent)

    outage.record_failed(error, sent)

    assert (outage.is_on, is_away(error)) == (False, False)


async def test_timeout_without_a_recent_answer_is_an_outage() -> None:
    """An answer right after the statement was sent, and none since, does not count."""
    at = 100.0
    outage = opened(lambda: 0)
    outage.now = lambda: at
    outage.record_answered(at)
    at = 104.9
    error = OperationTimeout("client_heartbeat", 5.0)

    outage.record_failed(error, sent=99.9)

    assert (outage.is_on, is_away(error)) == (True, True)


async def test_repeated_outages_are_logged_less_often(outage: Outage) -> None:
    """After each outage that follows soon, the database must be back for longer, up to half a minute."""
    waits = []
    for _ in range(7):
        outage.record_failed(lost(), outage.now())
        outage.record_answered(outage.now() + 1)
        waits.append(outage._calm_seconds)
        outage._end()

    assert waits == [CALM_SECONDS, 2.0, 4.0, 8.0, 16.0, CALM_SECONDS_MAX, CALM_SECONDS_MAX]


async def test_database_is_reachable_from_its_first_answer(outage: Outage) -> None:
    """Readiness follows the last answer; it does not wait until the outage is logged as over."""
    before = outage.is_reachable
    outage.record_failed(lost(), outage.now())
    during = outage.is_reachable
    outage.record_answered(outage.now() + 1)

    assert (before, during, outage.is_reachable, outage.is_on) == (True, False, True, True)


@pytest.mark.parametrize(("late", "is_gone"), [(1.0, True), (2.9, True), (3.0, False), (6.0, False)])
@pytest.mark.parametrize("is_listener", [False, True])
async def test_timeout_of_a_blocked_loop_is_no_outage(
    late: float, is_gone: bool, is_listener: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """If the loop was blocked for half of the wait; a lost connection is one, however late the loop is."""
    outage, error = Outage(), OperationTimeout("leader_get_view", 5.0)
    outage.open(int, late_seconds=lambda _since: late)
    outage.now = lambda: 106.0

    if is_listener:
        outage.record_listener_lost(error, 100.0)
    else:
        outage.record_failed(error, 100.0)
        assert level_of(error) == logging.DEBUG

    assert outage.is_on is is_gone
    assert emitted(caplog) == ["database unreachable"] * is_gone
    outage.record_failed(lost(), 100.0)
    assert outage.is_on
