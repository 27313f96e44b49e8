"""Methods that start, observe and stop a client that works the suite's jobs."""

from __future__ import annotations

import asyncio

from msgspec import UNSET

from millhand.core.errors import NotFound
from millhand.core.job import FINALIZED_STATES, JobRow, JobState
from river_conformance import params as p
from river_conformance.normalized import Normalized, normalized_job
from river_conformance.protocol import ErrorCode, RpcError
from river_conformance.running import MAX_WORKERS, Running, begin
from river_conformance.session import POOL_SIZE, Session

CLIENT_ID = "python-conformance-adapter"
POLL_SECONDS = 0.01
# The harness gives a request more time; a wait that reaches its states later has failed.
WAIT_SECONDS = 15.0


async def start(session: Session, params: p.StartParams) -> Normalized:
    """Start the client. Only one runs at a time."""
    if session.running is not None:
        raise RpcError(
            ErrorCode.REJECTED, f"client must be stopped first, got {session.running.client.id!r} running"
        )
    session.running = await begin(session.settings.url, POOL_SIZE, params, session.barriers)
    return {}


async def stop(session: Session, params: p.StopParams) -> Normalized:
    """Stop the client. With `cancel`, its attempts are cancelled at once."""
    running = _require_running(session)
    session.running = None
    await running.stop(session.barriers, cancel=params.cancel)
    return {}


async def runtime_stats(session: Session, params: p.Params) -> Normalized:
    """Return what the client has observed."""
    return _require_running(session).observed.normalized()


async def work(session: Session, params: p.WorkParams) -> Normalized:
    """Work one job with a client of its own, and return the job when it has ended."""
    client = await session.client(params.schema)
    queue = (await client.jobs.get(params.id)).queue
    client_id = CLIENT_ID if params.client_id is UNSET else params.client_id
    started = p.StartParams(client_id=client_id, max_workers=1, queue=queue, schema=params.schema)
    running = await begin(session.settings.url, POOL_SIZE, started, session.barriers)
    try:
        return normalized_job(await _wait(session, params.id, FINALIZED_STATES, params.schema))
    finally:
        await running.stop(session.barriers)


async def wait(session: Session, params: p.WaitParams) -> Normalized:
    """Wait until a job is in one of the states; by default, until it has ended."""
    return normalized_job(await _wait(session, params.id, frozenset(params.states) or FINALIZED_STATES, ""))


async def _wait(session: Session, id: int, states: frozenset[JobState], schema: str) -> JobRow:
    client = await session.client(schema)
    loop = asyncio.get_running_loop()
    end = loop.time() + WAIT_SECONDS
    while (job := await client.jobs.get(id)).state not in states:
        if loop.time() > end:
            names = ", ".join(sorted(states))
            raise RpcError(
                ErrorCode.REJECTED, f"job {id} must be in {names} within {WAIT_SECONDS:g} s, got {job.state}"
            )
        await asyncio.sleep(POLL_SECONDS)
    return job


# Barriers.


async def barrier_create(session: Session, params: p.BarrierParams) -> Normalized:
    """Create a barrier, at which workers wait."""
    session.barriers.create(params.name)
    return {}


async def barrier_release(session: Session, params: p.BarrierParams) -> Normalized:
    """Release a barrier."""
    session.barriers.release(params.name)
    return {}


# Queues and listeners of the client.


async def queue_add(session: Session, params: p.QueueAddParams) -> Normalized:
    """Work one more queue, or a queue with another number of workers."""
    running = _require_running(session)
    if params.name in running.queues:
        await queue_remove(session, p.QueueParams(name=params.name))
    await running.client.add_queue(
        params.name, MAX_WORKERS if params.max_workers is UNSET else params.max_workers
    )
    running.queues.add(params.name)
    return {}


async def queue_remove(session: Session, params: p.QueueParams) -> Normalized:
    """Stop working a queue."""
    running = _require_running(session)
    if params.name not in running.queues:
        raise NotFound("queue", params.name)
    await running.client.remove_queue(params.name)
    running.queues.discard(params.name)
    return {}


async def listener_count(session: Session, params: p.Params) -> Normalized:
    """Return how many connections listen."""
    running = session.running
    return {"count": 0 if running is None else await running.driver.count_listeners()}


async def fault_disconnect_listeners(session: Session, params: p.Params) -> Normalized:
    """Cut the connections that listen, and return how many."""
    running = session.running
    return {"count": 0 if running is None else await running.driver.cut_listeners()}


def _require_running(session: Session) -> Running:
    if session.running is None:
        raise RpcError(ErrorCode.REJECTED, "client must be started first")
    return session.running
