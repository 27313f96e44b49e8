"""Changes of queues."""

from __future__ import annotations

from collections.abc import Callable

from millhand.db.query import Query
from millhand.engine.store.queue import ALL_QUEUES, queue_pause, queue_resume
from millhand.shells.web.change import Changed, ChangeRequest, record
from millhand.shells.web.queue import queue_of


async def pause_queue(request: ChangeRequest) -> Changed:
    """Pause a queue, or every queue for `*`. Raises: NotFound."""
    return await _change_queue(request, "pause", queue_pause)


async def resume_queue(request: ChangeRequest) -> Changed:
    """Resume a queue, or every queue for `*`. Raises: NotFound."""
    return await _change_queue(request, "resume", queue_resume)


async def _change_queue(request: ChangeRequest, action: str, query: Callable[[str], Query[int]]) -> Changed:
    name = queue_of(request)
    async with request.database.driver.pool.begin() as tx:
        await tx.run(query(name))
        subject = "all queues" if name == ALL_QUEUES else f"queue {name}"
        done = Changed(action=action, subject=subject)
        await record(tx, request, done, {})
    return done
