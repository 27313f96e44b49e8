"""
Inserts flows: their jobs in batches, then the flow and its joins, in one transaction.

Rule 1: other transactions see a flow when all of it is there, so it locks nothing that others use.
Rule 2: jobs come in batches, so a generator of a million jobs takes the memory of one.
Rule 3: a task that waits for an empty set is inserted as released. Only one that waits for a failure is decided at the end
        of the insert, which cancels its job. A role that may only insert leaves that to the leader.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

from millhand.core.errors import ConfigError, DriverError
from millhand.core.insert_opts import InsertParams
from millhand.core.sqlstate import INSUFFICIENT_PRIVILEGE
from millhand.db.driver.protocol import Executor
from millhand.engine.insert_batches import batched
from millhand.engine.inserter import Inserter
from millhand.flows.flow import (
    DEPS_MAX,
    Entry,
    Flow,
    FlowRow,
    FlowTask,
    Plan,
    When,
    entries_to_insert,
    plan,
    task_params,
)
from millhand.flows.resolver import release_new
from millhand.flows.store import NewTask, flow_draw_ids, flow_insert, flow_task_insert_many

BATCH_SIZE = 2_000


async def _batches(entry: Entry) -> AsyncIterator[list[Any]]:
    if not entry.is_many and isinstance(entry.jobs, list):
        yield entry.jobs
        return
    async for jobs in batched(entry.jobs):
        yield jobs


class _New(NamedTuple):
    """A task whose job is to be inserted."""

    params: InsertParams
    after_join_id: int | None
    when: When | None
    join_ids: Sequence[int]
    task: FlowTask | None


async def insert_flow(flow: Flow, inserter: Inserter, pool: Executor, tx: Executor | None = None) -> FlowRow:
    """
    Insert a flow, within the transaction `tx` or in one of its own.

    Raises: InvalidJob, UnknownKind; ConfigError if the schema has the tables of River Pro's workflows; any exception of
    `add_many`'s jobs; DriverError. After each error, the transaction must be rolled back.
    """
    if tx is None:
        async with pool.begin() as own:
            return await insert_flow(flow, inserter, pool, own)
    entries = entries_to_insert(flow)
    joins = plan(entries)
    ids = await tx.run(flow_draw_ids(joins.num_joins))
    if ids.has_river_pro:
        raise ConfigError(
            "flows must not be inserted where River Pro has its workflows, got table river_workflow in the schema: its "
            "engine would take their tasks for its own; use another schema"
        )
    writer = _FlowWriter(flow, ids.flow_id, ids.join_ids, inserter, tx)
    async for new in writer.tasks(entries, joins):
        await writer.add(new)
    return await writer.end()


class _FlowWriter:
    def __init__(
        self, flow: Flow, id: int, join_ids: Sequence[int], inserter: Inserter, tx: Executor
    ) -> None:
        self._batch: list[_New] = []
        self._empty: set[int] = set()  # the joins without tasks that tasks wait for
        self._flow = flow
        self._has_skipped = False
        self._id = id
        self._inserter = inserter
        self._join_ids = join_ids
        self._num_tasks = 0
        self._nums_open = dict.fromkeys(join_ids, 0)
        self._tx = tx

    async def tasks(self, entries: Sequence[Entry], joins: Plan) -> AsyncIterator[_New]:
        names: list[Sequence[str]] = []  # of the first tasks of each entry
        deps_of: dict[int, Sequence[str]] = {}
        for entry, after, member_of in zip(entries, joins.after, joins.member_of, strict=True):
            after_join_id = None if after is None else self._join_ids[after]
            waits = after_join_id is not None
            if after_join_id is not None and not any(names[place] for place in entry.after):
                self._empty.add(after_join_id)
                waits = entry.when == "failed"
                self._has_skipped |= waits
            if after is not None and after not in deps_of:
                deps = [name for place in sorted(entry.after) for name in names[place]]
                deps_of[after] = deps if len(deps) <= DEPS_MAX else ()
            join_ids = [self._join_ids[join] for join in member_of]
            own: list[str] = []
            number = 0
            async for jobs in _batches(entry):
                for params in self._inserter.resolve_many(jobs):
                    number += 1
                    name = f"{entry.task.name}.{number}" if entry.is_many else entry.task.name
                    if len(own) <= DEPS_MAX:
                        own.append(name)
                    job = task_params(
                        params,
                        self._id,
                        self._flow.name,
                        name,
                        () if after is None else deps_of[after],
                        waits=waits,
                    )
                    task = None if entry.is_many else entry.task
                    yield _New(job, after_join_id, entry.when, join_ids, task)
            names.append(own)

    async def add(self, new: _New) -> None:
        self._batch.append(new)
        if len(self._batch) == BATCH_SIZE:
            await self._write()

    async def end(self) -> FlowRow:
        if self._batch:
            await self._write()
        row = await self._tx.run(flow_insert(self._id, self._flow.name, self._num_tasks, self._nums_open))
        if self._has_skipped:
            try:
                async with self._tx.begin() as savepoint:
                    await release_new(savepoint, sorted(self._empty))
            except DriverError as error:
                if error.sqlstate != INSUFFICIENT_PRIVILEGE:
                    raise
        return row

    async def _write(self) -> None:
        batch, self._batch = self._batch, []
        results = await self._inserter.insert_params([new.params for new in batch], self._tx)
        tasks: list[NewTask] = []
        for new, result in zip(batch, results, strict=True):
            if new.task is not None:
                new.task.job_id = result.job.id
            tasks.append(NewTask(result.job.id, new.after_join_id, new.when, new.join_ids))
            for id in new.join_ids:
                self._nums_open[id] += 1
        self._num_tasks += len(batch)
        await self._tx.run(flow_task_insert_many(self._id, tasks, empty_join_ids=sorted(self._empty)))
