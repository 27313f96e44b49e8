"""The plan of a chaos run follows from its seed, and its audit finds violations. `just chaos` is the run."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import chaos_run
import pytest
from chaos_changes import changed, evidence_with, execution_with, row_with, rows_of
from chaos_evidence import Evidence, Settled, Tick
from chaos_faults import DRIVERS, INSERTER, KINDS, LANES, NUM_WORKERS, plan_drivers, plan_faults
from chaos_fleet import Life, Trouble
from chaos_history import Call
from chaos_journal import Execution, Journal, Stall, read_journals, read_stalls
from chaos_load import Load
from chaos_plan import THREAD_KIND, ChaosJob
from chaos_rows import RESCUED, RESCUED_BY_US
from chaos_stops import wrong_abandonments
from chaos_terms import FOLLOWED_SECONDS
from chaos_verdict import find_violations

TEN_MINUTES = 600.0


def test_faults_follow_from_their_seed() -> None:
    """The same seed gives the same faults, another seed others."""
    assert plan_faults(7, TEN_MINUTES) == plan_faults(7, TEN_MINUTES)
    assert plan_faults(7, TEN_MINUTES) != plan_faults(8, TEN_MINUTES)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_ten_minutes_have_all_faults(seed: int) -> None:
    """Each fault comes, one after the other in its lane, on existing workers."""
    faults = plan_faults(seed, TEN_MINUTES)

    assert {fault.name for fault in faults} == set(KINDS)
    assert {fault.who for fault in faults} == {*range(NUM_WORKERS), INSERTER}
    assert all(fault.who < NUM_WORKERS for fault in faults if KINDS[fault.name].lane != "connection")
    for lane in LANES:
        own = [fault for fault in faults if KINDS[fault.name].lane == lane]
        assert all(before.at + before.seconds < after.at for before, after in pairwise(own))
        assert own[-1].at + own[-1].seconds <= TEN_MINUTES


def test_two_minutes_have_most_faults() -> None:
    """A short run leaves out faults of more than two minutes, and hardly any other."""
    names = {fault.name for seed in range(3) for fault in plan_faults(seed, 120.0)}

    assert names == set(KINDS) - {"freeze_longest"}


def test_only_the_requested_faults_are_planned() -> None:
    """`--only` limits a run to some faults."""
    assert {fault.name for fault in plan_faults(1, TEN_MINUTES, ["kill", "cut"])} == {"kill", "cut"}


def test_each_driver_meets_all_faults() -> None:
    """Half of the workers use asyncpg and half psycopg; the seed decides which, and the driver of inserts."""
    plans = [plan_drivers(seed) for seed in range(20)]

    assert plan_drivers(7) == plans[7]
    for drivers in plans:
        assert sorted(drivers[:NUM_WORKERS]) == sorted(DRIVERS * (NUM_WORKERS // 2))
    assert {drivers[INSERTER] for drivers in plans} == set(DRIVERS)
    assert len({drivers[:NUM_WORKERS] for drivers in plans}) > 3


def test_run_rejects_a_directory_with_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Journals are appended to, so an earlier run's would be taken for this one's."""
    (tmp_path / "0.1.journal").touch()
    monkeypatch.setattr(sys, "argv", ["chaos_run.py", "--minutes", "0", "--keep", str(tmp_path)])

    with pytest.raises(SystemExit):
        chaos_run.main()

    assert capsys.readouterr().err.endswith(
        f"error: directory of --keep must be empty or not there yet, got {str(tmp_path)!r}\n"
    )


@pytest.mark.slow
def test_jobs_follow_from_their_seed_and_some_are_long() -> None:
    """The load of a seed is the same in each run, and has jobs that outlast a rescue."""
    assert Load(3, 60.0, 40.0).plan == Load(3, 60.0, 40.0).plan
    assert max(job.work_ms for job in Load(3, 60.0, 40.0).plan) > 15_000


