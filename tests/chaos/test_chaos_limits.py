"""The audit of limits finds each way to exceed one, in evidence that it otherwise accepts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from chaos_evidence import Evidence
from chaos_fleet import Life
from chaos_journal import Execution
from chaos_limit_audit import wrong_limits
from chaos_limits import (
    BY_CLIENT,
    BY_TENANT,
    IN_ORDER,
    LIMITS,
    RATE,
    REMOVED,
    TENANTS,
    TOTAL,
    Change,
    Hold,
    limited,
)
from chaos_load import Load
from chaos_migrations import Reset, changes_after, holds_after
from chaos_plan import RETRIED_KIND, ChaosJob
from chaos_rows import Row


@dataclass(frozen=True)
class Ran:
    """A job that ran once; it was fetched 0.1 s before it began."""

    began_at: float
    ended_at: float | None
    queue: str = BY_TENANT
    tenant: str = "ada"
    client: str = "0.1"


def evidence(directory: Path, jobs: Sequence[Ran], **fields: Any) -> Evidence:
    """Return the evidence of two workers; the first was killed at 50."""
    plan = [ChaosJob(n=n, queue=one.queue, tenant=one.tenant) for n, one in enumerate(jobs)]
    executions = [
        Execution(
            one.client, n + 1, 1, 0, "complete", one.began_at, one.ended_at, int((one.began_at - 0.1) * 1e6)
        )
        for n, one in enumerate(jobs)
    ]
    rows = [
        Row(
            id=n + 1,
            args=job.args(),
            attempt=1,
            attempted_by=["a"],
            errors=[],
            metadata={},
            state="completed",
        )
        for n, job in enumerate(plan)
    ]
    lives = [life(directory, "0.1", ended_at=50.0, is_killed=True), life(directory, "1.1")]
    plain: dict[str, Any] = {
        "answers": {job.n: ["inserted"] for job in plan},
        "batches": [],
        "began_at": 0.0,
        "ended_at": 100.0,
        "epoch": 0.0,
        "executions": sorted(executions, key=lambda one: one.began_at),
        "faults": [],
        "lives": lives,
        "plan": plan,
        "rows": rows,
        "rescued_at": {},
        "ticks": [],
        "tick_seconds": 5.0,
        "troubles": [],
    }
    return Evidence(**{**plain, **fields})


def life(directory: Path, name: str, *messages: str, **fields: Any) -> Life:
    log = directory / f"{name}.log"
    log.write_text("".join(f'{{"message": "{message}"}}\n' for message in messages))
    # The audit does not use the process.
    return Life(client_id=name, log=log, name=name, process=None, began_at=0.0, who=int(name[0]), **fields)  # type: ignore[arg-type]


def at_once(*numbers: tuple[int, float, float]) -> list[Change]:
    """Return changes of the limit by tenant: the number, and when it was sent and answered."""
    limit = LIMITS[BY_TENANT]
    return [
        Change(
            queue=BY_TENANT, limit=replace(limit, at_once=number), sent_at=sent_at, answered_at=answered_at
        )
        for number, sent_at, answered_at in numbers
    ]


FOUR = [Ran(10.0 + n / 10, 20.0) for n in range(4)]
KILLED = [Ran(40.0 + n / 10, None) for n in range(3)]
ONE_MORE = Ran(45.0, 46.0, client="1.1")


@pytest.mark.parametrize(
    ("jobs", "fields"),
    [
        pytest.param([*FOUR[:3], Ran(10.0, 20.0, tenant="bob")], {}, id="each tenant has three slots"),
        pytest.param([*FOUR[:3], Ran(20.001, 21.0)], {}, id="one ended before the next began"),
        pytest.param(FOUR, {"changes": at_once((4, 5.0, 6.0))}, id="the limit was raised before"),
        pytest.param(
            FOUR, {"changes": at_once((4, 5.0, 6.0), (1, 10.25, 12.0))}, id="it was lowered while they ran"
        ),
        pytest.param(
            FOUR, {"changes": at_once((4, 10.25, 11.0))}, id="it was raised between fetch and begin"
        ),
        pytest.param(
            [*KILLED, replace(ONE_MORE, began_at=50.1, ended_at=51.0)], {}, id="their process was killed"
        ),
        pytest.param(
            [*KILLED, ONE_MORE], {"rescued_at": {(1, 1): 44.8}}, id="one was rescued while it ran on"
        ),
        pytest.param(
            [ONE_MORE, *KILLED], {"rescued_at": {(1, 1): 44.95}}, id="one was rescued before it began"
        ),
        pytest.param([Ran(10.0, 20.0, TOTAL, tenant) for tenant in TENANTS], {}, id="the total is three"),
        pytest.param(
            [Ran(10.0, 20.0, BY_CLIENT, client=client) for client in ("0.1", "1.1")],
            {},
            id="each client has one",
        ),
        pytest.param(
            [Ran(at, at, RATE) for at in (10.0, 10.0, 10.5, 11.0, 13.0, 13.0)], {}, id="a rate of two"
        ),
        pytest.param(
            [Ran(10.0, 20.0)],
            {"holds": [Hold(queue=BY_TENANT, tenant="ada", answered_at=9.95, until=15.0)]},
            id="the job was fetched before the hold",
        ),
        pytest.param([Ran(10.0, 11.0, IN_ORDER), Ran(11.0, 12.0, IN_ORDER)], {}, id="one after the other"),
        pytest.param(
            [Ran(11.0, 12.0, IN_ORDER), Ran(10.0, 11.0, IN_ORDER)],
            {"answers": {0: ["none"], 1: ["inserted"]}},
            id="the first had no answer to its insert",
        ),
        pytest.param(
            FOUR,
            {"resets": [Reset(version=9, began_at=11.0, down_at=11.5, ended_at=12.0)]},
            id="their slots were lost",
        ),
        pytest.param([Ran(10.0, 20.0, REMOVED) for _ in range(9)], {}, id="its limit may be removed"),
    ],
)
def test_audit_accepts_what_limits_allow(jobs: Sequence[Ran], fields: dict[str, Any], tmp_path: Path) -> None:
    """Slots are free from an end, a kill or a rescue on, and the limit in force counts when a slot is given."""
    assert list(wrong_limits(evidence(tmp_path, jobs, **fields))) == []


@pytest.mark.parametrize(
    ("jobs", "fields", "fault"),
    [
        (FOUR, {}, "limited_tenant ada: at_once must be at most 3, got 4 at 10.300"),
        (FOUR[:2], {"changes": at_once((1, 5.0, 6.0))}, "at_once must be at most 1, got 2 at 10.100"),
        (
            FOUR,
            {"changes": at_once((4, 5.0, 6.0), (2, 7.0, 8.0))},
            "at_once must be at most 2, got 4 at 10.300",
        ),
        ([*KILLED, ONE_MORE], {}, "at_once must be at most 3, got 4 at 45.000"),
        ([*KILLED, ONE_MORE], {"rescued_at": {(1, 1): 45.1}}, "at_once must be at most 3, got 4 at 45.000"),
        (
            [Ran(10.0, 20.0, TOTAL, tenant) for tenant in (*TENANTS, "ada")],
            {},
            "limited_total ada: total must be at most 3, got 4 at 10.000",
        ),
        (
            [Ran(10.0, 20.0, BY_CLIENT), Ran(11.0, 20.0, BY_CLIENT)],
            {},
            "limited_client ada: at_once_per_client must be at most 1, got 2 at 11.000",
        ),
        (
            [Ran(at, at, RATE) for at in (10.0, 10.0, 10.4)],
            {},
            "limited_rate ada: a start at 10.300 exceeds the rate by 0.200 jobs",
        ),
        (
            [Ran(10.0, 20.0)],
            {"holds": [Hold(queue=BY_TENANT, tenant="ada", answered_at=9.0, until=15.0)]},
            "limited_tenant ada was held from 9.000 to 15.000, and job 1 started at 9.900 in 0.1",
        ),
        (
            [Ran(10.0, 12.0, IN_ORDER), Ran(11.0, 13.0, IN_ORDER)],
            {},
            "limited_order ada: job 2 started at 11.000, and job 1 before it ended at 12.000",
        ),
        (
            [Ran(11.0, 12.0, IN_ORDER), Ran(10.0, 11.0, IN_ORDER)],
            {},
            "limited_order ada: job 2 started at 10.000, and job 1 before it ended at 12.000",
        ),
        (
            FOUR,
            {"resets": [Reset(version=10, began_at=11.0, down_at=11.5, ended_at=12.0)]},
            "at_once must be at most 3, got 4 at 10.300",
        ),
        (
            FOUR,
            {"resets": [Reset(version=9, began_at=8.0, down_at=8.5, ended_at=9.0)]},
            "at_once must be at most 3, got 4 at 10.300",
        ),
        ([], {"left_behind": ["a job waits"]}, "a job waits"),
    ],
)
def test_audit_finds_each_exceeded_limit(
    jobs: Sequence[Ran], fields: dict[str, Any], fault: str, tmp_path: Path
) -> None:
    """One job too many, too early or out of order is reported."""
    found = list(wrong_limits(evidence(tmp_path, jobs, **fields)))

    assert any(fault in one for one in found), found


@pytest.mark.parametrize(("began_at", "num_faults"), [(11.0, 0), (9.5, 1)])
def test_a_job_that_cancelled_itself_leaves_its_place_in_the_order(
    began_at: float, num_faults: int, tmp_path: Path
) -> None:
    """The next job of its partition starts after its cancel, before its retry, and not before the cancel."""
    ran = evidence(tmp_path, [Ran(9.0, 10.0, IN_ORDER), Ran(began_at, began_at + 1.0, IN_ORDER)])
    plan = [replace(ran.plan[0], kind=RETRIED_KIND), ran.plan[1]]
    rows = [replace(ran.rows[0], attempt=2, errors=[(1, "enough")]), ran.rows[1]]
    retried = Execution("0.1", 1, 2, 0, "complete", 20.0, 21.0, 19_900_000)

    found = list(wrong_limits(replace(ran, plan=plan, rows=rows, executions=[*ran.executions, retried])))

    assert len([one for one in found if "before it ended" in one]) == num_faults, found


def test_a_migration_ends_holds_and_sets_declared_limits_again() -> None:
    """After the loss of the tables of limits, the limits of the code are in force, and no hold is."""
    resets = [Reset(version=9, began_at=11.0, down_at=12.0, ended_at=20.0)]
    hold = Hold(queue=BY_TENANT, tenant="ada", answered_at=10.0, until=30.0)

    assert [one.until for one in holds_after(resets, [hold, replace(hold, answered_at=21.0)])] == [11.0, 30.0]
    again = [
        one
        for one in changes_after(resets, at_once((4, 5.0, 6.0), (2, 25.0, 26.0)))
        if one.queue == BY_TENANT
    ]
    assert [(one.limit.at_once, one.sent_at) for one in again] == [(4, 5.0), (3, 11.0), (2, 25.0)]
    assert changes_after([replace(resets[0], version=10)], []) == []


def test_audit_finds_a_corrected_count(tmp_path: Path) -> None:
    """A leader that corrects a count of slots found a fault."""
    lives = [life(tmp_path, "2.1", "limit count corrected")]

    assert list(wrong_limits(evidence(tmp_path, [], lives=lives))) == ["2.1 corrected a count of slots"]


def test_load_has_jobs_of_each_limit() -> None:
    """Half of the jobs belong to limits, the same for the same seed, and those in order are due at once."""
    jobs = Load(3, 60.0, 40.0).plan
    in_order = [job for job in jobs if job.queue == IN_ORDER]

    assert limited(jobs[0], 3) == limited(jobs[0], 3)
    assert {(job.queue, job.tenant) for job in jobs if job.tenant} == {
        (one, by) for one in LIMITS for by in TENANTS
    }
    assert all(job.delay_seconds is None and not job.is_unique for job in in_order)
