"""
Flows under real concurrency: transactions on several connections, ordered by the locks that another one holds.

Of two changes that wait for the flow, the tables must show what a model shows after one of their two orders.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from flow_model import FlowModel
from flow_races import GENEROUS_SECONDS, Race, job_lock, mutated, within

from factory import qualified
from flow_world import FlowWorld, Node
from millhand.core.errors import DriverError, FlowCancelled
from millhand.core.job import JobId, JobRow, JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.store.job import job_retry
from millhand.flows import resolver
from millhand.flows.control import begin_cancel
from millhand.flows.flow import TaskState
from millhand.flows.maintainer import START
from millhand.flows.resolver import cancel_jobs, count_ended_elsewhere
from millhand.flows.store import flow_task_get_ended
from repeats import first_of

# Places of tasks: two parents, a task that adds others, one that another program ends, and one that fails at the beginning.
FIRST, SECOND, ADDER, ENDED_ELSEWHERE, FAILED = range(5)
ALL = frozenset({FIRST, SECOND, ADDER, ENDED_ELSEWHERE})
NODES = (
    *[Node()] * 5,
    Node(ALL),
    Node(ALL, "ended", 2),
    Node(ALL, "failed"),
    Node(frozenset({FIRST, SECOND})),
    Node(frozenset({FAILED})),
    Node(frozenset({FAILED, SECOND}), "ended"),
    Node(frozenset({9, FIRST}), "failed"),
)
NUM_TASKS = len(FlowModel(NODES).tasks)
Change = tuple[Callable[["Scene"], Coroutine[Any, Any, Any]], Callable[[FlowModel], object]]


@dataclass
class Scene:
    """A flow whose parents run, one of whose tasks has ended elsewhere, and one has failed."""

    race: Race
    id: int
    jobs: Sequence[JobRow]

    @property
    def world(self) -> FlowWorld:
        return self.race.world

    async def complete(self, place: int) -> None:
        await self.world.complete([self.jobs[place]])

    async def add(self) -> None:
        with contextlib.suppress(FlowCancelled):
            await self.world.add(self.jobs[ADDER], 2)

    async def maintain(self) -> None:
        await FlowWorld(self.race.pool).maintain(1)


def added(model: FlowModel) -> None:
    """Add what the attempt adds, once: a second call repeats the first."""
    if not model.is_cancelled and len(model.tasks) == NUM_TASKS:
        model.add(ADDER, 2)


def completed(model: FlowModel, place: int) -> None:
    model.tasks[place].job = "completed"
    model.count({place: "completed"})


CHANGES: dict[str, Change] = {
    "first parent": (lambda scene: scene.complete(FIRST), lambda model: completed(model, FIRST)),
    "second parent": (lambda scene: scene.complete(SECOND), lambda model: completed(model, SECOND)),
    "cancel": (lambda scene: scene.world.control.cancel(scene.id), FlowModel.cancel),
    "retry": (
        lambda scene: scene.world.control.retry(scene.id),
        lambda model: model.retry("failed_and_downstream"),
    ),
    "add": (Scene.add, added),
    "leader": (Scene.maintain, FlowModel.maintain),
}


@pytest.fixture
async def race(schema_driver: AsyncpgDriver, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Race]:
    # The lock is held until all transactions wait for it.
    monkeypatch.setattr(resolver, "LOCK_SECONDS", GENEROUS_SECONDS)
    race = Race(FlowWorld(schema_driver.pool))
    yield race
    await race.ended()


async def make_scene(race: Race) -> tuple[Scene, Callable[[], FlowModel]]:
    """Return a scene, and what makes its model."""
    id = (await race.world.insert(NODES)).id
    jobs = await race.world.fetch()
    jobs.sort(key=lambda job: job.id)
    await race.world.end([jobs[FAILED]], JobState.DISCARDED)
    sql = "UPDATE /* schema */river_job SET state = 'discarded', finalized_at = now() WHERE id = $1"
    await race.pool.fetch(qualified(sql, race.pool), [jobs[ENDED_ELSEWHERE].id])

    def model() -> FlowModel:
        model = FlowModel(NODES)
        for place in (FIRST, SECOND, ADDER):
            model.tasks[place].job = "running"
        model.tasks[FAILED].job = model.tasks[ENDED_ELSEWHERE].job = "discarded"
        model.count({FAILED: "discarded"})
        return model

    scene = Scene(race, id, jobs)
    assert await race.world.states() == model().states
    return scene, model


async def run_pair(race: Race, first: str, second: str) -> None:
    """Start two changes while the flow is locked, and check what they leave. The leader skips the flow."""
    scene, model = await make_scene(race)
    waiting = [name for name in (first, second) if name != "leader"]
    async with race.held():
        tasks = [await race.blocked(CHANGES[name][0](scene)) for name in waiting]
        for _ in range(2 - len(waiting)):
            await within(scene.maintain())
    for task in tasks:
        await within(task)
    possible = []
    orders = [tuple(waiting), tuple(reversed(waiting))]
    if (first, second) == ("cancel", "retry"):
        orders.append(("retry",))  # the retry ends a cancel that has cancelled no job yet
    for order in orders:
        one = model()
        for name in order:
            CHANGES[name][1](one)
        possible.append(one.states)
    states = await race.world.states()
    assert states in possible
    await race.world.check()


async def drained(race: Race) -> None:
    """Work what is available until nothing is, and require that the flow has ended."""
    world = race.world
    sql = "SELECT id FROM /* schema */river_job WHERE state = 'running'"
    for _ in range(len(NODES)):
        await world.fetch()
        ids = [row["id"] for row in await race.pool.fetch(qualified(sql, race.pool))]
        await race.pool.fetch(
            qualified(
                "UPDATE /* schema */river_job SET state = 'completed', finalized_at = now() "
                "WHERE id = ANY($1::bigint[])",
                race.pool,
            ),
            [ids],
        )
        await world.maintain()
    assert not {"waiting", "released"} & set(await world.task_states())
    await world.check()


@pytest.mark.slow
@pytest.mark.parametrize("second", first_of(*CHANGES))
@pytest.mark.parametrize("first", CHANGES)
async def test_two_changes_leave_what_one_after_the_other_leaves(race: Race, first: str, second: str) -> None:
    """Both wait for the flow, or the leader skips it: no deadlock, no task is missed, and each is counted once."""
    await run_pair(race, first, second)
    await drained(race)


@pytest.mark.slow
async def test_without_the_lock_of_the_flow_a_retry_and_a_count_collide(
    race: Race, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant's retry locks no flow: it counts from an old snapshot, or the two wait for each other."""
    with (
        mutated(monkeypatch, "flow_lock", "FOR NO KEY UPDATE", ""),
        pytest.raises((AssertionError, DriverError)),
    ):
        await run_pair(race, "first parent", "retry")


