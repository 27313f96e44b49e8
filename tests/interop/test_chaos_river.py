"""A short run of the load test, and tests of its audit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from chaos_audit import Evidence, audit
from chaos_changes import evidence_with, execution_with, row_with, rows_of
from chaos_journal import Execution, Journal, read_journals
from chaos_plan import ChaosJob, act_of, plan
from chaos_river import Options, chaos
from chaos_rows import RESCUED, expected_outcome

SECONDS = 60.0
NUM_JOBS = 15_000
# Longer than by default: on a machine that has other things to do no attempt may be taken for a stuck one.
RESCUE_SECONDS = 15.0
NUM_KILLS = 11  # of each language


@pytest.mark.slow
async def test_both_languages_finish_all_jobs_while_processes_are_killed(
    postgres_url: str, river_path: Path, tmp_path: Path
) -> None:
    """
    16, 39: mixed_soak, process_kill_restart_and_rescue.

    With two of six processes killed every 5 s, the audit finds no lost or repeated job.
    """
    assert river_path
    options = Options(jobs=NUM_JOBS, seconds=SECONDS, seed=1, rescue_seconds=RESCUE_SECONDS)
    report = await chaos(postgres_url, options, tmp_path)

    assert report.violations == [], str(report)
    assert report.num_kills >= 2 * NUM_KILLS


def test_plan_is_the_same_for_the_same_seed() -> None:
    """The same seed gives the same jobs, and another seed gives other jobs."""
    assert plan(7, 200) == plan(7, 200)
    assert plan(7, 200) != plan(8, 200)


def test_plan_of_a_thousand_jobs_has_every_outcome() -> None:
    """A thousand jobs include every outcome, kind, queue and priority."""
    jobs = plan(1, 1000)

    assert {expected_outcome(job, set()).state for job in jobs} == {"cancelled", "completed", "discarded"}
    assert {act for job in jobs for act in job.acts} == {"fail", "panic", "cancel", "hold"}
    assert {job.priority for job in jobs} == {1, 2, 3, 4}
    assert len({job.queue for job in jobs}) == len({job.kind for job in jobs}) == 3
    assert {job.is_unique for job in jobs} == {bool(job.snoozes) for job in jobs} == {True, False}


def test_worker_and_audit_expect_the_same_outcomes() -> None:
    """The worker's rule and the audit's rule agree about every planned job that is not killed or held."""
    for job in plan(3, 2000):
        if "hold" in job.acts:
            continue
        attempt, snoozes, errors = 1, 0, []
        while (act := act_of(job.args(), attempt, snoozes)) not in ("complete", "cancel"):
            if act == "snooze":
                snoozes += 1
                continue
            errors.append(attempt)
            if attempt == job.max_attempts:
                break
            attempt += 1
        expected = expected_outcome(job, set())
        assert (expected.attempt, expected.snoozes) == (attempt, snoozes), job
        assert expected.error_attempts == tuple(errors if act != "cancel" else [*errors, attempt]), job


def test_journal_of_a_killed_process_shows_unfinished_attempts(tmp_path: Path) -> None:
    """An attempt of a killed process has no end in the journal, and each other attempt has its own."""
    journal = Journal(tmp_path / "python_1.journal")
    journal.note("begin", 1, 1, 0, "fail")
    journal.note("begin", 2, 1, 0, "complete")
    journal.note("end", 1, 1, 0, "fail")

    read = read_journals(tmp_path)

    assert [(one.client, one.job, one.act, one.ended_at is None) for one in read] == [
        ("python_1", 1, "fail", False),
        ("python_1", 2, "complete", True),
    ]


# What the audit sees. The evidence below is in order: job 1 was killed once and then failed and completed, job 2 is unique.

PLAN = (ChaosJob(n=0, acts=("complete", "fail")), ChaosJob(n=1, is_unique=True))
ROWS = rows_of(PLAN, killed="go_1", other="python_2", rescued=RESCUED)
EXECUTIONS = (
    Execution("go_1", 1, 1, 0, "complete", 10.0),
    Execution("python_2", 2, 1, 0, "complete", 11.0, 12.0),
    Execution("python_2", 1, 2, 0, "fail", 30.0, 31.0),
    Execution("python_2", 1, 3, 0, "complete", 32.0, 33.0),
)
WORLD = Evidence(
    executions=EXECUTIONS,
    killed_at={"go_1": 15.0},
    plan=PLAN,
    rows=ROWS,
    skipped={0: [False], 1: [False, True]},
)


def _executed(*more: Execution) -> Callable[[Evidence], Evidence]:
    executions = sorted((*EXECUTIONS, *more), key=lambda one: one.began_at)
    return evidence_with(executions=executions)


def test_audit_accepts_correct_evidence() -> None:
    """A killed attempt that was rescued is no violation."""
    assert audit(WORLD) == []


def test_audit_accepts_a_fetch_that_did_not_start_before_the_kill() -> None:
    """A job that snoozed, was fetched again and did not start before the kill lost no outcome."""
    job = ChaosJob(n=0, snoozes=1)
    row = dataclasses.replace(
        ROWS[0],
        args=job.args(),
        attempt=2,
        attempted_by=["go_1", "go_1", "python_2"],
        errors=[(1, RESCUED)],
        metadata={"river:rescue_count": 1, "snoozes": 1},
    )
    executions = (
        Execution("go_1", 1, 1, 0, "snooze", 1.0, 2.0),
        Execution("python_2", 1, 2, 1, "complete", 30.0, 31.0),
    )

    assert (
        audit(
            Evidence(
                executions=executions, killed_at={"go_1": 15.0}, plan=[job], rows=[row], skipped={0: [False]}
            )
        )
        == []
    )


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (evidence_with(rows=ROWS[1:]), "job 0 of the plan must be there once, got 0 rows"),
        (evidence_with(rows=(*ROWS, ROWS[1])), "job 1 of the plan must be there once, got 2 rows"),
        (
            evidence_with(skipped={0: [False], 1: [False, False]}),
            "job 1 of the plan (unique: True) was inserted with skips",
        ),
        (row_with(1, unique_key=b"k"), "jobs 1 and 2 hold one unique key"),
        (row_with(2, state="running"), "job 2 (running): must be finalized"),
        (row_with(2, state="discarded"), "job 2 (discarded): must be Expected(state='completed'"),
        (row_with(1, errors=[(1, RESCUED)]), "and errors [(1, 'Stuck job rescued by JobRescuer')]"),
        (row_with(1, metadata={}), "was rescued at [1], and counts None"),
        (row_with(2, metadata={"snoozes": 1}), "must have 0 to 0 snoozes, got 1"),
        (
            row_with(2, attempted_by=["python_2", "python_2"]),
            "was fetched 2 times in 1 attempts and 0 snoozes",
        ),
        (
            row_with(2, attempted_by=["python_3"]),
            "was executed by python_2 at attempt 1, who had not fetched it",
        ),
        (row_with(2, attempted_by=["python_3"]), "was fetched by python_3, who lives, and not executed"),
        (
            _executed(Execution("python_2", 2, 1, 0, "complete", 11.5, 11.6)),
            "attempt 1 at python_2 began 0.500 s before attempt 1 at python_2 ended",
        ),
        (
            evidence_with(killed_at={"go_1": 30.5}),
            "attempt 2 at python_2 began 0.500 s before attempt 1 at go_1 ended",
        ),
        (evidence_with(killed_at={}), "attempt 1 was rescued, and go_1 lives"),
        (
            execution_with(0, began_at=5.0, ended_at=6.0),
            "attempt 1 was rescued, and had ended 9.0 s before go_1 was killed",
        ),
        (execution_with(3, ended_at=None), "began attempt 3 at python_2, who lives, and did not end it"),
    ],
)
def test_audit_reports_each_fault_with_its_job(change: Callable[[Evidence], Evidence], fault: str) -> None:
    """The audit reports each fault in the evidence and names the job."""
    found = audit(change(WORLD))

    assert any(fault in one for one in found), found