def test_journal_has_the_tokens_of_executions(tmp_path: Path) -> None:
    """Each execution has the token of its fetch and its end."""
    journal = Journal(tmp_path / "0.1.journal", lambda: 5.0, is_synced=True)
    journal.note("begin", 1, 1, 0, "complete", 77)
    journal.note("end", 1, 1, 0, "give_way", 77)

    assert read_journals(tmp_path) == [
        Execution("0.1", 1, 1, 0, "complete", 5.0, 5.0, token=77, ended_by="give_way")
    ]


def test_journal_records_that_the_disk_was_slow(tmp_path: Path) -> None:
    """A line that took longer than a second to write is followed by when, and is read as before."""
    times = iter([5.0, 52.0, 60.0, 60.5])
    journal = Journal(tmp_path / "0.1.journal", lambda: next(times))
    journal.note("begin", 1, 1, 0, "complete", 77)
    journal.note("end", 1, 1, 0, "complete", 77)

    assert read_stalls(tmp_path) == [Stall("0.1", 5.0, 52.0)]
    assert [one.ended_at for one in read_journals(tmp_path)] == [60.0]


# Valid evidence: job 1 was killed in its first attempt and rescued, and failed in its second; job 2 is unique; the batch
# of jobs 3 and 4 got no answer and was not inserted.

PLAN = (
    ChaosJob(n=0, acts=("complete", "fail"), kind=THREAD_KIND, work_ms=1000),
    ChaosJob(n=1, is_unique=True),
    ChaosJob(n=2),
    ChaosJob(n=3),
)
ROWS = rows_of(PLAN, killed="a", other="b", rescued=f"{RESCUED_BY_US}: client 'a' missed its heartbeats")
EXECUTIONS = (
    Execution("0.1", 1, 1, 0, "complete", 1010.0, token=1),
    Execution("1.1", 2, 1, 0, "complete", 1011.0, 1012.0, token=2, ended_by="complete"),
    Execution("1.1", 1, 2, 0, "fail", 1030.0, 1031.0, token=3, ended_by="fail"),
    Execution("1.1", 1, 3, 0, "complete", 1032.0, 1033.0, token=4, ended_by="complete"),
)
INSERTED = Call(name="insert", sent_at=1001.0, answered_at=1002.0)
UNANSWERED = Call(name="insert", sent_at=1001.0, is_certain=False)
INSERTS: Mapping[int, Sequence[Call]] = {
    0: [INSERTED],
    1: [INSERTED, Call(name="skip", sent_at=1002.0, answered_at=1003.0)],
    2: [UNANSWERED],
    3: [UNANSWERED],
}
TICKS = tuple(Tick(due_at=at, created_at=at + 0.1) for at in range(1005, 1100, 5))


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    killed = _life(tmp_path, "0.1", "a", ended_at=1015.0, exit_code=-9, is_killed=True)
    stopped = _life(tmp_path, "1.1", "b", ended_at=1120.0, exit_code=0, stop_sent_at=1110.0)
    with stopped.log.open("a") as log:
        log.write(_log_line(996.0, "leadership gained", leader_role="periodic"))
        log.write(
            _log_line(1119.0, "leadership resigned", leader_role="periodic")
            + _log_line(1120.0, "worker stopped")
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
        settled={1: Settled(token=4, ended_at=1033.1), 2: Settled(token=2, ended_at=1012.0)},
        ticks=TICKS,
        tick_seconds=5.0,
        troubles=(),
        inserts=INSERTS,
    )


def _life(directory: Path, name: str, client_id: str, **fields: Any) -> Life:
    log = directory / f"{name}.log"
    log.write_text(_log_line(995.0, "worker started"))
    who = int(name.partition(".")[0])
    # The audit does not use the process.
    return Life(client_id=client_id, log=log, name=name, process=None, began_at=990.0, who=who, **fields)  # type: ignore[arg-type]


def _log_line(at: float, message: str, **fields: str) -> str:
    """Return a line of a log."""
    timestamp = datetime.fromtimestamp(at, UTC).isoformat()
    return json.dumps({"timestamp": timestamp, "level": "info", "message": message} | fields) + "\n"


Change = Callable[[Evidence], Evidence]


def _life_of(index: int, **fields: Any) -> Change:
    def change(evidence: Evidence) -> Evidence:
        lives = list(evidence.lives)
        lives[index] = dataclasses.replace(lives[index], **fields)
        return dataclasses.replace(evidence, lives=lives)

    return change


