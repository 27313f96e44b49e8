"""
The flows of a chaos run, the cancels and retries of some of them, and their audit.

- An acknowledged flow exists once, with all of its tasks. One without an answer exists as a whole or not at all.
- In the end each flow has ended, no task waits, and all counts are those of a recount.
- A task runs only after the tasks that it waits for have ended as its `when` demands, and what is cancelled or skipped never
  runs. Retried flows are excepted, because the rows show their last runs only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
from chaos_journal import Execution
from chaos_plan import HELD_KIND, ChaosJob, plan

from millhand.client import Client
from millhand.core.args.codec import RawArgs
from millhand.core.errors import DriverError, NotFound, OperationTimeout
from millhand.core.insert_opts import InsertOpts
from millhand.flows.flow import Flow, FlowTask, When

sys.path.append(str(Path(__file__).parents[1]))
from flow_counts import MISCOUNTED

KIND = "chaos_flow"
INSERT_SECONDS = (0.2, 0.8)
CHANGE_SECONDS = (0.5, 4.0)
NUM_NODES = (2, 9)
GROUP_SIZES = (0, 2, 4)
WHENS: Sequence[When] = ("completed", "completed", "completed", "ended", "failed")
# Of a dozen flows, one each is cancelled and retried while it runs, or soon after.
CANCELLED_EACH, RETRIED_EACH = 12, 12
FAILED_JOBS = frozenset({"cancelled", "discarded"})
SEED_OF_FLOWS = 1_000_003
INFINITY = float("inf")

TASKS = """
SELECT
    flow.id AS flow_id,
    flow.name AS flow,
    flow.num_tasks,
    flow.ended_at IS NOT NULL AS has_ended,
    task.job_id,
    task.state,
    coalesce(job.state::text, 'deleted') AS job_state,
    coalesce(job.metadata ->> 'task', '') AS name,
    job.metadata ? 'millhand:skipped' AS is_marked