# What waits for no job.


async def test_no_change_waits_for_a_job_that_another_transaction_has_locked(race: Race) -> None:
    """The job of a waiting task is locked: the change that would release it skips it, and the leader releases it later."""
    await race.world.insert([Node(), Node(frozenset({0})), Node(frozenset({0}))])
    [parent] = await race.world.fetch()
    locked, _ = (await race.world.job_ids())[1:]

    async with race.held(job_lock(locked)):
        await within(race.world.complete([parent]))
        await within(race.world.maintain())
        before = await race.world.task_states()
    await race.world.maintain()

    assert before == ["completed", "waiting", "released"]
    assert await race.world.states() == [
        ("completed", "completed"),
        ("released", "available"),
        ("released", "available"),
    ]
    await race.world.check()


@pytest.mark.slow
async def test_neither_cancel_nor_retry_waits_for_a_locked_job(race: Race) -> None:
    """A cancel leaves the locked job to the leader; a retry leaves it as it has ended."""
    id = (await race.world.insert([Node(), Node()])).id
    locked, _ = await race.world.job_ids()

    async with race.held(job_lock(locked)):
        await within(race.world.control.cancel(id))
        cancelled = await race.world.task_states()
    await race.world.maintain()
    after = await race.world.states()
    async with race.held(job_lock(locked)):
        await within(race.world.control.retry(id, mode="all"))

    assert cancelled == ["released", "failed"]
    assert after == [("failed", "cancelled")] * 2
    assert await race.world.task_states() == ["failed", "released"]
    await race.world.check()


# Two flows, and jobs that hold each other up.


@pytest.mark.slow
async def test_batches_of_two_flows_do_not_deadlock(race: Race) -> None:
    """Two completers end jobs of two flows, each of them in the other order: both lock the flows in one order."""
    for _ in range(2):
        await race.world.insert([Node(), Node(), Node(frozenset({0, 1}))])
    a1, a2, b1, b2 = await race.world.fetch()

    async with race.held():
        first = await race.blocked(race.world.complete([a1, b1]))
        second = await race.blocked(race.world.complete([b2, a2]))

    assert sorted(await first) == [a1.id, b1.id]
    assert sorted(await second) == [a2.id, b2.id]
    assert await race.world.task_states() == ["completed", "completed", "released"] * 2
    await race.world.check()


async def read_by_leader(race: Race) -> Mapping[JobId, TaskState]:
    """Let another program discard a job that runs, and return what a pass of the leader reads of it."""
    [job] = await race.world.fetch()
    sql = "UPDATE /* schema */river_job SET state = 'discarded', finalized_at = now() WHERE id = $1"
    await race.pool.fetch(qualified(sql, race.pool), [job.id])
    ends = (await race.pool.run(flow_task_get_ended(START, limit=10))).ends
    assert [*ends] == [job.id]
    return ends


async def test_job_that_is_retried_beside_the_leaders_count(race: Race) -> None:
    """The leader read that a task's job was discarded; before it has the lock, the job is counted and its flow retried."""
    id = (await race.world.insert([Node(), Node(frozenset({0}))])).id
    ends = await read_by_leader(race)
    await race.world.maintain(1)
    await race.world.control.retry(id)

    async with race.pool.begin() as tx:
        await count_ended_elsewhere(tx, ends)

    assert await race.world.states() == [("released", "available"), ("waiting", "pending")]
    await race.world.check()


async def test_single_job_that_is_retried_beside_the_leaders_count(race: Race) -> None:
    """The leader read that a task's job was discarded; before it has the lock, a person retries the job."""
    await race.world.insert([Node(), Node(frozenset({0}))])
    ends = await read_by_leader(race)
    for id in ends:
        await race.pool.run(job_retry(id))

    async with race.pool.begin() as tx:
        await count_ended_elsewhere(tx, ends)

    assert await race.world.states() == [("released", "available"), ("waiting", "pending")]
    await race.world.check()


async def test_retry_between_the_two_steps_of_a_cancel(race: Race) -> None:
    """A retry after the mark and before the jobs are cancelled ends the cancel: the flow runs."""
    id = (await race.world.insert([Node(), Node()])).id
    [first, _] = await race.world.fetch()
    await race.world.end([first], JobState.DISCARDED)

    async with race.pool.begin() as tx:
        await begin_cancel(tx, id)
    await race.world.control.retry(id)
    await cancel_jobs(race.pool, id)

    row = await race.world.row(id)
    assert (row.cancelled_at, row.num_open) == (None, 2)
    await race.world.check()