def _logged(text: str) -> Change:
    def change(evidence: Evidence) -> Evidence:
        log = evidence.lives[1].log
        lines = [*log.read_text().splitlines(), *text.splitlines()]
        log.write_text("\n".join(sorted(lines)) + "\n")  # by the instants at their beginning
        return evidence

    return change


def _without(*due_at: int) -> list[Tick]:
    return [tick for tick in TICKS if tick.due_at not in due_at]


def _without_leader(began_at: float, ended_at: float) -> Change:
    lost, gained = "leadership lost", "leadership gained"
    return _logged(
        _log_line(began_at, lost, leader_role="periodic")
        + _log_line(ended_at, gained, leader_role="periodic")
    )


def rescued_late(evidence: Evidence) -> Evidence:
    """Return evidence in which the second attempt was rescued too, before the third began."""
    return dataclasses.replace(evidence, rescued_at={(1, 1): 1027.0, (1, 2): 1031.9})


def interrupted(evidence: Evidence) -> Evidence:
    """Return evidence in which the second attempt was interrupted."""
    return execution_with(2, ended_by="give_way")(evidence)  # type: ignore[return-value]


LEFT = (*ROWS[0].errors[:1], (2, f"{RESCUED_BY_US}: client 'b' stopped and left the job running"))
ALIVE = _life_of(0, ended_at=1120.0, exit_code=0, is_killed=False)
AWAY = Trouble(name="partition", who=0, began_at=1012.0, ended_at=1026.0)