FROM millhand_flow AS flow
INNER JOIN millhand_flow_task AS task ON flow.id = task.flow_id
LEFT JOIN river_job AS job ON task.job_id = job.id
ORDER BY task.job_id
"""


@dataclass(frozen=True)
class ChaosNode:
    """Tasks of a flow of the plan, one or a group, and the nodes that they wait for."""

    after: tuple[int, ...]
    when: When
    jobs: Sequence[ChaosJob]
    is_group: bool

    def names(self, place: int) -> list[str]:
        if not self.is_group:
            return [f"t{place}"]
        return [f"t{place}.{number}" for number in range(1, len(self.jobs) + 1)]


@dataclass(frozen=True, kw_only=True)
class TaskEvidence:
    """A task at the end of the run, and its flow."""

    flow_id: int
    flow: str
    num_tasks: int
    has_ended: bool
    job_id: int
    state: str
    job_state: str
    name: str
    is_marked: bool = False


@dataclass(frozen=True, kw_only=True)
class FlowEvidence:
    """What was inserted, by the names of flows, with the answers; what was changed; and what the tables have at the end."""

    plans: Mapping[str, Sequence[ChaosNode]]
    answers: Mapping[str, str]
    tasks: Sequence[TaskEvidence]
    cancelled: frozenset[str] = frozenset()
    retried: frozenset[str] = frozenset()
    miscounted: Sequence[str] = ()


def flow_plan(seed: int, number: int) -> list[ChaosNode]:
    """Return the nodes of a flow; the same at each call."""
    chance = random.Random(f"{seed} {number} flow")  # noqa: S311 - a seed must give the same flows again
    jobs = iter([job for job in plan(seed + SEED_OF_FLOWS + number, 100) if job.kind != HELD_KIND])
    nodes: list[ChaosNode] = []
    for place in range(chance.randint(*NUM_NODES)):
        after = tuple(sorted({chance.randrange(place) for _ in range(chance.randint(0, 3))} if place else ()))
        is_group = chance.random() < 0.2
        size = chance.choice(GROUP_SIZES) if is_group else 1
        when: When = chance.choice(WHENS) if after else "completed"
        nodes.append(ChaosNode(after, when, [next(jobs) for _ in range(size)], is_group))
    return nodes


def flow_of(name: str, nodes: Sequence[ChaosNode]) -> Flow:
    flow, handles = Flow(name), list[FlowTask]()
    for place, node in enumerate(nodes):
        after = [handles[one] for one in node.after]
        pairs = [
            (RawArgs(KIND, json.dumps(job.args())), InsertOpts(max_attempts=job.max_attempts))
            for job in node.jobs
        ]
        if node.is_group:
            handles.append(flow.add_many(pairs, after=after, when=node.when, name=f"t{place}"))
        else:
            [(args, opts)] = pairs
            handles.append(flow.add(args, opts, after=after, when=node.when, name=f"t{place}"))
    return flow


@dataclass
class FlowLoad:
    """Inserts the flows of a seed, and cancels and retries some of them."""

    seed: int
    plans: dict[str, Sequence[ChaosNode]] = field(default_factory=dict)
    sent_at: dict[str, float] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    retried: set[str] = field(default_factory=set)

    async def insert_all(
        self, client: Client, seconds: float, is_quiet: Callable[[], bool] = lambda: False
    ) -> None:
        """Insert one flow after the other for a time, but none while `is_quiet`."""
        chance = random.Random(f"{self.seed} flows")  # noqa: S311 - a seed must give the same flows again
        until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as changes:
            for number in count():
                await asyncio.sleep(chance.uniform(*INSERT_SECONDS))
                if time.monotonic() > until:
                    return
                if is_quiet():
                    continue
                name = f"flow {number}"
                self.sent_at[name] = time.monotonic()
                self.plans[name] = flow_plan(self.seed, number)
                self.answers[name] = "none"
                try:
                    row = await client.insert_flow(flow_of(name, self.plans[name]))
                except (DriverError, OperationTimeout):
                    continue
                self.answers[name] = "inserted"
                pause = chance.uniform(*CHANGE_SECONDS)
                if number % CANCELLED_EACH == 1:
                    self.cancelled.add(name)
                    changes.create_task(_change(pause, client.flows.cancel, row.id))
                elif number % RETRIED_EACH == 2:
                    self.retried.add(name)
                    changes.create_task(_change(pause, client.flows.retry, row.id))


async def _change(pause: float, call: Any, id: int) -> None:
    """Change a flow after a pause. A call without an answer is not repeated."""
    await asyncio.sleep(pause)
    with contextlib.suppress(DriverError, OperationTimeout, NotFound):
        await call(id)


async def flow_evidence(url: str, load: FlowLoad, since: float = -INFINITY) -> FlowEvidence:
    """Return what the tables of flows have of those that were sent `since` an instant of the monotonic clock."""
    plans = {name: nodes for name, nodes in load.plans.items() if load.sent_at[name] >= since}
    connection = await asyncpg.connect(url)
    tasks = [TaskEvidence(**dict(row)) for row in await connection.fetch(TASKS) if row["flow"] in plans]
    miscounted = [
        f"{row['name']} counts {row['counted']}, and a recount finds {row['found']}"
        for row in await connection.fetch(MISCOUNTED.replace("/* schema */", ""))
    ]
    await connection.close()
    return FlowEvidence(
        plans=plans,
        answers=load.answers,
        tasks=tasks,
        cancelled=frozenset(load.cancelled),
        retried=frozenset(load.retried),
        miscounted=miscounted,
    )


def wrong_flows(
    evidence: FlowEvidence, executions: Sequence[Execution], figures: dict[str, int]
) -> Iterator[str]:
    """Yield the faults of flows, in sentences."""
    yield from evidence.miscounted
    by_flow: dict[str, list[TaskEvidence]] = defaultdict(list)
    for task in evidence.tasks:
        by_flow[task.flow].append(task)
    by_job: dict[int, list[Execution]] = defaultdict(list)
    for one in executions:
        by_job[one.job].append(one)
    for name, nodes in evidence.plans.items():
        tasks = by_flow[name]
        yield from (f"{name}: {fault}" for fault in _incomplete(evidence.answers[name], nodes, tasks))
        yield from (f"{name}: {fault}" for fault in _left(tasks))
        if name not in evidence.retried:
            is_cancelled = name in evidence.cancelled
            faults = _wrong_order(nodes, tasks, by_job, is_cancelled=is_cancelled)
            yield from (f"{name}: {fault}" for fault in faults)
    figures["flows"] = len(by_flow)
    for state, num in Counter(task.state for task in evidence.tasks).items():
        figures[f"tasks of flows {state}"] = num


def _incomplete(answer: str, nodes: Sequence[ChaosNode], tasks: Sequence[TaskEvidence]) -> Iterator[str]:
    """Yield a flow that is missing, exists twice or has not all tasks. One of empty groups has no task to find it by."""
    planned = sorted(name for place, node in enumerate(nodes) for name in node.names(place))
    found = sorted(task.name for task in tasks)
    if found != planned and (found or answer == "inserted"):
        yield f"must have the tasks {planned}, got {found}; its insert was answered {answer!r}"


def _left(tasks: Sequence[TaskEvidence]) -> Iterator[str]:
    """Yield what has not ended, and tasks whose state is not that of their jobs."""
    for task in tasks:
        if not task.has_ended or task.state in ("waiting", "released"):
            yield f"task {task.name} must have ended, got {task.state} with a job that is {task.job_state}"
        elif (task.state == "completed") != (task.job_state == "completed"):
            yield f"task {task.name} is {task.state}, and its job {task.job_id} is {task.job_state}"
        elif (task.state == "skipped") != task.is_marked:
            yield f"task {task.name} is {task.state}, and its job is marked as skipped: {task.is_marked}"


def _wrong_order(
    nodes: Sequence[ChaosNode],
    tasks: Sequence[TaskEvidence],
    by_job: Mapping[int, Sequence[Execution]],
    *,
    is_cancelled: bool,
) -> Iterator[str]:
    """Yield the tasks that ran and should not have, that should have run, or that ran too early."""
    by_name = {task.name: task for task in tasks}
    for place, node in enumerate(nodes):
        parents = [by_name[name] for one in node.after for name in nodes[one].names(one) if name in by_name]
        decided = _decided(node.when, {parent.state for parent in parents}) if node.after else "released"
        for task in (by_name[name] for name in node.names(place) if name in by_name):
            ran = by_job.get(task.job_id, ())
            if ran and decided != "released":
                yield f"task {task.name} ran, and was to be {decided} after {_states(parents)}"
            if not is_cancelled and (decided in ("failed", "skipped") and task.state != decided):
                yield f"task {task.name} is {task.state}, and was to be {decided} after {_states(parents)}"
            # A job whose last attempt was killed before its beginning was written is discarded.
            if not (is_cancelled or ran) and decided == "released" and task.job_state != "discarded":
                yield f"task {task.name} never ran after {_states(parents)}"
            if ran and parents and decided == "released":
                began_at = min(one.began_at for one in ran)
                due_at = _due_at(node.when, parents, by_job)
                if began_at < due_at:
                    yield f"task {task.name} began {due_at - began_at:.3f} s before its parents had ended"


def _decided(when: str, states: set[str]) -> str:
    """Return what becomes of a task when those that it waits for have ended so."""
    if when == "ended":
        return "released"
    if when == "failed":
        return "released" if "failed" in states else "skipped"
    if "failed" in states:
        return "failed"
    return "skipped" if "skipped" in states else "released"


def _due_at(when: str, parents: Sequence[TaskEvidence], by_job: Mapping[int, Sequence[Execution]]) -> float:
    """Return when the last parent, or the first that failed, ended its last execution. A killed one has no end."""
    if when == "failed":
        return min(_ended_at(by_job.get(one.job_id, ())) for one in parents if one.state == "failed")
    return max(_ended_at(by_job.get(one.job_id, ())) for one in parents)


def _ended_at(executions: Sequence[Execution]) -> float:
    last = max(executions, key=lambda one: one.token, default=None)
    return -INFINITY if last is None or last.ended_at is None else last.ended_at


def _states(tasks: Sequence[TaskEvidence]) -> str:
    return ", ".join(f"{task.name} {task.state}" for task in tasks) or "no tasks"
