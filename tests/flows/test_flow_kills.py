"""A client that is killed between any two statements of a change of flows: nothing is lost, and nothing is done in part."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar, cast

import pytest
from flow_model import FlowModel

from empty_schema import empty_schema
from factory import qualified
from flow_world import FlowWorld, Node
from millhand.core.errors import DriverError
from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.db.query import Query
from repeats import first_of

T = TypeVar("T")

GENEROUS_SECONDS = 20.0
# The first fails, which cancels a chain and releases two tasks; the second completes.
NODES = (
    Node(),
    Node(),
    Node(frozenset({0, 1})),
    Node(frozenset({2})),
    Node(frozenset({0}), "failed"),
    Node(frozenset({1, 3}), "ended"),
    Node(frozenset({1}), "failed"),
    Node(frozenset({6})),
)


class DyingPool:
    """
    A pool whose connection ends before statement `kill_at` of a client, or before the commit that would be next.

    Statements and commits are counted from 1, those of transactions only.
    """

    def __init__(self, pool: Executor, kill_at: int) -> None:
        self.is_killed = False
        self._count = 0
        self._kill_at = kill_at
        self._pool = pool

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[Executor]:
        async with self._pool.begin() as tx:
            yield cast("Executor", DyingTransaction(self, tx))
            await self.step(tx)

    async def step(self, tx: Executor) -> None:
        self._count += 1
        if self._count == self._kill_at:
            self.is_killed = True
            [row] = await tx.fetch("SELECT pg_backend_pid() AS pid")
            await self._pool.fetch(f"SELECT pg_terminate_backend({row['pid']}, 5000)")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


class DyingTransaction:
    """A transaction of a `DyingPool`."""

    def __init__(self, pool: DyingPool, tx: Executor) -> None:
        self._pool = pool
        self._tx = tx

    async def run(self, query: Query[T]) -> T:
        await self._pool.step(self._tx)
        return await self._tx.run(query)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tx, name)


Change = Callable[[FlowWorld, int], Coroutine[Any, Any, object]]


async def fail(world: FlowWorld, _id: int) -> None:
    jobs = await running(world)
    await world.end([job for job in jobs if job.args["what"] == "0"], JobState.DISCARDED)


async def complete(world: FlowWorld, _id: int) -> None:
    jobs = [job for job in await running(world) if job.args["what"] == "1"]
    await world.complete(jobs)


async def add(world: FlowWorld, _id: int) -> None:
    [job] = [job for job in await running(world) if job.args["what"] == "1"]
    await world.add(job, 2)


async def running(world: FlowWorld) -> list[Any]:
    ids = await world.job_ids()
    return [job for job in await world.rows(ids) if job.state is JobState.RUNNING]


async def cancel(world: FlowWorld, id: int) -> None:
    await world.control.cancel(id)


async def retry(world: FlowWorld, id: int) -> None:
    await world.control.retry(id, mode="all")


async def maintain(world: FlowWorld, _id: int) -> None:
    await FlowWorld(world.pool).maintain(1)


async def fail_elsewhere(world: FlowWorld) -> None:
    sql = "UPDATE /* schema */river_job SET state = 'discarded', finalized_at = now() WHERE args ->> 'what' = '0'"
    await world.pool.fetch(qualified(sql, world.pool))


def failed(model: FlowModel) -> None:
    model.tasks[0].job = "discarded"
    model.count({0: "discarded"})


def completed(model: FlowModel) -> None:
    model.tasks[1].job = "completed"
    model.count({1: "completed"})


async def nothing(_world: FlowWorld) -> None:
    """Change nothing before."""


async def cancel_first(world: FlowWorld) -> None:
    [id] = {job.metadata["workflow_id"] for job in await running(world)}
    await world.control.cancel(int(cast("str", id)))


CHANGES: dict[
    str, tuple[Callable[[FlowWorld], Coroutine[Any, Any, None]], Change, Callable[[FlowModel], Any]]
] = {
    "fail": (nothing, fail, failed),
    "complete": (nothing, complete, completed),
    "add": (nothing, add, lambda model: model.add(1, 2)),
    "cancel": (nothing, cancel, FlowModel.cancel),
    "retry": (cancel_first, retry, lambda model: (model.cancel(), model.retry("all"))),
    "leader": (fail_elsewhere, maintain, failed),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", first_of(*CHANGES))
async def test_change_that_is_killed_at_any_statement_can_be_repeated(
    schema_driver: AsyncpgDriver, name: str
) -> None:
    """After the kill all counts are right; the second try leaves what one alone leaves."""
    before, change, modelled = CHANGES[name]
    model = FlowModel(NODES)
    model.tasks[0].job = model.tasks[1].job = "running"
    modelled(model)
    kill_at, is_killed = 0, True
    while is_killed:
        kill_at += 1
        world = FlowWorld(schema_driver.pool)
        id = (await world.insert(NODES)).id
        await world.fetch()
        await before(world)
        dying = DyingPool(schema_driver.pool, kill_at)
        with contextlib.suppress(DriverError):
            await change(FlowWorld(cast("Executor", dying)), id)
        is_killed = dying.is_killed
        await world.check()
        if is_killed:
            await change(world, id)
        assert (kill_at, await world.states()) == (kill_at, model.states)
        await world.check()
        await empty_schema(schema_driver.pool, timeout_seconds=GENEROUS_SECONDS)

    assert kill_at > 2


@pytest.mark.slow
async def test_insert_that_is_killed_at_any_statement_leaves_nothing(schema_driver: AsyncpgDriver) -> None:
    """A flow is there as a whole or not at all."""
    kill_at, is_killed = 0, True
    tables = "SELECT id FROM /* schema */millhand_flow UNION ALL SELECT id FROM /* schema */river_job"
    while is_killed:
        kill_at += 1
        dying = DyingPool(schema_driver.pool, kill_at)
        with contextlib.suppress(DriverError):
            await FlowWorld(cast("Executor", dying)).insert(
                [*NODES, Node(size=0), Node(frozenset({len(NODES)}))]
            )
        is_killed = dying.is_killed
        rows = await schema_driver.pool.fetch(qualified(tables, schema_driver.pool))
        assert bool(rows) is not is_killed
        assert kill_at < 20

    assert kill_at > 4
