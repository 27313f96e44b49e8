"""Claims about the verdicts of probes."""

from __future__ import annotations

import pytest

from millhand.observe.health import (
    OK,
    ProcessAnswer,
    Verdict,
    WorkerHealth,
    WorkerState,
    all_live,
    all_ready,
    live,
    ready,
    startup,
)

LIMIT = 120.0
AT = "shop/jobs.py:21 send"


def health(
    state: WorkerState, *, is_started: bool = True, reachable: bool = True, seconds: float = 0.0
) -> WorkerHealth:
    return WorkerHealth(
        state=state, is_started=is_started, is_database_reachable=reachable, loop_seconds=seconds
    )


@pytest.mark.parametrize(
    ("observed", "lines"),
    [
        (health(WorkerState.STARTING, is_started=False), ("starting", "starting", "ok")),
        (health(WorkerState.WORKING), ("ok", "ok", "ok")),
        (health(WorkerState.WORKING, reachable=False), ("ok", "database unreachable", "ok")),
        (health(WorkerState.STOPPING), ("ok", "stopping", "ok")),
        (health(WorkerState.STOPPING, is_started=False), ("starting", "stopping", "ok")),
        (health(WorkerState.WORKING, seconds=LIMIT), ("ok", "ok", "ok")),
        (
            health(WorkerState.WORKING, seconds=LIMIT + 0.1),
            ("ok", "ok", f"event loop hangs for 120.1 s at {AT}"),
        ),
        (
            health(WorkerState.STOPPING, reachable=False, seconds=300.0),
            ("ok", "stopping", f"event loop hangs for 300.0 s at {AT}"),
        ),
    ],
)
def test_worker_answers_each_probe(observed: WorkerHealth, lines: tuple[str, ...]) -> None:
    """Only a hung loop makes live fail; start, stop and database make ready fail; startup fails until the start."""
    verdicts = startup(observed), ready(observed), live(observed, LIMIT, AT)

    assert tuple(verdict.line for verdict in verdicts) == lines
    assert [verdict.is_ok for verdict in verdicts] == [line == "ok" for line in lines]


@pytest.mark.parametrize(
    ("state", "reachable", "away", "verdict"),
    [
        (WorkerState.WORKING, True, [], OK),
        (WorkerState.WORKING, True, ["us"], Verdict(is_ok=True, line="ok; database unreachable us")),
        (WorkerState.WORKING, False, ["eu", "us"], Verdict(is_ok=False, line="database unreachable eu us")),
        (WorkerState.STARTING, False, ["eu", "us"], Verdict(is_ok=False, line="starting")),
    ],
)
def test_worker_of_several_databases_is_ready_while_one_answers(
    state: WorkerState, reachable: bool, away: list[str], verdict: Verdict
) -> None:
    """The line names the databases that do not answer, whatever the verdict."""
    observed = WorkerHealth(
        state=state, is_started=True, is_database_reachable=reachable, loop_seconds=0.0, away=away
    )

    assert ready(observed) == verdict


HUNG = Verdict(is_ok=False, line="event loop hangs for 130.0 s at jobs.py:3 f")
AWAY = Verdict(is_ok=False, line="database unreachable")


def silent(seconds: float, *, has_answered: bool = True) -> ProcessAnswer:
    return ProcessAnswer(verdict=None, has_answered=has_answered, unanswered_seconds=seconds)


@pytest.mark.parametrize(
    ("answers", "line"),
    [
        ({}, "ok"),
        ({0: ProcessAnswer(verdict=OK), 1: ProcessAnswer(verdict=OK)}, "ok"),
        ({0: ProcessAnswer(verdict=OK), 1: ProcessAnswer(verdict=HUNG)}, f"process 1: {HUNG.line}"),
        ({1: silent(LIMIT), 0: ProcessAnswer(verdict=OK)}, "ok"),
        ({1: silent(LIMIT + 1), 0: silent(LIMIT + 2)}, "process 0: no answer for 122.0 s; process 1: no answer for 121.0 s"),
        ({0: silent(500.0, has_answered=False)}, "ok"),
    ],
    ids=["none runs", "both live", "one hangs", "silent", "silent for long", "starting"],
)  # fmt: skip
def test_processes_are_live_unless_one_hangs(answers: dict[int, ProcessAnswer], line: str) -> None:
    """A hung or long silent process makes all fail; one that starts, restarts or is silent for a moment does not."""
    assert all_live(answers, LIMIT) == Verdict(is_ok=line == "ok", line=line)


@pytest.mark.parametrize(
    ("answers", "line"),
    [
        ({0: ProcessAnswer(verdict=OK), 1: ProcessAnswer(verdict=OK)}, "ok"),
        ({0: ProcessAnswer(verdict=OK)}, "process 1: not running"),
        ({0: ProcessAnswer(verdict=AWAY), 1: silent(0.5)}, "process 0: database unreachable; process 1: no answer"),
        ({0: ProcessAnswer(verdict=OK), 1: silent(0.5, has_answered=False)}, "process 1: starting"),
    ],
    ids=["both", "one exited", "away and silent", "one starts"],
)  # fmt: skip
def test_processes_are_ready_if_each_is(answers: dict[int, ProcessAnswer], line: str) -> None:
    """Each process must run and answer that it is ready."""
    assert all_ready(answers, range(2)) == Verdict(is_ok=line == "ok", line=line)
