"""
The attempts of a job as a picture: when it was inserted, each attempt, the time between them, and what comes next.

A job may be retried after seconds and after days, so the widths grow with the logarithm of the time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from millhand.core.job import JobState
from millhand.core.number_text import age, duration
from millhand.engine.store.job_details import JobDetails
from millhand.web.attempts import Attempt, AttemptOutcome

WIDTH = 1_000.0
ATTEMPTS_MAX = 8
_TONES = {
    AttemptOutcome.CANCELLED: "cancelled",
    AttemptOutcome.FAILED: "discarded",
    AttemptOutcome.RESCUED: "retryable",
    AttemptOutcome.RUNNING: "running",
    AttemptOutcome.SUCCEEDED: "completed",
    AttemptOutcome.UNKNOWN: "cancelled",
}
# The least widths of a block and of the line between two: their texts must fit.
_BLOCK, _LINE = 58.0, 46.0
_GAP = 2.0
_DUE = (JobState.RETRYABLE, JobState.SCHEDULED)


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """One part of the picture. A block has a CSS class and a text above it; a line has a text in its middle."""

    x: float
    width: float
    tone: str
    above: str = ""
    inside: str = ""
    is_line: bool = False


class Timeline(msgspec.Struct, frozen=True):
    """The picture, and the same in words."""

    pieces: tuple[Piece, ...]
    text: str


class _Part(NamedTuple):
    seconds: float | None
    tone: str
    above: str = ""
    inside: str = ""
    is_line: bool = False


def timeline(job: JobDetails, attempts: Sequence[Attempt], now: datetime) -> Timeline | None:
    """Return the timeline of a job, or None before its first attempt. `attempts` has the newest first."""
    known = [attempt for attempt in reversed(attempts) if attempt.started_at is not None]
    if not known:
        return None
    parts = list(_parts(job, known[-ATTEMPTS_MAX:], now))
    return Timeline(tuple(_placed(parts)), _sentence(parts))


def _parts(job: JobDetails, attempts: Sequence[Attempt], now: datetime) -> Iterator[_Part]:
    first = attempts[0]
    since = _between(job.created_at, first.started_at)
    is_whole = first.number == 1
    yield _Part(since, "available", "waited" if is_whole else "earlier", duration(since))
    for attempt, following in zip(attempts, [*attempts[1:], None], strict=True):
        ended_at = attempt.ended_at
        if attempt.outcome is AttemptOutcome.RUNNING:
            ended_at = now
        taken = _between(attempt.started_at, ended_at)
        yield _Part(
            taken, _TONES[attempt.outcome], f"{attempt.number} {attempt.outcome.value}", duration(taken)
        )
        if following is not None:
            pause = _between(ended_at or attempt.started_at, following.started_at)
            yield _Part(pause, "line", inside=duration(pause), is_line=True)
    if job.state in _DUE and job.scheduled_at > now:
        pause = _between(now, job.scheduled_at)
        yield _Part(pause, "line", inside=f"next in {age(pause or 0)}", is_line=True)


def _placed(parts: Sequence[_Part]) -> Iterator[Piece]:
    """Yield the parts from left to right: each gets its least width, and a share of what is left by its time."""
    least = [_LINE if part.is_line else _BLOCK for part in parts]
    weights = [math.log1p(part.seconds or 0) for part in parts]
    total = math.fsum(weights) or 1.0
    left = max(0.0, WIDTH - math.fsum(least))
    # A short history is not stretched to the whole width.
    left = min(left, 110.0 * len(parts))
    x = 0.0
    for part, at_least, weight in zip(parts, least, weights, strict=True):
        width = at_least + left * weight / total
        yield Piece(
            x=round(x, 1),
            width=round(width - _GAP, 1),
            tone=part.tone,
            above=part.above,
            inside=part.inside,
            is_line=part.is_line,
        )
        x += width


def _sentence(parts: Sequence[_Part]) -> str:
    said = []
    for part in parts:
        if part.is_line:
            said.append(part.inside if part.inside.startswith("next") else f"then {part.inside}")
        else:
            said.append(f"{part.above} {part.inside}".strip())
    return "Timeline: " + ", ".join(said) + "."


def _between(start: datetime | None, end: datetime | None) -> float | None:
    """Return the seconds between two instants. Clocks of two machines may differ, so none is below zero."""
    if start is None or end is None:
        return None
    return max(0.0, (end - start).total_seconds())
