"""That a chaos run follows from its seed, and that its audit notices what it is there for; `just chaos` is the run."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import chaos_run
import pytest
from chaos_changes import changed, execution_with, row_with, rows_of, world_with
from chaos_evidence import Evidence, Settled, Tick
from chaos_faults import DRIVERS, INSERTER, KINDS, LANES, NUM_WORKERS, plan_drivers, plan_faults
from chaos_fleet import Life, Trouble
from chaos_journal import Execution, Journal, read_journals
from chaos_load import Load
from chaos_plan import THREAD_KIND, ChaosJob
from chaos_rows import RESCUED, RESCUED_BY_US
from chaos_stops import wrong_leavings
from chaos_terms import FOLLOWED_SECONDS
from chaos_verdict import judge

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


def test_each_driver_meets_all_faults() -> None:
    """Half of the workers speak by asyncpg and half by psycopg, which of them follows from the seed, and so what inserts."""
    plans = [plan_drivers(seed) for seed in range(20)]

    assert plan_drivers(7) == plans[7]
    for drivers in plans:
        assert sorted(drivers[:NUM_WORKERS]) == sorted(DRIVERS * (NUM_WORKERS // 2))
    assert {drivers[INSERTER] for drivers in plans} == set(DRIVERS)
    assert len({drivers[:NUM_WORKERS] for drivers in plans}) > 3


def test_run_is_not_kept_beside_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Journals are written on, so what an earlier run did there would be taken for this one's."""
    (tmp_path / "0.1.journal").touch()
    monkeypatch.setattr(sys, "argv", ["chaos_run.py", "--minutes", "0", "--keep", str(tmp_path)])

    with pytest.raises(SystemExit):
        chaos_run.main()

    assert capsys.readouterr().err.endswith(
        f"error: directory of --keep must be empty or not there yet, got {str(tmp_path)!r}\n"
    )


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
ROWS = rows_of(PLAN, killed="a", other="b", rescued=f"{RESCUED_BY_US}: client 'a' stopped reporting")
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
    stopped = _life(tmp_path, "1.1", "b", ended_at=1120.0, exit_code=0, told_at=1110.0)
    with stopped.log.open("a") as log:
        log.write(_said(996.0, "leadership gained", leader_role="periodic"))
        log.write(
            _said(1119.0, "leadership resigned", leader_role="periodic") + _said(1120.0, "worker stopped")
        )
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
    log.write_text(_said(995.0, "worker started"))
    who = int(name.partition(".")[0])
    # Nothing here asks the process anything.
    return Life(client_id=client_id, log=log, name=name, process=None, began_at=990.0, who=who, **fields)  # type: ignore[arg-type]


def _said(at: float, message: str, **fields: str) -> str:
    """Return a line of a log."""
    timestamp = datetime.fromtimestamp(at, UTC).isoformat()
    return json.dumps({"timestamp": timestamp, "level": "info", "message": message} | fields) + "\n"


Change = Callable[[Evidence], Evidence]


def _life_of(index: int, **fields: Any) -> Change:
    def change(world: Evidence) -> Evidence:
        lives = list(world.lives)
        lives[index] = dataclasses.replace(lives[index], **fields)
        return dataclasses.replace(world, lives=lives)

    return change


def _logged(text: str) -> Change:
    def change(world: Evidence) -> Evidence:
        log = world.lives[1].log
        lines = [*log.read_text().splitlines(), *text.splitlines()]
        log.write_text("\n".join(sorted(lines)) + "\n")  # by the instants with which they begin
        return world

    return change


def _without(*due_at: int) -> list[Tick]:
    return [tick for tick in TICKS if tick.due_at not in due_at]


def _without_office(began_at: float, ended_at: float) -> Change:
    lost, gained = "leadership lost", "leadership gained"
    return _logged(
        _said(began_at, lost, leader_role="periodic") + _said(ended_at, gained, leader_role="periodic")
    )


def rescued_late(world: Evidence) -> Evidence:
    """Have the second attempt be rescued, too, before the third began."""
    return dataclasses.replace(world, rescued_at={(1, 1): 1027.0, (1, 2): 1031.9})


def interrupted(world: Evidence) -> Evidence:
    """Have the second attempt give way."""
    return execution_with(2, ended_by="give_way")(world)  # type: ignore[return-value]


LEFT = (*ROWS[0].errors[:1], (2, f"{RESCUED_BY_US}: client 'b' stopped, and left it behind"))
ALIVE = _life_of(0, ended_at=1120.0, exit_code=0, is_killed=False)
AWAY = Trouble(name="partition", who=0, began_at=1012.0, ended_at=1026.0)


