from __future__ import annotations

from datetime import datetime, timedelta

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from template_samples import NOW, details

from millhand.core.job import AttemptError, JobState
from millhand.web.attempts import attempts_of
from millhand.web.timeline import ATTEMPTS_MAX, WIDTH, Timeline, timeline


def of(state: JobState = JobState.RETRYABLE, **changes: object) -> Timeline | None:
    job = msgspec.structs.replace(details(state), **changes)
    return timeline(job, attempts_of(job), NOW)


def test_timeline_says_what_it_shows() -> None:
    """The text for a screen reader has every attempt in its order, the pauses, and what comes next."""
    shown = of()
    assert shown is not None

    assert shown.text == (
        "Timeline: waited 0 ms, 1 failed, then 11 s, 2 failed, then 17 s, 3 failed, then 1 min 45 s, 4 rescued, "
        "then 6 min 58 s, 5 failed, next in 9 min."
    )
    assert [piece.tone for piece in shown.pieces if not piece.is_line] == [
        "available",
        "discarded",
        "discarded",
        "discarded",
        "retryable",
        "discarded",
    ]


def test_running_attempt_lasts_until_now() -> None:
    """The block of an attempt that runs has the time since it began."""
    shown = of(JobState.RUNNING, attempted_at=NOW - timedelta(seconds=90), attempt=6)
    assert shown is not None

    assert shown.pieces[-1].above == "6 running"
    assert shown.pieces[-1].inside == "1 min 30 s"


def test_job_without_an_attempt_has_no_timeline() -> None:
    """Before the first attempt there is nothing to draw."""
    assert of(JobState.AVAILABLE, attempt=0, errors=(), logs={}) is None


@given(st.lists(st.floats(0, 1e8), min_size=1, max_size=100), st.floats(-1e8, 1e8))
def test_pieces_follow_each_other_inside_of_the_box(pauses: list[float], until_next: float) -> None:
    """However long the pauses are, no piece overlaps another or leaves the box, and the newest attempts are shown."""
    at = NOW - timedelta(days=36_500)
    errors = [
        AttemptError(_later(at, sum(pauses[:number])), number, "E") for number in range(1, len(pauses) + 1)
    ]
    shown = of(
        created_at=at,
        attempt=len(errors),
        errors=tuple(reversed(errors)),
        num_errors=len(errors),
        attempted_by=(),
        scheduled_at=NOW + timedelta(seconds=until_next),
    )
    assert shown is not None

    end = 0.0
    for piece in shown.pieces:
        assert piece.x >= end - 0.11
        assert piece.width > 0
        end = piece.x + piece.width
    assert end <= WIDTH
    assert sum(not piece.is_line for piece in shown.pieces) == 1 + min(len(errors), ATTEMPTS_MAX)


def _later(at: datetime, seconds: float) -> datetime:
    return at + timedelta(seconds=seconds)
