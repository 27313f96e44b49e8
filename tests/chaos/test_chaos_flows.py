"""The audit of flows finds each way in which one can go wrong, in evidence that it otherwise accepts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from chaos_flows import ChaosNode, FlowEvidence, TaskEvidence, flow_plan, wrong_flows
from chaos_journal import Execution
from chaos_plan import ChaosJob

JOB = ChaosJob(n=0)
NODES = (
    ChaosNode((), "completed", [JOB], is_group=False),
    ChaosNode((), "completed", [JOB, JOB], is_group=True),
    ChaosNode((0, 1), "completed", [JOB], is_group=False),
    ChaosNode((0,), "failed", [JOB], is_group=False),
    ChaosNode((3,), "ended", [JOB], is_group=False),
)
ENDS = {
    "t0": ("completed", "completed"),
    "t1.1": ("completed", "completed"),
    "t1.2": ("failed", "discarded"),
    "t2": ("failed", "cancelled"),
    "t3": ("skipped", "cancelled"),
    "t4": ("completed", "completed"),
}
# When the tasks that run began; each takes a second.
BEGAN = {"t0": 10.0, "t1.1": 10.0, "t1.2": 11.0, "t4": 12.0}
JOBS = {name: number for number, name in enumerate(ENDS, 1)}


def evidence(ends: Mapping[str, tuple[str, str]] = ENDS, **fields: Any) -> FlowEvidence:
    tasks = [
        TaskEvidence(
            flow_id=1,
            flow="flow 0",
            num_tasks=6,
            has_ended=True,
            job_id=JOBS[name],
            state=state,
            job_state=job_state,
            name=name,
            is_marked=name == "t3",
        )
        for name, (state, job_state) in ends.items()
    ]
    plain: dict[str, Any] = {"plans": {"flow 0": NODES}, "answers": {"flow 0": "inserted"}, "tasks": tasks}
    return FlowEvidence(**{**plain, **fields})


def executions(began: Mapping[str, float] = BEGAN) -> list[Execution]:
    return [
        Execution("0.1", JOBS[name], 1, 0, "complete", at, at + 1.0, token=number)
        for number, (name, at) in enumerate(began.items(), 1)
    ]


def audit(one: FlowEvidence, began: Mapping[str, float] = BEGAN) -> list[str]:
    return list(wrong_flows(one, executions(began), {}))


def test_audit_finds_nothing_in_valid_evidence() -> None:
    """Tasks that ran after what they wait for, and others that were cancelled and skipped, are no violation."""
    assert audit(evidence()) == []
    assert audit(evidence({}, answers={"flow 0": "none"}), {}) == []


@pytest.mark.parametrize(
    ("change", "fields", "began", "fault"),
    [
        (
            {"t0": None},
            {},
            BEGAN,
            "flow 0: must have the tasks ['t0', 't1.1', 't1.2', 't2', 't3', 't4'], got",
        ),
        (
            {"t4": ("waiting", "pending")},
            {},
            BEGAN,
            "flow 0: task t4 must have ended, got waiting with a job",
        ),
        (
            {"t0": ("completed", "cancelled")},
            {},
            BEGAN,
            "flow 0: task t0 is completed, and its job 1 is cancelled",
        ),
        (
            {"t3": ("failed", "cancelled")},
            {},
            BEGAN,
            "flow 0: task t3 is failed, and its job is marked as skipped",
        ),
        (
            {"t2": ("completed", "completed")},
            {},
            {**BEGAN, "t2": 13.0},
            "flow 0: task t2 ran, and was to be failed",
        ),
        ({}, {}, {**BEGAN, "t3": 13.0}, "flow 0: task t3 ran, and was to be skipped after t0 completed"),
        ({"t1.2": ("completed", "completed")}, {}, BEGAN, "flow 0: task t2 never ran after t0 completed"),
        (
            {"t1.2": ("completed", "completed"), "t2": ("completed", "completed")},
            {},
            {**BEGAN, "t2": 11.5},
            "flow 0: task t2 began 0.500 s before its parents had ended",
        ),
        ({}, {"miscounted": ["join 1 counts 2"]}, BEGAN, "join 1 counts 2"),
    ],
)
def test_audit_finds_each_violation(
    change: Mapping[str, tuple[str, str] | None],
    fields: dict[str, Any],
    began: Mapping[str, float],
    fault: str,
) -> None:
    """Each change of valid evidence is reported as its violation."""
    ends = {name: end for name, end in {**ENDS, **change}.items() if end is not None}

    found = audit(evidence(ends, **fields), began)

    assert any(one.startswith(fault) for one in found), found


@pytest.mark.parametrize("field", ["cancelled", "retried"])
def test_tasks_of_a_changed_flow_need_not_run(field: str) -> None:
    """A cancelled flow has cancelled tasks that never ran, and of a retried one the last runs are not known."""
    ends = {**ENDS, "t1.2": ("completed", "completed")}

    assert audit(evidence(ends, **{field: frozenset({"flow 0"})})) == []


def test_flow_that_has_not_ended_is_found() -> None:
    """A flow whose tasks have ended must have ended too."""
    one = evidence()
    running = replace(one, tasks=[replace(task, has_ended=False) for task in one.tasks])

    assert len(audit(running)) == len(ENDS)


@pytest.mark.slow
def test_flows_follow_from_their_seed() -> None:
    """The flows of a seed are the same in each run, and among them are groups and each `when`."""
    flows = [flow_plan(3, number) for number in range(60)]

    assert flows == [flow_plan(3, number) for number in range(60)]
    assert {node.when for nodes in flows for node in nodes} == {"completed", "ended", "failed"}
    assert any(node.is_group for nodes in flows for node in nodes)
