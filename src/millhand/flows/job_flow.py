"""
How a running job adds tasks to its flow: `job.flow`.

Rule 1: an add is one transaction. It locks the flow and then checks the attempt. An attempt that lost its job adds nothing.
Rule 2: the n-th task that a job adds is the n-th of `added_job_ids` in each attempt. So an attempt that repeats the adds of
        an earlier one inserts none of them again.
Rule 3: the adds of one attempt run one after the other, in the order of the calls.
Rule 4: a call that fails may have added its tasks, as when the answer to the commit is lost. The same call again returns
        them. Another call comes after them.
Rule 5: what can be refused without the database is refused before the flow is locked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar, overload

from millhand.core.args.codec import kind_of
from millhand.core.errors import ConfigError, FlowCancelled, InvalidJob, InvalidOutput, JobNotRunning
from millhand.core.insert_opts import InsertOpts, InsertParams, as_pairs
from millhand.core.job import JobId, JobRow, Json
from millhand.core.job_flow import JobFlow
from millhand.core.result import ResultType, check_returns, decode_output
from millhand.core.transition import last_attempted_by
from millhand.db.driver.protocol import Executor
from millhand.engine.inserter import Inserter
from millhand.engine.store.job import job_get_by_ids
from millhand.flows.flow import FLOW_ID_KEY, FLOW_NAME_KEY, TASK_KEY, checked_name, task_params
from millhand.flows.store import (
    NewTask,
    OwnTask,
    flow_add_tasks,
    flow_get_outputs,
    flow_lock,
    flow_task_insert_many,
    flow_task_lock,
)

if TYPE_CHECKING:
    from millhand.core.args.codec import JobArgs
    from millhand.core.insert_opts import Insertable

T = TypeVar("T")

_Call: TypeAlias = tuple[Sequence[tuple[object, InsertOpts | None]], str | None]
"""The jobs and the name that a caller gave."""

BATCH_SIZE = 2_000
OUTPUTS_SIZE = 500


class _New(NamedTuple):
    """A task that the job adds. `name` is None if the caller gave none."""

    params: InsertParams
    name: str | None


class FlowOfJob(JobFlow):
    """
    The flow of a job that a client works.

    Args:
        job: The row of the job as it was fetched.
        loop_of: Returns the event loop of the client that works the job.
        require_own_loop: Raises ConfigError in another event loop.
    """

    def __init__(
        self,
        job: JobRow,
        inserter: Inserter,
        pool: Executor,
        loop_of: Callable[[], asyncio.AbstractEventLoop],
        require_own_loop: Callable[[], None],
    ) -> None:
        self._failed: _Call | None = None
        self._inserter = inserter
        self._job = job
        self._lock = asyncio.Lock()
        self._loop_of = loop_of
        self._num_added = 0
        self._num_known: int | None = None  # of the added jobs in the row, those of answered calls
        self._pool = pool
        self._require_own_loop = require_own_loop

    @property
    def id(self) -> int:
        return int(str(self._job.metadata[FLOW_ID_KEY]))

    @property
    def name(self) -> str:
        return str(self._job.metadata.get(FLOW_NAME_KEY, ""))

    async def add(self, args: JobArgs, opts: InsertOpts | None = None, *, name: str | None = None) -> JobId:
        call: _Call = ([(args, opts)], name)
        named = None if name is None else checked_name("task", name)
        new = [_New(params, named) for params in self._inserter.resolve_many(call[0])]
        return (await self._add(call, new))[0]

    async def add_many(self, jobs: Iterable[Insertable], *, name: str | None = None) -> list[JobId]:
        if name is not None:
            checked_name("task", name)
        call: _Call = (as_pairs(jobs), name)
        params = self._inserter.resolve_many(call[0])
        names = [None if name is None else f"{name}.{number}" for number in range(1, len(params) + 1)]
        return await self._add(call, [*map(_New, params, names)])

    @overload
    async def outputs(self, kind: str | type | None = None, *, returns: type[T]) -> list[T]: ...
    @overload
    async def outputs(self, kind: str | type | None = None, *, returns: ResultType = None) -> list[Json]: ...
    async def outputs(self, kind: str | type | None = None, *, returns: ResultType = None) -> list[Any]:
        self._require_own_loop()
        check_returns(returns)
        wanted = kind if kind is None or isinstance(kind, str) else kind_of(kind)
        outputs: list[Any] = []
        after_job_id = 0
        while page := await self._pool.run(
            flow_get_outputs(self._job.id, kind=wanted, after_job_id=after_job_id, limit=OUTPUTS_SIZE)
        ):
            for id, text in page:
                outputs.append(decode_output(_existing(id, text), f"output of job {id}", returns))
            after_job_id = page[-1][0]
        return outputs

    def add_sync(self, args: JobArgs, opts: InsertOpts | None = None, *, name: str | None = None) -> JobId:
        return self._wait("add", lambda: self.add(args, opts, name=name))

    def add_many_sync(self, jobs: Iterable[Insertable], *, name: str | None = None) -> list[JobId]:
        return self._wait("add_many", lambda: self.add_many(jobs, name=name))

    @overload
    def outputs_sync(self, kind: str | type | None = None, *, returns: type[T]) -> list[T]: ...
    @overload
    def outputs_sync(self, kind: str | type | None = None, *, returns: ResultType = None) -> list[Json]: ...
    def outputs_sync(self, kind: str | type | None = None, *, returns: ResultType = None) -> list[Any]:
        return self._wait("outputs", lambda: self.outputs(kind, returns=returns))

    def _wait(self, name: str, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        loop = self._loop_of()
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run_coroutine_threadsafe(call(), loop).result()
        raise ConfigError(
            f"{name}_sync must be called by a plain function in its thread, got a call in an event loop; "
            f"write await job.flow.{name}(…)"
        )

    async def _add(self, call: _Call, new: Sequence[_New]) -> list[JobId]:
        self._require_own_loop()
        if not new:
            return []
        async with self._lock:
            is_repeated, self._failed = call == self._failed, call
            async with self._pool.begin() as tx:
                own = await self._lock_own_task(tx)
                self._pass_over_unknown(len(own.added_job_ids), is_repeated=is_repeated)
                named = [
                    one if one.name else one._replace(name=f"{one.params.kind}.{self._job.id}.{number}")
                    for number, one in enumerate(new, self._num_added + 1)
                ]
                ids = await self._add_within(tx, own, named)
            self._num_added += len(ids)
            self._num_known = max(self._num_added, len(own.added_job_ids))
            self._failed = None
        return ids

    def _pass_over_unknown(self, num_in_row: int, *, is_repeated: bool) -> None:
        """Count what a failed call added as added, unless this is the same call again."""
        if is_repeated:
            return
        if self._num_known is not None and num_in_row > self._num_known:
            self._num_added = num_in_row
        self._num_known = num_in_row

    async def _add_within(self, tx: Executor, own: OwnTask, new: Sequence[_New]) -> list[JobId]:
        ids = list(own.added_job_ids[self._num_added : self._num_added + len(new)])
        await self._require_same(tx, ids, new)
        num_known = len(ids)
        rows = [
            task_params(one.params, self.id, self.name, one.name or "", (), waits=False)
            for one in new[num_known:]
        ]
        for start in range(0, len(rows), BATCH_SIZE):
            results = await self._inserter.insert_params(rows[start : start + BATCH_SIZE], tx)
            batch = [NewTask(result.job.id, None, None, own.join_ids) for result in results]
            await tx.run(flow_task_insert_many(self.id, batch))
            ids += [task.job_id for task in batch]
        if added := ids[num_known:]:
            await tx.run(flow_add_tasks(self.id, self._job.id, join_ids=own.join_ids, added_job_ids=added))
        return ids

    async def _lock_own_task(self, tx: Executor) -> OwnTask:
        job = self._job
        flow = await tx.run(flow_lock(self.id))
        if flow.cancelled_at is not None:
            raise FlowCancelled(flow.id)
        own = await tx.run(
            flow_task_lock(job.id, attempted_at=job.attempted_at, attempted_by=last_attempted_by(job))
        )
        if own is not None and own.is_running:
            return own
        rows = await tx.run(job_get_by_ids([job.id]))
        state = rows[0].state.value if rows else "deleted"
        if state == job.state.value:
            state = "running again"
        raise JobNotRunning(job.id, job.attempt, state, remedy="end this attempt; another one adds the tasks")

    async def _require_same(self, tx: Executor, ids: Sequence[JobId], new: Sequence[_New]) -> None:
        """Require that the jobs which an earlier attempt added have the kinds and names of the tasks."""
        if not ids:
            return
        rows = {row.id: row for row in await tx.run(job_get_by_ids(ids))}
        for id, (params, name) in zip(ids, new, strict=False):
            row = rows.get(id)
            # A job that was deleted is taken as the same.
            if row is not None and (row.kind, row.metadata.get(TASK_KEY)) != (params.kind, name):
                raise InvalidJob(
                    f"tasks that a job adds must be the same in each attempt, got {params.kind!r} named {name!r} where an "
                    f"earlier attempt of job {self._job.id} added {row.kind!r} named {row.metadata.get(TASK_KEY)!r}; "
                    "add the same tasks in the same order"
                )


def _existing(id: JobId, output: str | None) -> str:
    """Return an output. Raises: InvalidOutput if its job was deleted."""
    if output is None:
        raise InvalidOutput(
            f"job {id} must exist to have its output read, got none; a leader in another language deletes completed jobs "
            "after a day, so let it keep them longer than the flow takes"
        )
    return output
