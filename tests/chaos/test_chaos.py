"""That a chaos run follows from its seed, and that its audit notices what it is there for; `just chaos` is the run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from chaos_faults import INSERTER, KINDS, LANES, NUM_WORKERS, plan_faults
from chaos_fleet import Life, Trouble
from chaos_journal import Execution, Journal, read_journals
from chaos_load import Load
from chaos_plan import THREAD_KIND, ChaosJob
from chaos_rows import RESCUED, RESCUED_BY_US, Row
from chaos_verdict import Evidence, Settled, Tick, judge, tick_of

TEN_MINUTES = 600.0


def test_faults_follow_from_their_seed() -> None:
    """A run can be played again: the same seed gives the same faults, another one others."""
    assert plan_faults(7, TEN_MINUTES) == plan_faults(7, TEN_MINUTES)
    assert plan_faults(7, TEN_MINUTES) != plan_faults(8, TEN_MINUTES)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_ten_minutes_hold_all_faults(seed: int) -> None:
    """Each fault comes, in its lane, which does one after the other, and at workers that there are."""
    faults = plan_faults(seed, TEN_MINUTES)

    assert {fault.name for fault in faults} == set(KINDS)
    assert {fault.who for fault in faults} == {*range(NUM_WORKERS), INSERTER}
    assert all(fault.who < NUM_WORKERS for fault in faults if KINDS[fault.name].lane != "way")
    for lane in LANES:
        own = [fault for fault in faults if KINDS[fault.name].lane == lane]
        assert all(before.at + before.seconds < after.at for before, after in pairwise(own))
        assert own[-1].at + own[-1].seconds <= TEN_MINUTES


def test_two_minutes_hold_most_faults() -> None:
    """A run that is short leaves out what takes longer than two minutes itself, and hardly anything else."""
    names = {fault.name for seed in range(3) for fault in plan_faults(seed, 120.0)}

    assert names == set(KINDS) - {"freeze_longest"}


def test_only_the_faults_that_were_asked_for_are_planned() -> None:
    """What a run found can be looked for alone."""
    assert {fault.name for fault in plan_faults(1, TEN_MINUTES, ["kill", "cut"])} == {"kill", "cut"}


def test_jobs_follow_from_their_seed_and_some_are_long() -> None:
    """The load is the same at each run of a seed, and holds jobs that outlast a rescue."""
    assert Load(3, 60.0, 40.0).plan == Load(3, 60.0, 40.0).plan
    assert max(job.work_ms for job in Load(3, 60.0, 40.0).plan) > 15_000


def test_journal_that_is_synced_tells_of_tokens(tmp_path: Path) -> None:
    """Each execution has the token of its fetch, and how it ended."""
    journal = Journal(tmp_path / "0.1.journal", lambda: 5.0, is_synced=True)
    journal.note("begin", 1, 1, 0, "complete", 77)
    journal.note("end", 1, 1, 0, "give_way", 77)

    assert read_journals(tmp_path) == [
        Execution("0.1", 1, 1, 0, "complete", 5.0, 5.0, token=77, ended_by="give_way")
    ]


# The world below is in order: job 1 was killed at its first attempt and given back, and failed at its second; job 2 is
# unique; the answer to the batch of jobs 3 and 4 was lost, and it is not in.

PLAN = (
    ChaosJob(n=0, acts=("complete", "fail"), kind=THREAD_KIND, work_ms=1000),
    ChaosJob(n=1, is_unique=True),
    ChaosJob(n=2),
    ChaosJob(n=3),
)
ROWS = (
    Row(
        id=1,
        args=PLAN[0].args(),
        attempt=3,
        attempted_by=["a", "b", "b"],
        errors=[(1, f"{RESCUED_BY_US}: client 'a' stopped reporting"), (2, "boom")],
        metadata={"river:rescue_count": 1},
        state="completed",
    ),
    Row(
        id=2,
        args=PLAN[1].args(),
        attempt=1,
        attempted_by=["b"],
        errors=[],
        metadata={},
        state="completed",
        unique_key=b"k",
    ),
)
EXECUTIONS = (
    Execution("0.1", 1, 1, 0, "complete", 1010.0, token=1),
    Execution("1.1", 2, 1, 0, "complete", 1011.0, 1012.0, token=2, ended_by="complete"),
    Execution("1.1", 1, 2, 0, "fail", 1030.0, 1031.0, token=3, ended_by="fail"),
    Execution("1.1", 1, 3, 0, "complete", 1032.0, 1033.0, token=4, ended_by="complete"),
)
TICKS = tuple(Tick(due_at=at, created_at=at + 0.1) for at in range(1005, 1100, 5))


@pytest.fixture
def world(tmp_path: Path) -> Evidence:
    killed = _life(tmp_path, "0.1", "a", ended_at=1015.0, exit_code=-9, is_killed=True)
    stopped = _life(tmp_path, "1.1", "b", ended_at=1120.0, exit_code=0, is_told_to_stop=True)
    return Evidence(
        answers={0: ["inserted"], 1: ["inserted", "skipped"], 2: ["none"], 3: ["none"]},
        batches=[("none", [2, 3])],
        began_at=1000.0,
        ended_at=1100.0,
        epoch=0.0,
        executions=EXECUTIONS,
        faults=(),
        lives=(killed, stopped),
        plan=PLAN,
        rows=ROWS,
        rescued_at={(1, 1): 1027.0},
        settled={
            1: Settled(token=4, ended_at=1033.1),
            2: Settled(token=2, ended_at=1012.0),
        },
        ticks=TICKS,
        tick_seconds=5.0,
        troubles=(),
    )


def _life(directory: Path, name: str, client_id: str, **fields: Any) -> Life:
    log = directory / f"{name}.log"
    said = ["worker started"] + ["worker stopped"] * bool(fields.get("is_told_to_stop"))
    log.write_text("".join(f'{{"level": "info", "message": "{message}"}}\n' for message in said))
    who = int(name.partition(".")[0])
    # Nothing here asks the process anything.
    return Life(client_id=client_id, log=log, name=name, process=None, began_at=990.0, who=who, **fields)  # type: ignore[arg-type]


Change = Callable[[Evidence], Evidence]


def _world(**fields: Any) -> Change:
    return lambda world: dataclasses.replace(world, **fields)


def _row(id: int, **fields: Any) -> Change:
    def change(world: Evidence) -> Evidence:
        rows = [dataclasses.replace(row, **fields) if row.id == id else row for row in world.rows]
        return dataclasses.replace(world, rows=rows)

    return change


def _execution(index: int, **fields: Any) -> Change:
    def change(world: Evidence) -> Evidence:
        executions = list(world.executions)
        executions[index] = dataclasses.replace(executions[index], **fields)
        return dataclasses.replace(world, executions=executions)

    return change


def _life_of(index: int, **fields: Any) -> Change:
    def change(world: Evidence) -> Evidence:
        lives = list(world.lives)
        lives[index] = dataclasses.replace(lives[index], **fields)
        return dataclasses.replace(world, lives=lives)

    return change


def _logged(text: str) -> Change:
    def change(world: Evidence) -> Evidence:
        log = world.lives[1].log
        log.write_text(log.read_text() + text)
        return world

    return change


def _all(*changes: Change) -> Change:
    def change(world: Evidence) -> Evidence:
        for one in changes:
            world = one(world)
        return world

    return change


ALIVE = _life_of(0, ended_at=1120.0, exit_code=0, is_killed=False)
AWAY = Trouble(name="partition", who=0, began_at=1012.0, ended_at=1026.0)


def test_audit_has_nothing_to_say_of_a_world_in_order(world: Evidence) -> None:
    """An attempt that was killed and given back is no violation, nor is an insert without an answer."""
    assert judge(world) == []


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(
            _all(ALIVE, _execution(0, ended_at=1029.0, ended_by="give_way"), _world(troubles=[AWAY])),
            id="a client that was cut off lost its job, and learned of it",
        ),
        pytest.param(
            _all(
                ALIVE,
                _execution(0, ended_at=1040.0, ended_by="complete"),
                _world(troubles=[dataclasses.replace(AWAY, ended_at=1039.0)]),
            ),
            id="it could not learn of it while it was cut off",
        ),
        pytest.param(_world(ticks=[tick for tick in TICKS if tick.due_at != 1020]), id="nobody led"),
        pytest.param(
            _world(
                troubles=[Trouble(name="frozen", who=1, began_at=1033.2, ended_at=1053.2)],
                settled={1: Settled(token=4, ended_at=1053.3)},
            ),
            id="a process stood still between the end of an attempt and its outcome",
        ),
    ],
)
def test_audit_excuses(change: Change, world: Evidence) -> None:
    """What docs/reliability.md does not promise is no violation."""
    assert judge(change(world)) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (_world(rows=ROWS[1:]), "job 0 of the plan was acknowledged, and is there 0 times"),
        (_world(rows=ROWS[:1]), "job 1 of the plan was skipped as a duplicate, and is there 0 times"),
        (_world(rows=(*ROWS, ROWS[1])), "job 1 of the plan is there 2 times"),
        (
            _world(
                answers={0: ["inserted"], 1: ["inserted", "inserted"], 2: ["none"], 3: ["none"]},
            ),
            "job 1 of the plan was inserted twice",
        ),
        (
            _world(rows=(*ROWS, dataclasses.replace(ROWS[1], id=3, args=PLAN[2].args(), unique_key=None))),
            "of the batch [2, 3], answered 'none', 1 are there",
        ),
        (_row(1, unique_key=b"k"), "jobs 1 and 2 hold one unique key"),
        (_row(2, state="running"), "job 2 (running): must be finalized"),
        (_row(2, state="discarded"), "job 2 (discarded): must be Fate(state='completed'"),
        (_row(1, errors=[(1, RESCUED), (2, "boom")]), "attempt 1 was rescued for its age"),
        (ALIVE, "attempt 1 was given back, a being well"),
        (
            _all(ALIVE, _world(troubles=[dataclasses.replace(AWAY, began_at=1024.0, ended_at=1025.0)])),
            "attempt 1 was given back, a being well",
        ),
        (_execution(2, token=1), "the fetch 1 was executed 2 times"),
        (
            _all(ALIVE, _execution(0, ended_at=1029.0), _world(troubles=[]), _execution(2, began_at=1025.0)),
            "attempt 2 at 1.1 began 4.000 s before attempt 1 at 0.1 ended",
        ),
        (
            _all(ALIVE, _execution(0, ended_at=1090.0, ended_by="complete"), _world(troubles=[AWAY])),
            "attempt 2 at 1.1 began 60.000 s before attempt 1 at 0.1 ended",
        ),
        (
            _all(
                _life_of(0, ended_at=1050.0),
                _execution(0, began_at=1001.0, ended_at=1002.0, ended_by="complete"),
                _world(rescued_at={(1, 1): 1029.0}),
            ),
            "attempt 1 at 0.1 had ended 27.0 s before it was given back",
        ),
        (
            _world(settled={1: Settled(token=3, ended_at=1033.1)}),
            "is completed by the fetch 3, and its last execution was Execution(client='1.1', job=1, attempt=3",
        ),
        (
            _world(settled={1: Settled(token=4, ended_at=1010.0)}),
            "is completed -23.0 s after the end of its last execution",
        ),
        (_execution(3, ended_at=None), "attempt 3 at 1.1 has no end, and nobody killed that"),
        (_world(ticks=(*TICKS, TICKS[10])), "the periodic run of 1055 is there 2 times"),
        (
            _world(ticks=[tick for tick in TICKS if tick.due_at != 1060]),
            "the periodic run of 1060 is missing",
        ),
        (
            _world(ticks=(*TICKS, Tick(due_at=4700.0, created_at=1099.0))),
            "the periodic run of 4700 was inserted -3601 s after it",
        ),
        (
            _life_of(1, exit_code=1),
            "1.1 must end with exit code 0 when it is told to stop, got 1",
        ),
        (_life_of(1, log=Path("nothing")), "1.1 must say that it stopped, got no such line"),
        (
            _logged('{"level": "error", "message": "service crashed"}\n'),
            "1.1 logged 1 times 'service crashed'",
        ),
        (
            _logged("Traceback (most recent call last):\n"),
            "1.1 logged 1 times no line of the log: 'Traceback",
        ),
        (
            _logged('{"level": "error", "message": "pass failed", "exception": "KeyError"}\n'),
            "1.1 logged 1 times a trace below 'pass failed'",
        ),
        (_logged("x" * 20_000_000), "1.1 must not log more than a job's lines and its troubles'"),
        (_world(faults=["0.1 must go on"]), "0.1 must go on"),
    ],
)
def test_audit_of_chaos_notices(change: Change, fault: str, world: Evidence) -> None:
    """Whatever is wrong with the world is said of what it is wrong with."""
    found = judge(change(world))

    assert any(fault in one for one in found), found


@pytest.mark.parametrize(
    ("scheduled_at", "created_at", "num_fetches", "due_at"),
    [
        pytest.param(1005.0, 1005.2, 1, 1005.0, id="as it was inserted"),
        pytest.param(1019.3, 1005.2, 2, 1005.0, id="given back later"),
        pytest.param(1019.0, 1005.2, 1, 1019.0, id="too early"),
        pytest.param(1005.0, 1031.0, 3, 1005.0, id="inserted late"),
    ],
)
def test_run_of_the_periodic_job_was_due_when_it_was_inserted_for(
    scheduled_at: float, created_at: float, num_fetches: int, due_at: float
) -> None:
    """A run that was given back is scheduled anew, which is no early insert; one that nobody has fetched twice is one."""
    found = tick_of(scheduled_at, created_at, num_fetches=num_fetches, step=5.0)

    assert found == Tick(due_at=due_at, created_at=created_at)
