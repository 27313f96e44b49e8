"""Flows in any order of events, with a state machine that hypothesis drives, against a model in plain Python."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from flow_model import FlowModel
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from flow_world import FlowWorld, Node
from millhand.core.errors import FlowCancelled, JobNotRunning, JobRunning, MillhandError
from millhand.core.job import ClientId, JobRow, JobState
from millhand.db.driver.protocol import Executor
from millhand.engine.store.job import job_cancel, job_delete, job_get_by_ids, job_retry
from millhand.flows import maintainer as flow_maintainer

CLIENTS = (ClientId("client_a"), ClientId("client_b"))
NUM_TASKS_MAX = 30
# Less than most flows have, so that the leader's walk has several parts.
WALK_SIZE = 7
NUM_PASSES = 2 * (NUM_TASKS_MAX * 2 // WALK_SIZE + 1)
PLACES = st.lists(st.integers(0, 40), min_size=1, max_size=6)
ENDS = (
    JobState.AVAILABLE,
    JobState.CANCELLED,
    JobState.COMPLETED,
    JobState.DISCARDED,
    JobState.RETRYABLE,
    JobState.SCHEDULED,
)


@st.composite
def graphs(draw: st.DrawFn) -> list[Node]:
    """Return up to thirty tasks, one in five of them a group, which wait for up to three others each."""
    nodes: list[Node] = []
    num_tasks = 0
    for place in range(draw(st.integers(1, NUM_TASKS_MAX))):
        size = draw(st.sampled_from([None, None, None, None, 0, 1, 3]))
        num_tasks += 1 if size is None else size
        if num_tasks > NUM_TASKS_MAX:
            break
        parents = draw(st.lists(st.integers(0, place - 1), max_size=3)) if place else []
        when = (
            draw(st.sampled_from(["completed", "completed", "ended", "failed"])) if parents else "completed"
        )
        nodes.append(Node(frozenset(parents), when, size))
    return nodes


@dataclass(frozen=True)
class Ground:
    """Where machines run: the event loop belongs to the test, and hypothesis runs in a thread beside it."""

    executor: Executor
    loop: asyncio.AbstractEventLoop

    def do(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()


class RolledBackError(Exception):
    pass


class Machine(RuleBasedStateMachine):
    """A flow, its clients, its leader and other programs, one statement after the other."""

    ground: Ground

    @initialize(nodes=graphs())
    def begin(self, nodes: list[Node]) -> None:
        self.ground.do(self._begin(nodes))

    async def _begin(self, nodes: list[Node]) -> None:
        self.stack = AsyncExitStack()
        self.tx = await self.stack.enter_async_context(self.ground.executor.begin())
        self.world = FlowWorld(self.tx)
        self.id = (await self.world.insert(nodes)).id
        self.model = FlowModel(nodes)
        self.num_added: dict[int, int] = {}

    # What the clients do.

    @rule(limit=st.integers(1, 12), client=st.sampled_from(CLIENTS))
    def fetch(self, limit: int, client: ClientId) -> None:
        self.ground.do(self._fetch(limit, client))

    async def _fetch(self, limit: int, client: ClientId = CLIENTS[0]) -> None:
        await self._read(await self.world.fetch(limit, client))

    @rule(places=PLACES, is_counted=st.sampled_from([True, True, False]))
    def complete(self, places: list[int], is_counted: bool) -> None:
        """Attempts succeed; after a failure, their clients do not count them."""
        self.ground.do(self._end(places, JobState.COMPLETED, is_counted=is_counted))

    @rule(places=PLACES, state=st.sampled_from(ENDS), is_counted=st.sampled_from([True, True, False]))
    def end(self, places: list[int], state: JobState, is_counted: bool) -> None:
        """Attempts end in any way, or their jobs are to be tried again."""
        self.ground.do(self._end(places, state, is_counted=is_counted))

    async def _end(self, places: Sequence[int], state: JobState, *, is_counted: bool) -> None:
        jobs = await self._chosen(places, "running")
        if not jobs:
            return
        rows = await self.world.end(jobs, state, is_counted=is_counted)
        ended = await self._read(rows)
        if is_counted:
            self.model.count(ended)

    @rule()
    def work_all(self) -> None:
        """Everything that is available is worked and completes."""
        self.ground.do(self._work_all())

    async def _work_all(self) -> None:
        await self._fetch(100)
        running = self.model.with_jobs(["running"])
        if running:
            ids = await self.world.job_ids()
            jobs = await self.tx.run(job_get_by_ids([ids[place] for place in running]))
            ended = {}
            for client in CLIENTS:
                own = [job for job in jobs if job.attempted_by[-1] == client]
                if own:
                    await self.world.complete(own)
                    ended |= await self._read(await self.tx.run(job_get_by_ids([job.id for job in own])))
            self.model.count(ended)

    @rule(place=st.integers(0, 40), num=st.integers(1, 2))
    def add(self, place: int, num: int) -> None:
        """A running job adds tasks."""
        self.ground.do(self._add(place, num))

    async def _add(self, place: int, num: int) -> None:
        for job in await self._chosen([place], "running"):
            adder = (await self.world.job_ids()).index(job.id)
            added = self.num_added.get(job.id, 0) + num
            try:
                await self.world.add(job, added)
            except FlowCancelled:
                assert self.model.is_cancelled
            except JobNotRunning:
                # A person may have started a task that waits.
                assert self.model.tasks[adder].state != "released"
            else:
                self.num_added[job.id] = added
                self.model.add(adder, num)

    # What other programs and users do.

    @rule(place=st.integers(0, 40), to=st.sampled_from(["cancelled", "completed", "discarded", "deleted"]))
    def end_elsewhere(self, place: int, to: str) -> None:
        """A Go worker or a person ends or deletes a job in any state; the flow does not know."""
        self.ground.do(self._end_elsewhere(place, to))

    async def _end_elsewhere(self, place: int, to: str) -> None:
        for job in await self._chosen([place], "pending", "available", "running", "retryable"):
            if to == "deleted":
                await self.tx.fetch("DELETE FROM river_job WHERE id = $1", [job.id])
                self.model.tasks[(await self.world.job_ids()).index(job.id)].job = "deleted"
            else:
                sql = f"UPDATE river_job SET state = '{to}', finalized_at = now() WHERE id = $1"
                await self.tx.fetch(sql, [job.id])
                await self._read([job])

    @rule(place=st.integers(0, 40), change=st.sampled_from(["cancel", "delete", "retry"]))
    def change(self, place: int, change: str) -> None:
        """A user cancels, deletes or retries one job, which may wait for others."""
        self.ground.do(self._change(place, change))

    async def _change(self, place: int, change: str) -> None:
        jobs = await self._chosen(
            [place], "pending", "available", "running", "retryable", "completed", "discarded", "cancelled"
        )
        for job in jobs:
            if change == "cancel":
                await self.tx.run(job_cancel(job.id, now=datetime.now(UTC)))
            elif change == "retry":
                await self.tx.run(job_retry(job.id))
            else:
                with contextlib.suppress(JobRunning):
                    await self.tx.run(job_delete(job.id))
                    self.model.tasks[(await self.world.job_ids()).index(job.id)].job = "deleted"
                    continue
            await self._read([job])

    @rule()
    def schedule(self) -> None:
        """The scheduler makes jobs available that wait for their next attempt."""
        self.ground.do(self._schedule())

    async def _schedule(self) -> None:
        await self.tx.fetch(
            "UPDATE river_job SET state = 'available' WHERE state IN ('retryable', 'scheduled')"
        )
        for task in self.model.tasks:
            if task.job in ("retryable", "scheduled"):
                task.job = "available"

    # The leader, and changes of the flow.

    @rule()
    def maintain(self) -> None:
        self.ground.do(self._maintain())

    async def _maintain(self) -> None:
        await self.world.maintain(NUM_PASSES)
        self.model.maintain()

    @rule(is_meant=st.sampled_from([True, False, False]))
    def cancel(self, is_meant: bool) -> None:
        if is_meant:
            self.ground.do(self.world.control.cancel(self.id))
            self.model.cancel()

    @rule(mode=st.sampled_from(["failed_only", "failed_and_downstream", "all"]))
    def retry(self, mode: str) -> None:
        self.ground.do(self._retry(mode))

    async def _retry(self, mode: str) -> None:
        if not self.model.can_retry(mode):
            with pytest.raises(MillhandError, match=r"^tasks must have their jobs to run again, got "):
                await self.world.control.retry(self.id, mode=mode)
            return
        await self.world.control.retry(self.id, mode=mode)
        self.model.retry(mode)

    @invariant()
    def tables_agree(self) -> None:
        """The states of all tasks and jobs are the model's, and all counts are those of a recount."""
        if hasattr(self, "model"):
            self.ground.do(self._check())

    async def _check(self) -> None:
        assert await self.world.states() == self.model.states
        row = await self.world.row(self.id)
        assert (
            row.num_tasks,
            row.num_open,
            row.num_failed,
            row.num_skipped,
            row.cancelled_at is not None,
            row.ended_at is not None,
        ) == self.model.counts()
        await self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "model"):
            try:
                self.ground.do(self._drain())
            finally:
                self.ground.do(self._roll_back())

    async def _drain(self) -> None:
        """When all that is available is worked, the flow ends, and no job is left."""
        for _ in range(len(self.model.tasks) + 2):
            await self._schedule()
            await self._work_all()
            await self._maintain()
        await self._check()
        assert self.model.has_ended
        assert {task.job for task in self.model.tasks} <= {"cancelled", "completed", "deleted", "discarded"}

    async def _roll_back(self) -> None:
        try:
            async with self.stack:
                raise RolledBackError
        except RolledBackError:
            pass

    async def _chosen(self, places: Sequence[int], *states: str) -> list[JobRow]:
        """Return jobs in some states, by places among them."""
        found = self.model.with_jobs(states)
        if not found:
            return []
        ids = await self.world.job_ids()
        return await self.tx.run(job_get_by_ids(sorted({ids[found[place % len(found)]] for place in places})))

    async def _read(self, jobs: Sequence[JobRow]) -> dict[int, str]:
        """Read the states of jobs that other statements changed into the model; return those that have ended."""
        ids = await self.world.job_ids()
        changed: dict[int, str] = {}
        for row in await self.tx.run(job_get_by_ids([job.id for job in jobs])):
            place = ids.index(row.id)
            self.model.tasks[place].job = row.state.value
            if row.state.is_finalized:
                changed[place] = row.state.value
        return changed


async def drive(
    executor: Executor, monkeypatch: pytest.MonkeyPatch, *, max_examples: int, steps: int
) -> None:
    """Let hypothesis drive machines, in its own thread."""
    monkeypatch.setattr(flow_maintainer, "WALK_SIZE", WALK_SIZE)
    ground = Ground(executor=executor, loop=asyncio.get_running_loop())
    machine = type("FlowMachine", (Machine,), {"ground": ground})
    chosen = settings(
        deadline=None,
        max_examples=max_examples,
        phases=[Phase.explicit, Phase.generate],
        stateful_step_count=steps,
        suppress_health_check=list(HealthCheck),
    )
    await asyncio.to_thread(run_state_machine_as_test, machine, settings=chosen)


@pytest.mark.slow
async def test_tasks_are_decided_as_their_graph_says(tx: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each event, what is released, cancelled and skipped is what a model says, and all counts are exact."""
    await drive(tx, monkeypatch, max_examples=4, steps=12)


@pytest.mark.slow
async def test_tasks_are_decided_in_many_orders_of_events(
    tx: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above, with many more graphs and orders of events."""
    await drive(tx, monkeypatch, max_examples=100, steps=40)
