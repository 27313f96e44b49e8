"""Methods for queues, alone and in a transaction."""

from __future__ import annotations

from msgspec import UNSET

from millhand.engine.store.job_list import LIMIT_DEFAULT
from river_conformance import params as p
from river_conformance.jobs import tx_of
from river_conformance.normalized import Normalized, normalized_queue
from river_conformance.session import Session


async def queue_get(session: Session, params: p.QueueParams) -> Normalized:
    """Return a queue."""
    tx = tx_of(session, params)
    return normalized_queue(await (await session.client()).queues.get(params.name, tx=tx))


async def queue_list(session: Session, params: p.QueueListParams) -> Normalized:
    """Return queues by name."""
    tx = tx_of(session, params)
    limit = LIMIT_DEFAULT if params.limit is UNSET else params.limit
    rows = await (await session.client()).queues.list(limit=limit, tx=tx)
    return {"queues": [normalized_queue(row) for row in rows]}


async def queue_pause(session: Session, params: p.QueueParams) -> Normalized:
    """Pause a queue, or all with `*`."""
    tx = tx_of(session, params)
    await (await session.client()).queues.pause(params.name, tx=tx)
    return {}


async def queue_resume(session: Session, params: p.QueueParams) -> Normalized:
    """Resume a queue, or all with `*`."""
    tx = tx_of(session, params)
    await (await session.client()).queues.resume(params.name, tx=tx)
    return {}


async def queue_update(session: Session, params: p.QueueUpdateParams) -> Normalized:
    """Replace a queue's metadata."""
    tx = tx_of(session, params)
    client = await session.client()
    return normalized_queue(await client.queues.update(params.name, metadata=params.metadata, tx=tx))
