"""Cancels at unusual moments, and the text and trace of errors."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar

import pytest

from millhand.core.config import Config
from millhand.core.event import EventKind
from millhand.core.hooks import AttemptFailure
from millhand.core.job import JobId, JobRow, JobState
from millhand.core.transition import StateChange
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.engine.attempt import Attempt, CancelReason
from millhand.engine.error_text import error_text, trace_of
from millhand.engine.job_executor import JobExecutor


@dataclass(frozen=True)
class Act:
    kind: ClassVar[str] = "act"


def _row() -> JobRow:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return JobRow(
        JobId(1), JobState.RUNNING, 1, 25, now, now, None, now, 1, "{}", ("me",), (), "act", {}, "default", (), None, None
    )  # fmt: skip


def _executor(workers: Workers, changes: list[StateChange]) -> JobExecutor:
    async def keep_failing(failure: AttemptFailure) -> bool:
        return False

    return JobExecutor(
        Config(workers=workers),
        client=None,
        hand_over=lambda change, _: changes.append(change),
        handle_failure=keep_failing,
        on_stuck=lambda _: None,
    )


@pytest.mark.parametrize(
    ("reason", "emitted"),
    [(CancelReason.REMOTE, EventKind.JOB_CANCELLED), (CancelReason.STOPPING, EventKind.JOB_INTERRUPTED)],
)
async def test_attempt_cancelled_before_its_first_step_is_settled(
    reason: CancelReason, emitted: EventKind
) -> None:
    """The worker is not called, and the job gets its outcome."""
    called: list[object] = []
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        called.append(job)

    changes: list[StateChange] = []
    executor = _executor(workers, changes)
    attempt = Attempt(_row())
    attempt.task = asyncio.create_task(executor.execute(attempt))
    attempt.cancel(reason)
    await attempt.task
    executor.close()

    assert [change.event_kind for change in changes] == [emitted]
    assert called == []


async def test_attempt_cannot_be_cancelled_once_it_is_settled() -> None:
    """A late cancel changes nothing."""
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None: ...

    changes: list[StateChange] = []
    executor = _executor(workers, changes)
    attempt = Attempt(_row())
    attempt.task = asyncio.create_task(executor.execute(attempt))
    await attempt.task
    attempt.cancel(CancelReason.REMOTE)
    executor.close()

    assert (attempt.reason, [change.state for change in changes]) == (None, [JobState.COMPLETED])


async def test_remote_cancel_wins_over_a_stop() -> None:
    """A job that is cancelled while the client stops ends cancelled."""
    started = asyncio.Event()
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        started.set()
        await asyncio.Event().wait()

    changes: list[StateChange] = []
    executor = _executor(workers, changes)
    attempt = Attempt(_row())
    attempt.task = asyncio.create_task(executor.execute(attempt))
    await started.wait()
    attempt.cancel(CancelReason.STOPPING)
    attempt.cancel(CancelReason.REMOTE)
    await attempt.task
    executor.close()

    assert [change.state for change in changes] == [JobState.CANCELLED]


class Unspeakable(Exception):
    """An error whose text raises."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_error_text_has_type_and_text_and_never_raises() -> None:
    """Without a text it is the type; a text that raises is replaced."""
    texts = [error_text(error) for error in (ValueError("bad"), KeyError("k"), TimeoutError(), Unspeakable())]

    assert texts == [
        "ValueError: bad",
        "KeyError: 'k'",
        "TimeoutError",
        "Unspeakable: <its text raised RuntimeError>",
    ]


def test_error_text_is_bounded() -> None:
    """A text of megabytes is cut."""
    assert error_text(ValueError("x" * 5_000_000)) == f"ValueError: {'x' * 16 * 1024}… (5,000,000 characters)"


def test_trace_keeps_the_innermost_frames() -> None:
    """A trace that is too long loses its outermost frames."""

    def deep(n: int, text: str) -> None:
        if n % 2:
            deep(n - 1, text)
        if n:
            deep(n - 1, text)
        raise ValueError(text)

    with pytest.raises(ValueError, match="x") as talkative:
        deep(3, "x" * 20_000)
    with pytest.raises(ValueError, match="short") as nested:
        deep(300, "short")

    traces = [trace_of(raised.value) for raised in (talkative, nested)]
    assert [len(trace) <= 16 * 1024 + 1 for trace in traces] == [True, True]
    assert "in deep" in traces[0]
    assert traces[0].endswith("xxx")
    assert traces[1].startswith("…")
    assert traces[1].endswith("ValueError: short\n")
