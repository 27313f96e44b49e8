"""
Control of flows: `client.flows`.

The methods work on the database alone. No client needs to run. A change locks the flow until its transaction ends, and the
clients that end the flow's jobs wait for that for a second. So end a transaction of yours, `tx`, soon after a change.
"""

from __future__ import annotations

import builtins
from asyncio import AbstractEventLoop
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

from millhand.core.checks import check_number
from millhand.core.errors import ConfigError, MillhandError, NotStarted
from millhand.core.job_flow import JobFlow
from millhand.core.worker_job import Job
from millhand.db.driver.protocol import Driver, Executor
from millhand.db.query import checked_id
from millhand.db.tx_control import TxControl
from millhand.engine.inserter import Inserter
from millhand.engine.store.job import job_get_by_ids
from millhand.flows.flow import DEPS_KEY, TASK_KEY, FlowRow, FlowState, RetryMode, TaskRow, is_task
from millhand.flows.job_flow import FlowOfJob
from millhand.flows.resolver import cancel_jobs, release
from millhand.flows.store import (
    flow_count_again,
    flow_get,
    flow_list,
    flow_lock,
    flow_retry_jobs,
    flow_set_cancelled,
    flow_task_list,
)

if TYPE_CHECKING:
    from millhand.core.tx_types import AnyTx

E = TypeVar("E", bound=StrEnum)

LIST_DEFAULT = 100
LIST_MAX = 1_000


class FlowControl(TxControl):
    """
    Reads, cancels and retries flows; `client.flows`.

    Args:
        loop_of: Returns the event loop of the client.
        require_own_loop: Raises ConfigError in another event loop.
    """

    def __init__(
        self,
        driver: Driver,
        inserter: Inserter,
        loop_of: Callable[[], AbstractEventLoop] | None = None,
        require_own_loop: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(driver)
        self._inserter = inserter
        self._loop_of = _no_loop if loop_of is None else loop_of
        self._require_own_loop = require_own_loop

    def of_job(self, job: Job[Any]) -> JobFlow:
        """Return the flow of a running job; `Job.flow` uses it. Raises: ConfigError for a job that is no task."""
        if not is_task(job.metadata):
            raise ConfigError(
                f"job.flow must be used in a task of a flow, got {job!r}, which is none; insert it with client.insert_flow"
            )
        return FlowOfJob(job.row, self._inserter, self._driver.pool, self._loop_of, self._require_own_loop)

    async def get(self, id: int, *, tx: AnyTx | None = None) -> FlowRow:
        """Return a flow. Raises: NotFound."""
        return await self._executor(tx).run(flow_get(_checked_id(id)))

    async def list(
        self,
        *,
        state: FlowState | str | None = None,
        before_id: int | None = None,
        limit: int = LIST_DEFAULT,
        tx: AnyTx | None = None,
    ) -> Sequence[FlowRow]:
        """
        Return up to `limit` flows, newest first.

        Args:
            state: Only flows in this state.
            before_id: Only flows with ids below this one, for the next page.
            limit: At most 1,000.
            tx: A transaction of yours, to read in.

        Raises: ConfigError for an unknown state or an invalid number.
        """
        check_number("limit", limit, LIST_MAX)
        checked = None if state is None else _checked(FlowState, "state", state)
        return await self._executor(tx).run(flow_list(state=checked, before_id=before_id, limit=limit))

    async def tasks(
        self, id: int, *, after_job_id: int = 0, limit: int = LIST_MAX, tx: AnyTx | None = None
    ) -> builtins.list[TaskRow]:
        """
        Return up to `limit` tasks of a flow with their jobs, by the ids of the jobs: those above `after_job_id`.

        Raises: NotFound; ConfigError for a limit above 1,000.
        """
        check_number("limit", limit, LIST_MAX)
        await self.get(id, tx=tx)
        executor = self._executor(tx)
        listed = await executor.run(flow_task_list(id, after_job_id=after_job_id, limit=limit))
        jobs = {job.id: job for job in await executor.run(job_get_by_ids([one.job_id for one in listed]))}
        rows = []
        for one in listed:
            job = jobs.get(one.job_id)
            metadata = {} if job is None else job.metadata
            name, deps = metadata.get(TASK_KEY), metadata.get(DEPS_KEY)
            rows.append(
                TaskRow(
                    job_id=one.job_id,
                    name=name if isinstance(name, str) else str(one.job_id),
                    state=one.state,
                    job=job,
                    deps=[str(dep) for dep in deps] if isinstance(deps, builtins.list) else (),
                    when=one.when,
                )
            )
        return rows

    async def cancel(self, id: int, *, tx: AnyTx | None = None) -> FlowRow:
        """
        Cancel all jobs of a flow that have not ended. Running ones are asked to end.

        The leader cancels those that another transaction has locked, within seconds. A flow that has ended stays as it is.

        Raises: NotFound.
        """
        async with self._begin(tx) as executor:
            row = await begin_cancel(executor, _checked_id(id))
        if row.ended_at is not None:
            return row
        await cancel_jobs(self._executor(tx), id)
        return await self.get(id, tx=tx)

    async def retry(
        self, id: int, *, mode: RetryMode | str = RetryMode.FAILED_AND_DOWNSTREAM, tx: AnyTx | None = None
    ) -> FlowRow:
        """
        Run ended tasks of a flow again, each with one more attempt if it has none left.

        Args:
            id: The flow's id.
            mode: `failed_only`: tasks that failed themselves. `failed_and_downstream`: also all that wait for them.
                `all`: every task that has ended.
            tx: A transaction of yours, for the retry to be part of.

        Raises: NotFound; ConfigError for an unknown mode; MillhandError if the job of such a task was deleted. With
        `failed_only`, such a task is left out.
        """
        checked = _checked(RetryMode, "mode", mode)
        async with self._begin(tx) as executor:
            await retry_tasks(executor, _checked_id(id), checked)
        return await self.get(id, tx=tx)

    def _executor(self, tx: AnyTx | None) -> Executor:
        self._require_own_loop()
        return super()._executor(tx)


def _no_loop() -> AbstractEventLoop:
    raise NotStarted


async def begin_cancel(tx: Executor, id: int) -> FlowRow:
    """
    Record that a flow is cancelled, unless it has ended, and return it as it was. `cancel_jobs` follows after the commit.

    Raises: NotFound.
    """
    row = await tx.run(flow_lock(id))
    if row.ended_at is None:
        await tx.run(flow_set_cancelled(id))
    return row


async def retry_tasks(tx: Executor, id: int, mode: RetryMode) -> int:
    """Run ended tasks of a flow again, and return how many. Raises: as `FlowControl.retry`."""
    await tx.run(flow_lock(id))
    retried = await tx.run(flow_retry_jobs(id, mode))
    if retried.num_gone:
        raise MillhandError(
            f"tasks must have their jobs to run again, got {retried.num_gone:,} in flow {id} without; "
            f"insert the flow anew, or use mode {RetryMode.FAILED_ONLY.value}"
        )
    if retried.num_jobs:
        await release(tx, await tx.run(flow_count_again(id)))
    return retried.num_jobs


def _checked(values: type[E], name: str, value: str) -> E:
    try:
        return values(value)
    except ValueError:
        raise ConfigError(f"{name} must be one of {', '.join(values)}, got {value!r}") from None


def _checked_id(id: object) -> int:
    if isinstance(id, bool) or not isinstance(id, int):
        raise ConfigError(f"id of a flow must be a number, got {id!r}")
    return checked_id("flow", id)