def test_audit_has_nothing_to_say_of_a_world_in_order(world: Evidence) -> None:
    """An attempt that was killed and given back is no violation, nor is an insert without an answer."""
    assert judge(world) == []


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(
            changed(
                ALIVE, execution_with(0, ended_at=1029.0, ended_by="give_way"), world_with(troubles=[AWAY])
            ),
            id="a client that was cut off lost its job, and learned of it",
        ),
        pytest.param(
            changed(
                ALIVE,
                execution_with(0, ended_at=1040.0, ended_by="complete"),
                world_with(troubles=[dataclasses.replace(AWAY, ended_at=1039.0)]),
            ),
            id="it could not learn of it while it was cut off",
        ),
        pytest.param(
            changed(_without_office(1040.0, 1052.0), world_with(ticks=_without(1045, 1050))),
            id="nobody held the leader_role for a term",
        ),
        pytest.param(
            changed(
                world_with(
                    ticks=(*_without(1060, 1065), Tick(due_at=1060.0, created_at=1068.0)),
                    troubles=[dataclasses.replace(AWAY, who=1, began_at=1059.0, ended_at=1067.5)],
                ),
                _logged(_said(1068.1, "periodic runs missed")),
            ),
            id="whoever inserts them was cut off, made up for one run, and counted the other",
        ),
        pytest.param(
            world_with(
                ticks=(*TICKS, Tick(due_at=1060.0, created_at=1064.0)),
                troubles=[dataclasses.replace(AWAY, who=1, began_at=1059.0, ended_at=1063.5)],
            ),
            id="the answer to the insert of a run was lost",
        ),
        pytest.param(
            world_with(
                troubles=[Trouble(name="frozen", who=1, began_at=1033.2, ended_at=1053.2)],
                settled={1: Settled(token=4, ended_at=1053.3)},
            ),
            id="a process stood still between the end of an attempt and its outcome",
        ),
    ],
)
def test_audit_excuses(change: Change, world: Evidence) -> None:
    """What docs/explanation/delivery_guarantees.md does not promise is no violation."""
    assert judge(change(world)) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (world_with(rows=ROWS[1:]), "job 0 of the plan was acknowledged, and is there 0 times"),
        (world_with(rows=ROWS[:1]), "job 1 of the plan was skipped as a duplicate, and is there 0 times"),
        (world_with(rows=(*ROWS, ROWS[1])), "job 1 of the plan is there 2 times"),
        (
            world_with(
                answers={0: ["inserted"], 1: ["inserted", "inserted"], 2: ["none"], 3: ["none"]},
            ),
            "job 1 of the plan was inserted twice",
        ),
        (
            world_with(
                rows=(*ROWS, dataclasses.replace(ROWS[1], id=3, args=PLAN[2].args(), unique_key=None))
            ),
            "of the batch [2, 3], answered 'none', 1 are there",
        ),
        (row_with(1, unique_key=b"k"), "jobs 1 and 2 hold one unique key"),
        (row_with(2, state="running"), "job 2 (running): must be finalized"),
        (row_with(2, state="discarded"), "job 2 (discarded): must be Fate(state='completed'"),
        (row_with(1, errors=[(1, RESCUED), (2, "boom")]), "attempt 1 was rescued for its age"),
        (ALIVE, "attempt 1 was given back, a being well"),
        (
            changed(
                ALIVE, world_with(troubles=[dataclasses.replace(AWAY, began_at=1024.0, ended_at=1025.0)])
            ),
            "attempt 1 was given back, a being well",
        ),
        (execution_with(2, token=1), "the fetch 1 was executed 2 times"),
        (
            changed(
                ALIVE,
                execution_with(0, ended_at=1029.0),
                world_with(troubles=[]),
                execution_with(2, began_at=1025.0),
            ),
            "attempt 2 at 1.1 began 4.000 s before attempt 1 at 0.1 ended",
        ),
        (
            changed(
                ALIVE, execution_with(0, ended_at=1090.0, ended_by="complete"), world_with(troubles=[AWAY])
            ),
            "attempt 2 at 1.1 began 60.000 s before attempt 1 at 0.1 ended",
        ),
        (
            changed(
                _life_of(0, ended_at=1050.0),
                execution_with(0, began_at=1001.0, ended_at=1002.0, ended_by="complete"),
                world_with(rescued_at={(1, 1): 1029.0}),
            ),
            "attempt 1 at 0.1 had ended 27.0 s before it was given back",
        ),
        (
            world_with(settled={1: Settled(token=3, ended_at=1033.1)}),
            "is completed by the fetch 3, and its last execution was Execution(client='1.1', job=1, attempt=3",
        ),
        (
            world_with(settled={1: Settled(token=4, ended_at=1010.0)}),
            "is completed -23.0 s after the end of its last execution",
        ),
        (execution_with(3, ended_at=None), "attempt 3 at 1.1 has no end, and nobody killed that"),
        (world_with(ticks=(*TICKS, TICKS[10])), "the periodic run of 1055 is there 2 times, 1.1 being well"),
        (
            world_with(ticks=_without(1060)),
            "the periodic run of 1060 was left out by 1.1, which must say so, and does not",
        ),
        (
            changed(
                world_with(ticks=_without(1060)),
                _logged(_said(1065.1, "periodic runs missed")),
            ),
            "the periodic run of 1060 was left out by 1.1, which was well",
        ),
        (
            world_with(ticks=TICKS[:-2]),
            "the periodic run of 1090 is missing, 1.1 having held the leader_role throughout",
        ),
        (
            world_with(ticks=(*_without(1060), Tick(due_at=1060.0, created_at=1067.0))),
            "the periodic run of 1060 was inserted 7.0 s after it, and was to be in 6.0 s",
        ),
        (
            world_with(ticks=(*TICKS, Tick(due_at=4700.0, created_at=1099.0))),
            "the periodic run of 4700 was inserted 3601.0 s before it",
        ),
        (
            _without_office(1040.0, 1060.0),
            "the periodic run of 1045 was inserted, and nobody held the leader_role",
        ),
        (
            changed(_without_office(1040.0, 1060.0), world_with(ticks=_without(1045, 1050, 1055))),
            f"for 20.0 s from 1040.0 on, and 1.1 was to do so {FOLLOWED_SECONDS:.1f} s after that",
        ),
        (
            _life_of(1, exit_code=1),
            "1.1 must end with exit code 0 when it is told to stop, got 1",
        ),
        (_life_of(1, log=Path("nothing")), "1.1 must say that it stopped, got no such line"),
        (_life_of(1, ended_at=1171.0), "1.1 must stop within 60 s, took 61.0 s"),
        (
            changed(_life_of(1, told_at=1031.5), row_with(1, errors=LEFT), rescued_late),
            "attempt 2 was rescued, and 1.1, which stopped in order, was to write its end",
        ),
        (
            changed(_life_of(1, told_at=1031.5), row_with(1, errors=LEFT), rescued_late, interrupted),
            "attempt 2 was rescued, and 1.1, which stopped in order, was to write its end",
        ),
        (
            changed(
                _life_of(1, told_at=1031.5),
                row_with(1, errors=LEFT),
                rescued_late,
                execution_with(2, ended_at=None),
            ),
            "attempt 2 was left behind by 1.1, and could have ended",
        ),
        (execution_with(3, attempt=2), "attempt 2 was executed again at 1.1, and had ended"),
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
        (world_with(faults=["0.1 must go on"]), "0.1 must go on"),
    ],
)
def test_audit_of_chaos_notices(change: Change, fault: str, world: Evidence) -> None:
    """Whatever is wrong with the world is said of what it is wrong with."""
    found = judge(change(world))

    assert any(fault in one for one in found), found


def test_audit_knows_what_a_stop_must_leave_behind(world: Evidence) -> None:
    """A thread that outlasts its client's stop is left behind, which must be said; what could have ended is not."""
    left = Execution("1.1", 1, 2, 0, "fail", 1016.0, token=3)
    long = dataclasses.replace(PLAN[0], work_ms=17_000)
    change: Change = changed(
        _life_of(1, told_at=1019.0, ended_at=1032.5), row_with(1, errors=LEFT), rescued_late
    )
    stopped = change(world)
    row = dataclasses.replace(ROWS[0], errors=LEFT)

    assert list(wrong_leavings(stopped, long, row, [left])) == [
        "attempt 2 was left behind by 1.1, which must say so, and does not"
    ]
    assert (
        list(wrong_leavings(_logged(_said(1032.0, "attempts abandoned"))(stopped), long, row, [left])) == []
    )
    found = list(wrong_leavings(stopped, dataclasses.replace(long, work_ms=10_000), row, [left]))
    assert found == [f"attempt 2 was left behind by 1.1, and could have ended: {left}"]