def test_audit_finds_nothing_in_valid_evidence(evidence: Evidence) -> None:
    """A killed and rescued attempt is no violation, nor is an insert without an answer."""
    assert find_violations(evidence) == []


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(
            changed(
                ALIVE, execution_with(0, ended_at=1029.0, ended_by="give_way"), evidence_with(troubles=[AWAY])
            ),
            id="a client that was cut off lost its job, and learned of it",
        ),
        pytest.param(
            changed(
                ALIVE,
                execution_with(0, ended_at=1040.0, ended_by="complete"),
                evidence_with(troubles=[dataclasses.replace(AWAY, ended_at=1039.0)]),
            ),
            id="it could not learn of it while it was cut off",
        ),
        pytest.param(
            changed(_without_leader(1040.0, 1052.0), evidence_with(ticks=_without(1045, 1050))),
            id="no client held the leader role for a term",
        ),
        pytest.param(
            changed(
                _life_of(1, stop_sent_at=1190.0, ended_at=1200.0),
                _logged(_log_line(1185.0, "leadership gained", leader_role="periodic")),
            ),
            id="a term began after the run, while jobs were worked off",
        ),
        pytest.param(
            changed(
                evidence_with(
                    ticks=(*_without(1060, 1065), Tick(due_at=1060.0, created_at=1068.0)),
                    troubles=[dataclasses.replace(AWAY, who=1, began_at=1059.0, ended_at=1067.5)],
                ),
                _logged(_log_line(1068.1, "periodic runs missed")),
            ),
            id="the leader was disconnected, made up for one run, and logged the other",
        ),
        pytest.param(
            evidence_with(
                ticks=(*TICKS, Tick(due_at=1060.0, created_at=1064.0)),
                troubles=[dataclasses.replace(AWAY, who=1, began_at=1059.0, ended_at=1063.5)],
            ),
            id="the answer to the insert of a run was lost",
        ),
        pytest.param(
            evidence_with(
                troubles=[Trouble(name="frozen", who=1, began_at=1033.2, ended_at=1053.2)],
                settled={1: Settled(token=4, ended_at=1053.3)},
            ),
            id="a process stood still between the end of an attempt and its outcome",
        ),
    ],
)
def test_audit_accepts_what_is_not_guaranteed(change: Change, evidence: Evidence) -> None:
    """What docs/explanation/delivery_guarantees.md does not guarantee is no violation."""
    assert find_violations(change(evidence)) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (evidence_with(rows=ROWS[1:]), "job 0 of the plan was acknowledged, and exists 0 times"),
        (evidence_with(rows=ROWS[:1]), "job 1 of the plan was skipped as a duplicate, and exists 0 times"),
        (evidence_with(rows=(*ROWS, ROWS[1])), "job 1 of the plan exists 2 times"),
        (
            evidence_with(answers={0: ["inserted"], 1: ["inserted", "inserted"], 2: ["none"], 3: ["none"]}),
            "job 1 of the plan was inserted twice",
        ),
        (
            evidence_with(
                rows=(*ROWS, dataclasses.replace(ROWS[1], id=3, args=PLAN[2].args(), unique_key=None))
            ),
            "of the batch [2, 3], answered 'none', 1 exist",
        ),
        (row_with(1, unique_key=b"k"), "jobs 1 and 2 hold one unique key"),
        (row_with(2, state="running"), "job 2 (running): must be finalized"),
        (row_with(2, state="discarded"), "job 2 (discarded): must be Expected(state='completed'"),
        (row_with(1, errors=[(1, RESCUED), (2, "boom")]), "attempt 1 was rescued for its age"),
        (ALIVE, "attempt 1 was rescued although a was well"),
        (
            changed(
                ALIVE, evidence_with(troubles=[dataclasses.replace(AWAY, began_at=1024.0, ended_at=1025.0)])
            ),
            "attempt 1 was rescued although a was well",
        ),
        (execution_with(2, token=1), "the fetch 1 was executed 2 times"),
        (
            changed(
                ALIVE,
                execution_with(0, ended_at=1029.0),
                evidence_with(troubles=[]),
                execution_with(2, began_at=1025.0),
            ),
            "attempt 2 at 1.1 began 4.000 s before attempt 1 at 0.1 ended",
        ),
        (
            changed(
                ALIVE, execution_with(0, ended_at=1090.0, ended_by="complete"), evidence_with(troubles=[AWAY])
            ),
            "attempt 2 at 1.1 began 60.000 s before attempt 1 at 0.1 ended",
        ),
        (
            changed(
                _life_of(0, ended_at=1050.0),
                execution_with(0, began_at=1001.0, ended_at=1002.0, ended_by="complete"),
                evidence_with(rescued_at={(1, 1): 1029.0}),
            ),
            "attempt 1 at 0.1 had ended 27.0 s before its rescue",
        ),
        (
            evidence_with(settled={1: Settled(token=3, ended_at=1033.1)}),
            "is completed by the fetch 3, and its last execution was Execution(client='1.1', job=1, attempt=3",
        ),
        (
            evidence_with(settled={1: Settled(token=4, ended_at=1010.0)}),
            "is completed -23.0 s after the end of its last execution",
        ),
        (
            changed(
                ALIVE,
                execution_with(0, ended_at=1049.0),
                execution_with(2, began_at=1028.0, ended_at=1029.0),
                evidence_with(troubles=[dataclasses.replace(AWAY, began_at=900.0, ended_at=1048.0, who=1)]),
            ),
            "attempt 2 at 1.1 began 21.000 s before attempt 1 at 0.1 ended",
        ),
        (
            evidence_with(inserts={**INSERTS, 0: [dataclasses.replace(INSERTED, sent_at=1010.5)]}),
            "job 0 of the plan (1): no order of its calls explains them: ",
        ),
        (
            changed(
                ALIVE,
                evidence_with(troubles=[AWAY]),
                execution_with(
                    0, ended_at=1029.0, stored_at=1029.5, stored_as="job_completed", ended_by="complete"
                ),
            ),
            "job 0 of the plan (1): no order of its calls explains them",
        ),
        (execution_with(3, ended_at=None), "attempt 3 at 1.1 has no end, and its process was not killed"),
        (
            evidence_with(ticks=(*TICKS, TICKS[10])),
            "the periodic run of 1055 exists 2 times although 1.1 was well",
        ),
        (
            evidence_with(ticks=_without(1060)),
            "the periodic run of 1060 was skipped by 1.1 without a log line",
        ),
        (
            changed(evidence_with(ticks=_without(1060)), _logged(_log_line(1065.1, "periodic runs missed"))),
            "the periodic run of 1060 was skipped by 1.1, which was well",
        ),
        (
            evidence_with(ticks=TICKS[:-2]),
            "the periodic run of 1090 is missing, 1.1 which held the leader role throughout",
        ),
        (
            evidence_with(ticks=(*_without(1060), Tick(due_at=1060.0, created_at=1067.0))),
            "the periodic run of 1060 was inserted 7.0 s after it, and was to be in 6.0 s",
        ),
        (
            evidence_with(ticks=(*TICKS, Tick(due_at=4700.0, created_at=1099.0))),
            "the periodic run of 4700 was inserted 3601.0 s before it",
        ),
        (
            _without_leader(1040.0, 1060.0),
            "the periodic run of 1045 was inserted while no client held the leader role",
        ),
        (
            changed(_without_leader(1040.0, 1060.0), evidence_with(ticks=_without(1045, 1050, 1055))),
            f"for 20.0 s from 1040.0 on, and 1.1 was to do so {FOLLOWED_SECONDS:.1f} s after that",
        ),
        (_life_of(1, exit_code=1), "1.1 must end with exit code 0 when it is stopped, got 1"),
        (_life_of(1, log=Path("nothing")), "1.1 must log that it stopped, got no such line"),
        (_life_of(1, ended_at=1171.0), "1.1 must stop within 60 s, took 61.0 s"),
        (
            changed(_life_of(1, stop_sent_at=1031.5), row_with(1, errors=LEFT), rescued_late),
            "attempt 2 was rescued, and 1.1, which stopped gracefully, must write its end",
        ),
        (
            changed(_life_of(1, stop_sent_at=1031.5), row_with(1, errors=LEFT), rescued_late, interrupted),
            "attempt 2 was rescued, and 1.1, which stopped gracefully, must write its end",
        ),
        (
            changed(
                _life_of(1, stop_sent_at=1031.5),
                row_with(1, errors=LEFT),
                rescued_late,
                execution_with(2, ended_at=None),
            ),
            "attempt 2 was abandoned by 1.1, and could have ended",
        ),
        (execution_with(3, attempt=2), "attempt 2 was executed again at 1.1, and had ended"),
        (
            _logged('{"level": "error", "message": "service crashed"}\n'),
            "1.1 logged 1 times 'service crashed'",
        ),
        (_logged("Traceback (most recent call last):\n"), "1.1 logged 1 times invalid log line: 'Traceback"),
        (
            _logged('{"level": "error", "message": "pass failed", "exception": "KeyError"}\n'),
            "1.1 logged 1 times a trace below 'pass failed'",
        ),
        (_logged("x" * 20_000_000), "1.1 must not log more than a job's lines and its troubles'"),
        (evidence_with(faults=["0.1 must run on"]), "0.1 must run on"),
    ],
)
def test_audit_finds_each_violation(change: Change, fault: str, evidence: Evidence) -> None:
    """Each change of valid evidence is reported as its violation."""
    found = find_violations(change(evidence))

    assert any(fault in one for one in found), found


def test_audit_accepts_an_abandoned_thread(evidence: Evidence) -> None:
    """A thread may outlast its client's stop if that is logged; another attempt may not."""
    left = Execution("1.1", 1, 2, 0, "fail", 1016.0, token=3)
    long = dataclasses.replace(PLAN[0], work_ms=17_000)
    change: Change = changed(
        _life_of(1, stop_sent_at=1019.0, ended_at=1032.5), row_with(1, errors=LEFT), rescued_late
    )
    stopped = change(evidence)
    row = dataclasses.replace(ROWS[0], errors=LEFT)

    assert list(wrong_abandonments(stopped, long, row, [left])) == [
        "attempt 2 was abandoned by 1.1 without a log line"
    ]
    assert (
        list(wrong_abandonments(_logged(_log_line(1032.0, "attempts abandoned"))(stopped), long, row, [left]))
        == []
    )
    found = list(wrong_abandonments(stopped, dataclasses.replace(long, work_ms=10_000), row, [left]))
    assert found == [f"attempt 2 was abandoned by 1.1, and could have ended: {left}"]
