"""The queues: what waits in each, and who works it."""

from __future__ import annotations

from datetime import datetime

import msgspec

from millhand.store.queue import queue_get_loads
from millhand.web.page import PageRequest

PAGE_SIZE = 100


class QueueLine(msgspec.Struct, frozen=True, kw_only=True):
    """One queue. Numbers above `COUNTED_MAX` stand for any such number."""

    name: str
    paused_at: datetime | None
    num_available: int
    oldest_available_at: datetime | None
    num_running: int


class Queues(msgspec.Struct, frozen=True, kw_only=True):
    """The queues by name."""

    queues: tuple[QueueLine, ...]


async def load(request: PageRequest) -> Queues:
    """Load the first queues by name."""
    rows = await request.database.queues.list(limit=PAGE_SIZE)
    loads = await request.database.run(queue_get_loads([row.name for row in rows]))
    return Queues(
        queues=tuple(
            QueueLine(
                name=row.name,
                paused_at=row.paused_at,
                num_available=loads[row.name].waiting,
                oldest_available_at=loads[row.name].oldest_waiting_at,
                num_running=loads[row.name].running,
            )
            for row in rows
        )
    )
