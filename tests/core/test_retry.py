from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from language_values import NOW, errors, row

from factory import golden
from millhand.core.job import JobRow
from millhand.core.retry import (
    DELAY_MAX,
    ConstantRetryPolicy,
    DefaultRetryPolicy,
    checked_retry_at,
    retry_delay,
)

ROWS = golden("retry_schedule")["rows"]
MICROSECOND = 1e-6


class Fixed:
    """A source of random numbers that returns one number."""

    def __init__(self, jitter: float) -> None:
        self.policy = DefaultRetryPolicy(lambda: jitter)


@pytest.mark.parametrize("recorded", ROWS, ids=lambda recorded: f"{recorded['num_errors']} errors")
def test_default_policy_keeps_rivers_bounds(recorded: dict[str, Any]) -> None:
    """deterministic_retry_clock_rng; with a given clock and random source, the waits are River's recorded ones."""
    job = row(errors=errors(recorded["num_errors"]))

    waits = [Fixed(jitter).policy.next_retry_at(job, now=NOW) - NOW for jitter in (0.0, 0.5, 1.0)]

    expected = [recorded["min_seconds"], recorded["base_seconds"], recorded["max_seconds"]]
    assert [wait.total_seconds() for wait in waits] == pytest.approx(expected, rel=1e-12, abs=MICROSECOND)


def test_default_policy_waits_as_river_was_seen_to_wait() -> None:
    """The recorded waits lie within the bounds and close to them."""
    for recorded in ROWS:
        nth = recorded["nth_failure"]
        shortest, longest = retry_delay(nth, 0.0).total_seconds(), retry_delay(nth, 1.0).total_seconds()
        assert shortest - 0.001 <= recorded["observed_min_seconds"]
        assert recorded["observed_max_seconds"] <= longest + 0.001


def test_default_policy_counts_errors_and_not_attempts() -> None:
    """A snoozed or interrupted attempt does not lengthen the next wait."""
    policy = DefaultRetryPolicy(lambda: 0.5)

    assert policy.next_retry_at(row(attempt=9, errors=errors(1)), now=NOW) == NOW + timedelta(seconds=16)


def test_default_policy_ends_at_the_longest_wait() -> None:
    """From the 310th failure on, a job waits 292 years, the longest duration in Go."""
    assert [retry_delay(309, 1.0), retry_delay(310, 0.0), retry_delay(10_000, 0.5)] == [DELAY_MAX] * 3
    assert timedelta(seconds=9_223_372_036, microseconds=854_775) == DELAY_MAX


@given(st.integers(1, 400), st.floats(0.0, 1.0))
def test_default_policy_stays_within_a_tenth(nth_failure: int, jitter: float) -> None:
    """With any jitter, a wait is within 10 % of n⁴ seconds, and never longer than the longest."""
    seconds = retry_delay(nth_failure, jitter).total_seconds()
    base = float(nth_failure) ** 4

    assert min(base * 0.9, DELAY_MAX.total_seconds()) - MICROSECOND <= seconds <= base * 1.1 + MICROSECOND
    assert seconds <= DELAY_MAX.total_seconds()


def test_default_policy_spreads_its_waits() -> None:
    """Jobs that failed together are retried at different times."""
    policy = DefaultRetryPolicy()

    assert len({policy.next_retry_at(row(errors=errors(5)), now=NOW) for _ in range(20)}) > 1


def test_default_policy_does_not_leave_the_calendar() -> None:
    """A wait beyond year 9999 ends with that year."""
    late = datetime(9900, 1, 1, tzinfo=UTC)

    assert DefaultRetryPolicy().next_retry_at(row(errors=errors(400)), now=late) == datetime.max.replace(
        tzinfo=UTC
    )


def test_constant_policy_waits_the_same() -> None:
    """The first and the tenth wait are equal."""
    policy = ConstantRetryPolicy(timedelta(seconds=30))

    waits = [policy.next_retry_at(row(errors=errors(number)), now=NOW) - NOW for number in (0, 9)]

    assert waits == [timedelta(seconds=30), timedelta(seconds=30)]


def test_constant_policy_rejects_a_negative_delay() -> None:
    """The error comes when the policy is made."""
    with pytest.raises(ValueError) as refusal:
        ConstantRetryPolicy(timedelta(seconds=-1))

    assert (
        str(refusal.value)
        == "retry delay must not be negative, got datetime.timedelta(days=-1, seconds=86399)"
    )


class BrokenText(Exception):
    """An error whose `str` raises."""

    def __str__(self) -> str:
        raise RuntimeError


class Answer:
    """A policy that returns one answer, or raises it."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def next_retry_at(self, job: JobRow, *, now: datetime) -> datetime:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]


@pytest.mark.parametrize("retry_at", [NOW, NOW + timedelta(days=3)])
def test_checked_retry_at_returns_any_future_instant(
    retry_at: datetime, caplog: pytest.LogCaptureFixture
) -> None:
    """A policy may choose any instant from now on."""
    assert checked_retry_at(Answer(retry_at), row(), NOW) == retry_at
    assert not caplog.records


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (
            NOW - timedelta(microseconds=1),
            (
                "next retry must not be before now, got datetime.datetime(2024, 5, 1, 10, 34, 56, 788999, "
                "tzinfo=datetime.timezone.utc)"
            ),
        ),
        (
            datetime.fromisoformat("2030-01-01"),
            "next retry must have a time zone, got datetime.datetime(2030, 1, 1, 0, 0)",
        ),
        (None, "next retry must be a datetime, got None"),
        (KeyError("delay"), "KeyError: 'delay'"),
        (BrokenText(), f"{__name__}.BrokenText: <exception str() failed>"),
        (SystemExit("no plan"), "SystemExit: no plan"),
    ],
)
def test_checked_retry_at_falls_back_with_a_warning(
    answer: Any, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An unusable policy causes a warning and the default wait."""
    retry_at = checked_retry_at(Answer(answer), row(id=7, errors=errors(1)), NOW)

    assert timedelta(seconds=14.4) <= retry_at - NOW <= timedelta(seconds=17.6)
    [record] = caplog.records
    assert (record.levelno, record.msg) == (logging.WARNING, "retry policy unusable, default used")
    assert {name: getattr(record, name) for name in ("job_id", "kind", "queue", "error")} == {
        "job_id": 7,
        "kind": "kind",
        "queue": "default",
        "error": fault,
    }
