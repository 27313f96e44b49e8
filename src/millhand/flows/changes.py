"""Changes of flows."""

from __future__ import annotations

from millhand.core.errors import ConfigError, MillhandError, NotFound
from millhand.flows.control import begin_cancel, retry_tasks
from millhand.flows.flow import FlowState, RetryMode
from millhand.flows.resolver import CANCEL_SIZE, cancel_jobs
from millhand.flows.store import flow_get_shape
from millhand.shells.web.change import Changed, ChangeRequest, record

NEEDS_MIGRATION = "flows must have their tables, which are not there or not yours; run millhand migrate up"


async def cancel_flow(request: ChangeRequest) -> Changed:
    """
    Cancel all jobs of a flow that have not ended; the leader cancels those of a large flow.

    Raises: NotFound, ConfigError; MillhandError for a flow that has ended.
    """
    id = await _checked_id(request)
    pool = request.database.driver.pool
    async with pool.begin() as tx:
        row = await begin_cancel(tx, id)
        if row.state is not FlowState.RUNNING:
            raise MillhandError(f"flow must be running to be cancelled, got flow {id}, which is {row.state}")
        done = Changed(action="cancel", subject=f"flow {id}", num_jobs=row.num_open, path=f"/flows/{id}")
        await record(tx, request, done, {})
    if row.num_open <= CANCEL_SIZE:
        await cancel_jobs(pool, id)
    return done


async def retry_flow(request: ChangeRequest) -> Changed:
    """
    Run ended tasks of a flow again; `mode` is `failed_only`, `failed_and_downstream` or `all`.

    Raises: NotFound, ConfigError; ValueError for an unknown mode; MillhandError if no task would run again.
    """
    id, text = await _checked_id(request), request.field("mode")
    try:
        mode = RetryMode(text)
    except ValueError:
        raise ValueError(f"mode must be one of {', '.join(RetryMode)}, got {text!r}") from None
    async with request.database.driver.pool.begin() as tx:
        num_jobs = await retry_tasks(tx, id, mode)
        if not num_jobs:
            raise MillhandError(
                f"flow must have tasks that {'have ended' if mode is RetryMode.ALL else 'failed'} to be retried, "
                f"got flow {id} without"
            )
        done = Changed(action="retry", subject=f"flow {id}", num_jobs=num_jobs, path=f"/flows/{id}")
        await record(tx, request, done, {"mode": mode.value})
    return done


async def _checked_id(request: ChangeRequest) -> int:
    """Return the flow's id. A flow has jobs of several queues and kinds, so a user with limits has none."""
    id = int(request.path["id"])
    if request.user.is_limited:
        raise NotFound("flow", id)
    if not await request.database.has(flow_get_shape):
        raise ConfigError(NEEDS_MIGRATION)
    return id
